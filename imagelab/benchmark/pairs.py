"""Two ways of doing the same, measured in the same rounds: what drifts reaches both of a pair, and cancels."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from imagelab.calibration import Estimate
from imagelab.calibration.intervals import bootstrap_interval


def paired_ratio(own: Sequence[float], base: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Return how many times as large the numbers of `own` are: the geometric mean over the rounds.

    `own[i]` and `base[i]`, all positive, were measured in one round. Resamples rounds, and is as wide as so few of them
    demand (`bootstrap_interval`).

    >>> print(paired_ratio([2.0, 4.0, 8.0], [1.0, 2.0, 4.0]))
    2 [2, 2]
    """
    logs = np.log(own) - np.log(base)
    found = _mean(logs, confidence)
    return Estimate(value=math.exp(found.value), low=math.exp(found.low), high=math.exp(found.high))


def paired_difference(own: Sequence[float], base: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Return how much larger the numbers of `own` are: the mean over the rounds, as `paired_ratio` has them.

    >>> print(paired_difference([2.5, 3.5], [1.5, 2.5]))
    1 [1, 1]
    """
    return _mean(np.asarray(own, np.float64) - np.asarray(base, np.float64), confidence)


def _mean(values: NDArray[np.float64], confidence: float) -> Estimate:
    count = len(values)
    stretch = math.sqrt(count / (count - 1)) if count > 1 else 1.0
    return bootstrap_interval(np.mean, values, freedom=count - 1.0, stretch=stretch, confidence=confidence)
