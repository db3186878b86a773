"""The lines of a run's ledger, each of a job; what fits no job of the plan isn't believed, whoever wrote it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagelab.errors import InvalidValueError, RunFolderError
from imagelab.records import Record
from imagelab.results import BatchItem, ItemStatus
from imagelab.runs.plan import Job

PLAN_FILE, LEDGER_FILE = "plan.json", "ledger.jsonl"
FOLDERS: Mapping[ItemStatus, str] = {"accepted": "accepted", "rejected": "rejected", "unscorable": "rejected"}


def picture_path(job: Job, status: ItemStatus) -> Path | None:
    """Return where a run's folder has a job's picture of which that became, relative to it; None for a failure."""
    folder = FOLDERS.get(status)
    return None if folder is None else Path(folder) / job.file_name


@dataclass(frozen=True, kw_only=True, slots=True)
class Line(Record):
    """What has become of a job, and how its picture's file was left."""

    job: str  # its id
    item: BatchItem
    size_bytes: int  # 0 where there is no picture
    mtime_ns: int  # likewise; a picture of this size and time hasn't been touched since
    seconds: float


def last_lines(records: Iterable[Mapping[str, Any]], jobs: Iterable[Job], folder: Path) -> dict[int, Line]:
    """Return what a ledger's records say last of each job, by its index: its first picture may have been drawn again.

    Raises RunFolderError, which names the line, for a record that tells of no job as a run does.
    """
    by_id = {job.id: job for job in jobs}
    last: dict[int, Line] = {}
    for number, record in enumerate(records, start=1):
        try:
            line = _read(record, by_id)
        except InvalidValueError as error:
            reason = f"line {number} tells of no job of {PLAN_FILE}: {error}"
            raise RunFolderError(folder / LEDGER_FILE, reason, "Remove the line: its picture is drawn again") from error
        last[line.item.index] = line
    return last


def _read(record: Mapping[str, Any], jobs: Mapping[str, Job]) -> Line:
    line = Line.from_dict(record)
    item, job = line.item, jobs.get(line.job)
    if job is None:
        raise InvalidValueError("job", line.job, "one that is planned")
    if (item.index, item.seed) != (job.index, job.seed):
        raise InvalidValueError("index and seed", (item.index, item.seed), f"the job's, {job.index} and {job.seed}")
    # The path is followed: what is found there is read, and set aside where it isn't the picture that was drawn.
    expected = picture_path(job, item.status)
    if item.path not in (None, expected):
        raise InvalidValueError("path", item.path.as_posix(), f"{expected}, where the run put it")
    return line
