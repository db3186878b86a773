"""The annotators on renders, whose truth is known; and what they see in a picture, for other measures to judge by."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy.stats import spearmanr
from tqdm.auto import tqdm

from imagelab.annotators import estimate_depth, estimate_labels, estimate_normals, estimate_people
from imagelab.control_maps import canny_map
from imagelab.puppets.figure import PARTS
from imagelab.puppets.measures.studio import WEIGHTS, Row, Studio, held_out_scene
from imagelab.puppets.render import Render, render

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Labels = NDArray[np.integer]

CANNY = (100, 200)
PCK_SHARE = 0.1  # of the longer side of the figure's joints
SURE = 0.3
FOLDER = WEIGHTS / "annotators"


def find_pose(image: Image.Image | NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the (17, 3) joints of whoever is in a picture: x and y in px, confidence."""
    (person,) = estimate_people(FOLDER / "pose", None, _picture(image), {}, "cpu")
    return person


def _picture(image: Image.Image | NDArray[np.uint8]) -> Image.Image:
    return image if isinstance(image, Image.Image) else Image.fromarray(image)


def pck(image: NDArray[np.uint8], truth: Render) -> float:
    """Return the share of the joints inside the picture that are found within a tenth of the figure's size."""
    points = truth.figures[0].keypoints
    height, width = truth.depth.shape
    inside = ((points >= 0) & (points < [width, height])).all(1)
    size = np.ptp(points[inside], axis=0).max()
    away = np.linalg.norm(find_pose(image)[inside, :2] - points[inside], axis=1)
    return float((away <= PCK_SHARE * size).mean())


def depth_agreement(image: NDArray[np.uint8], truth: Render) -> float:
    """Return Spearman's correlation of the depths."""
    found = estimate_depth(FOLDER / "depth", _picture(image), {}, "cpu")
    return float(spearmanr(found.ravel(), truth.depth.ravel()).statistic)


def mean_iou(image: NDArray[np.uint8], truth: Render) -> float:
    """Return the mean over the parts that are there of intersection over union."""
    found, _ = estimate_labels(FOLDER / "seg", _picture(image), {}, "cpu")
    return _iou(_confusion(found, truth.parts))


def _confusion(found: Labels, wanted: Labels) -> NDArray[np.int64]:
    counts = np.zeros((len(PARTS), len(PARTS)), np.int64)
    np.add.at(counts, (wanted.ravel(), found.ravel()), 1)
    return counts


def _iou(counts: NDArray[np.int64]) -> float:
    there, hits = counts.sum(1) > 0, np.diag(counts)
    return float((hits / np.maximum(counts.sum(0) + counts.sum(1) - hits, 1))[there].mean())


def normal_agreement(image: NDArray[np.uint8], truth: Render) -> float:
    """Return the mean cosine between the normals."""
    found = estimate_normals(FOLDER / "normal", _picture(image), {}, "cpu")
    return float((found * truth.normals).sum(-1).mean())


def edge_f1(image: NDArray[np.uint8], truth: Render, reach_px: int = 1) -> float:
    """Return the F1 of the edges of a picture and of the truth; an edge `reach_px` away still counts."""
    found, wanted = (canny_map(picture, *CANNY)[..., 0] > 0 for picture in (np.asarray(image), truth.image))
    precision, recall = _covered(found, wanted, reach_px), _covered(wanted, found, reach_px)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _covered(edges: NDArray[np.bool_], by: NDArray[np.bool_], reach_px: int) -> float:
    steps = range(-reach_px, reach_px + 1)
    near = np.any([np.roll(by, (dy, dx), (0, 1)) for dy in steps for dx in steps], axis=0)
    return float(near[edges].mean()) if edges.any() else 0.0


# kind of control: (what its number is called, what measures how well a picture follows a render, what stands for 100 %)
AGREEMENTS: dict[str, tuple[str, Callable[[NDArray[np.uint8], Render], float]]] = {
    "pose": ("PCK@0.1", pck),
    "canny": ("F1", edge_f1),
    "depth": ("Spearman", depth_agreement),
    "seg": ("mIoU", mean_iou),
    "normal": ("mean cosine", normal_agreement),
}


def measure_annotators(studio: Studio) -> list[Row]:
    """Measure the annotators on held-out renders."""
    count = studio.count(128)
    drawn = [render(held_out_scene(80_000 + k)) for k in range(count)]
    counts = np.zeros((len(PARTS), len(PARTS)), np.int64)
    for truth in drawn:
        found, _ = estimate_labels(FOLDER / "seg", _picture(truth.image), {}, "cpu")
        counts += _confusion(found, truth.parts)
    mean = partial(_mean, drawn)
    return [
        Row("pose annotator on renders, PCK@0.1", mean(pck), 0.90, pictures=count),
        Row("depth annotator on renders, Spearman", mean(depth_agreement), 0.95, pictures=count),
        Row("seg annotator on renders, mIoU", _iou(counts), 0.80, pictures=count),
        Row("normal annotator on renders, mean cosine", mean(normal_agreement), 0.90, pictures=count),
    ]


def _mean(drawn: list[Render], measure: Callable[[NDArray[np.uint8], Render], float]) -> float:
    return float(np.mean([measure(truth.image, truth) for truth in tqdm(drawn, desc=measure.__name__, mininterval=5)]))
