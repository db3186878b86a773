"""What a calibration says, as values that are written to files."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from imagelab.calibration.intervals import Estimate
from imagelab.checks import check_number
from imagelab.records import Record

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1
FMR_TARGETS = (0.1, 0.01, 0.001, 0.0001)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample(Record):
    """What the scores of one kind stand on."""

    scores: int
    pictures: int
    characters: int
    resampled: Literal["pictures", "characters"]  # of which others the intervals tell

    @property
    def independent(self) -> int:
        """Count what errs by itself: pairs that share a picture don't, however many they are."""
        return min(self.scores, self.pictures)


@dataclass(frozen=True, kw_only=True, slots=True)
class OperatingPoint(Record):
    """How many genuine ones are refused where a share `fmr` of the impostors is accepted, at most."""

    fmr: float
    supported: bool  # False: the impostors are too few to show so low a rate
    needed: int  # impostors that show it
    threshold: Estimate | None  # None unless supported
    fnmr: Estimate | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration(Record):
    """A threshold, how well it and any other part a character from others, and what all that stands on."""

    policy: str
    threshold: Estimate  # least score that is accepted
    fmr: Estimate  # impostors that it accepts
    fnmr: Estimate  # genuine ones that it refuses
    auroc: Estimate  # chance that a genuine score is above an impostor's
    eer: Estimate  # rate at which FMR and FNMR meet
    d_prime: Estimate | None  # distance of the means in standard deviations; None where too few scores differ to say
    operating_points: tuple[OperatingPoint, ...]
    genuine: Sample
    impostor: Sample
    confidence: float
    resamples: int
    seed: int
    encoder: str | None = None
    character_name: str | None = None
    references_sha256: str | None = None  # of the references that the scores were computed with
    face_choice: str | None = None  # which face of a picture was scored, and what it had to have
    schema_version: int = SCHEMA_VERSION

    def accepts(self, score: float) -> bool:
        """Say whether a score reaches the threshold; raises InvalidValueError unless it is a number."""
        return check_number(score, "score", -math.inf, math.inf) >= self.threshold.value

    @property
    def tells_apart(self) -> bool:
        """Say whether the interval of the AUROC is above 1/2, at which scores say nothing."""
        return self.auroc.low > 0.5

    def describe(self) -> str:
        """Return the sentence by which a verdict says what it was calibrated with."""
        whose = f" for {self.character_name}" if self.character_name else ""
        encoder = f" with {self.encoder}" if self.encoder else ""
        doubt = "" if self.tells_apart else f"; it doesn't tell them apart for sure: AUROC {self.auroc}"
        return (
            f"calibrated{whose}{encoder} by policy {self.policy} on {self.genuine.scores} genuine and "
            f"{self.impostor.scores} impostor scores: at {self.threshold.value:.3f} or above, "
            f"FMR {_percent(self.fmr)} and FNMR {_percent(self.fnmr)} ({self.confidence:.0%} intervals){doubt}"
        )

    def operating_table(self) -> "pd.DataFrame":
        """Return a row an operating point; one that the impostors can't show says so in place of its numbers."""
        import pandas as pd  # slow to import, and only notebooks want tables

        there = self.impostor.independent
        rows = [
            {
                "FMR at most": f"{100 * point.fmr:g} %",
                "impostor pictures needed": point.needed,
                "there": there,
                "threshold": str(point.threshold) if point.threshold else f"unknown: {point.needed - there} too few",
                "FNMR at it": _percent(point.fnmr) if point.fnmr else "unknown",
            }
            for point in self.operating_points
        ]
        return pd.DataFrame(rows).set_index("FMR at most")


def _percent(rate: Estimate) -> str:
    return f"{rate.value:.1%} [{rate.low:.1%}, {rate.high:.1%}]"


def needed_impostors(fmr: float) -> int:
    """Return how many impostors show a false match rate: 3 / fmr.

    If none of n independent ones is accepted, the rate is at most 3 / n with 95 % confidence (Hanley and Lippman-Hand
    1983, doi:10.1001/jama.1983.03330370053031). What counts are pictures: pairs that share one aren't independent.

    >>> needed_impostors(0.01)
    300
    """
    return math.ceil(3 / fmr - 1e-9)
