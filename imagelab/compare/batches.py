"""Two batches, or sweeps: how near their pictures are to the character, and how many pass."""

import json
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imagelab.compare.changes import Change, make_change
from imagelab.compare.shifts import Bools, Floats, Shift, mean_shift, share_shift
from imagelab.compare.values import CONFIDENCE, Comparison, check_alike, check_limits
from imagelab.errors import InvalidValueError
from imagelab.results import BatchItem
from imagelab.runs import RunPlan, read_run

CONDITIONS = ("profile", "device", "encoder", "references", "threshold")
PICTURES = "pictures"
_LEAST_SCORES = 2

Key = tuple[str, int, int]  # settings of a sweep, seed, how many of both there were before


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """A run's plan, and the pictures of it that have been drawn or have failed."""

    folder: Path
    plan: RunPlan
    items: Mapping[Key, BatchItem]

    @property
    def scores(self) -> list[float]:
        """Return the similarities of all pictures that have one."""
        return [one.similarity_score for one in self.items.values() if one.similarity_score is not None]

    @property
    def conditions(self) -> Mapping[str, str]:
        """Return what must be alike for scores to mean the same."""
        plan = self.plan
        judged = {"encoder": "encoder", "references": "references_sha256", "threshold": "threshold"}
        facts = {name: [one.get(key) for one in plan.judgings] for name, key in judged.items()}
        facts |= {"profile": [one.get("profile") for one in plan.recipes], "device": [plan.environment["device"]]}
        return {name: ", ".join(sorted({str(one) for one in found})) for name, found in facts.items()}


def read_compared_batch(folder: str | os.PathLike[str]) -> Batch:
    """Read a run, also one that is still being drawn; raises RunFolderError for what is none."""
    plan, told = read_run(folder)
    times: Counter[tuple[str, int]] = Counter()
    items = {}
    for job in plan.jobs:
        settings = plan.request.swept[job.variant].settings if plan.request.swept else {}
        where = (json.dumps(settings, sort_keys=True), job.seed)
        if job.index in told:
            items[*where, times[where]] = told[job.index][0]
        times[where] += 1
    return Batch(folder=Path(folder), plan=plan, items=items)


def compare_batches(
    a: Batch,
    b: Batch,
    *,
    names: tuple[str, str] = ("A", "B"),
    fail_over: float | None = None,
    across: Collection[str] = (),
    confidence: float = CONFIDENCE,
) -> Comparison:
    """Compare two batches: the mean similarity as a ratio, the shares with a score and accepted as differences.

    Pictures of one seed (in sweeps: of the same settings too) share their composition and are compared in pairs, those
    of other seeds left out; batches that share fewer than two are compared as a whole. `across` names conditions that
    may differ: profile, device, encoder, references, threshold. Raises InvalidValueError for others that do, and where
    no faces were compared.
    """
    limit, level = check_limits(fail_over, confidence)
    check_alike(a.conditions, b.conditions, across, CONDITIONS)
    shared = [key for key in a.items if key in b.items]
    paired = len(shared) >= _LEAST_SCORES
    keys = (shared, shared) if paired else (list(a.items), list(b.items))
    sides = [[batch.items[key] for key in own] for batch, own in zip((a, b), keys, strict=True)]
    left_out = sum(len(batch.items) - len(own) for batch, own in zip((a, b), keys, strict=True))
    return Comparison(
        kind="batch",
        a=names[0],
        b=names[1],
        changes=tuple(_changes(a, sides[0], sides[1], level, limit, paired=paired)),
        fail_over=fail_over,
        confidence=level,
        paired=paired,
        differs=a.plan.changes(b.plan),
        unmatched=(f"{left_out} pictures of other seeds",) if left_out else (),
        identical=sum(_same(a.items[key], b.items[key]) for key in shared) if paired else None,
    )


def paired_items(a: Batch, b: Batch) -> list[tuple[BatchItem, BatchItem]]:
    """Return what both have kept a picture of, the largest loss of similarity first."""
    pairs = [(a.items[key], b.items[key]) for key in a.items if key in b.items]
    return sorted((pair for pair in pairs if all(one.path for one in pair)), key=lambda pair: -_loss(*pair))


def _loss(one: BatchItem, other: BatchItem) -> float:
    if one.similarity_score is None:
        return -2.0 if other.similarity_score is not None else 0.0
    return one.similarity_score - (-1.0 if other.similarity_score is None else other.similarity_score)


def _same(one: BatchItem, other: BatchItem) -> bool:
    return one.sha256 is not None and one.sha256 == other.sha256


def _changes(
    a: Batch, ours: Sequence[BatchItem], theirs: Sequence[BatchItem], confidence: float, limit: float, *, paired: bool
) -> list[Change]:
    if not any(a.plan.judgings):
        raise InvalidValueError("A", str(a.folder), "a batch whose faces were compared")
    scores = _scores(ours), _scores(theirs)
    known = np.isfinite(scores[0]), np.isfinite(scores[1])
    both = known[0] & known[1] if paired else None
    compared = tuple(one[has if both is None else both] for one, has in zip(scores, known, strict=True))
    passed = _accepted(ours), _accepted(theirs)
    with_scores = min(map(len, compared)) >= _LEAST_SCORES
    each = 1 - (1 - confidence) / (2 + with_scores)
    shifts: dict[str, tuple[Shift, Sequence[Floats | Bools]]] = {
        "accepted": (share_shift(passed[0], passed[1], each, paired=paired), passed),
        "with a score": (share_shift(known[0], known[1], each, paired=paired), known),
    }
    if with_scores:
        shifts = {"similarity": (mean_shift(compared[0], compared[1], each, paired=paired), compared), **shifts}
    return [
        make_change(
            PICTURES,
            measure,
            shift,
            (float(numbers[0].mean()), float(numbers[1].mean())),
            (len(numbers[0]), len(numbers[1])),
            limit=limit,
            worse_if_more=False,
        )
        for measure, (shift, numbers) in shifts.items()
    ]


def _scores(items: Sequence[BatchItem]) -> Floats:
    return np.array([np.nan if one.similarity_score is None else one.similarity_score for one in items], np.float64)


def _accepted(items: Sequence[BatchItem]) -> Bools:
    return np.array([one.status == "accepted" for one in items], np.bool_)
