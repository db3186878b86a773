"""Places and their light. Each place is a plain function that paints (H, W, 3) floats; numpy only.

Shapes are few, large and soft on purpose: a latent of 16 x 16 cells has to hold them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from imagelab.puppets.world import Scene

    Floats = NDArray[np.floating]
    Painter = Callable[[Floats, Floats, np.random.Generator], Floats]


class Light(NamedTuple):
    """Colours of the ambient and the key light; azimuth of the key light in radians, 0 from the camera."""

    ambient: tuple[float, float, float]
    key: tuple[float, float, float]
    azimuth: float


LIGHTS = {
    "day": Light((0.44, 0.44, 0.47), (0.74, 0.70, 0.62), -0.6),
    "forest": Light((0.38, 0.43, 0.37), (0.76, 0.78, 0.62), -0.5),
    "night": Light((0.32, 0.34, 0.46), (0.55, 0.60, 0.78), 0.7),
    "underwater": Light((0.38, 0.46, 0.52), (0.62, 0.70, 0.72), -0.2),
    "sunset": Light((0.44, 0.36, 0.42), (0.92, 0.62, 0.46), 0.8),
    "warm_summer": Light((0.50, 0.40, 0.32), (1.00, 0.72, 0.40), 0.9),
}


def _rgb(*values: float) -> Floats:
    return np.array(values, np.float32)


def _soft(signed: Floats, width: float) -> Floats:
    """Return 1 where `signed` is well above 0, 0 well below, with an edge about `width` wide."""
    share: Floats = np.clip(signed / width + 0.5, 0, 1)
    return share


def _over(image: Floats, mask: Floats, colour: Floats) -> Floats:
    mixed: Floats = image + mask[..., None] * (colour - image)
    return mixed


def _vertical(y: Floats, top: Floats, bottom: Floats) -> Floats:
    return top + y[..., None] * (bottom - top)


def _beach(x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    image = _vertical(y, _rgb(0.40, 0.70, 0.97), _rgb(0.88, 0.96, 1.0))
    for _ in range(2):
        cx, cy = rng.uniform(-0.9, 0.9), rng.uniform(0.08, 0.3)
        cloud = 1 - ((x - cx) / 0.32) ** 2 - ((y - cy) / 0.06) ** 2
        image = _over(image, 0.75 * _soft(cloud, 0.8), _rgb(1, 1, 1))
    horizon = rng.uniform(0.5, 0.58)
    sea = _vertical(np.clip((y - horizon) * 4, 0, 1), _rgb(0.05, 0.42, 0.70), _rgb(0.25, 0.72, 0.80))
    image = _over(image, _soft(y - horizon, 0.012), sea)
    shore = horizon + 0.20 + 0.03 * np.sin(x * 3 + rng.uniform(0, 6))
    image = _over(image, _soft(y - shore + 0.025, 0.02), _rgb(0.95, 0.98, 1.0))
    return _over(image, _soft(y - shore, 0.02), _rgb(0.95, 0.84, 0.60))


def _town(x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    image = _vertical(y, _rgb(0.50, 0.74, 0.96), _rgb(0.84, 0.91, 0.98))
    walls = (_rgb(0.90, 0.58, 0.40), _rgb(0.96, 0.82, 0.52), _rgb(0.82, 0.46, 0.42), _rgb(0.72, 0.78, 0.64))
    first = int(rng.integers(len(walls)))
    wide = 0.52
    for k, left in enumerate(np.arange(-1.9, 1.9, wide) + rng.uniform(-0.1, 0.1)):
        top = rng.uniform(0.12, 0.36)
        house = np.minimum(_soft(wide / 2 - 0.012 - np.abs(x - left - wide / 2), 0.02), _soft(y - top, 0.015))
        wall = walls[(first + k) % len(walls)]
        image = _over(image, house, wall)
        image = _over(image, np.minimum(house, _soft(top + 0.05 - y, 0.015)), wall * 0.7)
        for row in range(3):
            for column in (0.28, 0.72):
                pane = np.maximum(
                    np.abs(x - left - wide * column) / 0.065, np.abs(y - top - 0.15 - row * 0.2) / 0.055
                )  # fmt: skip
                image = _over(image, _soft(1 - pane, 0.3), _rgb(0.30, 0.38, 0.50))
    return _over(image, _soft(y - 0.84, 0.015), _rgb(0.66, 0.60, 0.54))


def _forest(x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    image = _vertical(y, _rgb(0.70, 0.90, 0.70), _rgb(0.34, 0.58, 0.32))
    for cx in np.linspace(-1.5, 1.5, 7) + rng.uniform(-0.12, 0.12, 7):
        image = _over(image, _soft(0.045 - np.abs(x - cx), 0.02) * _soft(y - 0.15, 0.1), _rgb(0.42, 0.27, 0.15))
        crown = 1 - ((x - cx) / rng.uniform(0.24, 0.32)) ** 2 - ((y - rng.uniform(0.08, 0.2)) / 0.19) ** 2
        image = _over(image, _soft(crown, 0.25), _rgb(0.10, rng.uniform(0.38, 0.52), 0.14))
    return _over(image, _soft(y - 0.82 - 0.02 * np.sin(x * 4), 0.03), _rgb(0.22, 0.42, 0.18))


def _night(x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    image = _vertical(y, _rgb(0.03, 0.04, 0.17), _rgb(0.20, 0.17, 0.42))
    for _ in range(9):
        cx, cy = rng.uniform(-1.5, 1.5), rng.uniform(0.03, 0.55)
        image = _over(image, 0.9 * _soft(0.02 - np.hypot(x - cx, (y - cy) * 2), 0.02), _rgb(1.0, 1.0, 0.85))
    cx = rng.choice([-1, 1]) * rng.uniform(0.6, 0.8)
    moon = np.hypot(x - cx, (y - rng.uniform(0.14, 0.2)) * 2)
    image = _over(image, 0.5 * _soft(0.28 - moon, 0.2), _rgb(0.55, 0.55, 0.70))
    image = _over(image, _soft(0.17 - moon, 0.02), _rgb(0.98, 0.96, 0.80))
    hills = 0.80 + 0.05 * np.sin(x * 2.2 + rng.uniform(0, 6))
    return _over(image, _soft(y - hills, 0.02), _rgb(0.06, 0.09, 0.16))


def _underwater(x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    image = _vertical(y, _rgb(0.14, 0.62, 0.80), _rgb(0.02, 0.20, 0.44))
    rays = np.clip(np.sin(x * 5 + y * 3 + rng.uniform(0, 6)), 0, 1) * (1 - y)
    image = image + 0.16 * rays[..., None] * _rgb(0.6, 1.0, 1.0)
    for _ in range(5):
        cx, cy, size = rng.uniform(-1.2, 1.2), rng.uniform(0.05, 0.8), rng.uniform(0.05, 0.09)
        far = np.hypot(x - cx, (y - cy) * 2)
        image = _over(image, 0.8 * _soft(0.016 - np.abs(far - size), 0.014), _rgb(0.80, 0.97, 1.0))
    floor = 0.88 + 0.03 * np.sin(x * 3 + rng.uniform(0, 6))
    return _over(image, _soft(y - floor, 0.03), _rgb(0.45, 0.52, 0.45))


def _portorosso(x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    """Paint a harbour: pastel houses on a hill, a campanile, green water with their colours in it."""
    image = _vertical(y, _rgb(0.98, 0.80, 0.62), _rgb(1.0, 0.95, 0.82))
    hill = 0.30 + 0.08 * np.cos(x * 1.6 + rng.uniform(-0.4, 0.4))
    image = _over(image, _soft(y - hill, 0.03), _rgb(0.42, 0.60, 0.36))
    walls = (_rgb(0.98, 0.66, 0.68), _rgb(0.99, 0.90, 0.55), _rgb(0.62, 0.82, 0.86), _rgb(0.97, 0.97, 0.92))
    first, wide, quay = int(rng.integers(len(walls))), 0.34, 0.74
    for k, left in enumerate(np.arange(-1.9, 1.9, wide) + rng.uniform(-0.1, 0.1)):
        top = 0.36 + 0.08 * ((k + first) % 3)
        house = np.minimum(_soft(wide / 2 - 0.01 - np.abs(x - left - wide / 2), 0.02), _soft(y - top, 0.012))
        image = _over(image, house * _soft(quay - y, 0.01), walls[(first + k) % len(walls)])
        image = _over(image, house * _soft(top + 0.05 - y, 0.012), _rgb(0.80, 0.34, 0.24))
    tower = rng.choice([-1, 1]) * rng.uniform(0.62, 0.78)
    image = _over(image, _soft(0.09 - np.abs(x - tower), 0.02) * _soft(y - 0.12, 0.02) * _soft(quay - y, 0.01),
                  _rgb(0.93, 0.84, 0.70))  # fmt: skip
    water = _vertical(np.clip((y - quay) * 4, 0, 1), _rgb(0.30, 0.72, 0.62), _rgb(0.10, 0.48, 0.50))
    return _over(image, _soft(y - quay, 0.012), water)


def _cove(x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    """Paint a beach at sunset: orange sky, a low sun, dark rocks, pink sand."""
    image = _vertical(y, _rgb(0.46, 0.22, 0.50), _rgb(1.0, 0.66, 0.30))
    horizon = rng.uniform(0.5, 0.58)
    sun = np.hypot(x - rng.choice([-1, 1]) * rng.uniform(0.5, 0.75), (y - horizon + 0.06) * 2)
    image = _over(image, 0.6 * _soft(0.34 - sun, 0.3), _rgb(1.0, 0.80, 0.45))
    image = _over(image, _soft(0.16 - sun, 0.02), _rgb(1.0, 0.94, 0.66))
    sea = _vertical(np.clip((y - horizon) * 4, 0, 1), _rgb(0.86, 0.46, 0.36), _rgb(0.42, 0.22, 0.46))
    image = _over(image, _soft(y - horizon, 0.012), sea)
    for side in (-1, 1):
        rock = 1 - ((x - side * rng.uniform(0.95, 1.1)) / 0.3) ** 2 - ((y - horizon) / 0.16) ** 2
        image = _over(image, _soft(rock, 0.2), _rgb(0.20, 0.13, 0.22))
    shore = horizon + 0.20 + 0.03 * np.sin(x * 3 + rng.uniform(0, 6))
    return _over(image, _soft(y - shore, 0.02), _rgb(0.90, 0.62, 0.56))


PAINTERS: dict[str, tuple[Painter, str]] = {
    "beach": (_beach, "day"),
    "town": (_town, "day"),
    "forest": (_forest, "forest"),
    "night": (_night, "night"),
    "underwater": (_underwater, "underwater"),
    "portorosso": (_portorosso, "day"),
    "cove": (_cove, "sunset"),
}


def light_of(scene: Scene) -> Light:
    """Return the scene's light: the one it names, else the place's own."""
    return LIGHTS[scene.light or PAINTERS[scene.place][1]]


def paint(scene: Scene, width: int, height: int, shift_px: tuple[float, float] = (0.0, 0.0)) -> Floats:
    """Paint a scene's backdrop as (height, width, 3) floats around 0 to 1, the window moved by `shift_px`.

    The height spans 0 to 1 from top to bottom; x is 0 in the middle and has half of y's scale.
    """
    x = ((np.arange(width, dtype=np.float32) + 0.5) + shift_px[0] - width / 2) / (height / 2)
    y = (np.arange(height, dtype=np.float32) + 0.5 + shift_px[1]) / height
    painter, _ = PAINTERS[scene.place]
    grid_x, grid_y = np.meshgrid(x, y)
    image = painter(grid_x, grid_y, np.random.default_rng(scene.seed))
    if scene.light is not None:  # a named light tints the place too
        own, named = LIGHTS[PAINTERS[scene.place][1]], LIGHTS[scene.light]
        image = image * (np.asarray(named.key) / np.asarray(own.key)).astype(np.float32)
    return np.asarray(image, np.float32)
