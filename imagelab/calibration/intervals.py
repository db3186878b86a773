"""An estimate and its confidence interval, from the spread of its resamples."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from imagelab.records import Record

Floats = NDArray[np.float64]
_CHUNK = 4_000_000  # resampled numbers in memory at a time, 32 MiB


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


def mean_interval(numbers: Floats, confidence: float = 0.95) -> Estimate:
    """Return the mean of a sample with Student's interval; of a single number, which has no spread, without width."""
    freedom = len(numbers) - 1
    variance = float(numbers.var(ddof=1)) / len(numbers) if freedom else 0.0
    return spread_interval(float(numbers.mean()), variance, freedom, confidence)


def geometric_mean(numbers: Sequence[float] | Floats, confidence: float = 0.95) -> Estimate:
    """Return the geometric mean of positive numbers with Student's interval, on the logarithms."""
    found = mean_interval(np.log(numbers), confidence)
    return Estimate(value=math.exp(found.value), low=math.exp(found.low), high=math.exp(found.high))


def percentile_interval(value: float, resamples: Floats, freedom: float, confidence: float) -> Estimate:
    """Return the percentiles of the resamples, moved outwards as few independent units demand.

    The share that is cut off is that beyond Student's quantile under the normal curve (Hesterberg 2015,
    doi:10.1080/00031305.2015.1089789, the expanded percentile interval).
    """
    tail = NormalDist().cdf(-quantile(freedom, confidence))
    low, high = np.nanquantile(resamples, [tail, 1 - tail])
    return Estimate(value=value, low=min(value, float(low)), high=max(value, float(high)))


def bootstrap_interval(
    statistic: Callable[..., Floats],
    *samples: Floats,
    paired: bool = False,
    freedom: float = math.inf,
    stretch: float = 1.0,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Return a statistic of samples, `statistic(*samples, axis=-1)`, with its expanded percentile bootstrap interval.

    `paired` resamples the samples' rows together. `stretch` moves the resamples away from the value: by √(n / (n - 1))
    they spread as the mean of a sample does, which the bootstrap of few makes too narrow. A sample of one has no
    spread, and the interval no width.
    """
    value = float(statistic(*samples, axis=-1))
    if min(map(len, samples)) < 2 or not any(np.ptp(sample) for sample in samples):
        return Estimate(value=value, low=value, high=value)
    from scipy.stats import bootstrap

    spread = bootstrap(
        samples,
        statistic,
        paired=paired,
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, _CHUNK // max(map(len, samples))),
        method="percentile",
        rng=np.random.default_rng(seed),
    ).bootstrap_distribution
    return percentile_interval(value, value + (spread - value) * stretch, freedom, confidence)


def paired_share_interval(pairs: int, only_one: int, only_other: int, confidence: float) -> Estimate:
    """Return the difference of two shares of the same things, of which so many have it in one alone.

    Agresti and Min 2005, doi:10.1002/sim.1781: half a thing more in each cell, as Wald's own is wrong near 0.
    """
    more, discordant = pairs + 2, only_one + only_other + 1
    shift = (only_one - only_other) / more
    half = quantile(math.inf, confidence) * math.sqrt(discordant - (only_one - only_other) ** 2 / more) / more
    return _share_difference((only_one - only_other) / pairs, shift, half)


def share_difference_interval(one: tuple[int, int], other: tuple[int, int], confidence: float) -> Estimate:
    """Return the difference of two shares of different things, each as (how many have it, of how many).

    Agresti and Caffo 2000, doi:10.1080/00031305.2000.10474560: one success and one failure more in each.
    """
    shares = [(having + 1) / (all_of_them + 2) for having, all_of_them in (one, other)]
    sizes = [all_of_them + 2 for _, all_of_them in (one, other)]
    variance = sum(share * (1 - share) / size for share, size in zip(shares, sizes, strict=True))
    value = one[0] / one[1] - other[0] / other[1]
    return _share_difference(value, shares[0] - shares[1], quantile(math.inf, confidence) * math.sqrt(variance))


def _share_difference(value: float, centre: float, half: float) -> Estimate:
    low, high = max(-1.0, centre - half), min(1.0, centre + half)
    return Estimate(value=value, low=min(low, value), high=max(high, value))


def quantile(freedom: float, confidence: float) -> float:
    """Return Student's two-sided quantile; of endless freedom the normal one."""
    if math.isinf(freedom):  # scipy.stats takes seconds to import
        return NormalDist().inv_cdf((1 + confidence) / 2)
    from scipy.stats import t

    return float(t.ppf((1 + confidence) / 2, max(1.0, freedom)))
