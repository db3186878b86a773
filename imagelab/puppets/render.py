"""The puppet renderer: a scene in, a picture and its ground truth out. Numpy only.

Every primitive is a quadric (an ellipsoid, or a tube closed by its end balls), seen by an orthographic camera along -z.
A ray then meets it where a quadratic has its nearer root, so nothing is marched: one pass over each primitive's
bounding box. World units: a head is about 1 wide, y points up, z to the camera.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from imagelab.puppets import backdrops
from imagelab.puppets.figure import COCO_KEYPOINTS, PARTS, Primitive, build_figure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from imagelab.puppets.world import Scene

__all__ = ["COCO_KEYPOINTS", "PARTS", "FigureTruth", "Render", "render"]

Floats = "NDArray[np.float32]"

HALF_WIDTH_UNITS = 1.22  # half of the shorter side of the view, at zoom 1
TOP_UNITS = 1.02  # the upper border's height above the head's centre, at zoom 1
FAR_UNITS = 4.0  # depth of the backdrop behind the head's centre


class Shading(NamedTuple):
    """How a style turns normals into brightness."""

    wrap: float  # how far diffuse light reaches round the terminator
    specular: float
    gloss: float
    rim: float
    scatter: float  # reddish glow where light grazes the surface


STYLES = {
    "plain": Shading(wrap=0.25, specular=0.16, gloss=28.0, rim=0.20, scatter=0.0),
    "pixar_3d": Shading(wrap=0.50, specular=0.30, gloss=60.0, rim=0.75, scatter=0.22),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class FigureTruth:
    """What is known of one puppet in a picture, in pixels: x right, y down, (0, 0) the upper left corner."""

    keypoints: NDArray[np.float32]  # (17, 2), COCO order
    keypoints_3d: NDArray[np.float32]  # (17, 3), world units
    visible: NDArray[np.bool_]  # (17,), inside the picture and not behind another part
    face_box: NDArray[np.float32]  # (4,) x0, y0, x1, y1
    landmarks: NDArray[np.float32]  # (5, 2) eyes, nose, mouth corners, image left first: ArcFace's order


@dataclass(frozen=True, kw_only=True, slots=True)
class Render:
    """A picture with its ground truth, all of the picture's height and width."""

    image: NDArray[np.uint8]  # (H, W, 3) RGB
    depth: NDArray[np.float32]  # (H, W), 0 far to 1 near
    normals: NDArray[np.float32]  # (H, W, 3), unit, camera space; (0, 0, 1) on the backdrop
    parts: NDArray[np.uint8]  # (H, W), index into PARTS
    figures: tuple[FigureTruth, ...]


class _Camera(NamedTuple):
    xs: NDArray[np.float32]
    ys: NDArray[np.float32]
    units_per_px: float
    left: float
    top: float

    def project(self, points: NDArray[np.floating]) -> NDArray[np.float32]:
        x = (points[..., 0] - self.left) / self.units_per_px
        y = (self.top - points[..., 1]) / self.units_per_px
        return np.stack([x, y], -1).astype(np.float32)


def _camera(width: int, height: int, zoom: float, shift_px: tuple[float, float]) -> _Camera:
    """Look at the head from the front; `shift_px` moves the window right and down, as a crop does."""
    upp = 2 * HALF_WIDTH_UNITS / (min(width, height) * zoom)
    left = (-width / 2 + shift_px[0]) * upp
    top = TOP_UNITS / zoom - shift_px[1] * upp
    xs = left + (np.arange(width, dtype=np.float32) + 0.5) * upp
    ys = top - (np.arange(height, dtype=np.float32) + 0.5) * upp
    return _Camera(xs.astype(np.float32), ys.astype(np.float32), upp, left, top)


class _Buffers(NamedTuple):
    depth: NDArray[np.float32]
    normal: NDArray[np.float32]
    colour: NDArray[np.float32]
    part: NDArray[np.uint8]


def _cast(p: Primitive, camera: _Camera, out: _Buffers) -> None:
    """Draw one primitive into the buffers where it is the nearest thing so far."""
    extent = p.extent()
    x0, x1 = np.searchsorted(camera.xs, [p.centre[0] - extent[0], p.centre[0] + extent[0]])
    y0, y1 = np.searchsorted(-camera.ys, [-(p.centre[1] + extent[1]), -(p.centre[1] - extent[1])])
    if x1 <= x0 or y1 <= y0:
        return
    m = p.quadric()
    x = (camera.xs[x0:x1] - p.centre[0])[None, :]
    y = (camera.ys[y0:y1] - p.centre[1])[:, None]
    a = max(float(m[2, 2]), 1e-6)
    b = m[0, 2] * x + m[1, 2] * y
    c = m[0, 0] * x * x + m[1, 1] * y * y + 2 * m[0, 1] * x * y - 1
    root = b * b - a * c
    z = (np.sqrt(np.maximum(root, 0)) - b) / a
    window = np.s_[y0:y1, x0:x1]
    hit = (root > 0) & (z + p.centre[2] > out.depth[window])
    if p.half_length is not None:
        axis = p.rotation[:, 1]
        hit &= np.abs(axis[0] * x + axis[1] * y + axis[2] * z) <= p.half_length
    if not hit.any():
        return
    normal = np.stack([m[i, 0] * x + m[i, 1] * y + m[i, 2] * z for i in range(3)], -1)[hit]
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-8
    out.depth[window][hit] = (z + p.centre[2])[hit]
    out.normal[window][hit] = normal
    out.colour[window][hit] = p.colour
    out.part[window][hit] = p.part


