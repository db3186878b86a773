"""What strangers write where a number, a text or JSON should stand: read it if it is one, and None if it isn't."""

import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

from imagelab.records import check_depth

_SIZE = re.compile(r"\(?'?([0-9]{1,6})'?\s*[x×*,]\s*'?([0-9]{1,6})'?\)?")


def plain_number(value: float) -> str:
    """Write a number without an exponent, which Civitai's pattern doesn't know, and so that it comes back the same.

    >>> plain_number(7.0), plain_number(1e-05)
    ('7', '0.00001')
    """
    return format(Decimal(repr(float(value))), "f").removesuffix(".0")


def to_number(value: object) -> float | None:
    """Read a number, None for what isn't one, NaN and infinities among it."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def to_whole(value: object) -> int | None:
    """Read a whole number, None for what isn't one."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value  # a seed of 64 bits is more than a float holds
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,30}", value.strip()):
        return int(value)
    number = to_number(value)
    return int(number) if number is not None and number.is_integer() else None


def to_text(value: object) -> str | None:
    """Return a text, None for what isn't one."""
    return value if isinstance(value, str) else None


def to_size(width: object, height: object) -> tuple[int, int] | None:
    """Return (width, height), None where either is missing."""
    both = to_whole(width), to_whole(height)
    return None if both[0] is None or both[1] is None else (both[0], both[1])


def read_size(text: object) -> tuple[int, int] | None:
    """Read `1024x768`, Fooocus's `(1024, 768)` and the like; None for what isn't a size.

    >>> read_size("1024x768"), read_size("(1024, 768)"), read_size("large")
    ((1024, 768), (1024, 768), None)
    """
    found = _SIZE.fullmatch(text.strip()) if isinstance(text, str) else None
    return (int(found[1]), int(found[2])) if found else None


def to_mapping(value: object) -> Mapping[str, Any]:
    """Return a mapping, an empty one for what isn't one."""
    return value if isinstance(value, dict) else {}


def to_list(value: object) -> list[Any]:
    """Return a list, an empty one for what isn't one."""
    return value if isinstance(value, list) else []


def load_json(text: str) -> Any:
    """Return what a JSON text holds; raises ValueError also for one whose nesting could exhaust the stack later on.

    Unlike `records.parse_json`, for files of our own, it takes NaN and infinities, which ComfyUI writes.
    """
    check_depth(text)
    return json.loads(text)


def read_mapping(text: str) -> Mapping[str, Any]:
    """Return the mapping that a JSON text holds, an empty one for other texts; ComfyUI writes NaN into it."""
    if text.lstrip()[:1] != "{":
        return {}
    try:
        return to_mapping(load_json(text))
    except ValueError:
        return {}


def file_stem(name: str | None) -> str | None:
    r"""Return a model's name without its folders, of either system, and without its suffix.

    >>> file_stem("sdxl\\luca.v1.safetensors")
    'luca.v1'
    """
    if name is None:
        return None
    path = PurePosixPath(name.replace("\\", "/"))
    return path.stem if path.suffix in {".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".sft"} else path.name
