"""How many pictures could be judged, and how near those were: two numbers that are never mixed into one."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from imagelab.calibration.intervals import Estimate, quantile, wilson_interval
from imagelab.errors import InvalidValueError
from imagelab.results import FaceStatus, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class VerdictSummary:
    """What a set of verdicts says; only pictures with a face that was compared have a part in `mean_similarity`."""

    total: int
    counts: "Mapping[str, int]"  # {status: pictures}, every status
    comparable_rate: float  # ok of total; NaN without pictures
    comparable_low: float  # Wilson's 95 % interval of it
    comparable_high: float
    mean_similarity: float  # over ok; NaN without any
    consistent: int  # of ok

    @property
    def ok(self) -> int:
        """Return how many pictures have a face that was compared."""
        return self.counts["ok"]

    def to_text(self) -> str:
        """Return it in a few lines, each number with the n that it is of."""
        lines = [f"{status:<14}{count}/{self.total}" for status, count in self.counts.items()]
        rate = f"{self.comparable_rate:.3f} ({self.comparable_low:.3f} to {self.comparable_high:.3f})"
        lines.append(f"{'comparable':<14}{rate}")
        lines.append(f"{'similarity':<14}{said_mean(self.mean_similarity, self.ok)}")
        lines.append(f"{'consistent':<14}{self.consistent}/{self.ok} ok")
        return "\n".join(lines)


def summarise(
    statuses: Sequence[FaceStatus], scores: Sequence[float | None], consistent: Sequence[bool | None]
) -> VerdictSummary:
    """Count the statuses (n), and average the scores of those pictures that are ok, whatever else stands there.

    The interval is Wilson's score interval. Raises InvalidValueError for sequences of unlike lengths, an unknown status
    or an ok picture without a score.

    >>> summary = summarise(["ok", "no_face", "ok"], [0.75, None, 0.25], [True, False, False])
    >>> summary.mean_similarity, summary.ok, summary.total
    (0.5, 2, 3)
    """
    if not len(statuses) == len(scores) == len(consistent):
        shown = (len(statuses), len(scores), len(consistent))
        raise InvalidValueError("statuses, scores and consistent", shown, "of one length")
    known = get_args(FaceStatus)
    if unknown := set(statuses) - set(known):
        raise InvalidValueError("statuses", sorted(unknown), f"among {', '.join(known)}")
    counts = {status: sum(one == status for one in statuses) for status in known}
    compared = [score for status, score in zip(statuses, scores, strict=True) if status == "ok"]
    if any(score is None or math.isnan(score) for score in compared):
        raise InvalidValueError("scores", "none", "a number for every picture that is ok")
    rate = counts["ok"] / len(statuses) if statuses else math.nan
    nothing = Estimate(value=rate, low=math.nan, high=math.nan)
    interval = wilson_interval(rate, len(statuses), quantile(math.inf, CONFIDENCE)) if statuses else nothing
    return VerdictSummary(
        total=len(statuses),
        counts=counts,
        comparable_rate=rate,
        comparable_low=interval.low,
        comparable_high=interval.high,
        mean_similarity=math.fsum(map(float, compared)) / len(compared) if compared else math.nan,  # type: ignore[arg-type]  # none is None
        consistent=sum(bool(passed) for status, passed in zip(statuses, consistent, strict=True) if status == "ok"),
    )


def said_mean(mean: float, count: int) -> str:
    """Return a mean with the n that it is of; of no score at all there is none.

    >>> said_mean(0.5, 2), said_mean(math.nan, 0)
    ('0.500, mean over 2 ok', 'none')
    """
    return f"{mean:.3f}, mean over {count} ok" if count else "none"


def summarise_verdicts(verdicts: Iterable[Verdict]) -> VerdictSummary:
    """Summarise verdicts of one encoder and metric; raises InvalidValueError for several, whose scores don't add up."""
    given = list(verdicts)
    if len(kinds := {(verdict.encoder, verdict.metric) for verdict in given}) > 1:
        raise InvalidValueError("verdicts", sorted(kinds), "of one encoder and one metric")
    return summarise(
        [verdict.status for verdict in given],
        [verdict.similarity_score for verdict in given],
        [verdict.is_consistent for verdict in given],
    )


def ok_scores(verdicts: Iterable[Verdict]) -> list[float]:
    """Return the similarities of those pictures whose status is ok: the others have none, and none of theirs is 0."""
    return [one.similarity_score for one in verdicts if one.status == "ok" and one.similarity_score is not None]
