"""Error rates over all thresholds, and the threshold that a policy picks.

A score at the threshold is accepted. FMR, the false match rate, is the share of impostors that are accepted; FNMR, the
false non-match rate, the share of genuine ones that are refused (ISO/IEC 19795-1).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imagelab.calibration.policies import Policy
from imagelab.errors import InvalidValueError

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Curve:
    """Both error rates at each threshold that makes a difference; the ROC is (fmr, 1 - fnmr), the DET (fmr, fnmr)."""

    thresholds: Floats  # (q,), rising, the last above every score
    fmr: Floats  # (q,), falling from 1 to 0; (b, q) of resamples
    fnmr: Floats  # (q,), rising from 0 to 1; (b, q) of resamples


def error_curve(genuine: Floats, impostor: Floats) -> Curve:
    """Return both error rates at every threshold, as scikit-learn's `roc_curve` counts them.

    A threshold lies half-way between two neighbouring scores: all places between them err alike on these scores, and
    on new ones the middle is the safest. The lowest is the lowest score, which accepts everything.
    """
    from sklearn.metrics import roc_curve

    labels = np.repeat([1, 0], [len(genuine), len(impostor)])
    fmr, tpr, scores = roc_curve(labels, np.concatenate([genuine, impostor]), drop_intermediate=False)
    return Curve(thresholds=between(scores[:0:-1]), fmr=fmr[::-1], fnmr=1 - tpr[::-1])


def between(scores: Floats) -> Floats:
    """Return the thresholds (q + 1,) that part rising distinct scores (q,) in every way."""
    middles = scores[:-1] + np.diff(scores) / 2
    middles = np.where(middles > scores[:-1], middles, scores[1:])  # neighbours of the last bit have no middle
    return np.concatenate([scores[:1], middles, np.nextafter(scores[-1:], np.inf)])


def auroc(curve: Curve) -> Floats:
    """Return the area under the ROC, of each resample: the chance that a genuine score is above an impostor's."""
    return np.asarray(np.trapezoid(1 - curve.fnmr[..., ::-1], curve.fmr[..., ::-1], axis=-1))


def equal_error_rate(curve: Curve) -> Floats:
    """Return the rate at which the DET curve, drawn with straight lines, crosses its diagonal; of each resample."""
    gap = curve.fnmr - curve.fmr  # rises from -1 to 1
    after = np.argmax(gap >= 0, axis=-1, keepdims=True)
    low, high = (np.take_along_axis(gap, index, -1) for index in (after - 1, after))
    start, end = (np.take_along_axis(curve.fnmr, index, -1) for index in (after - 1, after))
    return np.asarray((start + (end - start) * (-low / (high - low)))[..., 0])


def d_prime(genuine: tuple[Floats, Floats], impostor: tuple[Floats, Floats]) -> Floats:
    """Return how many standard deviations lie between the (mean, variance) of both; NaN where nothing varies."""
    with np.errstate(divide="ignore", invalid="ignore"):
        value = (genuine[0] - impostor[0]) / np.sqrt((genuine[1] + impostor[1]) / 2)
    return np.where(np.isfinite(value), value, np.nan)


def choose(curve: Curve, policy: Policy) -> NDArray[np.intp]:
    """Return the index of the policy's threshold, of each resample.

    With a limit on one rate: the least of the other rate that keeps within it, and of those the least of the first, so
    that what is told apart perfectly is parted in the middle of the gap. Without: the least difference of the rates.
    """
    if policy.limit is None:
        badness = np.abs(curve.fnmr - curve.fmr), curve.fnmr + curve.fmr
    else:
        rates = (curve.fmr, curve.fnmr) if policy.kind == "fmr" else (curve.fnmr, curve.fmr)
        within = rates[0] <= policy.limit * (1 + 1e-12)  # 3 / 300 isn't above 0.01
        badness = np.where(within, rates[1], np.inf), rates[0]
    least = badness[0].min(axis=-1, keepdims=True)
    return np.asarray(np.where(badness[0] <= least + 1e-12, badness[1], np.inf).argmin(axis=-1))


def threshold_of(curve: Curve, policy: Policy) -> int:
    """Return the index of the policy's threshold; raises InvalidValueError where only refusing everything serves it."""
    index = int(choose(curve, policy))
    if index == len(curve.thresholds) - 1:
        highest = f"{np.nextafter(curve.thresholds[-1], -np.inf):.4g}"
        raise InvalidValueError("policy", str(policy), f"one that a threshold can keep: impostors score {highest} too")
    return index
