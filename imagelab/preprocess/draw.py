"""One map of one picture: what each kind of control has estimated, and how that is drawn."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from imagelab.config import pick
from imagelab.config.options import CANNY_THRESHOLDS, DEFAULT_PALETTE
from imagelab.control_maps import (
    JOINT_THRESHOLD,
    PALETTES,
    Picture,
    canny_map,
    depth_map,
    draw_pose,
    normal_map,
    seg_map,
)
from imagelab.controls import PlannedPreprocessor
from imagelab.errors import ControlMapError, ModelFileError

if TYPE_CHECKING:
    from PIL.Image import Image

_MIN_JOINTS = 3  # below it, what looks like a person is noise


def draw_map(control_type: str, picture: "Image", preprocessor: PlannedPreprocessor, device: str, name: str) -> "Image":
    """Return the map of an RGB picture, of its size; `name` calls the picture in errors.

    Raises ControlMapError when nothing is found in the picture; ModelFileError; UnknownNameError for a palette.
    """
    from PIL import Image

    made = Image.fromarray(_DRAW[control_type](picture, preprocessor, device, name))
    refuse_blank(made, control_type, name, "Use a picture that shows more, other params, or a ready map")
    return made


def refuse_blank(made: "Image", control_type: str, name: str, fix: str) -> None:
    """Raise ControlMapError for a map that says nothing."""
    if len(made.getcolors(2) or ()) == 1:
        raise ControlMapError(name, f"its {control_type} map is of one colour all over", fix)


def _pose(picture: "Image", preprocessor: PlannedPreprocessor, device: str, name: str) -> Picture:
    from imagelab.annotators import estimate_people

    params = preprocessor.params
    people = estimate_people(_model(preprocessor), preprocessor.detector, picture, params, device)
    threshold = params.get("threshold", JOINT_THRESHOLD)
    sure = [person for person in people if _sure_joints(person, threshold) >= params.get("min_joints", _MIN_JOINTS)]
    if not sure:
        fix = "Use a picture that shows a whole person, lower threshold or min_joints, or give a ready map"
        raise ControlMapError(name, f"shows nobody: no person with enough joints above {threshold:g}", fix)
    return draw_pose(sure, picture.width, picture.height, threshold)


def _sure_joints(person: NDArray[np.float64], threshold: float) -> int:
    return int((np.isfinite(person).all(axis=1) & (person[:, 2] >= threshold)).sum())


def _canny(picture: "Image", preprocessor: PlannedPreprocessor, _device: str, _name: str) -> Picture:
    params, pixels = preprocessor.params, np.asarray(picture)
    if side := params.get("resolution"):
        factor = side / min(picture.size)
        method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LANCZOS4
        pixels = np.asarray(cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=method))
    low, high = (params.get(name, default) for name, default in CANNY_THRESHOLDS.items())
    edges = canny_map(pixels, low, high)
    if edges.shape[:2] == (picture.height, picture.width):
        return edges
    return np.asarray(cv2.resize(edges, picture.size, interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def _depth(picture: "Image", preprocessor: PlannedPreprocessor, device: str, name: str) -> Picture:
    from imagelab.annotators import estimate_depth

    depth = estimate_depth(_model(preprocessor), picture, preprocessor.params, device)
    return depth_map(_finite(depth, name, preprocessor))


def _seg(picture: "Image", preprocessor: PlannedPreprocessor, device: str, _name: str) -> Picture:
    from imagelab.annotators import estimate_labels

    chosen = preprocessor.params.get("palette", DEFAULT_PALETTE)
    palette = pick("palette", PALETTES, chosen)
    labels, count = estimate_labels(_model(preprocessor), picture, preprocessor.params, device)
    if count != len(palette):
        reason = f"knows {count} labels, and the palette {chosen} has {len(palette)} colours"
        fix = "Name the palette of its labels, which the ControlNet must know too, or use a model of that palette's"
        raise ModelFileError(_model(preprocessor), reason, fix)
    return seg_map(labels, palette)


def _normal(picture: "Image", preprocessor: PlannedPreprocessor, device: str, name: str) -> Picture:
    from imagelab.annotators import estimate_normals

    normals = estimate_normals(_model(preprocessor), picture, preprocessor.params, device)
    return normal_map(_finite(normals, name, preprocessor))


def _model(preprocessor: PlannedPreprocessor) -> Path:
    assert preprocessor.model is not None  # noqa: S101  config.cross_checks: all but canny have one
    return preprocessor.model


def _finite(values: NDArray[np.float64], name: str, preprocessor: PlannedPreprocessor) -> NDArray[np.float64]:
    if not np.isfinite(values).all():
        reason = f"{_model(preprocessor)} makes NaN or infinity of it"
        raise ControlMapError(name, reason, "The estimator may be damaged: fetch it again, or give a ready map")
    return values


_Draw = Callable[["Image", PlannedPreprocessor, str, str], Any]
_DRAW: Mapping[str, _Draw] = {"pose": _pose, "canny": _canny, "depth": _depth, "seg": _seg, "normal": _normal}
