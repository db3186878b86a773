"""A puppet's body as quadrics, with the points that ground truth needs. World units, y up, z to the camera."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from imagelab.puppets.world import EYES, HAIRS, SHIRTS, SKINS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from imagelab.puppets.world import Figure, Identity

PARTS = ("backdrop", "skin", "eyes", "hair", "mouth", "shirt", "trousers")
BACKDROP, SKIN, EYE, HAIR, MOUTH, SHIRT, TROUSERS = range(len(PARTS))

COCO_KEYPOINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip

TROUSER_COLOUR = (0.20, 0.26, 0.42)
SHOE_COLOUR = (0.25, 0.20, 0.18)
TONGUE, LIP, TEETH = (0.55, 0.10, 0.12), (0.58, 0.20, 0.20), (1.0, 1.0, 1.0)

# Elbow, wrist, knee and ankle (x, y, z) of the image's left side, then of its right one.
Joints = tuple[tuple[float, float, float], ...]
LEGS_STILL = ((-0.24, -2.45, 0.05), (-0.26, -3.1, 0.0)), ((0.24, -2.45, 0.05), (0.26, -3.1, 0.0))
LEGS_RUN = ((-0.28, -2.3, 0.45), (-0.26, -2.95, 0.25)), ((0.26, -2.4, -0.1), (0.34, -2.75, -0.6))
LEGS_APART = ((-0.5, -2.3, 0.2), (-0.72, -2.85, 0.0)), ((0.5, -2.35, -0.1), (0.62, -3.0, -0.3))
LIMBS: dict[str, tuple[tuple[Joints, Joints], tuple[Joints, Joints]]] = {
    "standing": ((((-0.62, -1.36, 0.02), (-0.68, -1.86, 0.1)), ((0.62, -1.36, 0.02), (0.68, -1.86, 0.1))), LEGS_STILL),
    "waving": ((((-0.62, -1.36, 0.02), (-0.68, -1.86, 0.1)), ((0.88, -1.02, 0.05), (1.0, -0.38, 0.1))), LEGS_STILL),
    "running": ((((-0.82, -1.22, 0.1), (-0.42, -0.98, 0.45)), ((0.82, -1.3, -0.1), (1.02, -1.68, 0.1))), LEGS_RUN),
    "arms up": ((((-0.84, -0.78, 0.02), (-0.94, -0.1, 0.05)), ((0.84, -0.78, 0.02), (0.94, -0.1, 0.05))), LEGS_STILL),
    "sprinting": ((((-1.0, -0.9, 0.1), (-0.62, -0.42, 0.4)), ((1.0, -1.22, -0.1), (0.74, -1.62, 0.2))), LEGS_RUN),
    "leaping": ((((-0.95, -1.25, 0.05), (-0.5, -1.5, 0.3)), ((0.64, -0.5, 0.02), (0.68, 0.3, 0.05))), LEGS_APART),
}
BROW_TILT = {"sad": 0.38, "happy": -0.10, "surprised": -0.16, "neutral": 0.0}


@dataclass(frozen=True, slots=True)
class Primitive:
    """An ellipsoid, or a tube along its own y axis when `half_length` is given."""

    centre: NDArray[np.float64]
    radii: NDArray[np.float64]
    rotation: NDArray[np.float64]
    colour: tuple[float, ...]
    part: int
    half_length: float | None = None

    def quadric(self) -> NDArray[np.float64]:
        """Return the symmetric matrix M with p M p = 1 on the surface, relative to the centre."""
        inverse = 1 / self.radii**2
        if self.half_length is not None:
            inverse[1] = 0.0
        matrix: NDArray[np.float64] = (self.rotation * inverse) @ self.rotation.T
        return matrix

    def extent(self) -> NDArray[np.float64]:
        """Return half of the bounding box's size along each axis."""
        radii = self.radii.copy()
        if self.half_length is not None:
            radii[1] = self.half_length
        caps = 0.0 if self.half_length is None else radii[0]
        extent: NDArray[np.float64] = np.sqrt(((self.rotation * radii) ** 2).sum(1)) + caps
        return extent


class Body(NamedTuple):
    """A figure in world space."""

    primitives: list[Primitive]
    keypoints: NDArray[np.float64]  # (17, 3)
    landmarks: NDArray[np.float64]  # (5, 3)
    face_box: NDArray[np.float64]  # (2, 3): upper left and lower right corner


def _rotation(yaw: float, pitch: float = 0.0, roll: float = 0.0) -> NDArray[np.float64]:
    cy, sy, cp, sp, cr, sr = (f(a) for a in (yaw, pitch, roll) for f in (np.cos, np.sin))
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    turned: NDArray[np.float64] = about_y @ about_x @ about_z
    return turned


def _tint(colour: Iterable[float], factor: float) -> tuple[float, ...]:
    return tuple(c * factor for c in colour)


