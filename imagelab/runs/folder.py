"""A run's folder: its plan, its ledger and its pictures, whole at every moment.

A picture appears under its name when it is complete and synced, and only then the ledger tells of it. So whatever a
crash leaves is either told of and whole, or drawn again, to the same bits.
"""

import json
import os
import re
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any, Self

from filelock import FileLock, Timeout

from imagelab.config import project_root
from imagelab.errors import ImageFileError, ImageLabError, InvalidValueError, RunFolderError
from imagelab.imagefiles import checked_path, save_png
from imagelab.models import file_sha256
from imagelab.results import BatchItem, BatchResult, Generation, ItemStatus
from imagelab.runs.ledger import Ledger, read_ledger
from imagelab.runs.page import PAGE_FILE, batch_page
from imagelab.runs.plan import Job, PlanFile, RunPlan
from imagelab.runs.summary import METADATA_FILE, batch_metadata, batch_result, count_accepted, read_metadata
from imagelab.whole_file import sync_folder, whole_file

PLAN_FILE, LEDGER_FILE = "plan.json", "ledger.jsonl"
FOLDERS: Mapping[ItemStatus, str] = {"accepted": "accepted", "rejected": "rejected", "unscorable": "rejected"}
_SUBFOLDERS = ("accepted", "rejected")
_LOCK_FILE, _HOLDER_FILE = ".lock", ".holder.json"
_SET_ASIDE = "set_aside"
_SCRATCH = re.compile(r"\.[0-9a-f]{32}\.tmp")  # as whole_file names what isn't whole yet
_PUBLISH_SECONDS = 30.0  # how old metadata.json and index.html may become while a run goes on
_AGAIN = "Make it writable, or free some space; the same call then goes on where this one has stopped"


