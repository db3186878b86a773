"""Two ways of doing the same, measured in the same rounds: what drifts reaches both of a pair, and cancels."""

import math
from collections.abc import Sequence

import numpy as np

from imagelab.calibration import Estimate
from imagelab.calibration.intervals import mean_interval


def geometric_mean(values: Sequence[float]) -> Estimate:
    """Return the geometric mean of positive numbers, with Student's 95 % interval on their logarithms."""
    found = mean_interval(np.log(values))
    return Estimate(value=math.exp(found.value), low=math.exp(found.low), high=math.exp(found.high))


def paired_ratio(own: Sequence[float], base: Sequence[float]) -> Estimate:
    """Return how many times as large the numbers of `own` are: the geometric mean over the rounds.

    `own[i]` and `base[i]`, all positive, were measured in one round.

    >>> print(paired_ratio([2.0, 4.0, 8.0], [1.0, 2.0, 4.0]))
    2 [2, 2]
    """
    return geometric_mean([one / other for one, other in zip(own, base, strict=True)])


def paired_difference(own: Sequence[float], base: Sequence[float]) -> Estimate:
    """Return how much larger the numbers of `own` are: the mean over the rounds, as `paired_ratio` has them.

    >>> print(paired_difference([2.5, 3.5], [1.5, 2.5]))
    1 [1, 1]
    """
    return mean_interval(np.asarray(own, np.float64) - np.asarray(base, np.float64))
