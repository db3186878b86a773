"""Calibration: what a character's scores and those of others say about thresholds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imagelab.calibration import curves
from imagelab.calibration.curves import Curve, Floats
from imagelab.calibration.intervals import Estimate, percentile_interval, rate_interval, spread_interval
from imagelab.calibration.policies import Policy, parse_policy
from imagelab.calibration.resampling import SEVERAL, Plan, draw_weights, plan_resamples
from imagelab.calibration.scores import Scores, as_scores
from imagelab.calibration.spread import Spread, spread
from imagelab.calibration.values import FMR_TARGETS, Calibration, OperatingPoint, Sample, needed_impostors
from imagelab.checks import check_number, check_whole
from imagelab.errors import InvalidValueError

ScoresLike = Scores | Sequence[float] | NDArray[np.floating]


def calibrate(
    genuine: ScoresLike,
    impostor: ScoresLike,
    *,
    policy: str = "eer",
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    score_range: tuple[float, float] | None = None,
    encoder: str | None = None,
    character_name: str | None = None,
    references_sha256: str | None = None,
    face_choice: str | None = None,
) -> Calibration:
    """Choose a threshold by a policy, and say how well it and any other part genuine scores from impostors'.

    Higher scores are nearer; only scores of pictures whose status is ok belong here. Plain numbers are taken for scores
    of one picture each. Intervals come from resamples of pictures, or, from five characters on, of characters: see
    `imagelab.calibration.resampling`. With fewer characters they hold for other pictures of the same characters, and
    say nothing about how others would score; with five to ten they are wide, because so few don't tell more.
    `score_range` are the least and the most that a score can be, (-1, 1) for cosines; no interval of a threshold
    reaches farther. `fmr` and `fnmr` are those of the threshold that was chosen, on new pictures; the other numbers are
    estimates of what endless pictures would give.

    Raises UnknownNameError for an unknown policy; InvalidValueError for a score that isn't finite or in range, fewer
    than two pictures of either kind, and a limit on the FMR that the impostors can't show to be kept
    (`needed_impostors`).

    >>> calibration = calibrate([0.8, 0.9, 0.7, 0.75], [0.1, 0.2, 0.3, 0.05])
    >>> calibration.threshold.value, calibration.auroc.value
    (0.5, 1.0)
    """
    chosen = parse_policy(policy)
    level = check_number(confidence, "confidence", 0.5, 0.9999)
    count = check_whole(resamples, "resamples", 100, 1_000_000)
    check_whole(seed, "seed", 0, 2**64 - 1)
    own, others = as_scores(genuine, "the character"), as_scores(impostor, "others")
    for name, scores in (("genuine scores", own), ("impostor scores", others)):
        if min(len(scores), scores.picture_count) < 2:
            raise InvalidValueError(name, scores.values.tolist(), "of at least two pictures: one shows no spread")
    limits = _checked_range(score_range, own, others)
    plan = plan_resamples(own, others)
    samples = _sample(own), _sample(others)
    _refuse_unsupported(chosen, samples[1])
    curve = curves.error_curve(own.values, others.values)
    index = curves.threshold_of(curve, chosen)
    weights = draw_weights(plan, count, seed)
    shown = tuple(target for target in FMR_TARGETS if needed_impostors(target) <= samples[1].independent)
    resampled = spread(own.values, others.values, weights, curve.thresholds, chosen, index, shown)
    fit = _Fit(
        own=own, others=others, curve=curve, spread=resampled, plan=plan, limits=limits, confidence=level, targets=shown
    )
    return Calibration(
        policy=str(chosen),
        threshold=fit.threshold(index, resampled.threshold),
        fmr=fit.fmr(index),
        fnmr=fit.fnmr(index),
        auroc=fit.rate(float(curves.auroc(curve)), resampled.auroc),
        eer=fit.rate(float(curves.equal_error_rate(curve)), resampled.eer),
        d_prime=fit.d_prime(),
        operating_points=tuple(fit.operating_point(target) for target in FMR_TARGETS),
        genuine=samples[0],
        impostor=samples[1],
        confidence=level,
        resamples=count,
        seed=seed,
        encoder=encoder,
        character_name=character_name,
        references_sha256=references_sha256,
        face_choice=face_choice,
    )


def _checked_range(given: object, *kinds: Scores) -> tuple[float, float]:
    """Return the least and the most that a score can be; raises InvalidValueError for scores beyond."""
    if given is None:
        return -math.inf, math.inf
    if not isinstance(given, tuple) or len(given) != 2 or not given[0] < given[1]:
        raise InvalidValueError("score_range", given, "(the least, the most) that a score can be")
    for scores in kinds:
        if len(beyond := scores.values[(scores.values < given[0]) | (scores.values > given[1])]):
            raise InvalidValueError(
                "scores", float(beyond[0]), f"between {given[0]:g} and {given[1]:g}, as score_range says"
            )
    return given


def _sample(scores: Scores) -> Sample:
    characters = len(np.unique(scores.characters))
    return Sample(
        scores=len(scores),
        pictures=scores.picture_count,
        characters=characters,
        resampled="characters" if characters >= SEVERAL else "pictures",
    )


def _refuse_unsupported(policy: Policy, impostor: Sample) -> None:
    if policy.kind != "fmr" or policy.limit is None:
        return
    needed, there = needed_impostors(policy.limit), impostor.independent
    if there < needed:
        lowest = 3 / there
        raise InvalidValueError(
            "policy",
            str(policy),
            f"a rate that {there} impostor pictures can show, {lowest:.2g} or more: "
            f"this one needs {needed} impostor pictures (3 / rate)",
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Fit:
    """The scores, their curve and its spread: what every interval is made of."""

    own: Scores
    others: Scores
    curve: Curve
    spread: Spread
    plan: Plan
    limits: tuple[float, float]  # of scores
    confidence: float
    targets: tuple[float, ...]  # FMRs that the impostors can show

    @property
    def freedom(self) -> float:
        """Return the degrees of freedom of what both kinds of scores tell (Welch and Satterthwaite)."""
        parts = [_variance(self.spread.genuine_auroc), _variance(self.spread.impostor_auroc)]
        own, others = self.plan.freedom(self.plan.genuine), self.plan.freedom(self.plan.impostor)
        if sum(parts) == 0:
            return min(own, others)
        return sum(parts) ** 2 / (parts[0] ** 2 / own + parts[1] ** 2 / others)

    def threshold(self, index: int, resamples: Floats) -> Estimate:
        """Return the hull of two intervals: where few scores lie, percentiles alone fall short of the truth."""
        value = float(self.curve.thresholds[index])
        one = percentile_interval(value, resamples, self.freedom, self.confidence)
        other = spread_interval(value, _variance(resamples), self.freedom, self.confidence)
        low, high = self.limits
        return Estimate(value=value, low=max(low, min(one.low, other.low)), high=min(high, max(one.high, other.high)))

    def fmr(self, index: int) -> Estimate:
        """Return the interval of the rate at a threshold, from the impostors alone."""
        return self._one_sided(float(self.curve.fmr[index]), self.spread.fmr, self.others)

    def fnmr(self, index: int) -> Estimate:
        """Return the interval of the rate at a threshold, from the genuine scores alone."""
        return self._one_sided(float(self.curve.fnmr[index]), self.spread.fnmr, self.own)

    def _one_sided(self, value: float, resamples: Floats, scores: Scores) -> Estimate:
        own = scores is self.own
        means, units = (
            (self.spread.genuine_mean, self.plan.genuine) if own else (self.spread.impostor_mean, self.plan.impostor)
        )
        return rate_interval(
            value,
            _variance(resamples),
            edge_size=_worth(scores, means),
            most=len(scores),
            freedom=self.plan.freedom(units),
            confidence=self.confidence,
        )

    def rate(self, value: float, resamples: Floats) -> Estimate:
        """Return the interval of a rate that depends on both kinds of scores.

        At 0 or 1 it stands on 4 / (1 / genuine + 1 / impostors), as the mean of the two error rates does.
        """
        own, others = _worth(self.own, self.spread.genuine_mean), _worth(self.others, self.spread.impostor_mean)
        return rate_interval(
            value,
            _variance(resamples),
            edge_size=4 / (1 / own + 1 / others),
            most=len(self.own) + len(self.others),
            freedom=self.freedom,
            confidence=self.confidence,
        )

    def d_prime(self) -> Estimate | None:
        moments = [(scores.values.mean(), scores.values.var(ddof=1)) for scores in (self.own, self.others)]
        value = float(curves.d_prime(*moments))
        if not np.isfinite(value) or not np.isfinite(self.spread.d_prime).any():  # two of each never vary once drawn
            return None
        return spread_interval(value, _variance(self.spread.d_prime), self.freedom, self.confidence)

    def operating_point(self, target: float) -> OperatingPoint:
        needed = needed_impostors(target)
        if target not in self.targets:
            return OperatingPoint(fmr=target, supported=False, needed=needed, threshold=None, fnmr=None)
        index, column = int(curves.choose(self.curve, Policy(kind="fmr", limit=target))), self.targets.index(target)
        return OperatingPoint(
            fmr=target,
            supported=True,
            needed=needed,
            threshold=self.threshold(index, self.spread.target_thresholds[:, column]),
            fnmr=rate_interval(
                float(self.curve.fnmr[index]),
                _variance(self.spread.target_fnmrs[:, column]),
                edge_size=_worth(self.own, self.spread.genuine_mean),
                most=len(self.own),
                freedom=self.freedom,
                confidence=self.confidence,
            ),
        )


def _variance(resamples: Floats) -> float:
    """Return the variance; what rounding alone makes of equal numbers is 0."""
    variance, scale = float(np.nanvar(resamples)), float(np.nanmax(np.abs(resamples), initial=0.0))
    return variance if variance > 1e-20 * scale**2 else 0.0


def _worth(scores: Scores, means: Floats) -> float:
    """Return how many independent scores these are worth, by how much their mean varies; at most one a picture."""
    variance = _variance(means)
    worth = scores.values.var(ddof=1) / variance if variance > 0 else len(scores)
    return float(max(1.0, min(worth, scores.picture_count, len(scores))))
