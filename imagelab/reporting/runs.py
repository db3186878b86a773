"""What a run has left: of a notebook its result.json, of a batch or a sweep its plan and ledger."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imagelab.errors import InvalidValueError
from imagelab.notebooks.runner import RESULT_VERSION
from imagelab.results import BatchResult
from imagelab.runs import read_batch
from imagelab.runs.lines import PLAN_FILE
from imagelab.whole_file import check_schema, read_json

RESULT_FILE = "result.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """What a run came to."""

    name: str  # of its folder
    kind: str  # the notebook's name, or batch
    status: str  # ok or failed; of a batch done, or how many pictures are missing
    headline: str
    batches: Mapping[str, BatchResult] = field(default_factory=dict, repr=False)  # drawn in it, by folder


def read_result(folder: Path) -> RunResult:
    """Read a run of a notebook, a batch or a sweep; raises InvalidValueError for a folder that holds none of them."""
    if (folder / PLAN_FILE).is_file():
        return _of_batch(folder.name, read_batch(folder))
    if not (folder / RESULT_FILE).is_file():
        raise InvalidValueError("run", str(folder), f"the folder of a run, with {RESULT_FILE} or {PLAN_FILE} in it")
    result = _read_result(folder / RESULT_FILE)
    return RunResult(
        name=folder.name,
        kind=result["notebook"],
        status=result["status"],
        headline=str(result.get("headline") or result.get("error") or ""),
        batches={path.parent.name: read_batch(path.parent) for path in sorted(folder.glob(f"pictures/*/{PLAN_FILE}"))},
    )


def _read_result(path: Path) -> Mapping[str, Any]:
    result = read_json("result", path)
    if not isinstance(result, dict) or not all(isinstance(result.get(name), str) for name in ("notebook", "status")):
        raise InvalidValueError(f"result {path}", result, "a mapping with the notebook's name and its status")
    check_schema(result, RESULT_VERSION, "result", path)
    return result


def _of_batch(name: str, batch: BatchResult) -> RunResult:
    missing = batch.pending + batch.counts["failed"]
    mean = "" if math.isnan(batch.mean_similarity) else f", mean similarity of all {batch.mean_similarity:.3f}"
    return RunResult(
        name=name,
        kind="batch",
        status=f"{missing} of {batch.requested} missing" if missing else "done",
        headline=f"{batch.total_accepted} of {batch.requested} accepted{mean}.",
        batches={name: batch},
    )
