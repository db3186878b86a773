"""One measure of B against A's, and whether it is worse."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from imagelab.calibration import Estimate
from imagelab.compare.shifts import Shift
from imagelab.errors import InvalidValueError
from imagelab.records import Record

Verdict = Literal["worse", "better", "no worse", "undecided"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Change(Record):
    """How a measure of B differs from A's."""

    of: str  # a case of a benchmark, or "pictures"
    measure: str
    a: float
    b: float
    samples_a: int
    samples_b: int
    change: Estimate  # a share of A's: 0.1 is a tenth more; of shares the difference: 0.1 is ten in a hundred more
    smallest: float  # the least loss that would be found beyond the limit with a chance of 80 %
    worse_if_more: bool
    gates: bool = True  # False: shown, and decides nothing

    @property
    def loss(self) -> Estimate:
        """Return the change, turned so that more is worse."""
        found = self.change
        return found if self.worse_if_more else Estimate(value=-found.value, low=-found.high, high=-found.low)

    def verdict(self, limit: float = 0.0) -> Verdict:
        """Say whether B is worse by more than a limit: only where the whole interval of the loss lies beyond it."""
        loss = self.loss
        if loss.low > limit:
            return "worse"
        if loss.high < 0:
            return "better"
        return "no worse" if loss.high <= limit else "undecided"


def make_change(
    of: str,
    measure: str,
    shift: Shift,
    levels: tuple[float, float],
    samples: Sequence[int],
    *,
    limit: float,
    worse_if_more: bool,
    gates: bool = True,
) -> Change:
    """Put together what was found; `levels` are A's and B's own.

    Raises InvalidValueError for a change that is no number: it would be worse than nothing.
    """
    found = shift.change
    if not all(map(math.isfinite, (found.low, found.value, found.high))):
        raise InvalidValueError(f"change of {of}, {measure}", str(found), "a finite number")
    return Change(
        of=of,
        measure=measure,
        a=levels[0],
        b=levels[1],
        samples_a=samples[0],
        samples_b=samples[1],
        change=found,
        smallest=shift.smallest(limit, worse_if_more=worse_if_more),
        worse_if_more=worse_if_more,
        gates=gates,
    )
