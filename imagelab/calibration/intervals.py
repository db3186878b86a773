"""An estimate and its confidence interval, from the spread of its resamples."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from imagelab.results import Record

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate(Record):
    """A number measured on a sample, and the confidence interval of what it estimates."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Write it with its interval."""
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def rate_interval(
    value: float, variance: float, *, edge_size: float, most: float, freedom: float, confidence: float
) -> Estimate:
    """Return the interval of a rate, Wilson's (1927) with the sample size that the variance speaks for.

    The percentile bootstrap says that a rate of 0 is 0 for certain, and lies too low near 0; this one ends at 0 and 1
    and is as wide as it must be there. The effective sample size is value (1 - value) / variance, at most `most`, and
    `edge_size` where the value is 0 or 1. `freedom` widens it as few independent units demand (Student's t).
    """
    size = value * (1 - value) / variance if variance > 0 and 0 < value < 1 else edge_size
    return wilson_interval(value, min(size, most), quantile(freedom, confidence))


def wilson_interval(value: float, size: float, z: float) -> Estimate:
    """Return Wilson's score interval of a rate among `size` independent ones; `z`: standard errors to each side."""
    z2 = z**2 / size
    centre = (value + z2 / 2) / (1 + z2)
    half = np.sqrt(z2 * value * (1 - value) + z2 * z2 / 4) / (1 + z2)
    low, high = max(0.0, float(centre - half)), min(1.0, float(centre + half))
    return Estimate(value=value, low=min(low, value), high=max(high, value))  # rounding mustn't leave the value outside


def spread_interval(value: float, variance: float, freedom: float, confidence: float) -> Estimate:
    """Return the interval of a number without bounds: as many standard errors to both sides as Student's t says."""
    half = quantile(freedom, confidence) * float(np.sqrt(variance))
    return Estimate(value=value, low=value - half, high=value + half)


def percentile_interval(value: float, resamples: Floats, freedom: float, confidence: float) -> Estimate:
    """Return the percentiles of the resamples, moved outwards as few independent units demand.

    The share that is cut off is that beyond Student's quantile under the normal curve (Hesterberg 2015,
    doi:10.1080/00031305.2015.1089789, the expanded percentile interval).
    """
    tail = NormalDist().cdf(-quantile(freedom, confidence))
    low, high = np.nanquantile(resamples, [tail, 1 - tail])
    return Estimate(value=value, low=min(value, float(low)), high=max(value, float(high)))


def quantile(freedom: float, confidence: float) -> float:
    """Return Student's two-sided quantile; of endless freedom the normal one."""
    if math.isinf(freedom):  # scipy.stats takes seconds to import
        return NormalDist().inv_cdf((1 + confidence) / 2)
    from scipy.stats import t

    return float(t.ppf((1 + confidence) / 2, max(1.0, freedom)))
