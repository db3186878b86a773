"""The table that a check of many pictures grows: in parts, so that a kill loses one at most, and one file at the end.

Every file of it says in its metadata what the check was asked for; rows that were made otherwise are never mixed in.
Rows are kept as Arrow columns, some 400 bytes each: as Python objects, ten thousand would take 30 MB.
"""

import os
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from filelock import FileLock, Timeout

from imagelab.differences import leaves
from imagelab.encoders.base import EncoderId
from imagelab.errors import InvalidValueError
from imagelab.faces import FaceEncoderId, FaceLimits
from imagelab.imagefiles import checked_path
from imagelab.records import Record
from imagelab.whole_file import whole_file

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 2  # 1 judged pictures without a face, and knew no copies of references
QUALITY_COLUMNS = (
    "detector_score", "face_px", "visible_fraction", "sharpness", "yaw_degrees", "pitch_degrees", "roll_degrees",
)  # fmt: skip
_METADATA_KEY = b"imagelab_check"
_SHA256 = re.compile(r"[0-9a-f]{64}")

Row = dict[str, Any]


class FileState(NamedTuple):
    """What the file of a row was when it was looked at."""

    size_bytes: int | None
    mtime_ns: int | None
    sha256: str | None  # None: it couldn't be read


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckParameters(Record):
    """What a row depends on, besides its picture."""

    source: str
    encoder: FaceEncoderId
    providers: tuple[str, ...]
    several: str
    limits: FaceLimits
    thresholds: Mapping[str, float]  # {character: cosine}
    references: Mapping[str, str]  # {character: CharacterReferences.references_sha256}
    calibrations: Mapping[str, str]  # {character: which one its threshold is of}; without those that are configured
    encoders: Mapping[str, EncoderId] = field(default_factory=dict)  # that only add scores, by name
    recursive: bool = False
    schema_version: int = SCHEMA_VERSION

    def changes(self, now: "CheckParameters") -> tuple[str, ...]:
        """Name what is another in `now`, and what it was; hashes by their first 8 digits."""
        ours, theirs = ({**one.thresholds, **one.encoders} for one in (self, now))
        said = [f"the table was made without {name}" for name in theirs if name not in ours]
        said += [f"the table was made with {name}" for name in ours if name not in theirs]
        was, new = leaves(self.to_dict()), leaves(now.to_dict())
        differing = [name for name in dict.fromkeys([*was, *new]) if was.get(name) != new.get(name)]
        about = tuple(f".{name}." for name in ours.keys() ^ theirs.keys())  # of which all that there is to say is said
        rest = [name for name in differing if not any(one in f"{name}." for one in about)]
        return (*said, *(f"{name} was {_brief(was.get(name))}, is {_brief(new.get(name))}" for name in rest))


class CheckTable:
    """The rows of one check, on disk; a context manager, which keeps a second process away from them.

    Raises InvalidValueError for names that make two columns of one name; on entering for a file that holds something
    else, rows that other parameters made, or a place that can't be written or is in use.
    """

    def __init__(self, path: str | os.PathLike[str], parameters: CheckParameters) -> None:
        self.path: Path = check_table_path(path)
        self.parameters = parameters
        self.known: dict[str, FileState] = {}  # {file: what its row is about}, of rows that there were before
        self._schema = _schema(parameters)
        self._rows: list[pa.Table] = []  # a later one is the newer look at a file
        self._folder = self.path.with_name(f".{self.path.name}.parts")
        self._lock = FileLock(self._folder / "lock", timeout=0)
        self._parts = 0

    def __enter__(self) -> Self:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except OSError as error:  # a Timeout is one
            why = "another check writes it" if isinstance(error, Timeout) else error.strerror or str(error)
            raise InvalidValueError("output", str(self.path), f"a file that can be written ({why})") from error
        try:
            self._read()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        if not self._parts:
            shutil.rmtree(self._folder, ignore_errors=True)  # while it is still ours
        self._lock.release()

    def append(self, rows: Sequence[Row]) -> None:
        """Add rows, at once on disk: whatever happens next, they are there."""
        import pyarrow as pa

        part = pa.Table.from_pylist(list(rows), schema=self._schema)
        self._write(part, self._folder / f"{self._parts:06d}.parquet")
        self._parts += 1
        self._rows.append(part)

    def finish(self, mtimes_ns: Mapping[str, int | None]) -> "pa.Table":
        """Put the rows of these files, {file: time}, and no others, in this order under the table's own name.

        Each row names the first file of the same bytes. Returns the table; the parts aren't needed any more.
        """
        import pyarrow as pa

        rows = pa.concat_tables(self._rows)
        latest = {file: place for place, file in enumerate(rows["file"].to_pylist())}
        rows = rows.take(pa.array([latest[file] for file in mtimes_ns], pa.int64()))
        rows = _replace(rows, "mtime_ns", list(mtimes_ns.values()))  # of a copy, it is another than its row's
        rows = _replace(rows, "duplicate_of", _originals(rows["file"].to_pylist(), rows["sha256"].to_pylist()))
        self._write(rows, self.path)
        self._parts = 0  # the folder goes when the table is closed
        return rows

    def _read(self) -> None:
        for scratch in self._folder.glob("*.tmp"):  # of a process that was killed
            scratch.unlink()
        parts = sorted(self._folder.glob("*.parquet"))
        self._parts = int(parts[-1].stem) + 1 if parts else 0
        for path in [self.path, *parts]:  # a later part is the newer look at a file
            if path.exists():
                rows = self._checked_rows(path)
                columns = (rows[name].to_pylist() for name in FileState._fields)
                self.known.update(zip(rows["file"].to_pylist(), map(FileState, *columns), strict=True))
                self._rows.append(rows)

    def _checked_rows(self, path: Path) -> "pa.Table":
        table, parameters = read_check_table(path)
        if changed := parameters.changes(self.parameters):
            place = path if path == self.path else self._folder  # a part of many
            expected = f"of the same check, or another file, or none: remove {place} ({'; '.join(changed)})"
            raise InvalidValueError("output", str(self.path), expected)
        return table

    def _write(self, rows: "pa.Table", path: Path) -> None:
        from pyarrow import parquet

        known = {**self._schema.metadata, _METADATA_KEY: self.parameters.to_json().encode()}
        rows = rows.replace_schema_metadata(known)
        try:
            with whole_file(path, scratch_folder=self._folder) as stream:
                parquet.write_table(rows, stream)
        except OSError as error:
            expected = f"a file that can be written ({error.strerror or error})"
            raise InvalidValueError("output", str(self.path), expected) from error


