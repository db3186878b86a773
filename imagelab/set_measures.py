"""What a set of pictures is worth beyond identity: diversity, copy-paste, sharpness, and which sets are best.

Identity alone can be had by copying a reference, so it is read beside the others: `set_description.describe_set`
measures all of them. A number that too few pictures can give is NaN.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imagelab.checks import check_number
from imagelab.errors import InvalidValueError
from imagelab.rgb import Picture, to_rgb

COPY_PASTE_TEMPERATURE = 0.01  # ViStoryBench, arXiv 2505.24862

Floats = NDArray[np.float64]


def diversity(embeddings: ArrayLike) -> float:
    """Return the mean of 1 - cosine over all pairs of embeddings (n, d): 0 for copies; NaN for fewer than two.

    Raises InvalidValueError.

    >>> diversity([[1, 0], [0, 1]]), diversity([[1, 0], [1, 0]])
    (1.0, 0.0)
    """
    rows = _units(embeddings, "embeddings")
    n = len(rows)
    if n < 2:
        return math.nan
    total = rows.sum(axis=0)
    return max(0.0, float(1 - (total @ total - n) / (n * (n - 1))))


def vendi_score(embeddings: ArrayLike) -> float:
    """Return the effective number of unlike pictures among embeddings (n, d): 1 for copies, n for orthogonal ones.

    The exponential of the entropy of the eigenvalues of K/n, where K holds the cosines of all pairs (Friedman and Dieng
    2023, arXiv 2210.02410). It grows with n, so compare sets of one size. NaN for fewer than two. Raises
    InvalidValueError.

    >>> round(vendi_score([[1, 0], [0, 1]]), 6), round(vendi_score([[1, 0], [1, 0]]), 6)
    (2.0, 1.0)
    """
    rows = _units(embeddings, "embeddings")
    if len(rows) < 2:
        return math.nan
    shares = np.linalg.svd(rows, compute_uv=False) ** 2 / len(rows)  # the eigenvalues of K/n that aren't 0
    shares = shares[shares > 1e-12]
    return float(np.exp(-np.sum(shares * np.log(shares))))


def copy_paste_rate(
    embeddings: ArrayLike, references: ArrayLike, given: int = 0, *, temperature: float = COPY_PASTE_TEMPERATURE
) -> float:
    """Return how much nearer embeddings (n, d) are to the reference that was given than to the others (m, d).

    The mean over pictures of softmax([s_given, s_other] / temperature)[0], where s_given is a picture's cosine to the
    given reference and s_other its mean cosine to the others (ViStoryBench, arXiv 2505.24862, with several others).
    0.5: as near to the one as to the others on average, so nothing of it was copied that they don't have too. Towards
    1: nearer to it, 0.73 for a cosine that is larger by 0.01 and 0.993 for 0.05. Below 0.5: farther. References differ
    in how near everything is to them, so hold two sets with the same references and the same `given` against each
    other. NaN for no pictures and for fewer than two references. Raises InvalidValueError.

    >>> copy_paste_rate([[1, 0]], [[1, 0], [0, 1]]), copy_paste_rate([[1, 1]], [[1, 0], [0, 1]])
    (1.0, 0.5)
    """
    check_number(temperature, "temperature", 1e-6, 1e6)
    rows, originals = _units(embeddings, "embeddings"), _units(references, "references")
    if len(originals) < 2 or not len(rows):
        return math.nan
    check_given(given, len(originals))
    if rows.shape[1] != originals.shape[1]:
        expected = f"of length {rows.shape[1]}, like the embeddings"
        raise InvalidValueError("references", f"of length {originals.shape[1]}", expected)
    from scipy.special import expit

    cosines = rows @ originals.T
    ahead = cosines[:, given] - np.delete(cosines, given, axis=1).mean(axis=1)
    return float(expit(ahead / temperature).mean())


def sharpness(picture: Picture) -> float:
    """Return the variance of the Laplacian of a picture's grey levels over their own variance; 0 for one colour.

    As a face's sharpness is measured, but at the picture's own resolution: compare pictures of one size. Raises
    ImageFileError or InvalidValueError for what is no picture.
    """
    import cv2

    grey = cv2.cvtColor(to_rgb(picture), cv2.COLOR_RGB2GRAY)
    edges = cv2.Laplacian(grey, cv2.CV_64F)
    return float(edges.var() / max(float(grey.var()), 1.0))


def pareto_optimal(rows: ArrayLike) -> NDArray[np.bool_]:
    """Say of each row (n, k) whether no other is as good everywhere and better somewhere; higher is better.

    >>> pareto_optimal([[1, 3], [2, 2], [1, 2]]).tolist()
    [True, True, False]
    """
    values = np.asarray(rows, np.float64)
    as_good = (values[:, None] >= values[None]).all(axis=2)
    better = (values[:, None] > values[None]).any(axis=2)
    return np.asarray(~(as_good & better).any(axis=0))


def _units(embeddings: ArrayLike, name: str) -> Floats:
    try:
        rows = np.asarray(embeddings, np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidValueError(name, embeddings, "rows (n, d) of numbers") from error
    if not rows.size and rows.ndim in {1, 2}:
        return rows.reshape(0, rows.shape[1] if rows.ndim == 2 else 0)
    if rows.ndim != 2:
        raise InvalidValueError(name, f"shape {rows.shape}", "rows (n, d)")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or (lengths == 0).any():
        raise InvalidValueError(name, "NaN, infinity or zeros", "rows with a direction: those of status ok")
    return np.asarray(rows / lengths)


def check_given(given: object, references: int) -> None:
    """Raise InvalidValueError unless `given` is the place of a reference."""
    if type(given) is not int or not 0 <= given < references:
        raise InvalidValueError("given", given, f"the place of one of the {references} references, counted from 0")
