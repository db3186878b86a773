"""How near two face embeddings are: cosine, euclidean, and the template that stands for several references.

Numpy only. On unit embeddings the two metrics say the same thing in different units, euclidean² = 2 - 2 cosine, so a
gate on the one accepts exactly the pictures that the gate at the converted threshold on the other accepts.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imagelab.checks import check_number
from imagelab.config import pick
from imagelab.errors import InvalidValueError

Embedding = NDArray[np.float32]  # (d,), unit norm


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """A way to compare two embeddings, and its direction."""

    name: str
    measure: Callable[[ArrayLike, ArrayLike], float]
    higher_is_nearer: bool
    limits: tuple[int, int]  # of its values
    to_cosine: Callable[[float], float]
    from_cosine: Callable[[float], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Similarity:
    """What a comparison gave: `value` in the units of `metric`, `cosine` whatever the metric."""

    metric: str
    value: float
    cosine: float

    @property
    def higher_is_nearer(self) -> bool:
        """Return whether a larger value means more alike."""
        return METRICS[self.metric].higher_is_nearer

    def __float__(self) -> float:
        return self.value


def unit(embedding: ArrayLike) -> Embedding:
    """Return an embedding (d,) scaled to norm 1.

    Raises InvalidValueError if it isn't a vector of finite numbers with a direction.
    """
    vector = np.asarray(embedding, dtype=np.float64)
    if vector.ndim != 1 or not vector.size:
        raise InvalidValueError("embedding", f"shape {vector.shape}", "a vector (d,)")
    if not np.isfinite(vector).all():
        raise InvalidValueError("embedding", "NaN or infinity", "finite")
    largest = np.abs(vector).max()  # scaled by it first, so that squares neither overflow nor vanish
    if largest == 0:
        raise InvalidValueError("embedding", "all zeros", "of a norm above 0")
    scaled = vector / largest
    result: Embedding = (scaled / np.linalg.norm(scaled)).astype(np.float32)
    return result


def cosine(a: ArrayLike, b: ArrayLike) -> float:
    """Return the cosine of the angle between two embeddings (d,): 1 the same direction, 0 unrelated, -1 opposite.

    Raises InvalidValueError.
    """
    u, v = _pair(a, b)
    return float(np.clip(np.dot(u, v), -1, 1))


def euclidean(a: ArrayLike, b: ArrayLike) -> float:
    """Return the distance between two embeddings (d,) on the unit sphere: 0 the same direction, 2 opposite.

    Raises InvalidValueError.
    """
    u, v = _pair(a, b)
    return float(np.linalg.norm(u - v))


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    u, v = unit(a).astype(np.float64), unit(b).astype(np.float64)
    if u.shape != v.shape:
        raise InvalidValueError("embedding", f"shape {v.shape}", f"of shape {u.shape} like the one it is compared with")
    return u, v


def cosine_to_euclidean(value: float) -> float:
    """Convert a cosine of unit vectors to their distance."""
    return math.sqrt(max(0.0, 2 - 2 * value))


def euclidean_to_cosine(value: float) -> float:
    """Convert a distance of unit vectors to their cosine."""
    return 1 - value * value / 2


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            name="cosine",
            measure=cosine,
            higher_is_nearer=True,
            limits=(-1, 1),
            to_cosine=float,
            from_cosine=float,
        ),
        Metric(
            name="euclidean",
            measure=euclidean,
            higher_is_nearer=False,
            limits=(0, 2),
            to_cosine=euclidean_to_cosine,
            from_cosine=cosine_to_euclidean,
        ),
    )
}


def compare(a: ArrayLike, b: ArrayLike, metric: str = "cosine") -> Similarity:
    """Compare two embeddings (d,) by a metric's name.

    Raises UnknownNameError or InvalidValueError.

    >>> compare([1, 0], [0, 2], "euclidean").value == 2 ** 0.5
    True
    """
    chosen = pick("metric", METRICS, metric)
    value = chosen.measure(a, b)
    return Similarity(metric=metric, value=value, cosine=chosen.to_cosine(value))


def nearest(rows: NDArray[np.floating], embedding: ArrayLike, metric: str = "cosine") -> Similarity:
    """Compare an embedding (d,) with rows (k, d), and return the similarity to the nearest of them.

    Raises as `compare`; InvalidValueError without rows.

    >>> nearest(np.array([[1, 0], [0, 1]]), [0, 2]).value
    1.0
    """
    if not len(rows):
        raise InvalidValueError("rows", 0, "at least one embedding to compare with")
    best = 0
    if len(rows) > 1:
        vectors = np.asarray(rows, np.float64)
        best = int(np.argmax(vectors @ unit(embedding) / np.linalg.norm(vectors, axis=1)))
    return compare(rows[best], embedding, metric)


def centroid(embeddings: Sequence[ArrayLike] | NDArray[np.floating]) -> Embedding:
    """Return the unit vector in the direction of the mean of several embeddings (n, d), each taken at norm 1.

    Raises InvalidValueError for none at all, for several lengths and for directions that cancel out.
    """
    units = [unit(embedding) for embedding in embeddings]
    if not units:
        raise InvalidValueError("embeddings", 0, "at least one")
    if len({vector.shape for vector in units}) > 1:
        shapes = sorted({vector.shape for vector in units})
        raise InvalidValueError("embeddings", f"shapes {shapes}", "of one length")
    mean = np.mean(units, axis=0, dtype=np.float64)
    if np.linalg.norm(mean) < 1e-6:  # what is left of float32 vectors that cancel
        raise InvalidValueError("embeddings", "opposite directions", "of one person: these cancel out")
    return unit(mean)


def check_threshold(value: object, metric: str = "cosine", name: str = "threshold") -> float:
    """Return a threshold as a float.

    Raises UnknownNameError for the metric; InvalidValueError unless it is a number that the metric can give.
    """
    low, high = pick("metric", METRICS, metric).limits
    return check_number(value, name, low, high)
