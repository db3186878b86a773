"""Where runs are drawn: the folder that is asked for, if it can be one, or a new one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile

from imagelab.config import project_root
from imagelab.errors import InvalidValueError
from imagelab.imagefiles import checked_path
from imagelab.runs.lines import LEDGER_FILE, PLAN_FILE
from imagelab.runs.page import PAGE_FILE
from imagelab.runs.summary import METADATA_FILE
from imagelab.whole_file import sync_folder

SHEET_FILE, TABLE_FILE = "sheet.png", "pictures.parquet"  # which a sweep has besides
_WRITTEN = (METADATA_FILE, "accepted", "rejected", LEDGER_FILE, PAGE_FILE, SHEET_FILE, TABLE_FILE, "control-*.png")


def free_folder(output_dir: str | os.PathLike[str] | None, character: str) -> Path:
    """Return the folder to draw into, a new one for None; makes nothing.

    Raises InvalidValueError for what can't be one.
    """
    if output_dir is None:
        return next(path for path in _new_names(character) if not path.exists())
    folder = checked_folder(output_dir)
    if (folder / PLAN_FILE).exists():
        return folder  # it may have ended, and then it needn't be written to
    nearest = _nearest(folder)
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise InvalidValueError("output_dir", str(folder), f"a folder that can be written ({nearest} isn't one)")
    return folder


def check_room(folder: Path) -> None:
    """Raise InvalidValueError for a folder that can't be made or written into; a file is made that never has a name."""
    try:
        with TemporaryFile(dir=_nearest(folder)):
            return
    except OSError as error:
        expected = f"a folder that can be written ({error.strerror})"
        raise InvalidValueError("output_dir", str(folder), expected) from error


def _nearest(folder: Path) -> Path:
    """Return the folder itself, or the nearest above it that is there."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def checked_folder(output_dir: str | os.PathLike[str]) -> Path:
    """Return a path that is a run's folder or may become one; raises InvalidValueError for what isn't."""
    if output_dir == "":
        raise InvalidValueError("output_dir", output_dir, "a folder's path, or None")
    folder = checked_path(output_dir, "output_dir")
    try:
        if not (folder / PLAN_FILE).exists():
            refuse_other_runs(folder)
    except OSError as error:
        raise InvalidValueError("output_dir", str(folder), f"a folder that can be read ({error.strerror})") from error
    return folder


def refuse_other_runs(folder: Path) -> None:
    """Refuse a folder that has what a run would write, and no run that has begun in it."""
    taken = next((path.name for pattern in _WRITTEN for path in folder.glob(pattern)), None)
    if taken:
        raise InvalidValueError("output_dir", str(folder), f"one without files that a run writes (there is {taken})")


@contextmanager
def claimed_folder(output_dir: str | os.PathLike[str] | None, character: str) -> Iterator[Path]:
    """Give the folder to draw into; for None a new one, which is made, so that no other process is given it.

    It is removed in the end if nothing has come into it. Raises InvalidValueError for what can't be one.
    """
    folder = free_folder(output_dir, character)
    made = [] if output_dir is not None else [path for path in folder.parents if not path.exists()]
    if output_dir is None:
        folder = _claim(character)
        made.insert(0, folder)
    try:
        yield folder
    finally:
        for path in made:
            with suppress(OSError):  # there is something in it
                path.rmdir()


def _claim(character: str) -> Path:
    for path in _new_names(character):
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            reason = f"a folder that can be written ({error.strerror})"
            raise InvalidValueError("output_dir", str(path), reason) from error
        sync_folder(path.parent)
        return path
    raise InvalidValueError("output_dir", None, "given, since all names of this second are taken")


def _new_names(character: str) -> Iterator[Path]:
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{character}"
    runs = project_root() / "reports" / "runs"
    yield from (runs / name for name in (stamp, *(f"{stamp}-{count}" for count in range(2, 1000))))
