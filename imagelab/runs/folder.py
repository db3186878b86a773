"""A run's folder: its plan, its ledger and its pictures, whole at every moment.

A picture appears under its name when it is complete and synced, and only then the ledger tells of it. So whatever a
crash leaves is either told of and whole, or drawn again, to the same bits.
"""

import errno
import json
import os
import re
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Self

from filelock import FileLock, Timeout

from imagelab.errors import ImageFileError, ImageLabError, InvalidValueError, RunFolderError, RunStoppedError
from imagelab.imagefiles import save_png, shared_map_path
from imagelab.models import file_sha256
from imagelab.results import BatchItem, BatchResult, Generation, GenerationRequest
from imagelab.runs.ledger import SET_ASIDE, Ledger, place_aside, read_ledger
from imagelab.runs.lines import LEDGER_FILE, PLAN_FILE, Line
from imagelab.runs.maps import RunMap, harmed_maps
from imagelab.runs.page import PAGE_FILE, batch_page
from imagelab.runs.places import checked_folder, refuse_other_runs
from imagelab.runs.plan import Job, PlanFile, RunPlan
from imagelab.runs.progress import Progress, read_progress, same_plan
from imagelab.runs.summary import METADATA_FILE, batch_metadata, count_accepted
from imagelab.whole_file import read_json, sync_folder, whole_file

if TYPE_CHECKING:
    from imagelab.preprocess import ControlMap

MakeMaps = Callable[[GenerationRequest], "Sequence[ControlMap]"]
_SUBFOLDERS = ("accepted", "rejected")
_LOCK_FILE, _HOLDER_FILE = ".lock", ".holder.json"
_SCRATCH = re.compile(r"\.[0-9a-f]{32}\.tmp")  # as whole_file names what isn't whole yet
_PUBLISH_SECONDS = 30.0  # how old metadata.json and index.html may become while a run goes on
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
_AGAIN = "Make it writable, or free some space; the same call then goes on where this one has stopped"


