"""Is A more consistent than B? Two experiments, drawn with the same seeds, compared.

Pictures of one seed share their composition, so their difference tells more than two independent pictures would. What
is compared is the similarity of the pictures that have one; how many have one is a question of its own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from imagelab.calibration import Estimate
from imagelab.calibration.intervals import bootstrap_interval, paired_share_interval
from imagelab.checks import check_number, check_whole
from imagelab.errors import InvalidValueError
from imagelab.records import Record

if TYPE_CHECKING:
    import pandas as pd

POWERS = (0.8, 0.9)
_MOST_PAIRS = 10_000_000
_CHUNK = 4_000_000  # differences in memory at a time, 32 MiB

Floats = NDArray[np.float64]
Winner = Literal["A", "B", "undecided"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Need(Record):
    """What it takes to find a difference with a chance of `power`; None where there is none to be found."""

    power: float
    pairs: int | None  # seeds for which both pictures have a score
    seeds: int | None  # to be drawn with both, if as many pictures have a score as so far


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectionComparison(Record):
    """How often a picture has a score at all, whatever the score is."""

    seeds: int
    a: int  # pictures of A with a score
    b: int
    only_a: int  # seeds for which A's has one and B's hasn't
    only_b: int
    difference: Estimate  # of the rates, A - B
    p_value: float  # McNemar's exact test
    more_detected: Winner


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedComparison(Record):
    """Whether A's pictures are nearer to the character than B's, over the seeds for which both have a score."""

    pairs: int
    dropped: int  # seeds for which a score is missing: see `detection`
    mean_a: float
    mean_b: float
    difference: Estimate  # mean of A - B
    effect_size: Estimate | None  # Cohen's d_z: mean / standard deviation of A - B; None where that is the same always
    p_value: float  # sign-flip permutation test of the mean difference
    more_consistent: Winner  # undecided unless p_value < 1 - confidence
    needs: tuple[Need, ...]
    least_difference: float | None  # that `needs` are about; None: the one that was found
    confidence: float
    detection: DetectionComparison
    differences: tuple[float, ...]

    def describe(self, a: str = "A", b: str = "B") -> str:
        """Answer in a sentence, with the names of both."""
        names = {"A": (a, b), "B": (b, a)}
        gap = f"{self.difference.value:+.3f} [{self.difference.low:+.3f}, {self.difference.high:+.3f}]"
        facts = f"difference {gap} over {self.pairs} pairs, p = {self.p_value:.2g}"
        need, least = self.needs[0], self.least_difference
        sought = "it" if least is None else f"one of {least:g}"
        wait = f"about {need.seeds} seeds find {sought} with a chance of {need.power:.0%}"
        if need.seeds is None:
            wait = f"no number of seeds finds {sought}"
        if self.more_consistent == "undecided":
            return f"Undecided between {a} and {b}: {facts}; {wait}"
        better, worse = names[self.more_consistent]
        return f"{better} is more consistent than {worse}: {facts}; {wait}"

    def to_frame(self, a: str = "A", b: str = "B") -> "pd.DataFrame":
        """Return a row about the similarities and one about how many pictures have one, with the names of both."""
        import pandas as pd  # slow to import, and only notebooks want tables

        seen, winners = self.detection, {"A": a, "B": b, "undecided": "undecided"}
        means, rates = (self.mean_a, self.mean_b), (seen.a / seen.seeds, seen.b / seen.seeds)
        nearer, more = winners[self.more_consistent], winners[seen.more_detected]
        rows = {
            "similarity": [self.pairs, *means, self.difference, self.effect_size, self.p_value, nearer],
            "share with a score": [seen.seeds, *rates, seen.difference, None, seen.p_value, more],
        }
        columns = ["seeds", a, b, "difference", "effect size", "p", "more"]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def compare_paired(
    a: Sequence[float | None],
    b: Sequence[float | None],
    *,
    confidence: float = 0.95,
    least_difference: float | None = None,
    resamples: int = 9999,
    seed: int = 0,
) -> PairedComparison:
    """Compare the similarities of two experiments, in the order of the seeds that they share.

    None and NaN stand for pictures without a score: their seeds are dropped here, counted, and compared in `detection`.
    The interval is the bootstrap's of the mean difference (expanded percentiles), that of the effect size inverts the
    noncentral t distribution. `needs` say how many pairs find `least_difference`, or else the difference found here;
    a difference that was found by chance makes them too few, so name the least that matters where you can. Below 6
    pairs nothing can be decided at 95 %: that many coins fall alike too often.

    Raises InvalidValueError for unlike lengths, infinite scores and fewer than two pairs.

    >>> compare_paired([0.8, 0.7, 0.9, 0.8, 0.85, 0.9], [0.6, 0.55, 0.6, 0.65, 0.6, 0.7]).more_consistent
    'A'
    """
    level = check_number(confidence, "confidence", 0.5, 0.9999)
    count = check_whole(resamples, "resamples", 100, 1_000_000)
    if least_difference is not None:
        least_difference = check_number(least_difference, "least_difference", 1e-6, 2)
    ours, theirs = _scores(a, "a"), _scores(b, "b")
    if len(ours) != len(theirs):
        raise InvalidValueError("b", f"{len(theirs)} scores", f"as long as a, {len(ours)}: one score a seed")
    both = np.isfinite(ours) & np.isfinite(theirs)
    differences = (ours - theirs)[both]
    if len(differences) < 2:
        raise InvalidValueError("a and b", f"{len(differences)} pairs", "at least two seeds with both scores")
    p_value = _sign_flip(differences, count, seed)
    size = _effect_size(differences, level)
    wanted = abs(float(differences.mean())) if least_difference is None else least_difference
    effect = 0.0 if wanted == 0 else wanted / deviation if (deviation := float(differences.std(ddof=1))) else math.inf
    return PairedComparison(
        pairs=len(differences),
        dropped=int(len(both) - len(differences)),
        mean_a=float(ours[both].mean()),
        mean_b=float(theirs[both].mean()),
        difference=_mean_interval(differences, level, count, seed),
        effect_size=size,
        p_value=p_value,
        more_consistent=_winner(p_value, float(differences.mean()), level),
        needs=tuple(_need(effect, power, level, float(both.mean())) for power in POWERS),
        least_difference=least_difference,
        confidence=level,
        detection=_compare_detection(np.isfinite(ours), np.isfinite(theirs), level),
        differences=tuple(differences.tolist()),
    )


def needed_pairs(effect_size: float, power: float = 0.8, confidence: float = 0.95) -> int | None:
    """Return how many pairs the two-sided paired t test needs to find an effect of size d_z; None beyond ten million.

    The sign-flip test needs as many, and never fewer than it takes for all signs alike to be rare. Raises
    InvalidValueError for a power outside 0.01 to 0.9999, and a confidence outside 0.5 to 0.9999.

    >>> needed_pairs(0.5)
    34
    """
    effect = abs(check_number(effect_size, "effect_size", -math.inf, math.inf))
    power = check_number(power, "power", 0.01, 0.9999)
    confidence = check_number(confidence, "confidence", 0.5, 0.9999)
    least = math.ceil(1 - math.log2(1 - confidence))
    low, high = least - 1, least
    while _power(effect, high, confidence) < power:
        low, high = high, 2 * high
        if high > _MOST_PAIRS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _power(effect, middle, confidence) >= power else (middle, high)
    return high


def _power(effect: float, pairs: int, confidence: float) -> float:
    from scipy.stats import nct, t

    limit, shift = t.ppf((1 + confidence) / 2, pairs - 1), effect * math.sqrt(pairs)
    if shift > 30:  # where scipy's noncentral t gives up, nothing is left to miss
        return 1.0
    return float(nct.sf(limit, pairs - 1, shift) + nct.cdf(-limit, pairs - 1, shift))


def _need(effect: float, power: float, confidence: float, usable: float) -> Need:
    pairs = needed_pairs(effect, power, confidence) if effect else None
    return Need(power=power, pairs=pairs, seeds=None if pairs is None else math.ceil(pairs / usable))


def _scores(given: Sequence[float | None], name: str) -> Floats:
    try:
        values = np.array([math.nan if value is None else value for value in given], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidValueError(name, given, "scores, None where a picture has none") from error
    if values.ndim != 1 or np.isinf(values).any():
        raise InvalidValueError(name, given, "a row of finite scores, None where a picture has none")
    return values


def _sign_flip(differences: Floats, resamples: int, seed: int) -> float:
    """Return how often a mean as far from 0 comes of signs at random; exact where all signs can be tried."""
    from scipy.stats import permutation_test

    if not differences.any():
        return 1.0
    result = permutation_test(
        (differences,),
        lambda flipped, axis: flipped.mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, _CHUNK // len(differences)),
        rng=np.random.default_rng(seed),
    )
    return min(1.0, float(result.pvalue))


def _mean_interval(differences: Floats, confidence: float, resamples: int, seed: int) -> Estimate:
    n = len(differences)
    return bootstrap_interval(
        np.mean, differences, freedom=n - 1, stretch=math.sqrt(n / (n - 1)),
        confidence=confidence, resamples=resamples, seed=seed,
    )  # fmt: skip


def _effect_size(differences: Floats, confidence: float) -> Estimate | None:
    """Return d_z with the interval that inverts the noncentral t distribution (Steiger and Fouladi 1997)."""
    from scipy.optimize import brentq
    from scipy.stats import nct

    n, deviation = len(differences), float(differences.std(ddof=1))
    if deviation <= 1e-12 * max(1.0, float(np.abs(differences).max())):
        return None
    value = float(differences.mean()) / deviation
    t = value * math.sqrt(n)
    reach = 10 + 5 * abs(t)
    tails = ((1 + confidence) / 2, (1 - confidence) / 2)

    def below(shift: float) -> float:
        share = float(nct.cdf(t, n - 1, shift))
        return share if math.isfinite(share) else float(shift < t)  # scipy's is NaN where all or nothing is below

    low, high = (float(brentq(lambda shift, tail=tail: below(shift) - tail, t - reach, t + reach)) for tail in tails)
    return Estimate(value=value, low=low / math.sqrt(n), high=high / math.sqrt(n))


def _winner(p_value: float, difference: float, confidence: float) -> Winner:
    if p_value >= 1 - confidence or difference == 0:
        return "undecided"
    return "A" if difference > 0 else "B"


def _compare_detection(a: NDArray[np.bool_], b: NDArray[np.bool_], confidence: float) -> DetectionComparison:
    from scipy.stats import binomtest

    n, only_a, only_b = len(a), int((a & ~b).sum()), int((b & ~a).sum())
    p_value = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    difference = paired_share_interval(n, only_a, only_b, confidence)
    return DetectionComparison(
        seeds=n,
        a=int(a.sum()),
        b=int(b.sum()),
        only_a=only_a,
        only_b=only_b,
        difference=difference,
        p_value=p_value,
        more_detected=_winner(p_value, difference.value, confidence),
    )
