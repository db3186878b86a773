"""How well two descriptions of a picture agree: joints, edges, depths, labels, normals. Arrays in, one number out."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imagelab.errors import InvalidValueError

# {kind of control: its number}: 1 is full agreement for each
METRICS = {"pose": "PCK@0.1", "canny": "F1", "depth": "Spearman", "seg": "mIoU", "normal": "mean cosine"}
PCK_SHARE = 0.1  # of the longer side of what the wanted joints span
EDGE_REACH_PX = 1


def pck(found: ArrayLike, wanted: ArrayLike, share: float = PCK_SHARE) -> float:
    """Return the share of the wanted joints (n, 2), in px, that were found where they are wanted.

    That is no farther away than `share` of the longer side of what the wanted joints span. A found joint of NaN counts
    as not found. NaN without wanted joints. Raises InvalidValueError for unlike shapes.
    """
    points, targets = _alike(found, wanted)
    if not len(targets):
        return float("nan")
    reach_px = share * np.ptp(targets, axis=0).max()
    return float((np.linalg.norm(points - targets, axis=1) <= reach_px).mean())


def edge_f1(found: ArrayLike, wanted: ArrayLike, reach_px: int = EDGE_REACH_PX) -> float:
    """Return the F1 of edges (h, w), other than 0 where there is one; an edge `reach_px` away still counts.

    0 where one of the two has no edge. Raises InvalidValueError for unlike shapes.
    """
    edges, targets = (mask != 0 for mask in _alike(found, wanted))
    precision, recall = _covered(edges, targets, reach_px), _covered(targets, edges, reach_px)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _covered(edges: NDArray[np.bool_], by: NDArray[np.bool_], reach_px: int) -> float:
    """Return the share of the edges that have one of the others near."""
    height, width = by.shape
    padded = np.pad(by, reach_px)
    steps = range(2 * reach_px + 1)
    near = np.any([padded[dy : dy + height, dx : dx + width] for dy in steps for dx in steps], axis=0)
    return float(near[edges].mean()) if edges.any() else 0.0


def spearman(found: ArrayLike, wanted: ArrayLike) -> float:
    """Return Spearman's rank correlation of two depths (h, w), in whatever unit; NaN where one of them is flat.

    Raises InvalidValueError for unlike shapes.
    """
    from scipy.stats import rankdata  # slow to import

    one, other = (array.ravel() for array in _alike(found, wanted))
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])


def confusion(found: ArrayLike, wanted: ArrayLike, labels: int) -> NDArray[np.int64]:
    """Count the pixels of each pair of labels, (labels, labels): rows as wanted, columns as found.

    Raises InvalidValueError for unlike shapes.
    """
    counts = np.zeros((labels, labels), np.int64)
    guesses, targets = _alike(found, wanted)
    np.add.at(counts, (targets.ravel().astype(np.intp), guesses.ravel().astype(np.intp)), 1)
    return counts


def iou(counts: NDArray[np.int64]) -> float:
    """Return intersection over union, the mean over the labels that are wanted anywhere, of `confusion`'s counts."""
    there, hits = counts.sum(1) > 0, np.diag(counts)
    return float((hits / np.maximum(counts.sum(0) + counts.sum(1) - hits, 1))[there].mean())


def mean_iou(found: ArrayLike, wanted: ArrayLike) -> float:
    """Return `iou` of two pictures (h, w) of labels, whole numbers of any size; raises InvalidValueError."""
    both = np.stack(_alike(found, wanted))
    known, numbers = np.unique(both, return_inverse=True)
    guesses, targets = numbers.reshape(both.shape)
    return iou(confusion(guesses, targets, len(known)))


def mean_cosine(found: ArrayLike, wanted: ArrayLike) -> float:
    """Return the mean cosine between unit vectors (..., 3); raises InvalidValueError for unlike shapes."""
    normals, targets = _alike(found, wanted)
    return float((normals * targets).sum(-1).mean())


def _alike(found: ArrayLike, wanted: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    one, other = np.asarray(found, dtype=np.float64), np.asarray(wanted, dtype=np.float64)
    if one.shape != other.shape:
        raise InvalidValueError("found", f"shape {one.shape}", f"of the shape of what is wanted, {other.shape}")
    return one, other
