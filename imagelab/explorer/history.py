"""What was drawn so far, what became of it, and who decided that."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from imagelab.errors import InvalidValueError
from imagelab.explorer.settings import Settings
from imagelab.results import Generation, Verdict
from imagelab.whole_file import whole_file

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

Decision = Literal["accepted", "rejected", "unscorable"]
DecidedBy = Literal["automatic", "by hand"]
_COLUMNS = ("number", "character", "scene", "quality_preset", "seed", "similarity", "threshold", "status")
_THUMBNAIL_PX = 128


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
    """The pictures in the order in which they were drawn; with a `folder`, its history.json follows every change."""

    folder: Path | None = None
    _entries: dict[int, Entry] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(tuple(self._entries.values()))

    def __getitem__(self, number: int) -> Entry:
        if number not in self._entries:
            raise InvalidValueError(
                "picture", number, f"a number from 1 to {len(self)}" if len(self) else "drawn first"
            )
        return self._entries[number]

    def add(self, entry: Entry) -> None:
        """Put a picture at the end, or in the place of the one of its number."""
        self._entries[entry.number] = entry
        self._write()

    def decide(self, number: int, decision: Decision) -> Entry:
        """Let a person's decision stand in place of the automatic one; raises InvalidValueError for the number."""
        decided = replace(self[number], decision=decision, decided_by="by hand")
        self.add(decided)
        return decided

    def to_frame(self) -> "pd.DataFrame":
        """Return a row per picture, with its decision and who made it."""
        import pandas as pd  # slow to import, and only notebooks want tables

        return pd.DataFrame([entry.to_row() for entry in self], columns=None if len(self) else list(_COLUMNS))

    def _write(self) -> None:
        if self.folder is None:
            return
        text = json.dumps([entry.to_row() for entry in self], indent=1, ensure_ascii=False)
        with whole_file(self.folder / "history.json") as stream:
            stream.write(text.encode())