class RunFolder:
    """A run's folder, open for the one process that draws; a context manager.

    Entering makes the folder or goes on with it. Leaving writes metadata.json and index.html, or, where nothing has
    been drawn in a new folder, removes it. On entering raises InvalidValueError for a folder that another process draws
    into, that holds another run or something else, or can't be written; RunFolderError for one that is damaged.
    """

    def __init__(self, path: Path, plan: RunPlan, *, retry_failed: bool = False) -> None:
        self.path: Path = path
        self.plan: RunPlan = plan
        self.items: dict[int, BatchItem] = {}  # by their index
        self._retry_failed = retry_failed
        self._seconds: dict[int, float] = {}
        self._jobs: tuple[Job, ...] = ()
        self._lock = FileLock(path / _LOCK_FILE, timeout=0)
        self._made: list[Path] = []
        self._is_new = False
        self._ledger: Ledger | None = None
        self._published = perf_counter()

    @property
    def is_over(self) -> bool:
        """Say whether as many pictures are accepted as shall end the run."""
        wanted = self.plan.request.until_accepted
        return wanted is not None and count_accepted(self.items.values()) >= wanted

    def pending_jobs(self) -> tuple[Job, ...]:
        """Return the jobs that are still to be done, in their order."""
        return () if self.is_over else tuple(job for job in self._jobs if job.index not in self.items)

    def result(self) -> BatchResult:
        """Return the batch as far as it has come."""
        return batch_result(self.plan, self.items.values(), self.path, sum(self._seconds.values()))

    def commit(self, job: Job, item: BatchItem, generation: Generation | None, seconds: float) -> BatchItem:
        """Put a job's picture, unless its item has no path, under its name, and then tell of it in the ledger.

        Returns the item as it was recorded. Raises RunFolderError when that can't be written; then nothing is recorded.
        """
        try:
            if item.path is not None and generation is not None:
                item = self._save(item, generation)
            self._clear_others(job, item.path)
            self._append(job, item, seconds)
            self.items[job.index] = item
            if perf_counter() - self._published > _PUBLISH_SECONDS:
                self.publish()
        except ImageFileError as error:
            raise RunFolderError(error.path, error.reason, _AGAIN) from error
        except (OSError, InvalidValueError) as error:  # the latter where the folder has gone since
            raise self._unwritable(error) from error
        return item

    def publish(self) -> None:
        """Write metadata.json and index.html anew; raises RunFolderError."""
        result = self.result()
        texts = {METADATA_FILE: batch_metadata(self.plan, result), PAGE_FILE: batch_page(self.plan, result)}
        try:
            for name, text in texts.items():
                with whole_file(self.path / name) as stream:
                    stream.write(text.encode())
        except OSError as error:
            raise self._unwritable(error) from error
        self._published = perf_counter()

    def __enter__(self) -> Self:
        wanted = [self.path / "accepted", self.path, *self.path.parents]
        self._made = [path for path in reversed(wanted) if not path.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout as error:
            raise InvalidValueError("output_dir", str(self.path), f"a free folder ({_holder(self.path)})") from error
        except OSError as error:
            raise _no_folder(self.path, error) from error
        try:
            self._open()
        except BaseException:
            self._unmake()
            self._close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        try:
            if not self._unmake():
                self.publish()
        except ImageLabError:
            if kind is None:  # else the error that ended the run says more
                raise
        finally:
            self._close()

    def _open(self) -> None:
        try:
            for made in self._made:
                if made.exists():
                    sync_folder(made.parent)  # else a power cut may take the whole folder, however synced its files are
            self._take_plan()
            for folder in _SUBFOLDERS:
                if (self.path / folder).is_symlink():
                    raise InvalidValueError("output_dir", str(self.path), f"a folder whose {folder}/ is no link")
                (self.path / folder).mkdir(exist_ok=True)
            with whole_file(self.path / _HOLDER_FILE) as stream:
                stream.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}).encode())
            for place in (self.path, *(self.path / folder for folder in _SUBFOLDERS)):
                for scratch in place.iterdir():  # of a process that was killed
                    if _SCRATCH.fullmatch(scratch.name):
                        scratch.unlink()
            self._ledger = Ledger(self.path / LEDGER_FILE)
            self._settle(self._ledger.records)
        except OSError as error:
            raise _no_folder(self.path, error) from error

    def _take_plan(self) -> None:
        path = self.path / PLAN_FILE
        if path.exists():
            stored = _read_plan(path)
            if changes := stored.changes(self.plan):
                expected = f"another folder, or the call that began the run in it ({'; '.join(changes)})"
                raise InvalidValueError("output_dir", str(self.path), expected)
            self.plan = stored  # its numbers are written as the ids were made of them
            return
        _refuse_other_runs(self.path)
        self._is_new = True
        with whole_file(path) as stream:
            stream.write(PlanFile(plan=self.plan, created=_now(), jobs=self.plan.jobs).to_json(indent=1).encode())

    def _settle(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Take over what the ledger tells of, as far as the pictures are there as it tells."""
        self._jobs = self.plan.jobs
        jobs = {job.id: job for job in self._jobs}
        for record, job, item in _told(records, jobs, self.path):
            if item.status == "failed" and self._retry_failed:
                self.items.pop(job.index, None)
            elif item.path is None or _is_intact(self.path / item.path, record, str(item.sha256)):
                self.items[job.index], self._seconds[job.index] = item, record["seconds"]
            else:
                self.items.pop(job.index, None)
                self._set_aside(self.path / item.path)

    def _set_aside(self, path: Path) -> None:
        """Keep a picture that isn't the one that was drawn, out of the way of the one that will be."""
        if path.is_symlink() or path.exists():
            (self.path / _SET_ASIDE).mkdir(exist_ok=True)
            path.rename(self.path / _SET_ASIDE / f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{path.name}")

    def _save(self, item: BatchItem, generation: Generation) -> BatchItem:
        assert item.path is not None  # noqa: S101  its caller asked
        path = self.path / item.path
        # How long it took is in the ledger: so the same picture is the same file, bit for bit.
        save_png(
            generation.image, path, replace(generation.record, seconds={}, peak_vram_gib=0.0, predicted_vram_gib=0.0)
        )
        for index, (made, control) in enumerate(zip(generation.control_maps, generation.record.controls, strict=True)):
            which = (
                f"-{control.map_sha256[:8]}" if self.plan.request.swept else ""
            )  # a sweep may have some of each size
            map_path = self.path / f"control-{index}-{control.type}{which}.png"
            if not map_path.exists():  # all pictures of a batch follow the same ones
                save_png(made, map_path)
        return replace(item, sha256=file_sha256(path))

    def _clear_others(self, job: Job, path: Path | None) -> None:
        """Remove what a killed process may have written of the same job and got no line for."""
        for folder in _SUBFOLDERS:
            if (other := Path(folder) / job.file_name) != path:
                (self.path / other).unlink(missing_ok=True)

    def _append(self, job: Job, item: BatchItem, seconds: float) -> None:
        stat = None if item.path is None else (self.path / item.path).stat()
        size, mtime = (stat.st_size, stat.st_mtime_ns) if stat else (0, 0)
        assert self._ledger is not None  # noqa: S101  the folder is open
        self._ledger.append(
            {"job": job.id, "item": item.to_dict(), "size_bytes": size, "mtime_ns": mtime, "seconds": seconds}
        )
        self._seconds[job.index] = seconds

    def _unwritable(self, error: OSError | ImageLabError) -> RunFolderError:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        return RunFolderError(self.path, f"can't be written to: {reason}", _AGAIN)

    def _unmake(self) -> bool:
        """Remove what was made, if it was made now and nothing has been drawn; say whether it is gone."""
        pictures = (picture for folder in _SUBFOLDERS for picture in (self.path / folder).glob("*"))
        if not self._is_new or self.items or any(pictures):
            return False
        for name in (LEDGER_FILE, PLAN_FILE, _HOLDER_FILE, _LOCK_FILE):
            with suppress(OSError):
                (self.path / name).unlink(missing_ok=True)
        for path in (self.path / "rejected", *reversed(self._made)):
            with suppress(OSError):  # somebody has put something there
                path.rmdir()
        return True

    def _close(self) -> None:
        if self._ledger is not None:
            self._ledger.close()
        with suppress(OSError):
            (self.path / _HOLDER_FILE).unlink(missing_ok=True)
        self._lock.release()


def free_folder(output_dir: str | os.PathLike[str] | None, character: str) -> Path:
    """Return the folder to draw into, a new one for None; makes nothing.

    Raises InvalidValueError for what can't be one.
    """
    if output_dir is None:
        stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{character}"
        runs = project_root() / "reports" / "runs"
        names = (stamp, *(f"{stamp}-{count}" for count in range(2, 1000)))
        return next(runs / name for name in names if not (runs / name).exists())
    if output_dir == "":
        raise InvalidValueError("output_dir", output_dir, "a folder's path, or None")
    folder = checked_path(output_dir, "output_dir")
    try:
        if not (folder / PLAN_FILE).exists():
            _refuse_other_runs(folder)
        nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    except OSError as error:
        raise InvalidValueError("output_dir", str(folder), f"a folder that can be read ({error.strerror})") from error
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise InvalidValueError("output_dir", str(folder), f"a folder that can be written ({nearest} isn't one)")
    return folder


def read_batch(folder: str | os.PathLike[str]) -> BatchResult:
    """Return the result of a batch, also of one that was killed, or that another process is drawing.

    Raises InvalidValueError when there is none; RunFolderError when its files are damaged.
    """
    path = Path(folder)
    if not (path / PLAN_FILE).is_file():
        return read_metadata(path)  # a batch of a version that kept no plan
    plan, told = read_run(path)
    there = [item for item, _ in told.values() if item.path is None or (path / item.path).is_file()]
    return batch_result(plan, there, path, sum(seconds for _, seconds in told.values()))


def read_run(folder: str | os.PathLike[str]) -> tuple[RunPlan, dict[int, tuple[BatchItem, float]]]:
    """Return a run's plan and, by the jobs' indices, what the ledger tells of them: what became of each, and seconds.

    Raises RunFolderError when there is none, or its files are damaged.
    """
    path = Path(folder)
    plan = _read_plan(path / PLAN_FILE)
    records = read_ledger(path / LEDGER_FILE) if (path / LEDGER_FILE).exists() else []
    jobs = {job.id: job for job in plan.jobs}
    return plan, {job.index: (item, record["seconds"]) for record, job, item in _told(records, jobs, path)}


def _told(
    records: Iterable[Mapping[str, Any]], jobs: Mapping[str, Job], folder: Path
) -> "Iterable[tuple[Mapping[str, Any], Job, BatchItem]]":
    for number, record in enumerate(records, start=1):
        try:
            yield record, jobs[record["job"]], BatchItem.from_dict(record["item"])
        except (KeyError, InvalidValueError) as error:
            reason = f"line {number} tells of no job of {PLAN_FILE}"
            raise RunFolderError(folder / LEDGER_FILE, reason, "Remove the line: its picture is drawn again") from error


def _is_intact(path: Path, record: Mapping[str, Any], sha256: str) -> bool:
    """Say whether a picture is the one that was recorded; it is read only if it was touched since."""
    try:
        stat = path.lstat()
    except FileNotFoundError:
        return False
    if path.is_symlink() or stat.st_size != record["size_bytes"]:
        return False
    return stat.st_mtime_ns == record["mtime_ns"] or file_sha256(path) == sha256


def _read_plan(path: Path) -> RunPlan:
    try:
        return RunPlan.from_dict(json.loads(path.read_text(encoding="utf-8"))["plan"])
    except (OSError, ValueError, KeyError, TypeError) as error:  # InvalidValueError is a ValueError
        raise RunFolderError(path, "is damaged, or of another version", "Choose another folder") from error


def _refuse_other_runs(folder: Path) -> None:
    taken = [name for name in (METADATA_FILE, "accepted", "rejected", LEDGER_FILE) if (folder / name).exists()]
    if taken:
        raise InvalidValueError("output_dir", str(folder), f"without another batch (there is {taken[0]})")


def _no_folder(path: Path, error: OSError) -> InvalidValueError:
    expected = f"a folder that can be written ({error.strerror or error})"
    return InvalidValueError("output_dir", str(path), expected)


def _holder(folder: Path) -> str:
    with suppress(OSError, ValueError, KeyError):
        holder = json.loads((folder / _HOLDER_FILE).read_text())
        return f"process {holder['pid']} on {holder['host']} draws into it since {holder['since']}"
    return "another process draws into it"


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
