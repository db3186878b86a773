"""The pictures that ControlNets obey: skeletons, edges, depth, parts, normals. Numpy and OpenCV only.

A ControlNet knows the colours and the conventions that it was trained with and no others, so these are theirs.
"""

import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from imagelab.errors import InvalidValueError

Picture = NDArray[np.uint8]  # (h, w, 3) RGB

# OpenPose's 18 joints by COCO's numbers; None is the neck, which COCO lacks: half-way between the shoulders.
_JOINTS = (0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
_LEFT_SHOULDER, _RIGHT_SHOULDER = 5, 6
_LIMBS = (  # pairs of OpenPose's joints, in the order in which they are painted
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10),
    (1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
_COLOURS = (  # of joint i and of limb i, RGB
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0), (0, 255, 85),
    (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255),
    (255, 0, 170), (255, 0, 85),
)  # fmt: skip
_LIMB_BRIGHTNESS = 0.6
JOINT_THRESHOLD = 0.3  # of a confidence: below it, a joint is noise
_STICK_PX, _STICK_AT_PX, _MIN_STICK_PX = 4, 512, 2  # half a limb's width: OpenPose's 4 px belong to 512


def _palette(text: str) -> Picture:
    """Read colours, six hex digits each, into a table (n, 3)."""
    colours: Picture = np.array([tuple(bytes.fromhex(colour)) for colour in text.split()], dtype=np.uint8)
    colours.flags.writeable = False
    return colours


# controlnet_aux.util.ade_palette(), which takes seconds to import: label 0, wall, to 149, flag
ADE20K = _palette("""
    787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07 e005ff ebff07 96053d 787846 08ff33
    ff0652 8fff8c ccff04 ff3307 cc4603 0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0 0907e6 dcdcdc ff095c 7009ff
    08ffd6 07ffe0 ffb806 0aff47 ff290a 07ffff e0ff08 6608ff ff3d06 ffc207 ff7a08 00ff14 ff0829 ff0599 0633ff
    eb0cff a09614 00a3ff 8c8c8c fa0a0f 14ff00 1fff00 ff1f00 ffe000 99ff00 0000ff ff4700 00ebff 00adff 1f00ff
    0bc8c8 ff5200 00fff5 003dff 00ff70 00ff85 ff0000 ffa300 ff6600 c2ff00 008fff 33ff00 0052ff 00ff29 00ffad
    0a00ff adff00 00ff99 ff5c00 ff00ff ff00f5 ff0066 ffad00 ff0014 ffb8b8 001fff 00ff3d 0047ff ff00cc 00ffc2
    00ff52 000aff 0070ff 3300ff 00c2ff 007aff 00ffa3 ff9900 00ff0a ff7000 8fff00 5200ff a3ff00 ffeb00 08b8aa
    8500ff 00ff5c b800ff ff001f 00b8ff 00d6ff ff0070 5cff00 00e0ff 70e0ff 46b8a0 a300ff 9900ff 47ff00 ff00a3
    ffcc00 ff008f 00ffeb 85ff00 ff00eb f500ff ff007a fff500 0abed4 d6ff00 00ccff 1400ff ffff00 0099ff 0029ff
    00ffcc 2900ff 29ff00 ad00ff 00f5ff 4700ff 7a00ff 00ffb8 005cff b8ff00 0085ff ffd600 19c2c2 66ff00 5c00ff
""")
# the puppets' parts: backdrop, skin, eyes, hair, mouth, shirt, trousers
PUPPET = _palette("000000 ffb380 ffffff ff00ff ff0000 00ff00 0000ff")
# as controlnet_config.yaml names them
PALETTES: Mapping[str, Picture] = {"ade20k": ADE20K, "puppet": PUPPET}


def draw_pose(people: Sequence[ArrayLike], width: int, height: int, threshold: float = JOINT_THRESHOLD) -> Picture:
    """Draw skeletons as OpenPose does, and return a picture (height, width, 3).

    Each of `people` is (17, 3): x and y in px and a confidence, in COCO's order. A joint below the confidence
    `threshold` is left out with its limbs. OpenPose draws limbs of 4 px whatever the picture's size (`controlnet_aux`'s
    `draw_bodypose`); here they grow with it. Raises InvalidValueError for another shape.
    """
    canvas: Picture = np.zeros((height, width, 3), dtype=np.uint8)
    stick_px = max(_MIN_STICK_PX, round(_STICK_PX * min(width, height) / _STICK_AT_PX))
    for person in people:
        _draw_person(canvas, _openpose_joints(person, threshold), stick_px)
    return canvas


def _openpose_joints(person: ArrayLike, threshold: float) -> list[tuple[float, float] | None]:
    points = np.asarray(person, dtype=np.float64)
    if points.shape != (17, 3):
        raise InvalidValueError("person", f"shape {points.shape}", "(17, 3): x, y and confidence of COCO's keypoints")
    known = np.isfinite(points).all(axis=1) & (points[:, 2] >= threshold)
    joints: list[tuple[float, float] | None] = []
    for joint in _JOINTS:
        sources = [_LEFT_SHOULDER, _RIGHT_SHOULDER] if joint is None else [joint]
        x, y = points[sources, :2].mean(axis=0)
        joints.append((float(x), float(y)) if known[sources].all() else None)
    return joints


def _draw_person(canvas: Picture, joints: Sequence[tuple[float, float] | None], stick_px: int) -> None:
    for (start, end), colour in zip(_LIMBS, _COLOURS, strict=False):  # a colour is left over
        if (a := joints[start]) and (b := joints[end]):
            middle = (int((a[0] + b[0]) / 2), int((a[1] + b[1]) / 2))
            angle = math.degrees(math.atan2(a[1] - b[1], a[0] - b[0]))
            axes = (int(math.dist(a, b) / 2), stick_px)
            polygon = np.array(cv2.ellipse2Poly(middle, axes, int(angle), 0, 360, 1))
            cv2.fillConvexPoly(canvas, polygon, [int(level * _LIMB_BRIGHTNESS) for level in colour])
    for joint, colour in zip(joints, _COLOURS, strict=True):
        if joint:
            cv2.circle(canvas, (int(joint[0]), int(joint[1])), stick_px, colour, thickness=-1)


def canny_map(image: ArrayLike, low: int, high: int) -> Picture:
    """Return the edges of an RGB picture (h, w, 3), white on black.

    As controlnet_aux's CannyDetector calls `cv2.Canny`: on the colours, so that edges between equally light ones show.
    Without its rounding of the size to multiples of 64. `low` and `high` are gradients, |dx| + |dy| of grey levels.
    """
    return _grey(np.asarray(cv2.Canny(np.ascontiguousarray(image, dtype=np.uint8), low, high), dtype=np.uint8))


def depth_map(depth: ArrayLike) -> Picture:
    """Return a depth (h, w), near = large, as grey from black, the farthest, to white; a flat one is black.

    Raises InvalidValueError for NaN or infinity.
    """
    values = np.asarray(depth, dtype=np.float64)
    if not np.isfinite(values).all():
        raise InvalidValueError("depth", "NaN or infinity", "finite")
    low, high = values.min(), values.max()
    scale = 255 / (high - low) if high > low else 0.0
    return _grey(np.rint((values - low) * scale).astype(np.uint8))


def seg_map(labels: ArrayLike, palette: Picture = ADE20K) -> Picture:
    """Return labels (h, w) in a palette's colours (n, 3); raises InvalidValueError for a label that it lacks."""
    numbers = np.asarray(labels, dtype=np.int64)
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < len(palette):
        place = f"{numbers.min()} to {numbers.max()}"
        raise InvalidValueError("labels", place, f"between 0 and {len(palette) - 1}, as the palette has it")
    return palette[numbers]


def normal_map(normals: ArrayLike) -> Picture:
    """Return unit normals (h, w, 3), camera space, z to the camera, as colours: (n + 1) / 2 · 255.

    Raises InvalidValueError for NaN or infinity.
    """
    values = np.asarray(normals, dtype=np.float64)
    if not np.isfinite(values).all():
        raise InvalidValueError("normals", "NaN or infinity", "finite")
    return np.rint((values.clip(-1, 1) + 1) / 2 * 255).astype(np.uint8)


def _grey(levels: Picture) -> Picture:
    return np.repeat(levels[:, :, None], 3, axis=2)
