"""The table that a check of many pictures grows: in parts, so that a kill loses one at most, and one file at the end.

Every file of it says in its metadata what the check was asked for; rows that were made otherwise are never mixed in.
"""

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from imagelab.errors import InvalidValueError
from imagelab.faces import FaceEncoderId, FaceLimits
from imagelab.imagefiles import checked_path
from imagelab.results import Record
from imagelab.whole_file import whole_file

SCHEMA_VERSION = 1
QUALITY_COLUMNS = (
    "detector_score", "face_px", "visible_fraction", "sharpness", "yaw_degrees", "pitch_degrees", "roll_degrees",
)  # fmt: skip
_METADATA_KEY = b"imagelab_check"

Row = dict[str, Any]


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
    schema_version: int = SCHEMA_VERSION

    def changes(self, now: "CheckParameters") -> tuple[str, ...]:
        """Name what is another in `now`, and what it was."""
        was, new = _flat(self.to_dict()), _flat(now.to_dict())
        names = dict.fromkeys([*was, *new])
        return tuple(f"{n} was {was.get(n)}, is {new.get(n)}" for n in names if was.get(n) != new.get(n))


class CheckTable:
    """The rows of one check, on disk; a context manager, which keeps a second process away from them.

    Raises InvalidValueError on entering for a file that holds something else, rows that other parameters made, or a
    place that can't be written or is in use.
    """

    def __init__(self, path: str | os.PathLike[str], parameters: CheckParameters) -> None:
        self.path: Path = check_table_path(path)
        self.parameters = parameters
        self.rows: dict[str, Row] = {}  # {file: its latest row}
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
        self._write(rows, self._folder / f"{self._parts:06d}.parquet")
        self._parts += 1
        self.rows.update((row["file"], row) for row in rows)

    def finish(self, rows: Sequence[Row]) -> None:
        """Put these rows, and no others, under the table's own name; the parts aren't needed any more."""
        self._write(rows, self.path)
        self._parts = 0  # the folder goes when the table is closed

    def _read(self) -> None:
        for scratch in self._folder.glob("*.tmp"):  # of a process that was killed
            scratch.unlink()
        parts = sorted(self._folder.glob("*.parquet"))
        self._parts = int(parts[-1].stem) + 1 if parts else 0
        for path in [self.path, *parts]:  # a later part is the newer look at a file
            if path.exists():
                self.rows.update((row["file"], row) for row in self._checked_rows(path))

    def _checked_rows(self, path: Path) -> Iterable[Row]:
        table, parameters = read_check_table(path)
        if changed := parameters.changes(self.parameters):
            expected = f"of the same check, or another file, or none: remove {path} ({'; '.join(changed)})"
            raise InvalidValueError("output", str(self.path), expected)
        rows: list[Row] = table.to_pylist()
        return rows

    def _write(self, rows: Sequence[Row], path: Path) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        schema = _schema(tuple(self.parameters.thresholds))
        schema = schema.with_metadata({_METADATA_KEY: self.parameters.to_json().encode()})
        try:
            with whole_file(path, scratch_folder=self._folder) as stream:
                parquet.write_table(pa.Table.from_pylist(list(rows), schema=schema), stream)
        except OSError as error:
            expected = f"a file that can be written ({error.strerror or error})"
            raise InvalidValueError("output", str(self.path), expected) from error


def check_table_path(path: str | os.PathLike[str]) -> Path:
    """Return where a table can be; raises InvalidValueError."""
    checked = checked_path(path, "output")
    if checked.suffix != ".parquet" or checked.is_dir():
        raise InvalidValueError("output", str(checked), "a file's path that ends in .parquet")
    return checked


def read_check_table(path: Path) -> tuple[Any, CheckParameters]:
    """Return a check's table (pyarrow.Table) and what it was asked for; raises InvalidValueError for any other file."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path, partitioning=None)
        return table, CheckParameters.from_json((table.schema.metadata or {})[_METADATA_KEY].decode())
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise InvalidValueError("output", str(path), "a table of a check, or no file yet") from error


def _schema(characters: Sequence[str]) -> Any:
    import pyarrow as pa

    return pa.schema(
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
                for name in characters
                for column, kind in (
                    ("score", pa.float64()),
                    ("threshold", pa.float64()),
                    ("consistent", pa.bool_()),
                    ("calibrated", pa.bool_()),
                )
            ),
        ]
    )


def _flat(data: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in data.items():
        flat |= _flat(value, f"{place}{name}.") if isinstance(value, Mapping) else {f"{place}{name}": value}
    return flat
