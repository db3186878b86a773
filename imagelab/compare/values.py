"""What a comparison found, for programs and for people."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from imagelab.checks import check_number
from imagelab.compare.changes import Change
from imagelab.config import pick
from imagelab.errors import InvalidValueError
from imagelab.records import Record
from imagelab.whole_file import write_record

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1
CONFIDENCE = 0.95
_SHOWN = 12  # differences in the text


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison(Record):
    """Run B against run A.

    The intervals hold together: the chance that any of those that gate leaves the truth out is 1 - `confidence`
    (Bonferroni), half of it on either side.
    """

    kind: Literal["benchmark", "batch"]
    a: str
    b: str
    changes: tuple[Change, ...]
    fail_over: float | None  # the loss that fails; None: nothing does
    confidence: float
    paired: bool  # pictures of one seed were held against each other
    differs: tuple[str, ...]  # in what was asked for, and on which machine
    unmatched: tuple[str, ...] = ()  # what only one of them has
    lost: tuple[str, ...] = ()  # cases of A that B has too little memory for
    identical: int | None = None  # pairs of pictures that are the same file
    schema_version: int = SCHEMA_VERSION

    @property
    def worse(self) -> tuple[Change, ...]:
        """Return what is worse by more than `fail_over`."""
        if self.fail_over is None:
            return ()
        limit = self.fail_over
        return tuple(one for one in self.changes if one.gates and one.verdict(limit) == "worse")

    @property
    def passed(self) -> bool:
        """Say whether nothing is worse by more than `fail_over`; and nothing has become too large for the memory."""
        return not self.worse and (self.fail_over is None or not self.lost)

    def to_frame(self) -> "pd.DataFrame":
        """Return a row per measure: both levels, the change in per cent, the least loss that shows."""
        import pandas as pd  # slow to import

        return pd.DataFrame([_row(one, self.fail_over or 0.0) for one in self.changes])

    def to_text(self) -> str:
        """Return a table for a terminal, and what it means."""
        lines = [f"A: {self.a}", f"B: {self.b}"]
        lines += [f"differs: {one}" for one in self.differs[:_SHOWN]]
        lines += [f"differs: {len(self.differs) - _SHOWN} more"] if len(self.differs) > _SHOWN else []
        lines += [f"left out, as only one has it: {one}" for one in self.unmatched]
        lines += [f"worse: B has too little memory for {one}" for one in self.lost]
        lines += [self.to_frame().to_string(index=False)]
        if self.identical is not None:
            lines += [f"{self.identical} pairs of pictures are the same file"]
        return "\n".join([*lines, _promise(self), *_verdict(self)])

    def write(self, path: Path) -> Path:
        """Write it as JSON, whole or not at all; raises InvalidValueError where that can't be."""
        return write_record(self, path)


def _row(one: Change, limit: float) -> dict[str, object]:
    low, high = 100 * one.change.low, 100 * one.change.high
    return {
        "of": one.of,
        "measure": one.measure,
        "A": float(f"{one.a:.4g}"),
        "B": float(f"{one.b:.4g}"),
        "n": f"{one.samples_a}, {one.samples_b}",
        "change %": f"{100 * one.change.value:+.1f} [{low:+.1f}, {high:+.1f}]",
        "shows from %": f"{'+' if one.worse_if_more else '-'}{100 * one.smallest:.1f}",
        "verdict": one.verdict(limit) if one.gates else "control",
    }


def _promise(found: Comparison) -> str:
    chance = (1 - found.confidence) / 2
    within = (
        "What changes from one run to the next isn't in the intervals: compare A with a second run of A, or --relative."
    )
    text = f"B is called worse only where the whole interval lies beyond the limit: by chance in at most {chance:.1%}"
    text += " of comparisons, all lines together. `shows from`: the least loss that is found 4 times in 5."
    return f"{text}\n{within}" if found.kind == "benchmark" else text


def _verdict(found: Comparison) -> list[str]:
    if found.fail_over is None:
        return []
    limit = f"by more than {100 * found.fail_over:g} %" if found.fail_over else "at all"
    undecided = sum(one.gates and one.verdict(found.fail_over) == "undecided" for one in found.changes)
    if found.worse:
        return [f"worse {limit}: " + "; ".join(f"{one.of}, {one.measure}" for one in found.worse)]
    rest = f"; {undecided} undecided: too few numbers for a loss of that size" if undecided else ""
    return [f"nothing is shown to be worse {limit}{rest}"]


def check_alike(
    a: Mapping[str, str], b: Mapping[str, str], across: Collection[str], known: Collection[str]
) -> tuple[str, ...]:
    """Return how the conditions of two runs differ; raises InvalidValueError for one that isn't named in `across`.

    Raises UnknownNameError for what is no condition.
    """
    for name in across:
        pick("condition", {one: one for one in known}, name)
    for name in known:
        if a.get(name) != b.get(name) and name not in across:
            expected = f"that of A, {a.get(name)!r} (--across {name} compares them all the same)"
            raise InvalidValueError(f"the {name} of B", b.get(name), expected)
    return tuple(f"{name} was {a.get(name)}, is {b.get(name)}" for name in known if a.get(name) != b.get(name))


def check_limits(fail_over: float | None, confidence: float) -> tuple[float, float]:
    """Return the limit, 0 for None, and the confidence; raises InvalidValueError."""
    limit = 0.0 if fail_over is None else check_number(fail_over, "fail_over", 0, 10)
    return limit, check_number(confidence, "confidence", 0.5, 0.9999)