class _Group:
    """Primitives that turn together about one point."""

    def __init__(self, rotation: NDArray[np.float64], offset: NDArray[np.float64]) -> None:
        self.rotation, self.offset = rotation, offset
        self.primitives: list[Primitive] = []

    def place(self, *points: tuple[float, float, float]) -> NDArray[np.float64]:
        return np.asarray(points, float) @ self.rotation.T + self.offset

    def ball(self, centre: tuple[float, float, float], radii: tuple[float, float, float], colour: Iterable[float],
             part: int, roll: float = 0.0) -> None:  # fmt: skip
        turn = self.rotation @ _rotation(0, 0, roll)
        self.primitives.append(Primitive(self.place(centre)[0], np.asarray(radii), turn, tuple(colour), part))

    def capsule(self, start: tuple[float, float, float], end: tuple[float, float, float], radius: float,
                colour: Iterable[float], part: int) -> None:  # fmt: skip
        a, b = np.asarray(start), np.asarray(end)
        length = float(np.linalg.norm(b - a))
        axis = (b - a) / length
        side = np.cross(axis, [0.0, 0.0, 1.0] if abs(axis[2]) < 0.9 else [1.0, 0.0, 0.0])
        side /= np.linalg.norm(side)
        turn = self.rotation @ np.stack([side, axis, np.cross(side, axis)], 1)
        radii = np.full(3, radius)
        centre = self.place(tuple((a + b) / 2))[0]
        self.primitives.append(Primitive(centre, radii, turn, tuple(colour), part, half_length=length / 2))
        for end_point in (start, end):
            self.ball(end_point, (radius, radius, radius), colour, part)


def _add_eyes(head: _Group, i: Identity, expression: str, half_w: float, half_h: float) -> float:
    """Add eyes and brows; return the depth of the eyes."""
    apart, size = 0.20 * i.eye_distance, 0.135 * i.eye_size
    open_ = {"surprised": 1.25, "sad": 0.9}.get(expression, 1.0)
    surface = 0.5 * float(np.sqrt(max(0.05, 1 - (apart / half_w) ** 2 - (0.06 / half_h) ** 2)))
    brow = _tint(HAIRS[i.hair], 0.7) if i.hair_style != "bald" else (0.2, 0.15, 0.1)
    for side in (-1, 1):
        x = side * apart
        head.ball((x, 0.06, surface - 0.03), (size, size * 1.15 * open_, 0.085), (0.97, 0.97, 0.97), EYE)
        head.ball((x, 0.055, surface + 0.035), (size * 0.58, size * 0.62, 0.035), EYES[i.eyes], EYE)
        head.ball((x, 0.055, surface + 0.060), (size * 0.30, size * 0.33, 0.018), (0.03, 0.03, 0.03), EYE)
        glint = (x - size * 0.2, 0.055 + size * 0.25, surface + 0.075)
        head.ball(glint, (size * 0.12, size * 0.12, 0.01), (1.6, 1.6, 1.6), EYE)
        y = 0.06 + size * 1.15 * open_ + 0.075
        head.ball((x, y, surface + 0.03), (0.13, 0.03 * i.brows, 0.04), brow, HAIR, -side * BROW_TILT[expression])
    return surface


def _add_mouth(head: _Group, expression: str, size: float) -> None:
    if expression == "happy":
        head.ball((0, -0.29, 0.40), (0.20 * size, 0.095, 0.07), TONGUE, MOUTH)
        head.ball((0, -0.245, 0.425), (0.16 * size, 0.038, 0.05), TEETH, MOUTH)
    elif expression == "sad":
        for side in (-1, 1):
            head.ball((side * 0.075 * size, -0.32, 0.42), (0.105 * size, 0.034, 0.05), LIP, MOUTH, -side * 0.55)
    elif expression == "surprised":
        head.ball((0, -0.30, 0.41), (0.085 * size, 0.12, 0.07), TONGUE, MOUTH)
    else:
        head.ball((0, -0.29, 0.43), (0.15 * size, 0.028, 0.045), LIP, MOUTH)


def _add_hair(head: _Group, i: Identity, half_w: float, half_h: float) -> None:
    if i.hair_style == "bald":
        return
    colour = HAIRS[i.hair]
    head.ball((0, 0.16, -0.08), (half_w * 1.08, half_h * 0.92, 0.52), colour, HAIR)
    if i.hair_style in {"short", "long"}:
        head.ball((0, 0.42, 0.18), (half_w * 0.86, 0.17, 0.30), colour, HAIR)
    if i.hair_style == "long":
        for side in (-1, 1):
            head.ball((side * half_w * 0.98, -0.30, -0.08), (0.18, 0.58, 0.24), colour, HAIR)
    elif i.hair_style == "curly":
        for k, angle in enumerate(np.linspace(-1.35, 1.35, 8)):
            at = (float(np.sin(angle)) * half_w * 1.04, float(np.cos(angle)) * half_h * 0.92 + 0.03, 0.12)
            head.ball(at, (0.20, 0.20, 0.22), _tint(colour, 0.9 + 0.2 * (k % 2)), HAIR)
    elif i.hair_style == "spiky":
        for angle in np.linspace(-1.15, 1.15, 7):
            at = (float(np.sin(angle)) * half_w * 0.98, float(np.cos(angle)) * half_h * 1.02 + 0.10, 0.08)
            head.ball(at, (0.085, 0.28, 0.12), colour, HAIR, -float(angle))


