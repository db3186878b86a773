"""The annotators on renders, whose truth is known; and what they see in a picture, for other measures to judge by."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from imagelab import agreement
from imagelab.agreement import METRICS
from imagelab.annotators import estimate_depth, estimate_labels, estimate_normals, estimate_people
from imagelab.control_maps import canny_map
from imagelab.puppets.figure import PARTS
from imagelab.puppets.maps import CANNY, keypoints_inside
from imagelab.puppets.measures.studio import WEIGHTS, Row, Studio, held_out_scene
from imagelab.puppets.render import Render, render

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

FOLDER = WEIGHTS / "annotators"


def find_pose(image: Image.Image | NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the (17, 3) joints of whoever is in a picture: x and y in px, confidence."""
    (person,) = estimate_people(FOLDER / "pose", None, _picture(image), {}, "cpu")
    return person


def _picture(image: Image.Image | NDArray[np.uint8]) -> Image.Image:
    return image if isinstance(image, Image.Image) else Image.fromarray(image)


def pck(image: NDArray[np.uint8], truth: Render) -> float:
    """Return the share of the joints inside the picture that are found within a tenth of the figure's size."""
    points = keypoints_inside(truth)
    inside = points[:, 2] > 0
    return agreement.pck(find_pose(image)[inside, :2], points[inside, :2])


def depth_agreement(image: NDArray[np.uint8], truth: Render) -> float:
    """Return Spearman's correlation of the depths."""
    found = estimate_depth(FOLDER / "depth", _picture(image), {}, "cpu")
    return agreement.spearman(found, truth.depth)


def mean_iou(image: NDArray[np.uint8], truth: Render) -> float:
    """Return the mean over the parts that are there of intersection over union."""
    found, _ = estimate_labels(FOLDER / "seg", _picture(image), {}, "cpu")
    return agreement.mean_iou(found, truth.parts)


def normal_agreement(image: NDArray[np.uint8], truth: Render) -> float:
    """Return the mean cosine between the normals."""
    found = estimate_normals(FOLDER / "normal", _picture(image), {}, "cpu")
    return agreement.mean_cosine(found, truth.normals)


def edge_f1(image: NDArray[np.uint8], truth: Render, reach_px: int = agreement.EDGE_REACH_PX) -> float:
    """Return the F1 of the edges of a picture and of the truth; an edge `reach_px` away still counts."""
    found, wanted = (canny_map(picture, *CANNY)[..., 0] > 0 for picture in (np.asarray(image), truth.image))
    return agreement.edge_f1(found, wanted, reach_px)


# kind of control: (what its number is called, what measures how well a picture follows a render)
AGREEMENTS: dict[str, tuple[str, Callable[[NDArray[np.uint8], Render], float]]] = {
    "pose": (METRICS["pose"], pck),
    "canny": (METRICS["canny"], edge_f1),
    "depth": (METRICS["depth"], depth_agreement),
    "seg": (METRICS["seg"], mean_iou),
    "normal": (METRICS["normal"], normal_agreement),
}


def measure_annotators(studio: Studio) -> list[Row]:
    """Measure the annotators on held-out renders."""
    count = studio.count(128)
    drawn = [render(held_out_scene(80_000 + k)) for k in range(count)]
    counts = np.zeros((len(PARTS), len(PARTS)), np.int64)
    for truth in drawn:
        found, _ = estimate_labels(FOLDER / "seg", _picture(truth.image), {}, "cpu")
        counts += agreement.confusion(found, truth.parts, len(PARTS))
    mean = partial(_mean, drawn)
    return [
        Row("pose annotator on renders, PCK@0.1", mean(pck), 0.90, pictures=count),
        Row("depth annotator on renders, Spearman", mean(depth_agreement), 0.95, pictures=count),
        Row("seg annotator on renders, mIoU", agreement.iou(counts), 0.80, pictures=count),
        Row("normal annotator on renders, mean cosine", mean(normal_agreement), 0.90, pictures=count),
    ]


def _mean(drawn: list[Render], measure: Callable[[NDArray[np.uint8], Render], float]) -> float:
    return float(np.mean([measure(truth.image, truth) for truth in tqdm(drawn, desc=measure.__name__, mininterval=5)]))
