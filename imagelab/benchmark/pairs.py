"""Two ways of doing the same, measured in the same rounds: what drifts reaches both of a pair, and cancels."""

from collections.abc import Sequence

import numpy as np

from imagelab.calibration import Estimate
from imagelab.calibration.intervals import geometric_mean, mean_interval


def paired_ratio(own: Sequence[float], base: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Return how many times as large the numbers of `own` are: the geometric mean over the rounds.

    `own[i]` and `base[i]`, all positive, were measured in one round.

    >>> print(paired_ratio([2.0, 4.0, 8.0], [1.0, 2.0, 4.0]))
    2 [2, 2]
    """
    return geometric_mean(np.divide(own, base), confidence)


def paired_difference(own: Sequence[float], base: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Return how much larger the numbers of `own` are: the mean over the rounds, as `paired_ratio` has them.

    >>> print(paired_difference([2.5, 3.5], [1.5, 2.5]))
    1 [1, 1]
    """
    return mean_interval(np.asarray(own, np.float64) - np.asarray(base, np.float64), confidence)
