"""What a run tells of itself: its result, in files for programs, and in a few lines for people."""

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from imagelab.errors import InvalidValueError
from imagelab.results import BatchItem, BatchResult
from imagelab.runs.plan import RunPlan
from imagelab.whole_file import read_json

METADATA_FILE = "metadata.json"
SCORE_COLUMNS = ("similarity of", "n", "mean", "least", "median", "largest")
_ENCODER = json.JSONEncoder(allow_nan=False)
_SCORES = (("all that were compared", "consistency_scores"), ("accepted ones alone", "accepted_scores"))


def batch_result(
    plan: RunPlan, items: Iterable[BatchItem], folder: Path, seconds: float, *, again: int = 0
) -> BatchResult:
    """Put together what has become of a batch until now; `again` counts the jobs that were done and have to be anew."""
    request = plan.request
    there = tuple(sorted(items, key=lambda item: item.index))
    ended = request.until_accepted is not None and count_accepted(there) >= request.until_accepted
    return BatchResult(
        items=there,
        requested=len(there) + again if ended else request.num_images,
        character=str(request.picture.character),
        scene_description=request.picture.scene_description,
        threshold=request.threshold,
        encoder=plan.judging.get("encoder"),
        output_dir=folder,
        calibration=plan.judging.get("calibration"),
        until_accepted=request.until_accepted,
        seconds={"total": seconds},
    )


def count_accepted(items: Iterable[BatchItem]) -> int:
    """Count the accepted ones."""
    return sum(item.status == "accepted" for item in items)


def batch_metadata(plan: RunPlan, result: BatchResult) -> str:
    """Return metadata.json's text."""
    mean = result.mean_similarity
    metadata = {
        "complete": result.pending == 0,
        "summary": {
            "requested": result.requested,
            "total_generated": result.total_generated,
            **result.counts,
            "acceptance_rate": result.acceptance_rate,
            "consistency_scores": result.consistency_scores,
            "accepted_scores": result.accepted_scores,
            "mean_similarity": None if math.isnan(mean) else mean,
        },
        "request": plan.request.to_dict(),
        "references": plan.references,
        "face_providers": plan.judging.get("providers", []),
        "result": result.to_dict(),
    }
    return f"{_lines(metadata, levels=3)}\n"


def _lines(value: object, levels: int, margin: str = "") -> str:
    """Return JSON, indented down to so many levels, what lies below on one line: thus a picture has a line of its own.

    json's own indentation, of everything, is not done in C and takes three times as long.
    """
    if not value or not levels or not isinstance(value, dict | list | tuple):
        return _ENCODER.encode(value)
    inner = f"{margin}  "
    if isinstance(value, dict):
        parts = [f"{_ENCODER.encode(name)}: {_lines(item, levels - 1, inner)}" for name, item in value.items()]
    else:
        parts = [_lines(item, levels - 1, inner) for item in value]
    first, last = "{}" if isinstance(value, dict) else "[]"
    between = f",\n{inner}"
    return f"{first}\n{inner}{between.join(parts)}\n{margin}{last}"


def read_metadata(folder: str | os.PathLike[str]) -> BatchResult:
    """Return the result that metadata.json holds; raises InvalidValueError when there is none."""
    path = Path(folder) / METADATA_FILE
    try:
        data = read_json("metadata", path)["result"]
    except (InvalidValueError, KeyError, TypeError) as error:
        raise InvalidValueError("folder", str(folder), f"one of a batch, with a {METADATA_FILE}") from error
    # Where the folder is now: it may have moved since, and a relative path was one from elsewhere.
    return replace(BatchResult.from_dict(data), output_dir=Path(folder))


def score_rows(result: BatchResult) -> list[tuple[str, str, str, str, str, str]]:
    """Return the distribution of all scores and that of the accepted ones, as SCORE_COLUMNS."""
    rows = []
    for name, attribute in _SCORES:
        scores: Sequence[float] = sorted(getattr(result, attribute))
        if scores:
            facts = (math.fsum(scores) / len(scores), scores[0], _median(scores), scores[-1])
            rows.append((name, str(len(scores)), *(f"{fact:.3f}" for fact in facts)))
    return rows  # type: ignore[return-value]  # four facts


def batch_text(result: BatchResult) -> str:
    """Say in a few lines what has become of a batch, and what all its scores are beside the accepted ones."""
    lines = [counts_text(result), *([short] if (short := shortfall_text(result)) else [])]
    if slower := [item.degraded for item in result.items if item.degraded]:
        lines.append(f"{len(slower)} not drawn as configured: {'; '.join(dict.fromkeys(chain(*slower)))}")
    if rows := score_rows(result):
        lines += [f"{row[0]:<24}{''.join(f'{cell:>9}' for cell in row[1:])}" for row in (SCORE_COLUMNS, *rows)]
    if len(rows) > 1:
        lines.append("The accepted ones were chosen by this score: how well the batch was drawn, the first line says.")
    return "\n".join(lines)


def counts_text(result: BatchResult) -> str:
    """Say how many pictures became what."""
    counts = ", ".join(f"{count} {status}" for status, count in result.counts.items())
    return f"{result.requested} picture{'s' * (result.requested != 1)}: {counts}"


def shortfall_text(result: BatchResult) -> str:
    """Say how many are missing of those that were wanted; nothing where none is."""
    return f"{result.total_accepted} of {result.until_accepted} wanted were accepted" if result.fell_short else ""


def plan_text(plan: RunPlan) -> str:
    """Say in a few lines what a run is going to do."""
    if plan.request.swept:
        return _sweep_text(plan)
    request, recipe, jobs = plan.request, plan.recipe, plan.jobs
    until = f", until {request.until_accepted} are accepted" if request.until_accepted else ""
    loras = ", ".join(f"{name} {lora['weight']:g}" for name, lora in recipe["loras"].items())
    controls = ", ".join(f"{control['type']} {control['scale']:g}" for control in recipe["controls"])
    basis = plan.judging.get("calibration") or "not calibrated"
    facts = {
        "pictures": f"{len(jobs)}{until}, seeds {jobs[0].seed} to {jobs[-1].seed}",
        "prompt": recipe["prompt"],
        "negative": recipe["negative_prompt"],
        "drawn as": f"{recipe['width']}×{recipe['height']} px, {recipe['steps']} steps, {recipe['quality_preset']}",
        "LoRAs": loras,
        "controls": controls,
        "threshold": "" if request.threshold is None else f"{request.threshold:.3f} ({basis})",
        "on": f"{plan.environment['device']}, {plan.environment['dtype']}",
        "first job": jobs[0].id,
    }
    return "\n".join(f"{name:<10} {fact}" for name, fact in facts.items() if fact)


def _sweep_text(plan: RunPlan) -> str:
    axes: dict[str, dict[str, None]] = {}  # {axis: its values, each once}
    for variant in plan.request.swept:
        for axis, value in [*variant.settings.items(), *(("seed", seed) for seed in variant.seeds)]:
            axes.setdefault(axis, {})[f"{value:g}" if isinstance(value, float) else str(value)] = None
    facts = {**{axis: ", ".join(values) for axis, values in axes.items()}, "on": plan.environment["device"]}
    return "\n".join(f"{name:<10} {fact}" for name, fact in facts.items())


def _median(ordered: Sequence[float]) -> float:
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