class RunFolder:
    """A run's folder, open for the one process that draws; a context manager.

    Entering makes the folder or goes on with it. Leaving writes metadata.json and index.html, or, where nothing has
    been drawn in a new folder, removes it; where nothing is left to be done, nothing is written. With `verify` every
    picture that is there is read, else only those that were touched. `make_maps` makes the maps of a request's controls
    again, where one of them was harmed.

    On entering raises InvalidValueError for a folder that another process draws into, that holds another run or
    something else, or can't be written; RunFolderError for one that is damaged. Later, and for a full disk on which a
    run has begun, RunStoppedError.
    """

    def __init__(
        self,
        path: Path,
        plan: RunPlan,
        *,
        retry_failed: bool = False,
        verify: bool = False,
        make_maps: MakeMaps | None = None,
    ) -> None:
        self.path: Path = path
        self.plan: RunPlan = plan
        self._request = plan.request  # of this call: its controls' pictures are where it says
        self._make_maps = make_maps
        self._retry_failed = retry_failed
        self._verify = verify
        self._progress = Progress(plan=plan, jobs=())  # until it is read
        self._lock = FileLock(path / _LOCK_FILE, timeout=0)
        self._made: list[Path] = []
        self._is_new = False
        self._ledger: Ledger | None = None
        self._published = perf_counter()
        self._is_told = False  # whether metadata.json and index.html say what there is

    @property
    def items(self) -> dict[int, BatchItem]:
        """Return what has become of the jobs that are done, by their index."""
        return self._progress.items

    @property
    def is_over(self) -> bool:
        """Say whether as many pictures are accepted as shall end the run."""
        return self._progress.is_over

    @property
    def total_accepted(self) -> int:
        """Return how many pictures are accepted."""
        return count_accepted(self.items.values())

    def may_end_with(self, pictures: int) -> bool:
        """Say whether so many more pictures, if they are accepted, may end the run."""
        return self._progress.may_end_with(pictures)

    def pending_jobs(self) -> tuple[Job, ...]:
        """Return the jobs that are still to be done, in their order."""
        return self._progress.pending_jobs()

    def result(self) -> BatchResult:
        """Return the batch as far as it has come."""
        return self._progress.result(self.path)

    def commit(self, job: Job, item: BatchItem, generation: Generation | None, seconds: float) -> BatchItem:
        """Put a job's picture, unless its item has no path, under its name, and then tell of it in the ledger.

        Returns the item as recorded. Raises RunStoppedError when that can't be written; then nothing is recorded.
        """
        try:
            if item.path is not None and generation is not None:
                item = self._save(item, generation)
            self._clear_others(job, item.path)
            self._append(job, item, seconds)
            self._progress.add(item, seconds)
            self._is_told = False
            if perf_counter() - self._published > _PUBLISH_SECONDS:
                self.publish()
        except ImageFileError as error:
            raise _stopped(error) from error
        except (OSError, InvalidValueError) as error:  # the latter where the folder has gone since
            raise self._unwritable(error) from error
        return item

    def publish(self) -> None:
        """Write metadata.json and index.html anew; raises RunStoppedError."""
        result = self.result()
        # metadata.json comes last: where it is as it should be, so is the page.
        texts = {PAGE_FILE: batch_page(self.plan, result), METADATA_FILE: batch_metadata(self.plan, result)}
        try:
            for name, text in texts.items():
                with whole_file(self.path / name) as stream:
                    stream.write(text.encode())
        except OSError as error:
            raise self._unwritable(error) from error
        self._published, self._is_told = perf_counter(), True

    def __enter__(self) -> Self:
        try:
            self._enter()
        except OSError as error:
            if not self._has_ended():
                raise self._refused(error) from error
        return self

    def _enter(self) -> None:
        wanted = [self.path / "accepted", self.path, *self.path.parents]
        self._made = [path for path in reversed(wanted) if not path.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise InvalidValueError("output_dir", str(self.path), f"a free folder ({_holder(self.path)})") from error
        try:
            self._open()
        except BaseException:
            self._unmake()
            self._close()
            raise

    def _has_ended(self) -> bool:
        """Say whether a run that can't be written to needn't be, and take over what it came to."""
        try:
            plan, progress = _look(self.path, self.plan, retry_failed=self._retry_failed, verify=self._verify)
        except (OSError, RunFolderError):
            return False
        if progress.pending_jobs():
            return False
        self.plan, self._progress, self._is_told = plan, progress, True
        return True

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        try:
            if not self._unmake() and not self._is_told and not self._tells_all():
                _remove_scratch(self.path)  # of a process that was killed at this point
                self.publish()
        except ImageLabError:
            if kind is None:  # else the error that ended the run says more
                raise
        finally:
            self._close()

    def _open(self) -> None:
        for made in self._made:
            if made.exists():
                sync_folder(made.parent)  # else a power cut may take the whole folder, however synced its files are
        self._take_plan()
        _refuse_links(self.path)
        self._ledger = Ledger(self.path / LEDGER_FILE)
        self._progress = read_progress(
            self.path, self.plan, self._ledger.records, retry_failed=self._retry_failed, verify=self._verify
        )
        lost = harmed_maps(self.path, self.plan, self._progress.drawn_variants)
        if self._progress.pending_jobs() or self._progress.harmed or lost:
            self._prepare(lost)

    def _prepare(self, lost: Iterable[RunMap]) -> None:
        """Make the folder one that can be drawn into."""
        for folder in _SUBFOLDERS:
            (self.path / folder).mkdir(exist_ok=True)
        with whole_file(self.path / _HOLDER_FILE) as stream:
            stream.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}).encode())
        _remove_scratch(self.path)
        for harmed in self._progress.harmed:
            self._set_aside(self.path / harmed)
        for one in lost:
            self._set_aside(one.path)
            self._restore(one)

    def _restore(self, lost: RunMap) -> None:
        if self._make_maps is None:
            return
        try:
            save_png(self._make_maps(self._request.variants[lost.variant].picture)[lost.control].image, lost.path)
        except ImageFileError as error:
            raise _stopped(error) from error

    def _tells_all(self) -> bool:
        """Say whether metadata.json and index.html, which is written before, say what the ledger does."""
        try:
            told = (self.path / METADATA_FILE).read_bytes()  # to write it anew takes less than to read what it says
        except OSError:
            return False
        return (self.path / PAGE_FILE).is_file() and told == batch_metadata(self.plan, self.result()).encode()

    def _take_plan(self) -> None:
        path = self.path / PLAN_FILE
        if path.exists():
            self.plan = same_plan(self.path, self.plan)  # its numbers are written as the ids were made of them
            return
        refuse_other_runs(self.path)
        self._is_new = True
        with whole_file(path) as stream:
            stream.write(PlanFile(plan=self.plan, created=_now(), jobs=self.plan.jobs).to_json(indent=1).encode())

    def _set_aside(self, path: Path) -> None:
        """Keep a picture that isn't the one that was drawn, out of the way of the one that will be."""
        if path.is_symlink() or path.exists():
            (self.path / SET_ASIDE).mkdir(exist_ok=True)
            path.rename(place_aside(self.path / path.name))

    def _save(self, item: BatchItem, generation: Generation) -> BatchItem:
        assert item.path is not None  # noqa: S101  its caller asked
        path = self.path / item.path
        # How long it took is in the ledger: so the same picture is the same file, bit for bit.
        save_png(
            generation.image, path, replace(generation.record, seconds={}, peak_vram_gib=0.0, predicted_vram_gib=0.0)
        )
        for index, (made, control) in enumerate(zip(generation.control_maps, generation.record.controls, strict=True)):
            map_path = shared_map_path(self.path, index, control.type, control.map_sha256)
            if not map_path.exists():  # most pictures of a run follow the same one
                save_png(made, map_path)
        return replace(item, sha256=file_sha256(path))

    def _clear_others(self, job: Job, path: Path | None) -> None:
        """Remove what a killed process may have written of the same job and got no line for."""
        for folder in _SUBFOLDERS:
            if (other := Path(folder) / job.file_name) != path:
                (self.path / other).unlink(missing_ok=True)

    def _append(self, job: Job, item: BatchItem, seconds: float) -> None:
        found = None if item.path is None else (self.path / item.path).stat()
        size, mtime = (found.st_size, found.st_mtime_ns) if found else (0, 0)
        line = Line(job=job.id, item=item, size_bytes=size, mtime_ns=mtime, seconds=seconds)
        assert self._ledger is not None  # noqa: S101  the folder is open
        self._ledger.append(line.to_dict())

    def _refused(self, error: OSError) -> ImageLabError:
        """Return what opening the folder has come to: a run that has begun goes on once the disk is well again."""
        if error.errno in _DISK_ERRORS and not self._is_new and (self.path / PLAN_FILE).exists():
            return self._unwritable(error)
        return InvalidValueError("output_dir", str(self.path), f"a folder that can be written ({_reason(error)})")

    def _unwritable(self, error: OSError | ImageLabError) -> RunStoppedError:
        reason = _reason(error) if isinstance(error, OSError) else str(error)
        return RunStoppedError(self.path, f"can't be written to: {reason}", _AGAIN)

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
        if self._lock.is_locked:  # else the file is another process's
            with suppress(OSError):
                (self.path / _HOLDER_FILE).unlink(missing_ok=True)
        self._lock.release()


