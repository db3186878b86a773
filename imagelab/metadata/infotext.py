"""A1111's `parameters` text: the prompt, the negative prompt, and one line of settings. Text in, text out.

The form is that of AUTOMATIC1111's `create_infotext` and `parse_generation_parameters`; Civitai's reader
(`automatic.metadata.ts`) asks for a little more, which is said where it is done.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from imagelab.records import Record

NEGATIVE = "Negative prompt:"
_MIN_SETTINGS = 3  # a last line with fewer belongs to the prompt
# A1111's own is `\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)`. This one finds the same, but takes linear time
# for a megabyte of letters without a colon: it begins at the first letter of a run and never goes back into one.
_SETTING = re.compile(r'(?<![\w \-/])[ \-/]*+(\w[\w \-/]++):\s*+("(?:\\.|[^\\"])++"(?=,|$)|[^,]*+)(?:,|$)')
_HASHES = re.compile(r", Hashes:\s*+(\{[^{}]+\})")
# What readers would take for the beginning of another part. In small letters it means the same to CLIP's text encoders,
# whose tokenizer knows no capitals.
_MARKS = re.compile(r"Negative prompt:|^(?:Steps|Template|Negative Template): ", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Infotext(Record):
    """What A1111's text says."""

    prompt: str = ""
    negative_prompt: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)  # {"Steps": "30", ...} in the order of the line
    hashes: Mapping[str, str] = field(default_factory=dict)  # {"model": 10 hex digits, "lora:name": ...}, for Civitai


def format_infotext(infotext: Infotext) -> str:
    r"""Write A1111's text; empty settings are left out, and prompts are written as `tidy_prompt` returns them.

    >>> format_infotext(Infotext(prompt="a boy", settings={"Steps": "30", "Sampler": "Euler", "Model": "a, b"}))
    'a boy\nSteps: 30, Sampler: Euler, Model: "a, b"'
    """
    prompt, negative = tidy_prompt(infotext.prompt), tidy_prompt(infotext.negative_prompt)
    # A1111 writes a bare `key` where the value is the same word, which its own reader then doesn't see.
    line = ", ".join(f"{key}: {quote(value)}" for key, value in infotext.settings.items() if value)
    if infotext.hashes:  # unquoted and last: how Civitai's own extension appends it, and how its reader finds it
        line += f", Hashes: {json.dumps(dict(infotext.hashes))}"
    return "\n".join(part for part in (prompt, f"{NEGATIVE} {negative}" if negative else "", line) if part)


def parse_infotext(text: str) -> Infotext:
    """Read A1111's text; whatever isn't a line of settings is prompt, so every text can be read."""
    *lines, last = text.strip().split("\n")
    last, hashes = _take_hashes(last)
    found = _SETTING.findall(last)
    if len(found) < _MIN_SETTINGS:
        prompt, negative = _prompts(text.strip().split("\n"))
        return Infotext(prompt=prompt, negative_prompt=negative)
    settings = {key: unquote(value) for key, value in found}
    prompt, negative = _prompts(lines)
    return Infotext(prompt=prompt, negative_prompt=negative, settings=settings, hashes=hashes)


def _prompts(lines: list[str]) -> tuple[str, str]:
    positive: list[str] = []
    negative: list[str] = []
    part = positive
    for line in (line.strip() for line in lines):
        if line.startswith(NEGATIVE):
            part = negative
        part.append(line.removeprefix(NEGATIVE).strip())
    return "\n".join(positive).lstrip("\n"), "\n".join(negative).lstrip("\n")


def _take_hashes(line: str) -> tuple[str, dict[str, str]]:
    found = _HASHES.search(line)
    if not found:
        return line, {}
    try:
        hashes = json.loads(found[1])
    except ValueError:
        return line, {}
    return line[: found.start()] + line[found.end() :], {key: str(value) for key, value in hashes.items()}


def quote(value: str) -> str:
    """Write a value as A1111 does: as a JSON string where it holds a comma, a colon or a line break.

    So are values that would otherwise not come back: those that begin with a quotation mark or with white space.
    """
    needs_it = any(mark in value for mark in ",\n:") or value[:1] == '"' or value != value.strip()
    return json.dumps(value, ensure_ascii=False) if needs_it else value


def unquote(value: str) -> str:
    """Undo `quote`; what only looks quoted stays as it is."""
    if len(value) < 2 or value[0] != '"' or value[-1] != '"':
        return value
    try:
        return str(json.loads(value))
    except ValueError:
        return value


def tidy_prompt(text: str) -> str:
    """Return a prompt as the text can hold it: lines without white space around them, and no word that begins a part.

    >>> tidy_prompt("a boy, Negative prompt: none ")
    'a boy, negative prompt: none'
    """
    written = text.replace("\0", "").encode("utf-8", "replace").decode()  # half of a surrogate pair becomes "?"
    stripped = "\n".join(line.strip() for line in written.split("\n")).strip()
    return _MARKS.sub(lambda mark: mark[0].lower(), stripped)
