"""The folder of a batch: free when the batch begins, and at any moment a list of what lies in it."""

import json
import math
import os
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

from imagelab.config import project_root
from imagelab.errors import GenerationError, ImageFileError, InvalidValueError
from imagelab.imagefiles import checked_path, save_png
from imagelab.models import file_sha256
from imagelab.reference_store import CharacterReferences
from imagelab.results import BatchItem, BatchResult, Generation, GenerationRequest, Record

METADATA_FILE = "metadata.json"
_OFTEN = 200  # pictures; a longer list is written less often, so that it costs no more than 15 ms a picture


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchRequest(Record):
    """What a batch was asked for; picture i is drawn from seed + i."""

    picture: GenerationRequest  # the first one
    num_images: int
    enable_consistency_check: bool
    threshold: float | None  # a cosine; None: the consistency check is off
    save_rejected: bool

    def requests(self) -> tuple[GenerationRequest, ...]:
        """Return the request for each picture."""
        first = self.picture.seed or 0
        return tuple(replace(self.picture, seed=first + index) for index in range(self.num_images))


def read_batch(folder: str | os.PathLike[str]) -> BatchResult:
    """Return the result that a batch left in its folder; that of one that was stopped has fewer items than `requested`.

    Raises InvalidValueError when there is none.
    """
    path = Path(folder) / METADATA_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))["result"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidValueError("folder", str(folder), f"one of a batch, with a {METADATA_FILE}") from error
    result = BatchResult.from_dict(data)
    items = tuple(_settled(item, Path(folder)) for item in result.items)
    # Where the folder is now: it may have moved since, and a relative path was one from elsewhere.
    return replace(result, items=items, output_dir=Path(folder))


def free_folder(output_dir: str | os.PathLike[str] | None, character: str) -> Path:
    """Return the folder to write to, which holds no batch yet and can be written; makes nothing."""
    if output_dir is None:
        stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{character}"
        runs = project_root() / "reports" / "runs"
        names = (stamp, *(f"{stamp}-{count}" for count in range(2, 1000)))
        return next(runs / name for name in names if not (runs / name).exists())
    if output_dir == "":
        raise InvalidValueError("output_dir", output_dir, "a folder's path, or None")
    folder = checked_path(output_dir, "output_dir")
    try:
        taken = [name for name in (METADATA_FILE, "accepted", "rejected") if (folder / name).exists()]
        nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    except OSError as error:
        raise InvalidValueError("output_dir", str(folder), f"a folder that can be read ({error.strerror})") from error
    if taken:
        raise InvalidValueError("output_dir", str(folder), f"without another batch (there is {taken[0]})")
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise InvalidValueError("output_dir", str(folder), f"a folder that can be written ({nearest} isn't one)")
    return folder


def claim_folder(folder: Path) -> list[Path]:
    """Make the folder; return what was made, the innermost last. Of two batches that want it, one gets it.

    Whatever may still be refused of a batch, ControlMapError included, is to be raised before. Raises
    InvalidValueError.
    """
    wanted = [folder / "accepted", folder, *folder.parents]
    made = [path for path in reversed(wanted) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "accepted").mkdir()
    except OSError as error:
        raise InvalidValueError("output_dir", str(folder), f"a free folder ({error.strerror})") from error
    return made


def unclaim_folder(made: list[Path]) -> None:
    """Remove what `claim_folder` made, as far as it is empty."""
    for path in reversed(made):
        try:
            path.rmdir()
        except OSError:  # somebody else has put something there
            return


@dataclass(kw_only=True)
class BatchBook:
    """What a batch writes: its list, metadata.json, and the pictures that are kept.

    A picture is on the list before it lies in its folder, so that none lies there unlisted; of a long batch that is
    killed outright, the last few may.
    """

    folder: Path
    request: BatchRequest
    references: CharacterReferences | None
    face_providers: tuple[str, ...]
    items: list[BatchItem] = field(default_factory=list)
    start: float = field(default_factory=perf_counter)

    def add(self, item: BatchItem, generation: Generation | None) -> None:
        """List a picture and write it to where its path says, with its record inside, and its control maps once.

        Raises ImageFileError or InvalidValueError when they can't be written, GenerationError when the list can't.
        """
        self.items.append(item)
        if len(self.items) % (1 + len(self.items) // _OFTEN) == 0:
            self._write_list(self.result(), complete=False)
        if generation is None or item.path is None:
            return
        try:
            save_png(generation.image, self.folder / item.path, generation.record)
            self._save_maps(generation)
        except (ImageFileError, InvalidValueError) as error:  # the latter where the folder has gone since
            self.items[-1] = replace(item, status="failed", reason=str(error))
            raise
        self.items[-1] = _settled(item, self.folder)

    def _save_maps(self, generation: Generation) -> None:
        """Keep the control maps once: all pictures of a batch follow the same ones."""
        for index, (made, control) in enumerate(zip(generation.control_maps, generation.record.controls, strict=True)):
            path = self.folder / f"control-{index}-{control.type}.png"
            if not path.exists():
                save_png(made, path)

    def close(self) -> BatchResult:
        """Write the list of all that there is, if there is anything, and return it."""
        self.items[-1:] = [_settled(item, self.folder) for item in self.items[-1:]]
        result = self.result()
        if result.items:
            self._write_list(result, complete=len(result.items) == result.requested)
        return result

    def result(self) -> BatchResult:
        """Return the batch as far as it has come."""
        picture = self.request.picture
        return BatchResult(
            items=tuple(self.items),
            requested=self.request.num_images,
            character=str(picture.character),
            scene_description=picture.scene_description,
            threshold=self.request.threshold,
            encoder=self.references.provenance.encoder.label if self.references else None,
            output_dir=self.folder,
            seconds={"total": perf_counter() - self.start},
        )

    def _write_list(self, result: BatchResult, *, complete: bool) -> None:
        mean = result.mean_similarity
        metadata = {
            "complete": complete,
            "summary": {
                "requested": result.requested,
                "total_generated": result.total_generated,
                **result.counts,
                "acceptance_rate": result.acceptance_rate,
                "consistency_scores": result.consistency_scores,
                "mean_similarity": None if math.isnan(mean) else mean,
            },
            "request": self.request.to_dict(),
            "references": self.references.provenance.to_dict() if self.references else None,
            "face_providers": self.face_providers,
            "result": result.to_dict(),
        }
        path, partial = self.folder / METADATA_FILE, self.folder / f".{METADATA_FILE}.partial"
        try:
            partial.write_text(json.dumps(metadata, indent=2, allow_nan=False) + "\n", encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            reason = f"{path} can't be written: {error.strerror or error}"
            raise GenerationError(reason, "Free some space there, or choose another output_dir") from error


def _settled(item: BatchItem, folder: Path) -> BatchItem:
    """Say of a listed picture whether it has come to lie in its folder."""
    if item.path is None or item.sha256:
        return item
    path = folder / item.path
    return replace(item, sha256=file_sha256(path)) if path.is_file() else replace(item, path=None)