def pending_jobs(folder: Path, plan: RunPlan, *, retry_failed: bool = False, verify: bool = False) -> tuple[Job, ...]:
    """Return what a run would draw if it went on, or began, in a folder, as entering RunFolder finds it out.

    Writes nothing. Raises what `free_folder` and RunFolder raise for a folder of another run, or a damaged one.
    """
    folder = checked_folder(folder)
    if not (folder / PLAN_FILE).exists():
        return plan.jobs
    return _look(folder, plan, retry_failed=retry_failed, verify=verify)[1].pending_jobs()


def _look(folder: Path, plan: RunPlan, *, retry_failed: bool, verify: bool) -> tuple[RunPlan, Progress]:
    """Return the plan that a run's folder has stored, and how far it has come; nothing is written."""
    stored, ledger = same_plan(folder, plan), folder / LEDGER_FILE
    records = read_ledger(ledger) if ledger.exists() else []
    return stored, read_progress(folder, stored, records, retry_failed=retry_failed, verify=verify)


def _refuse_links(folder: Path) -> None:
    """Refuse a folder of which a part lies elsewhere: what is written stays inside."""
    for name in (*_SUBFOLDERS, SET_ASIDE):
        if (folder / name).is_symlink():
            raise InvalidValueError("output_dir", str(folder), f"a folder whose {name}/ is no link")


def _remove_scratch(folder: Path) -> None:
    """Remove what a process that was killed was writing."""
    for place in (".", *_SUBFOLDERS, SET_ASIDE):
        for scratch in (folder / place).glob(".*.tmp"):
            if _SCRATCH.fullmatch(scratch.name):
                scratch.unlink()


def _stopped(error: ImageFileError) -> RunStoppedError:
    return RunStoppedError(error.path, error.reason, _AGAIN)


def _reason(error: OSError) -> str:
    """Say what the system refused, and where: in a folder of several people that may be one file of many."""
    where = f": {error.filename}" if isinstance(error.filename, str) else ""
    return f"{error.strerror or error}{where}"


def _holder(folder: Path) -> str:
    with suppress(InvalidValueError, KeyError, TypeError):
        holder = read_json("holder", folder / _HOLDER_FILE)
        return f"process {holder['pid']} on {holder['host']} draws into it since {holder['since']}"
    return "another process draws into it"


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
