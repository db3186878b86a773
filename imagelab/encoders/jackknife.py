"""How much the statistics of an encoder vary with the pictures, where its templates are made of these same pictures.

A resample of scores keeps the templates what they are, though other pictures would have made others: of few characters
its intervals are too narrow. The jackknife leaves pictures out, one after the other, and makes the templates anew of
those that are left (Efron and Stein 1981, doi:10.1214/aos/1176345462): its variance is, if anything, too large.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from imagelab.calibration import Calibration, Estimate, error_curve
from imagelab.calibration.curves import auroc, choose, equal_error_rate
from imagelab.calibration.intervals import rate_interval, spread_interval
from imagelab.calibration.policies import Policy, parse_policy
from imagelab.calibration.spread import placements
from imagelab.encoders.scoring import Cosines, Floats, compare_with_templates

MOST_BLOCKS = 50  # of a character: of more pictures, several are left out at a time, or it takes too long
Rows = tuple[Floats, NDArray[np.str_]]  # embeddings (n, d) and whose they are
STATISTICS = ("auroc", "eer", "threshold", "fmr", "fnmr")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Replicates:
    """The statistics without a block of pictures of one character each."""

    values: Floats  # (b, k); NaN where too few pictures were left
    characters: NDArray[np.str_]  # (b,): whose pictures were left out

    @property
    def freedom(self) -> int:
        """Return the degrees of freedom: the blocks of each character but one."""
        return max(1, len(self.characters) - len(np.unique(self.characters)))


def leave_pictures_out(
    embeddings: Floats, characters: NDArray[np.str_], statistics: Callable[[Cosines], Sequence[float]]
) -> Replicates:
    """Compute k statistics of unit embeddings (n, d) without each block of pictures."""
    blocks = list(_blocks(characters))
    values = [_of_enough(compare_with_templates(embeddings[kept], characters[kept]), statistics) for _, kept in blocks]
    return Replicates(
        values=np.stack(np.broadcast_arrays(*values)),
        characters=np.array([name for name, _ in blocks], np.str_),
    )


def jackknife_variance(values: Floats, characters: NDArray[np.str_]) -> float:
    """Return the variance of a statistic by its values (b,) without each block, characters apart; NaN are left out."""
    total = 0.0
    for name in np.unique(characters):
        own = values[(characters == name) & np.isfinite(values)]
        total += float(own.var() * (len(own) - 1)) if len(own) else 0.0
    return total


def widen(calibration: Calibration, embeddings: Floats, characters: NDArray[np.str_]) -> Calibration:
    """Return a calibration on these unit embeddings (n, d) with the hull of its intervals and the jackknife's.

    That is of the AUROC, the EER, the threshold and both error rates at it.
    """
    policy, threshold = parse_policy(calibration.policy), calibration.threshold.value
    left = leave_pictures_out(embeddings, characters, lambda found: _statistics(found, policy, threshold))
    most = calibration.genuine.scores + calibration.impostor.scores
    widened = {}
    for name, values in zip(STATISTICS, left.values.T, strict=True):
        own: Estimate = getattr(calibration, name)
        given = {"variance": jackknife_variance(values, left.characters), "freedom": left.freedom}
        if name == "threshold":
            other = spread_interval(own.value, confidence=calibration.confidence, **given)
            other = Estimate(value=own.value, low=max(-1.0, other.low), high=min(1.0, other.high))  # cosines
        elif 0 < own.value < 1:
            other = rate_interval(own.value, edge_size=most, most=most, confidence=calibration.confidence, **given)
        else:  # what it is worth at 0 and 1 is the number of pictures, which the calibration knows
            other = own
        widened[name] = Estimate(value=own.value, low=min(own.low, other.low), high=max(own.high, other.high))
    return replace(calibration, **widened)  # type: ignore[arg-type]  # its fields


def jackknife_difference(first: Rows, second: Rows, confidence: float) -> Estimate:
    """Return the AUROC of one encoder minus that of another, with its interval; both saw the same pictures."""
    value = _auroc(compare_with_templates(*first))[0] - _auroc(compare_with_templates(*second))[0]
    one, other = (leave_pictures_out(*rows, _auroc) for rows in (first, second))
    variance = jackknife_variance((one.values - other.values)[:, 0], one.characters)
    return spread_interval(value, variance, one.freedom, confidence)


def _blocks(characters: NDArray[np.str_]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield which pictures (n,) are kept, and whose are left out; the only one of a character always stays."""
    for name in np.unique(characters).tolist():
        places = np.flatnonzero(characters == name)
        for start in range(min(len(places), MOST_BLOCKS) if len(places) > 1 else 0):
            kept = np.ones(len(characters), bool)
            kept[places[start::MOST_BLOCKS]] = False
            yield name, kept


def _of_enough(found: Cosines, statistics: Callable[[Cosines], Sequence[float]]) -> Sequence[float]:
    return statistics(found) if len(found.genuine) and len(found.impostor) else [np.nan]


def _auroc(found: Cosines) -> list[float]:
    return [float(placements(found.genuine, np.sort(found.impostor)).mean())]


def _statistics(found: Cosines, policy: Policy, threshold: float) -> list[float]:
    curve = error_curve(found.genuine, found.impostor)
    return [
        float(auroc(curve)),
        float(equal_error_rate(curve)),
        float(curve.thresholds[choose(curve, policy)]),
        float(np.mean(found.impostor >= threshold)),
        float(np.mean(found.genuine < threshold)),
    ]
