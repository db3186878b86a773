"""Under which conditions does a character stay the same? Pictures over a grid of poses, expressions and scenes.

A condition is {aspect: words of a prompt}, {"pose": "running", "scene": "at night"} say. Every picture has one of each
aspect, so that the pictures of one pose differ in all other respects as much as those of another do.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

from imagelab.calibration.intervals import spread_interval
from imagelab.checks import check_number, check_whole
from imagelab.errors import InvalidValueError
from imagelab.records import Record
from imagelab.results import GenerationRequest, Verdict
from imagelab.verdict_summary import ok_scores, summarise_verdicts

if TYPE_CHECKING:
    import pandas as pd

Condition = Mapping[str, str]  # {aspect: words}


@dataclass(frozen=True, kw_only=True, slots=True)
class ConditionSummary(Record):
    """What the pictures of one condition come to; only those that are ok have a part in `mean`."""

    aspect: str
    condition: str
    total: int
    ok: int
    comparable_low: float  # Wilson's 95 % interval of ok / total
    comparable_high: float
    mean: float | None  # None without any that is ok
    low: float | None  # Student's interval of the mean over other pictures; None for a single one
    high: float | None
    consistent: int  # of ok


def spread_conditions(aspects: Mapping[str, Sequence[str]], count: int) -> tuple[Condition, ...]:
    """Return the conditions of `count` pictures, every combination of the aspects in turn.

    They come in an order in which few pictures show every condition about equally often: of three aspects of two
    conditions each, the first four pictures show each twice, and each two of different aspects together once.
    Raises InvalidValueError for an aspect that is empty or has a condition twice.

    >>> [tuple(one.values()) for one in spread_conditions({"pose": ["standing", "running"], "at": ["day", "night"]}, 2)]
    [('standing', 'day'), ('running', 'night')]
    """
    check_whole(count, "count", 1, 1_000_000)
    for aspect, choices in aspects.items():
        if isinstance(choices, str) or not choices or len(set(choices)) < len(choices):
            raise InvalidValueError(aspect, choices, "a list of at least one condition, each once")
    names, lists = list(aspects), list(aspects.values())
    levels = max((len(choices) for choices in lists), default=1)
    places = sorted(product(*(range(len(choices)) for choices in lists)), key=lambda place: sum(place) % levels)
    cells = [
        {name: choices[index] for name, choices, index in zip(names, lists, place, strict=True)} for place in places
    ]
    return tuple(cells[number % len(cells)] for number in range(count))


def condition_requests(
    request: GenerationRequest, conditions: Sequence[Condition], seed: int
) -> tuple[GenerationRequest, ...]:
    """Return a request for each condition, its words the scene; the seeds count up from `seed`."""
    return tuple(
        replace(request, scene_description=", ".join(condition.values()), seed=seed + index)
        for index, condition in enumerate(conditions)
    )


def summarise_conditions(
    conditions: Sequence[Condition], verdicts: Sequence[Verdict], *, confidence: float = 0.95
) -> tuple[ConditionSummary, ...]:
    """Break verdicts down by each condition of each aspect, in the order in which they first come.

    Raises InvalidValueError unless there is a verdict for each condition, of one encoder and metric.
    """
    level = check_number(confidence, "confidence", 0.5, 0.9999)
    if len(conditions) != len(verdicts):
        raise InvalidValueError("verdicts", len(verdicts), f"one for each of {len(conditions)} pictures")
    groups: dict[tuple[str, str], list[Verdict]] = {}
    for aspect in conditions[0] if conditions else ():
        for condition, verdict in zip(conditions, verdicts, strict=True):
            groups.setdefault((aspect, condition[aspect]), []).append(verdict)
    return tuple(_summarise(aspect, name, group, level) for (aspect, name), group in groups.items())


def _summarise(aspect: str, name: str, verdicts: Sequence[Verdict], confidence: float) -> ConditionSummary:
    found = summarise_verdicts(verdicts)
    scores = ok_scores(verdicts)
    several = len(scores) > 1
    variance = statistics.variance(scores) / len(scores) if several else 0.0
    interval = spread_interval(found.mean_similarity, variance, len(scores) - 1, confidence) if several else None
    return ConditionSummary(
        aspect=aspect,
        condition=name,
        total=found.total,
        ok=found.ok,
        comparable_low=found.comparable_low,
        comparable_high=found.comparable_high,
        mean=found.mean_similarity if scores else None,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        consistent=found.consistent,
    )


def condition_table(summaries: Sequence[ConditionSummary]) -> "pd.DataFrame":
    """Return a row a condition: how many of its pictures could be compared, apart from how near those are."""
    import pandas as pd  # slow to import, and only notebooks want tables

    rows = [
        {
            "aspect": one.aspect,
            "condition": one.condition,
            "n/N": f"{one.ok}/{one.total}",
            "comparable": f"[{one.comparable_low:.2f}, {one.comparable_high:.2f}]",
            "mean": one.mean,
            "low": one.low,
            "high": one.high,
            "consistent": f"{one.consistent}/{one.ok}",
        }
        for one in summaries
    ]
    return pd.DataFrame(rows).astype({"mean": float, "low": float, "high": float}).set_index(["aspect", "condition"])
