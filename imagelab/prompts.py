"""Prompts as text: weights in A1111 notation, and the sentence that asks for a character in a scene."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/Features#attentionemphasis
_ROUND = 1.1
_SQUARE = 1 / 1.1
_TOKEN = re.compile(
    r"""
    (?P<escaped> \\[()\[\]\\] )
  | (?P<open> [(\[] )
  | :\s*(?P<weight> [+-]?(?:\d+\.?\d*|\.\d+) )\s*\)
  | (?P<close> [)\]] )
  | (?P<text> [^\\()\[\]:]+ | . )
    """,
    re.VERBOSE | re.DOTALL,
)


def parse_weighted(text: str) -> tuple[tuple[str, float], ...]:
    r"""Split a prompt into pieces of one weight each, in A1111 notation.

    `(word)` weighs 1.1, `[word]` 1/1.1, `(word:1.5)` 1.5; brackets in brackets multiply; `\(` is a bracket. As in
    A1111, a bracket that is never closed acts to the end, and one that was never opened is text.

    >>> parse_weighted("a (red:1.5) hat")
    (('a ', 1.0), ('red', 1.5), (' hat', 1.0))
    """
    pieces: list[tuple[str, float]] = []
    open_brackets: list[tuple[str, int]] = []  # and the number of pieces before each
    for match in _TOKEN.finditer(text):
        opening = {")": "(", "]": "["}.get(match[0][-1])
        if match["open"]:
            open_brackets.append((match[0], len(pieces)))
        elif (match["weight"] or match["close"]) and open_brackets and open_brackets[-1][0] == opening:
            _, start = open_brackets.pop()
            factor = float(match["weight"] or (_ROUND if opening == "(" else _SQUARE))
            pieces[start:] = _scaled(pieces[start:], factor)
        else:
            pieces.append((match[0][1:] if match["escaped"] else match[0], 1.0))
    for bracket, start in open_brackets:
        pieces[start:] = _scaled(pieces[start:], _ROUND if bracket == "(" else _SQUARE)
    return tuple(_merged(pieces)) or (("", 1.0),)


def _scaled(pieces: Iterable[tuple[str, float]], factor: float) -> list[tuple[str, float]]:
    return [(text, weight * factor) for text, weight in pieces]


def _merged(pieces: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    merged: list[tuple[str, float]] = []
    for text, weight in pieces:
        if merged and merged[-1][1] == weight:
            merged[-1] = (merged[-1][0] + text, weight)
        else:
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

    >>> join_phrases("a cat, (red, big:1.2)", "A  cat, hat")
    'a cat, (red, big:1.2), hat'
    """
    phrases = [" ".join(phrase.split()) for text in texts for phrase in _split_phrases(text)]
    first = {phrase.casefold(): phrase for phrase in reversed(phrases) if phrase}
    return ", ".join(dict.fromkeys(first[phrase.casefold()] for phrase in phrases if phrase))


def _split_phrases(text: str) -> list[str]:
    """Split at the commas that stand outside of all brackets."""
    phrases, depth = [""], 0
    for part in re.findall(r"\\.|.", text, re.DOTALL):
        depth = max(0, depth + (part in "([") - (part in ")]"))
        if part == "," and depth == 0:
            phrases.append("")
        else:
            phrases[-1] += part
    return phrases