def _shade(scene: Scene, out: _Buffers, hit: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Light the hit samples with a key light, ambient light, a highlight and a rim."""
    light, style = backdrops.light_of(scene), STYLES[scene.style]
    normal, colour = out.normal[hit], out.colour[hit]
    turn = light.azimuth + scene.light_turn
    key = np.array([np.sin(turn) * 0.75, 0.6, np.cos(turn) * 0.75], np.float32)
    key /= np.linalg.norm(key)
    half = key + np.array([0, 0, 1], np.float32)
    half /= np.linalg.norm(half)
    facing = normal @ key
    diffuse = np.clip((facing + style.wrap) / (1 + style.wrap), 0, 1)[:, None]
    glow = style.scatter * np.exp(-((facing - 0.1) ** 2) / 0.08)[:, None] * np.array([1.0, 0.45, 0.3])
    rim = style.rim * (1 - np.clip(normal[:, 2:3], 0, 1)) ** 3
    highlight = style.specular * np.clip(normal @ half, 0, 1)[:, None] ** style.gloss
    key_colour = np.asarray(light.key, np.float32)
    lit = colour * (np.asarray(light.ambient) + key_colour * diffuse + glow) + (rim + highlight) * key_colour
    return np.asarray(lit, np.float32)


def _truth(keypoints: NDArray[np.float64], face: NDArray[np.float64], box: NDArray[np.float64], camera: _Camera,
           depth: NDArray[np.float32]) -> FigureTruth:  # fmt: skip
    pixels = camera.project(keypoints)
    h, w = depth.shape
    inside = (pixels >= 0).all(1) & (pixels[:, 0] < w) & (pixels[:, 1] < h)
    col, row = np.clip(pixels.astype(int), 0, [w - 1, h - 1]).T
    in_front = depth[row, col] < keypoints[:, 2] + 0.45  # joints lie inside their limbs
    return FigureTruth(
        keypoints=pixels,
        keypoints_3d=keypoints.astype(np.float32),
        visible=inside & in_front,
        face_box=camera.project(box).reshape(4),
        landmarks=camera.project(face),
    )


def render(scene: Scene, *, width: int = 128, height: int = 128, supersample: int = 2,
           shift_px: tuple[float, float] = (0.0, 0.0)) -> Render:  # fmt: skip
    """Draw a scene, bit-identical for the same arguments.

    `shift_px` moves the window right and down as a crop would. About 15 ms for 128 x 128 on one core.
    """
    s = supersample
    fine = _camera(width * s, height * s, scene.zoom, (shift_px[0] * s, shift_px[1] * s))
    shape = (height * s, width * s)
    out = _Buffers(
        np.full(shape, -FAR_UNITS, np.float32),
        np.broadcast_to(np.array([0, 0, 1], np.float32), (*shape, 3)).copy(),
        np.zeros((*shape, 3), np.float32),
        np.zeros(shape, np.uint8),
    )
    bodies = [build_figure(figure) for figure in scene.figures]
    for body in bodies:
        for primitive in body.primitives:
            _cast(primitive, fine, out)
    hit = out.part > 0
    lit = np.zeros((*shape, 3), np.float32)
    lit[hit] = np.clip(_shade(scene, out, hit), 0, 1)
    cover = hit.reshape(height, s, width, s).mean((1, 3), dtype=np.float32)[..., None]
    backdrop = np.clip(backdrops.paint(scene, width, height, shift_px), 0, 1)  # soft enough to need no supersampling
    image = lit.reshape(height, s, width, s, 3).mean((1, 3)) + (1 - cover) * backdrop
    normals = out.normal.reshape(height, s, width, s, 3).mean((1, 3))
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True) + 1e-8
    depth = out.depth[s // 2 :: s, s // 2 :: s]
    coarse = _camera(width, height, scene.zoom, shift_px)
    return Render(
        image=(image * 255 + 0.5).astype(np.uint8),
        depth=np.clip((depth + FAR_UNITS) / (FAR_UNITS + 1.0), 0, 1),
        normals=normals,
        parts=out.part[s // 2 :: s, s // 2 :: s],
        figures=tuple(_truth(b.keypoints, b.landmarks, b.face_box, coarse, depth) for b in bodies),
    )
