"""What a threshold really does to pictures that it wasn't chosen on, and whether that was promised."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from imagelab.calibration.fitting import ScoresLike
from imagelab.calibration.intervals import Estimate, rate_interval
from imagelab.calibration.scores import Scores, as_scores
from imagelab.calibration.values import Calibration
from imagelab.checks import check_number
from imagelab.records import Record


@dataclass(frozen=True, kw_only=True, slots=True)
class RealisedRates(Record):
    """Both error rates of one threshold on scores at hand; None where there are none of the kind."""

    threshold: float
    genuine: int  # scores
    impostor: int
    fmr: Estimate | None
    fnmr: Estimate | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Promise(Record):
    """An error rate as a calibration gave it, and as new pictures showed it."""

    rate: Literal["FMR", "FNMR"]
    promised: Estimate
    realised: Estimate | None  # None without new scores
    scores: int  # that `realised` is of

    @property
    def kept(self) -> bool | None:
        """Say whether the realised rate lies within the promised interval; None where nothing was realised."""
        if self.realised is None:
            return None
        return self.promised.low <= self.realised.value <= self.promised.high


def realised_rates(
    genuine: ScoresLike, impostor: ScoresLike, threshold: float, *, confidence: float = 0.95
) -> RealisedRates:
    """Count what a threshold that was chosen elsewhere refuses and accepts, with Wilson's intervals.

    A score at the threshold is accepted. Raises InvalidValueError for scores or a threshold that aren't finite.

    >>> realised_rates([0.9, 0.8, 0.4], [0.1, 0.2], 0.5).fnmr.value
    0.3333333333333333
    """
    limit = check_number(threshold, "threshold", -1e9, 1e9)
    level = check_number(confidence, "confidence", 0.5, 0.9999)
    own, others = as_scores(genuine, "the character"), as_scores(impostor, "others")
    return RealisedRates(
        threshold=limit,
        genuine=len(own),
        impostor=len(others),
        fmr=_rate(others, others.values >= limit, level),
        fnmr=_rate(own, own.values < limit, level),
    )


def check_promises(calibration: Calibration, genuine: ScoresLike, impostor: ScoresLike) -> tuple[Promise, ...]:
    """Compare both error rates of a calibration with those on scores of pictures that it has never seen.

    The interval is that of the rate on endless pictures; of a few, the share of errors strays farther than that.
    """
    found = realised_rates(genuine, impostor, calibration.threshold.value, confidence=calibration.confidence)
    return (
        Promise(rate="FMR", promised=calibration.fmr, realised=found.fmr, scores=found.impostor),
        Promise(rate="FNMR", promised=calibration.fnmr, realised=found.fnmr, scores=found.genuine),
    )


def _rate(scores: Scores, errors: np.ndarray, confidence: float) -> Estimate | None:
    if not len(scores):
        return None
    pictures = min(len(scores), scores.picture_count)  # pairs that share one don't err by themselves
    return rate_interval(
        float(errors.mean()), 0.0, edge_size=pictures, most=pictures, freedom=math.inf, confidence=confidence
    )
