"""What was drawn so far, what became of it, and who decided that."""

import json
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from imagelab.errors import InvalidValueError
from imagelab.explorer.settings import Settings
from imagelab.results import Generation, Verdict
from imagelab.whole_file import read_json, write_text

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

Decision = Literal["accepted", "rejected", "unscorable"]
DecidedBy = Literal["automatic", "by hand"]
_COLUMNS = ("number", "character", "scene", "quality_preset", "seed", "similarity", "threshold", "status")
_THUMBNAIL_PX = 128
_FILE = "history.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One picture of the history."""

    number: int  # counted from 1
    settings: Settings  # with the seed that it was drawn from
    generation: Generation
    verdict: Verdict | None  # None: nobody could judge, and `note` says why
    decision: Decision
    decided_by: DecidedBy = "automatic"
    note: str = ""
    file: Path | None = None

    @property
    def thumbnail(self) -> "Image":
        """Return the picture, at most 128 px a side."""
        small = self.generation.image.copy()
        small.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
        return small

    def to_row(self) -> dict[str, Any]:
        """Return the entry's row of the table, in plain JSON types."""
        verdict = self.verdict
        return {
            "number": self.number,
            "character": self.settings.character,
            "scene": self.settings.scene,
            "quality_preset": self.generation.record.quality_preset,
            "seed": self.generation.record.seed,
            "similarity": verdict.similarity_score if verdict else None,
            "threshold": verdict.threshold if verdict else None,
            "status": verdict.status if verdict else None,
            "decision": self.decision,
            "decided_by": self.decided_by,
            "note": self.note,
            "file": self.file.name if self.file else None,
            "seconds": self.generation.record.seconds.get("total"),
        }


def automatic(verdict: Verdict | None) -> Decision:
    """Return what a verdict alone comes to."""
    if verdict is None or verdict.similarity_score is None:
        return "unscorable"
    return "accepted" if verdict.is_consistent else "rejected"


@dataclass(kw_only=True, slots=True)
class History:
    """The pictures in the order in which they were drawn; with a `folder`, its history.json says the same.

    What an earlier session has left in the folder stays: its rows come first, and its numbers aren't used again. Raises
    InvalidValueError for a history.json that isn't one.
    """

    folder: Path | None = None
    _entries: dict[int, Entry] = field(default_factory=dict)
    _earlier: list[dict[str, Any]] = field(default_factory=list)
    _changing: Any = field(default_factory=threading.RLock)  # it is drawn in one thread and decided in another

    def __post_init__(self) -> None:
        """Read what an earlier session has left."""
        if self.folder is not None:
            self._earlier = _read_rows(self.folder / _FILE)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(tuple(self._entries.values()))

    def __getitem__(self, number: int) -> Entry:
        if number not in self._entries:
            known = ", ".join(map(str, self._entries))
            raise InvalidValueError("picture", number, f"one of this session: {known}" if known else "drawn first")
        return self._entries[number]

    @property
    def next_number(self) -> int:
        """Return the number of the next picture, which no picture in the folder has."""
        there = self.folder.glob("[0-9]*.png") if self.folder else ()
        files = [int(path.stem) for path in there if path.stem.isdecimal()]
        earlier = [int(row["number"]) for row in self._earlier]
        return max([0, *self._entries, *files, *earlier]) + 1

    def add(self, entry: Entry) -> None:
        """Put a picture at the end; `save` writes it down."""
        with self._changing:
            self._entries[entry.number] = entry

    def decide(self, number: int, decision: Decision) -> Entry:
        """Let a person's decision stand in place of the automatic one, and write it down.

        Raises InvalidValueError for the number, for another word than accepted, rejected or unscorable, and where
        history.json can't be written: then nothing is decided.
        """
        if decision not in get_args(Decision):
            raise InvalidValueError("decision", decision, f"one of {', '.join(get_args(Decision))}")
        with self._changing:
            decided = replace(self[number], decision=decision, decided_by="by hand")
            self._write((self._entries | {number: decided}).values())
            self._entries[number] = decided
        return decided

    def save(self) -> None:
        """Write history.json; raises InvalidValueError where that can't be."""
        with self._changing:
            self._write(self._entries.values())

    def to_frame(self) -> "pd.DataFrame":
        """Return a row per picture, with its decision and who made it; those of earlier sessions come first."""
        import pandas as pd  # slow to import, and only notebooks want tables

        rows = self._rows(self)
        return pd.DataFrame(rows, columns=None if rows else list(_COLUMNS))

    def _rows(self, entries: Iterable[Entry]) -> list[dict[str, Any]]:
        return [*self._earlier, *(entry.to_row() for entry in entries)]

    def _write(self, entries: Iterable[Entry]) -> None:
        if self.folder is not None:
            write_text(json.dumps(self._rows(entries), indent=1, ensure_ascii=False), self.folder / _FILE)


def _read_rows(path: Path) -> list[dict[str, Any]]:
    rows = read_json("history", path) if path.exists() else []
    if not isinstance(rows, list) or not all(isinstance(row, dict) and type(row.get("number")) is int for row in rows):
        raise InvalidValueError(_FILE, str(path), "a history: a list of rows with a number each. Move it away")
    return rows
