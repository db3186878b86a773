"""The picture files of a folder, a list or a table, with what tells whether they have changed since."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagelab.errors import InvalidValueError
from imagelab.imagefiles import checked_path, decode_image, read_image_bytes
from imagelab.reference_pictures import IMAGE_SUFFIXES
from imagelab.rgb import Rgb, to_rgb

FILE_COLUMN = "file"
FILES = "files"  # the source that isn't a folder
_SOURCES = f"a folder of pictures, a list of files, or a table with a column {FILE_COLUMN!r}"


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureFile:
    """A file as it was when it was listed."""

    name: str  # relative to the folder that was listed, else as it was given; text, whatever bytes the name has
    path: Path
    size_bytes: int | None  # None: there is no such file
    mtime_ns: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureList:
    """What there is to look at."""

    source: str  # the folder, or FILES
    files: tuple[PictureFile, ...]  # a folder's by name, else in the order given; each once
    skipped: int  # files of the folder that aren't named like pictures
    recursive: bool = False  # whether the folders in it were looked into

    @property
    def is_folder(self) -> bool:
        """Say whether a folder was listed, whose files may all have been replaced."""
        return self.source != FILES


def list_pictures(source: Any, *, recursive: bool = False, leave_out: Path | None = None) -> PictureList:
    """List the files of a folder (`recursive`: and of those in it), a list of files, or a DataFrame's column `file`.

    In a folder, what doesn't end in .png, .jpg, .jpeg or .webp is counted and left out, and what is hidden isn't looked
    at; nor is `leave_out`, the file that is going to be written. What is listed by name stays, whatever it is. Raises
    InvalidValueError for any other source, and for one without a picture.
    """
    if isinstance(source, str | os.PathLike):
        return _of_folder(checked_path(source, "source"), recursive=recursive, leave_out=leave_out)
    if hasattr(source, "columns"):
        if FILE_COLUMN not in source.columns:
            raise InvalidValueError("source", list(source.columns), f"a table with a column {FILE_COLUMN!r}")
        source = source[FILE_COLUMN]
    if not isinstance(source, Iterable):
        raise InvalidValueError("source", source, _SOURCES)
    names = dict.fromkeys(checked_path(name, "source") for name in source)
    if not names:
        raise InvalidValueError("source", 0, "at least one file")
    return PictureList(source=FILES, files=tuple(_look_at(path, path) for path in names), skipped=0)


def _of_folder(folder: Path, *, recursive: bool, leave_out: Path | None) -> PictureList:
    if not folder.is_dir():
        raise InvalidValueError("source", str(folder), _SOURCES)
    own = leave_out and leave_out.absolute()  # links aren't followed: one may lead to itself
    found = [path for path in _walk(folder, recursive=recursive) if path.absolute() != own]
    pictures = sorted(path for path in found if path.suffix.lower() in IMAGE_SUFFIXES)
    skipped = len(found) - len(pictures)
    if not pictures:
        raise InvalidValueError("source", str(folder), f"a folder with pictures in it ({skipped} other files)")
    files = tuple(_look_at(path, path.relative_to(folder)) for path in pictures)
    return PictureList(source=as_text(folder.resolve()), files=files, skipped=skipped, recursive=recursive)


def _walk(folder: Path, *, recursive: bool) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):  # it doesn't follow links, which may lead in circles
        folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
        yield from (Path(place, name) for name in files if not name.startswith("."))


def _look_at(path: Path, name: Path) -> PictureFile:
    try:
        found = path.stat()
    except OSError:
        return PictureFile(name=as_text(name), path=path, size_bytes=None, mtime_ns=None)
    return PictureFile(name=as_text(name), path=path, size_bytes=found.st_size, mtime_ns=found.st_mtime_ns)


class PictureReading:
    """A picture file that is read once: what is hashed and what is seen are the same bytes.

    `decode` is called by the thread that looks for faces; then `sha256` is there, for a file that could be read, and
    `pixels`, where they are to be kept.
    """

    __slots__ = ("_keep_pixels", "file", "pixels", "sha256")

    def __init__(self, file: PictureFile, *, keep_pixels: bool = False) -> None:
        self.file = file
        self.sha256: str | None = None
        self.pixels: Rgb | None = None
        self._keep_pixels = keep_pixels

    def decode(self) -> Rgb:
        """Return the picture as `to_rgb`; raises ImageFileError, and InvalidValueError for a mode without black."""
        data = read_image_bytes(self.file.path)
        self.sha256 = hashlib.sha256(data).hexdigest()
        rgb = to_rgb(decode_image(data, self.file.path))
        if self._keep_pixels:
            self.pixels = rgb
        return rgb


def as_text(path: str | Path) -> str:
    """Return a path, or what is said of one, as text that a table can hold: Linux lets names be any bytes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