def _build_head(head: _Group, figure: Figure) -> dict[str, NDArray[np.float64]]:
    i = figure.identity
    half_w, half_h = 0.5 * i.head_width, 0.56 * i.head_height
    skin = SKINS[i.skin]
    head.ball((0, 0, 0), (half_w, half_h, 0.5), skin, SKIN)
    ears = 0.11 * i.ears
    for side in (-1, 1):
        head.ball((side * half_w * 0.98, -0.02, -0.02), (ears, ears * 1.45, 0.07), _tint(skin, 0.95), SKIN)
    head.ball((0, -0.10, 0.50), (0.07 * i.nose, 0.065 * i.nose, 0.09 * i.nose), _tint(skin, 0.97), SKIN)
    surface = _add_eyes(head, i, figure.expression, half_w, half_h)
    _add_mouth(head, figure.expression, i.mouth)
    _add_hair(head, i, half_w, half_h)
    apart, corner = 0.20 * i.eye_distance, 0.16 * i.mouth
    left_eye, right_eye, nose, left_corner, right_corner = head.place(
        (-apart, 0.06, surface), (apart, 0.06, surface), (0, -0.10, 0.5 + 0.05 * i.nose),
        (-corner, -0.29, 0.42), (corner, -0.29, 0.42),
    )  # fmt: skip
    ear_l, ear_r = head.place((-half_w, -0.02, 0), (half_w, -0.02, 0))
    centre = head.place((0, 0, 0))[0]
    reach = np.array([half_w, half_h, 0])
    return {
        "landmarks": np.stack([left_eye, right_eye, nose, left_corner, right_corner]),
        # The face looks at us: the puppet's left is the image's right.
        "keypoints": np.stack([nose, right_eye, left_eye, ear_r, ear_l]),
        "face_box": np.stack([centre + reach * [-1, 1, 0], centre + reach * [1, -1, 0]]),
    }


def _build_body(body: _Group, figure: Figure) -> NDArray[np.float64]:
    skin, shirt = SKINS[figure.identity.skin], SHIRTS[figure.shirt]
    body.capsule((0, -0.5, -0.05), (0, -0.8, -0.05), 0.15, _tint(skin, 0.93), SKIN)
    body.ball((0, -1.28, -0.08), (0.50, 0.64, 0.33), shirt, SHIRT)
    body.ball((0, -1.72, -0.08), (0.42, 0.30, 0.30), TROUSER_COLOUR, TROUSERS)
    arms, legs = LIMBS[figure.pose]
    joints = []
    for side, (elbow, wrist), (knee, ankle) in zip((-1, 1), arms, legs, strict=True):
        shoulder, hip = (side * 0.40, -0.95, 0.0), (side * 0.22, -1.8, 0.0)
        body.capsule(shoulder, elbow, 0.14, _tint(shirt, 0.96), SHIRT)
        body.capsule(elbow, wrist, 0.10, _tint(skin, 0.96), SKIN)
        body.ball(wrist, (0.135, 0.135, 0.12), skin, SKIN)
        body.capsule(hip, knee, 0.17, TROUSER_COLOUR, TROUSERS)
        body.capsule(knee, ankle, 0.14, _tint(TROUSER_COLOUR, 0.95), TROUSERS)
        body.ball((ankle[0], ankle[1] - 0.1, ankle[2] + 0.1), (0.15, 0.1, 0.25), SHOE_COLOUR, TROUSERS)
        joints.append(body.place(shoulder, elbow, wrist, hip, knee, ankle))
    image_left, image_right = joints
    return np.stack([image_right, image_left], 1).reshape(12, 3)


def build_figure(figure: Figure) -> Body:
    """Return a figure's primitives and ground-truth points in world space."""
    offset = np.array([*figure.offset, 0.0])
    head = _Group(_rotation(figure.yaw, figure.pitch, figure.roll), offset)
    body = _Group(_rotation(figure.yaw * 0.4), offset)
    face = _build_head(head, figure)
    joints = _build_body(body, figure)
    return Body(
        primitives=body.primitives + head.primitives,
        keypoints=np.concatenate([face["keypoints"], joints]),
        landmarks=face["landmarks"],
        face_box=face["face_box"],
    )
