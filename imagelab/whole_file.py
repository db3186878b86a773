"""Files that are there complete or not at all."""

import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, TypeVar

from imagelab.errors import InvalidValueError
from imagelab.records import Record, parse_json

RecordT = TypeVar("RecordT", bound=Record)


@contextmanager
def whole_file(path: Path, *, scratch_folder: Path | None = None) -> Iterator[BinaryIO]:
    """Give a stream whose content appears under `path` when the block has ended well.

    What is being written lies in `scratch_folder`, on the same file system; by default beside it, under a hidden name,
    in a folder that is made where there is none. Nothing of it is left after an error. Raises the system's OSError.
    """
    # Same folder: os.replace is atomic within a file system only.
    name = f"{uuid.uuid4().hex}.tmp"
    scratch = path.with_name(f".{name}") if scratch_folder is None else scratch_folder / name
    try:
        if scratch_folder is None:
            path.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())  # else a power cut leaves the name without the content
        scratch.replace(path)
        sync_folder(path.parent)
    finally:
        # Also after a KeyboardInterrupt; after os.replace there is nothing left.
        with suppress(OSError):
            scratch.unlink(missing_ok=True)


def write_record(record: Record, path: Path) -> Path:
    """Write a record as JSON, whole or not at all; raises InvalidValueError where that can't be."""
    return write_text(f"{record.to_json(indent=1)}\n", path)


def write_text(text: str, path: Path) -> Path:
    """Write a text file, whole or not at all; raises InvalidValueError where that can't be."""
    try:
        with whole_file(path) as stream:
            stream.write(text.encode())
    except OSError as error:
        wanted = f"a file that can be written ({error.strerror})"
        raise InvalidValueError(f"path of {path.name}", str(path), wanted) from error
    return path


def check_folder(folder: Path, name: str) -> Path:
    """Make a folder where there is none, and return it; raises InvalidValueError where no file can be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):  # to ask for permission isn't enough: root has it also where nothing can be
            return folder
    except OSError as error:
        wanted = f"a folder that can be written to ({error.strerror})"
        raise InvalidValueError(name, str(folder), wanted) from error


def read_record(kind: type[RecordT], what: str, path: str | os.PathLike[str]) -> RecordT:
    """Read what `write_record` wrote of a kind; raises InvalidValueError, which says of what and names the file.

    A kind with a `schema_version` is read in its own alone.
    """
    data = read_json(what, path)
    version = getattr(kind, "__dataclass_fields__", {}).get("schema_version")
    if version and isinstance(data, dict):
        check_schema(data, version.default, what, path)
    try:
        return kind.from_dict(data)
    except InvalidValueError as error:
        raise InvalidValueError(f"{what} {path}, {error.name}", error.value, error.expected) from error


def check_schema(data: Mapping[str, Any], known: int, what: str, path: str | os.PathLike[str]) -> None:
    """Raise InvalidValueError for a file's content that another version of the program wrote."""
    found = data.get("schema_version", known)
    if found != known:
        raise InvalidValueError(f"schema_version of {what} {path}", found, f"{known}, all that this imagelab reads")


def read_json(what: str, path: str | os.PathLike[str]) -> Any:
    """Read a JSON file; raises InvalidValueError, which says of what, names the file, and the place in it."""
    try:
        if Path(path).is_fifo():
            raise InvalidValueError(what, str(path), "a file, not a pipe, which would keep us waiting")
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidValueError(what, str(path), f"a file that can be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InvalidValueError(what, str(path), f"a file of UTF-8 text ({error.reason})") from error
    return parse_json(text, f"{what} {path}")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut: syncing a file keeps its content, not where it is found."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
