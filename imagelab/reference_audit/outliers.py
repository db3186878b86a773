"""Which references show somebody else."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MIN_REFERENCES = 3  # of two that disagree, neither is the stranger


class Outliers(NamedTuple):
    """What the outlier test saw."""

    scores: NDArray[np.float64]  # (n,): the median of each one's cosines to the others
    limit: float  # below it a reference shows somebody else
    flags: NDArray[np.bool_]  # (n,)


def find_outliers(embeddings: NDArray[np.float32], stranger: float = 0.0) -> Outliers | None:
    """Find the references (n, d) that aren't of the person whom most of them show; None for fewer than three.

    `stranger` is the cosine that two different people usually have. A reference is scored by the (upper) median of its
    cosines to the others, which up to half of those can't move, as they would a mean: of five, two strangers are found,
    also when they are one person. What scores less than half way from a stranger to the set's median is an outlier.

    Half way, and no multiple of the scores' own spread (MAD): of five numbers that spread is a guess, small by chance
    in one clean set of many, so that a rule of it either cries wolf at narrow sets or overlooks strangers in wide ones.
    """
    if len(embeddings) < MIN_REFERENCES:
        return None
    rows = np.asarray(embeddings, np.float64)
    cosines = rows @ rows.T
    count = len(rows)
    others = np.sort(cosines[~np.eye(count, dtype=bool)].reshape(count, count - 1), axis=1)
    scores = others[:, (count - 1) // 2]
    limit = (float(np.median(scores)) + stranger) / 2
    return Outliers(scores, limit, scores < limit)
