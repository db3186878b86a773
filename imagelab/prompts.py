"""Prompts as text: weights in A1111 notation, and the sentence that asks for a character in a scene."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/Features#attentionemphasis
_FACTOR = {"(": 1.1, "[": 1 / 1.1}
_OPENING = {")": "(", "]": "["}
BREAK = "BREAK"  # where the encoders begin a new chunk
_TOKEN = re.compile(
    r"""
    (?P<escaped> \\[()\[\]\\]? )
  | (?P<open> [(\[] )
  | :\s*(?P<weight> [+-]?(?:\d+\.?\d*|\.\d+) )\s*\)
  | (?P<close> [)\]] )
  | (?P<text> [^\\()\[\]:]+ | : )
    """,
    re.VERBOSE | re.DOTALL,
)


def parse_weighted(text: str) -> tuple[tuple[str, float], ...]:
    r"""Split a prompt into pieces of one weight each, in A1111 notation.

    `(word)` weighs 1.1, `[word]` 1/1.1, `(word:1.5)` 1.5; brackets in brackets multiply; `\(` is a bracket. As in
    A1111, a bracket that is never closed acts to the end, one that was never opened is text, round and square ones may
    cross, any other backslash is dropped, and BREAK is a piece by itself.

    >>> parse_weighted("a (red:1.5) hat")
    (('a ', 1.0), ('red', 1.5), (' hat', 1.0))
    """
    pieces: list[tuple[str, float]] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}  # the number of pieces before each open bracket
    for match in _TOKEN.finditer(text):
        opening = _OPENING.get(match[0][-1], "")
        if match["open"]:
            opened[match[0]].append(len(pieces))
        elif (match["weight"] or match["close"]) and opened[opening]:
            start = opened[opening].pop()
            pieces[start:] = _scaled(pieces[start:], float(match["weight"] or _FACTOR[opening]))
        elif match["escaped"]:
            pieces.append((match[0][1:], 1.0))
        else:
            pieces += [(part, 1.0) for part in re.split(rf"\s*\b({BREAK})\b\s*", match[0])]
    for bracket, starts in opened.items():
        for start in starts:
            pieces[start:] = _scaled(pieces[start:], _FACTOR[bracket])
    return tuple(_merged(pieces)) or (("", 1.0),)


def _scaled(pieces: Iterable[tuple[str, float]], factor: float) -> list[tuple[str, float]]:
    return [(text, weight * factor) for text, weight in pieces]


def _merged(pieces: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    merged: list[tuple[str, float]] = []
    for text, weight in pieces:
        if text and merged and merged[-1][1] == weight and BREAK not in (text, merged[-1][0]):
            merged[-1] = (merged[-1][0] + text, weight)
        elif text:
            merged.append((text, weight))
    return merged


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """What to draw and what to keep away from."""

    positive: str
    negative: str


def build_prompt(
    *,
    scene: str,
    triggers: Sequence[str] = (),
    description: str = "",
    style: str = "",
    quality_words: str = "",
    negatives: Sequence[str] = (),
) -> Prompt:
    """Put the parts of a prompt into the order in which the encoders weigh them: who, what, how.

    A phrase that an earlier part has said isn't repeated.

    >>> build_prompt(triggers=["luca"], description="brown eyes", scene="Luca, on the beach").positive
    'luca, brown eyes, on the beach'
    """
    return Prompt(
        positive=join_phrases(*triggers, description, scene, style, quality_words), negative=join_phrases(*negatives)
    )


def join_phrases(*texts: str) -> str:
    """Join comma-separated phrases, each one once; case and spaces don't tell two phrases apart.

    What comes after a BREAK may say again what came before it. A bracket that a text leaves open is closed at its end,
    so that it doesn't weigh the texts after it.

    >>> join_phrases("a cat, (red, big:1.2)", "A  cat, hat :(", "sea")
    'a cat, (red, big:1.2), hat :(), sea'
    """
    kept: list[str] = []
    said: set[str] = set()
    for phrase in (" ".join(phrase.split()) for text in texts for phrase in _split_phrases(text)):
        if re.search(rf"\b{BREAK}\b", phrase):
            said.clear()
            kept.append(phrase)
        elif phrase and phrase.casefold() not in said:
            kept.append(phrase)
            said.add(phrase.casefold())
    return ", ".join(kept)


def _split_phrases(text: str) -> list[str]:
    """Split at the commas that stand outside of all brackets, and close the brackets that are left open."""
    phrases, depth = [""], {"(": 0, "[": 0}
    for part in re.findall(r"\\[()\[\]\\]?|.", text, re.DOTALL):
        if part in depth:
            depth[part] += 1
        elif part in _OPENING:
            depth[_OPENING[part]] = max(0, depth[_OPENING[part]] - 1)
        if part == "," and not any(depth.values()):
            phrases.append("")
        elif part != "\\":  # which would escape the bracket that closes
            phrases[-1] += part
    phrases[-1] += ")" * depth["("] + "]" * depth["["]
    return phrases
