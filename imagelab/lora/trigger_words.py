"""The words that call a LoRA, each with the place that names it."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagelab.records import Record

MOST_TAGS = 10  # of a training's tags, which can be thousands
_CAPTION_CHARACTERS = 16  # mean length from which A1111 takes tags for sentences


@dataclass(frozen=True, kw_only=True, slots=True)
class TriggerWord(Record):
    """A word, or a phrase without a comma."""

    text: str
    source: str  # "registry", "modelspec.trigger_phrase", a file's name, "ss_tag_frequency"
    count: int | None = None  # how many training pictures had the tag


def find_trigger_words(
    path: Path, metadata: Mapping[str, str], registered: Iterable[str] = ()
) -> tuple[TriggerWord, ...]:
    """List trigger words without repeating any: the registry's, the file's own, those of files beside it, its tags.

    A word that several places name counts for the first of them. What can't be read names none.
    """
    found: dict[str, TriggerWord] = {}
    for word in (
        *_split(registered, "registry"),
        *_split([metadata.get("modelspec.trigger_phrase", "")], "modelspec.trigger_phrase"),
        *_beside(path),
        *_tags(metadata),
    ):
        found.setdefault(word.text.casefold(), word)
    return tuple(found.values())


def _split(phrases: object, source: str) -> Iterator[TriggerWord]:
    for phrase in phrases if isinstance(phrases, Iterable) and not isinstance(phrases, str) else [phrases]:
        for text in phrase.split(",") if isinstance(phrase, str) else ():
            if text.strip():
                yield TriggerWord(text=text.strip(), source=source)


def _beside(path: Path) -> Iterator[TriggerWord]:
    """Read what A1111, civitai's helpers and ComfyUI's Lora-Manager put beside a file."""
    for suffix, where in ((".json", ()), (".civitai.info", ()), (".metadata.json", ("civitai",))):
        sidecar = path.with_suffix(suffix)
        values = _mapping(_read(sidecar))
        for step in where:
            values = _mapping(values.get(step))
        yield from _split(values.get("activation text" if suffix == ".json" else "trainedWords"), sidecar.name)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _tags(metadata: Mapping[str, str]) -> list[TriggerWord]:
    """Return the commonest tags of the training pictures, by A1111's rule for tags that are sentences."""
    counts = _tag_counts(metadata)
    if counts and sum(map(len, counts)) / len(counts) >= _CAPTION_CHARACTERS:
        words: dict[str, int] = {}
        for text, count in counts.items():
            for word in re.findall(r"[-_\w']+", text):
                if len(word) >= 3:
                    words[word] = words.get(word, 0) + count
        counts = words
    commonest = sorted(counts, key=lambda tag: (-counts[tag], tag))[:MOST_TAGS]
    return [TriggerWord(text=tag, source="ss_tag_frequency", count=counts[tag]) for tag in commonest]


def _tag_counts(metadata: Mapping[str, str]) -> dict[str, int]:
    try:
        folders = json.loads(metadata.get("ss_tag_frequency", "{}"))
    except (ValueError, RecursionError):
        return {}
    counts: dict[str, int] = {}
    for tags in _mapping(folders).values():
        for tag, count in _mapping(tags).items():
            if tag.strip() and isinstance(count, int):
                counts[tag.strip()] = counts.get(tag.strip(), 0) + count
    return counts
