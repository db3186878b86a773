"""The control maps of a render, drawn from what is known of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from imagelab.config.options import CANNY_THRESHOLDS
from imagelab.control_maps import PUPPET, canny_map, depth_map, draw_pose, normal_map, seg_map

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from imagelab.puppets.render import Render

CANNY = tuple(CANNY_THRESHOLDS.values())  # lower and upper threshold


def keypoints_inside(drawn: Render) -> NDArray[np.float32]:
    """Return the first figure's (17, 3) x, y and whether the picture holds the point; zeros without a figure."""
    if not drawn.figures:
        return np.zeros((17, 3), np.float32)
    points = drawn.figures[0].keypoints
    height, width = drawn.depth.shape
    inside = ((points >= 0) & (points < np.array([width, height]))).all(axis=1, keepdims=True)
    return np.concatenate([points, inside], 1).astype(np.float32)


def true_map(
    kind: str, *, image: NDArray[np.uint8], depth: NDArray[Any], normals: NDArray[Any], parts: NDArray[np.uint8],
    keypoints: NDArray[np.float32],
) -> NDArray[np.uint8]:  # fmt: skip
    """Draw a picture's (H, W, 3) map of a kind; keypoints are (17, 3) as of `keypoints_inside`."""
    if kind == "pose":
        height, width = depth.shape
        return draw_pose([keypoints], width, height)
    if kind == "canny":
        return canny_map(image, *CANNY)
    if kind == "depth":
        return depth_map(depth)
    return seg_map(parts, PUPPET) if kind == "seg" else normal_map(normals)