def check_table_path(path: str | os.PathLike[str]) -> Path:
    """Return where a table can be; raises InvalidValueError."""
    checked = checked_path(path, "output")
    if checked.suffix != ".parquet" or checked.is_dir():
        raise InvalidValueError("output", str(checked), "a file's path that ends in .parquet")
    return checked


def read_check_table(path: Path) -> "tuple[pa.Table, CheckParameters]":
    """Return a check's table and what it was asked for; raises InvalidValueError for any other file."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path, partitioning=None)
        return table, CheckParameters.from_json((table.schema.metadata or {})[_METADATA_KEY].decode())
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise InvalidValueError("output", str(path), "a table of a check, or no file yet") from error


def _schema(parameters: CheckParameters) -> "pa.Schema":
    import pyarrow as pa

    schema = pa.schema(
        [
            ("file", pa.string()),
            ("size_bytes", pa.int64()),
            ("mtime_ns", pa.int64()),
            ("sha256", pa.string()),
            ("duplicate_of", pa.string()),
            ("status", pa.string()),
            ("reason", pa.string()),
            ("faces", pa.int64()),
            *((column, pa.float64()) for column in QUALITY_COLUMNS),
            ("encoder", pa.string()),
            *(
                (f"{column}_{name}", kind)
                for name in parameters.thresholds
                for column, kind in (
                    ("score", pa.float64()),
                    ("threshold", pa.float64()),
                    ("consistent", pa.bool_()),
                    ("calibrated", pa.bool_()),
                    ("copy_of_reference", pa.string()),
                )
            ),
            *(
                (score_column(character, encoder), pa.float64())
                for encoder in parameters.encoders
                for character in parameters.thresholds
            ),
        ]
    )
    if twice := [name for name, count in Counter(schema.names).items() if count > 1]:
        raise InvalidValueError("columns", twice, "each of another name: check the characters or the encoders apart")
    return schema.with_metadata(_for_pandas(schema))


def _for_pandas(schema: "pa.Schema") -> dict[bytes, bytes]:
    """Return the metadata by which pandas reads verdicts as its `boolean`, which may be null and is a mask still."""
    import pandas as pd
    import pyarrow as pa

    empty = schema.empty_table().to_pandas(types_mapper={pa.bool_(): pd.BooleanDtype()}.get)
    metadata: dict[bytes, bytes] = pa.Schema.from_pandas(empty, preserve_index=False).metadata
    return metadata


def score_column(character: str, encoder: str | None = None) -> str:
    """Return the name of the column of a character's scores, by ArcFace or by another encoder.

    >>> score_column("luca"), score_column("luca", "clip")
    ('score_luca', 'score_clip_luca')
    """
    return f"score_{character}" if encoder is None else f"score_{encoder}_{character}"


def _replace(rows: "pa.Table", name: str, values: Sequence[Any]) -> "pa.Table":
    import pyarrow as pa

    place = rows.schema.get_field_index(name)
    kind = rows.schema.field(place)
    return rows.set_column(place, kind, pa.array(values, kind.type))


def _originals(files: Sequence[str], hashes: Sequence[str | None]) -> list[str | None]:
    """Return for each file the first one of the same bytes, None for that one itself."""
    first: dict[str, str] = {}
    pairs = list(zip(files, hashes, strict=True))
    originals = [file if sha256 is None else first.setdefault(sha256, file) for file, sha256 in pairs]
    return [None if original == file else original for file, original in zip(files, originals, strict=True)]


def _brief(value: object) -> object:
    """Return a value as a message shows it: of a sha256 the first digits."""
    return value[:8] if isinstance(value, str) and _SHA256.fullmatch(value) else value
