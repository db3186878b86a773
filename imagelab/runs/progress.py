"""How far a run has come: what its ledger says last of each job, held against the pictures that are there."""

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imagelab.errors import InvalidValueError, OtherRunError, RunFolderError
from imagelab.models import read_sha256
from imagelab.records import parse_json
from imagelab.results import BatchItem, BatchResult
from imagelab.runs.ledger import read_ledger, read_run_file
from imagelab.runs.lines import LEDGER_FILE, PLAN_FILE, Line, last_lines
from imagelab.runs.plan import SCHEMA_VERSION, Job, RunPlan
from imagelab.runs.summary import batch_result, count_accepted, read_metadata
from imagelab.whole_file import check_schema

_READABLE = "Make it readable, or choose another folder"


@dataclass(kw_only=True, slots=True)
class Progress:
    """What has become of a run's jobs, and which of them are still to be done."""

    plan: RunPlan
    jobs: tuple[Job, ...]
    items: dict[int, BatchItem] = field(default_factory=dict)  # by their index
    seconds: dict[int, float] = field(default_factory=dict)  # likewise
    again: set[int] = field(default_factory=set)  # indices of those that were done and have to be once more
    harmed: list[Path] = field(default_factory=list)  # pictures, relative, that aren't the ones that were drawn

    @property
    def is_over(self) -> bool:
        """Say whether as many pictures are accepted as shall end the run, and none is missing of those before."""
        return self.may_end_with(0) and not self.again

    def may_end_with(self, pictures: int) -> bool:
        """Say whether so many more pictures, if they are accepted, make as many as shall end the run."""
        wanted = self.plan.request.until_accepted
        return wanted is not None and count_accepted(self.items.values()) + pictures >= wanted

    @property
    def drawn_variants(self) -> frozenset[int]:
        """Return the variants of which there is a picture."""
        there = {index for index, item in self.items.items() if item.path is not None}
        return frozenset(job.variant for job in self.jobs if job.index in there)

    def pending_jobs(self) -> tuple[Job, ...]:
        """Return the jobs that are still to be done, in their order."""
        if self.may_end_with(0):
            return tuple(job for job in self.jobs if job.index in self.again)
        return tuple(job for job in self.jobs if job.index not in self.items)

    def add(self, item: BatchItem, seconds: float) -> None:
        """Take over what has become of a job."""
        self.items[item.index], self.seconds[item.index] = item, seconds
        self.again.discard(item.index)

    def result(self, folder: Path) -> BatchResult:
        """Return the batch as far as it has come."""
        seconds = sum(self.seconds.values())
        return batch_result(self.plan, self.items.values(), folder, seconds, again=len(self.again))


def read_progress(
    folder: Path,
    plan: RunPlan,
    records: Iterable[Mapping[str, Any]],
    *,
    retry_failed: bool = False,
    verify: bool = False,
) -> Progress:
    """Return how far a run has come by its ledger's records; with `retry_failed` the failed jobs are pending, too.

    With `verify` every picture is read, else those that were touched. Nothing is written. Raises RunFolderError for a
    record that tells of no job.
    """
    progress = Progress(plan=plan, jobs=plan.jobs)
    for index, line in last_lines(records, progress.jobs, folder).items():
        item = line.item
        is_intact = item.path is None or _is_intact(folder / item.path, line, verify=verify)
        if is_intact and not (item.status == "failed" and retry_failed):
            progress.add(item, line.seconds)
            continue
        progress.again.add(index)
        if item.path is not None:
            progress.harmed.append(item.path)
    return progress


def read_batch(folder: str | os.PathLike[str]) -> BatchResult:
    """Return the result of a batch, also of one that was killed, or that another process is drawing.

    Raises InvalidValueError when there is none; RunFolderError when its files are damaged.
    """
    path = Path(folder)
    try:
        if not (path / PLAN_FILE).exists():
            return read_metadata(path)  # a batch of a version that kept no plan
        plan, told = read_run(path)
        there = [item for item, _ in told.values() if item.path is None or (path / item.path).is_file()]
    except PermissionError as error:  # of a folder on the way, to whose owner the files in it are there
        raise RunFolderError(Path(error.filename), f"can't be looked into: {error.strerror}", _READABLE) from error
    seconds = sum(seconds for _, seconds in told.values())
    return batch_result(plan, there, path, seconds, again=len(told) - len(there))


def read_run(folder: str | os.PathLike[str]) -> tuple[RunPlan, dict[int, tuple[BatchItem, float]]]:
    """Return a run's plan and, by the jobs' indices, what the ledger tells of them: what became of each, and seconds.

    Raises RunFolderError when there is none, or its files are damaged.
    """
    path = Path(folder)
    plan = read_plan(path)
    records = read_ledger(path / LEDGER_FILE) if (path / LEDGER_FILE).exists() else []
    return plan, {index: (line.item, line.seconds) for index, line in last_lines(records, plan.jobs, path).items()}


def same_plan(folder: Path, plan: RunPlan) -> RunPlan:
    """Return the plan of a run as it is stored, if `plan` would draw the same; raises InvalidValueError if not.

    And RunFolderError for a plan that can't be read.
    """
    stored = read_plan(folder)
    if changes := stored.changes(plan):
        expected = "another folder, or one whose run this call has begun"
        raise OtherRunError("output_dir", str(folder), expected, changes, _way_out(stored, changes))
    return stored


def _way_out(stored: RunPlan, changes: tuple[str, ...]) -> str:
    elsewhere = [change for change in changes if change.startswith("environment.")]
    if len(elsewhere) < len(changes):
        return "The call that began it goes on with it; choose another folder for this one"
    threads = any(change.startswith("environment.threads ") for change in elsewhere)
    so = f", with OMP_NUM_THREADS={stored.environment['threads']}" if threads else ""
    return f"Go on where it was begun{so}, since other machines and versions give other bits; or choose another folder"


def read_plan(folder: Path) -> RunPlan:
    """Return the plan of a run; raises RunFolderError where there is none that can be read."""
    path = folder / PLAN_FILE
    text = read_run_file(path)
    try:
        data = parse_json(text.decode(), PLAN_FILE)["plan"]
        check_schema(data, SCHEMA_VERSION, "plan", path)
        return RunPlan.from_dict(data)
    except InvalidValueError as error:
        reason = f"is damaged, or of another version: {error}"
        raise RunFolderError(path, reason, "Choose another folder") from error
    except (UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(path, "is damaged, or of another version", "Choose another folder") from error


def _is_intact(path: Path, line: Line, *, verify: bool) -> bool:
    """Say whether a picture is the one that was recorded; it is read if it was touched since, or to `verify` it."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(found.st_mode) or found.st_size != line.size_bytes:
        return False
    return (found.st_mtime_ns == line.mtime_ns and not verify) or read_sha256(path) == line.item.sha256
