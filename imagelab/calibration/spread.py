"""What the statistics of a calibration come to in each resample."""

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from imagelab.calibration import curves
from imagelab.calibration.curves import Curve, Floats
from imagelab.calibration.policies import Policy


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Spread:
    """Statistics of resamples, (b,) each."""

    auroc: Floats
    genuine_auroc: Floats  # where only the genuine scores are resampled, to first order (DeLong 1988)
    impostor_auroc: Floats
    eer: Floats
    d_prime: Floats
    threshold: Floats  # the policy's own in each resample
    fmr: Floats  # at the threshold that was chosen on all scores
    fnmr: Floats
    genuine_mean: Floats
    impostor_mean: Floats
    target_thresholds: Floats  # (b, t): the highest FNMR's for each FMR
    target_fnmrs: Floats  # (b, t)


def spread(
    genuine: Floats,
    impostor: Floats,
    weights: Iterable[tuple[Floats, Floats]],
    thresholds: Floats,
    policy: Policy,
    chosen: int,
    targets: tuple[float, ...],
) -> Spread:
    """Compute the statistics of scores (n,) under weights (b, n) of both kinds, chunk by chunk."""
    own_order, other_order = np.argsort(genuine), np.argsort(impostor)
    own, others = genuine[own_order], impostor[other_order]
    refused = np.searchsorted(own, thresholds), np.searchsorted(others, thresholds)
    above = placements(own, others), 1 - placements(others, own)
    chunks = []
    for own_weights, other_weights in weights:
        shares = _shares(own_weights[:, own_order]), _shares(other_weights[:, other_order])
        fnmr, tnr = (_cumulated(part, where) for part, where in zip(shares, refused, strict=True))
        curve = Curve(thresholds=thresholds, fmr=1 - tnr, fnmr=fnmr)
        moments = _moments(own, shares[0]), _moments(others, shares[1])
        at_targets = [curves.choose(curve, Policy(kind="fmr", limit=target)) for target in targets]
        rows = np.arange(len(fnmr))
        nothing = np.where(np.isnan(fnmr[:, -1]) | np.isnan(tnr[:, -1]), np.nan, 0.0)  # drawn: no threshold either
        chunks.append(
            Spread(
                auroc=curves.auroc(curve),
                genuine_auroc=shares[0] @ above[0],
                impostor_auroc=shares[1] @ above[1],
                eer=curves.equal_error_rate(curve),
                d_prime=curves.d_prime(*moments),
                threshold=thresholds[curves.choose(curve, policy)] + nothing,
                fmr=curve.fmr[:, chosen],
                fnmr=curve.fnmr[:, chosen],
                genuine_mean=moments[0][0],
                impostor_mean=moments[1][0],
                target_thresholds=np.array([thresholds[index] + nothing for index in at_targets])
                .reshape(-1, len(rows))
                .T,
                target_fnmrs=_columns([curve.fnmr[rows, index] for index in at_targets], len(rows)),
            )
        )
    joined = {item.name: np.concatenate([getattr(chunk, item.name) for chunk in chunks]) for item in fields(Spread)}
    return Spread(**joined)


def _columns(found: list[Floats], rows: int) -> Floats:
    return np.array(found, np.float64).reshape(-1, rows).T  # there may be none


def _shares(weights: Floats) -> Floats:
    """Scale weights (b, n) to a sum of 1; a resample that drew no whole score is NaN, and counts nowhere."""
    with np.errstate(invalid="ignore"):
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _cumulated(shares: Floats, where: NDArray[np.intp]) -> Floats:
    sums = np.zeros((len(shares), shares.shape[1] + 1))
    np.cumsum(shares, axis=1, out=sums[:, 1:])
    return np.minimum(sums[:, where], 1)


def _moments(values: Floats, shares: Floats) -> tuple[Floats, Floats]:
    """Return mean and unbiased variance."""
    n = len(values)
    mean = shares @ values
    return mean, (shares @ values**2 - mean**2) * n / (n - 1)


def placements(values: Floats, others: Floats) -> Floats:
    """Return which share of the sorted others each value is above; equals count half."""
    return (np.searchsorted(others, values, "left") + np.searchsorted(others, values, "right")) / (2 * len(others))
