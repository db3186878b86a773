"""Pictures that another run has drawn already: by a job's id they would come out the same, so they needn't be drawn."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

from imagelab.errors import InvalidValueError
from imagelab.imagefiles import open_image, read_record, shared_map_path
from imagelab.models import read_sha256
from imagelab.results import BatchItem, Generation
from imagelab.runs import BatchRequest, Job, picture_path, read_run
from imagelab.workers import Drawn


@dataclass(frozen=True, kw_only=True, slots=True)
class Elsewhere:
    """What another run has of a job."""

    job: Job  # of this run
    item: BatchItem  # of the other one
    folder: Path
    seconds: float

    def drawn(self, request: BatchRequest) -> Drawn:
        """Read it; raises ImageFileError where it has gone since it was found."""
        kept = request.keeps(self.item.status)
        path = picture_path(self.job, self.item.status) if kept else None
        item = replace(self.item, index=self.job.index, path=path)
        generation = _read(self.folder / self.item.path) if kept and self.item.path else None
        return Drawn(job=self.job, item=item, generation=generation, seconds=self.seconds)


def find_drawn(
    folders: Iterable[str | os.PathLike[str]], request: BatchRequest, jobs: Sequence[Job]
) -> tuple[Elsewhere, ...]:
    """Return which of the jobs other runs have done, in the jobs' order: not failed, and with a picture as recorded.

    Of a batch until so many are accepted only the first jobs without a gap: which one ends it depends on their order.
    Raises RunFolderError for a folder without a run, or with a damaged one, InvalidValueError for no list of folders.
    """
    if isinstance(folders, str | os.PathLike):
        raise InvalidValueError("reuse", str(folders), "a list of folders")
    wanted, found = {job.id: job for job in jobs}, dict[str, Elsewhere]()
    for folder in map(Path, folders):
        plan, told = read_run(folder)
        for other in plan.jobs:
            if other.id in found or other.id not in wanted or other.index not in told:
                continue
            item, seconds = told[other.index]
            if _is_there(request, folder, item):
                found[other.id] = Elsewhere(job=wanted[other.id], item=item, folder=folder, seconds=seconds)
    ids = [job.id for job in jobs]
    ids = list(takewhile(found.__contains__, ids)) if request.until_accepted is not None else ids
    return tuple(found[name] for name in ids if name in found)


def _is_there(request: BatchRequest, folder: Path, item: BatchItem) -> bool:
    if item.status == "failed":
        return False
    if not request.keeps(item.status):
        return True
    try:
        return item.path is not None and read_sha256(folder / item.path) == item.sha256
    except OSError:
        return False


def _read(path: Path) -> Generation:
    record, run = read_record(path), path.parent.parent
    maps = [
        open_image(shared_map_path(run, index, control.type, control.map_sha256))
        for index, control in enumerate(record.controls)
    ]
    return Generation(image=open_image(path), record=record, control_maps=tuple(maps))
