"""An append-only list of JSON objects on disk: what was appended is there, whatever happens next.

A line reads `{"crc32":"1c291ca3","record":{...}}`, the checksum being of the record's bytes as they stand there. It is
written by one call and synced before `append` returns, so that a crash leaves at most one line that is cut short.
"""

import errno
import json
import os
import re
import stat
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any, Self

from imagelab.errors import RunFolderError
from imagelab.records import parse_json
from imagelab.whole_file import sync_folder, whole_file

SET_ASIDE = "set_aside"
_LINE = re.compile(rb'\{"crc32":"([0-9a-f]{8})","record":(\{.*\})\}')
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Ledger:
    """A ledger that is open for appending, by one process at a time; a context manager.

    Opening makes the file where there is none, and cuts off what a crash left of the last line, which is kept in
    set_aside. Raises RunFolderError for a file that is damaged anywhere else, and OSError where the system refuses.
    """

    def __init__(self, path: Path) -> None:
        self.path: Path = path
        is_new = not path.exists()
        self._descriptor = os.open(path, _FLAGS, 0o666)
        try:
            self.records: list[dict[str, Any]] = self._recover()
            if is_new:
                sync_folder(path.parent)
        except BaseException:
            self.close()
            raise

    def _recover(self) -> list[dict[str, Any]]:
        data = read_run_file(self.path)
        records, good = _parse(data, self.path)
        if good < len(data):
            with whole_file(place_aside(self.path)) as stream:
                stream.write(data[good:])
            # Else the next line would be appended to a torn one, which would then stand in the middle for good.
            os.ftruncate(self._descriptor, good)
            os.fsync(self._descriptor)
        return records

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record; when this returns, it is on the disk. After an error nothing of it is. Raises OSError."""
        line = _encode(record)
        size = os.fstat(self._descriptor).st_size
        try:
            if os.write(self._descriptor, line) < len(line):
                raise OSError(errno.ENOSPC, "No space left for a whole line")  # noqa: TRY301  undone below
            os.fsync(self._descriptor)
            self._check_in_place()
        except BaseException:
            self._cut(size)
            raise
        self.records.append(dict(record))

    def close(self) -> None:
        """Close the file; may be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _check_in_place(self) -> None:
        """Refuse to go on when the file isn't found any more where it was opened: nobody would find the line."""
        mine = os.fstat(self._descriptor)
        there = self.path.stat()
        if (mine.st_dev, mine.st_ino) != (there.st_dev, there.st_ino):
            raise OSError(errno.ENOENT, "The folder was moved or removed")

    def _cut(self, size: int) -> None:
        try:
            os.ftruncate(self._descriptor, size)
        except OSError:  # the tail is torn: opening it again cuts it off, appending to it would not
            self.close()


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """Return the records of a ledger, which another process may be writing: what isn't a whole line yet doesn't count.

    Raises RunFolderError for a file that is damaged or can't be read.
    """
    return _parse(read_run_file(path), path)[0]


def read_run_file(path: Path) -> bytes:
    """Return what a file of a run holds; raises RunFolderError where it can't be read, or is a pipe, say."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would keep us waiting
            raise RunFolderError(path, "isn't a file", "Remove it, or choose another folder")
        return path.read_bytes()
    except OSError as error:
        fix = "Make it readable, or choose another folder"
        raise RunFolderError(path, f"can't be read: {error.strerror or error}", fix) from error


def place_aside(path: Path) -> Path:
    """Return where to keep what isn't as it should be, out of the way: set_aside/<time>-<name>, beside it."""
    return path.parent / SET_ASIDE / f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{path.name}"


def _encode(record: Mapping[str, Any]) -> bytes:
    # ASCII without newlines: a line is a record, whatever is in it.
    body = json.dumps(record, allow_nan=False, separators=(",", ":")).encode()
    return b'{"crc32":"%08x","record":%b}\n' % (zlib.crc32(body), body)


def _parse(data: bytes, path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the records, and how many bytes they take; what follows is the rest of a line that was being written."""
    records: list[dict[str, Any]] = []
    good = data.rfind(b"\n") + 1  # a crash cuts a line short; one that has its end and is damaged was harmed otherwise
    for number, line in enumerate(BytesIO(data[:good]), start=1):
        record = _decode(line)
        if record is None:
            raise RunFolderError(path, f"line {number} is damaged", "Remove the line: what it told of is drawn again")
        records.append(record)
    return records, good


def _decode(line: bytes) -> dict[str, Any] | None:
    match = _LINE.fullmatch(line[:-1])
    if match is None or int(match[1], 16) != zlib.crc32(match[2]):
        return None
    try:
        record: dict[str, Any] = parse_json(match[2].decode(), "record")
    except ValueError:  # InvalidValueError is one, and so is text that isn't UTF-8
        return None
    return record
