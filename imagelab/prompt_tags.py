"""LoRAs that a prompt asks for: A1111's `<lora:name:weight>`, with the keys of its block-weight extension."""

import re
from collections.abc import Sequence

from imagelab.checks import check_number
from imagelab.config import blocks
from imagelab.errors import InvalidValueError, UnknownNameError
from imagelab.results import LoraUse

_TAG = re.compile(r"<\s*(?:lora|lyco|hypernet)\b[^<>]*>?", re.IGNORECASE)
_KEYS = {"te": "text_encoder_weight", "unet": "weight", "lbw": "blocks", "start": "start", "stop": "stop"}
_FORM = "<lora:name>, <lora:name:weight> or <lora:name:te:unet>, then any of te= unet= lbw= start= stop="


def take_lora_tags(text: str) -> tuple[str, tuple[LoraUse, ...]]:
    """Take the LoRA tags out of a prompt and return the rest and what they ask for.

    One weight is for the UNet and the text encoders, two are A1111's `te:unet`; the name alone leaves both to the
    registry. `te=` and `unet=` name them, and one given alone is for both. `lbw=` takes a preset's name, 12 or 20
    weights, `start=` and `stop=` fractions of the steps (the extension counts steps: its 10 of 20 is 0.5 here).

    Raises InvalidValueError with the tag's text, or UnknownNameError for a misspelt key or preset. The names of the
    LoRAs are looked up later.

    >>> take_lora_tags("on the beach, <lora:luca:0.8:start=0.2>, waving")[0]
    'on the beach, waving'
    """
    return without_lora_tags(text), tuple(_parse(tag) for tag in _TAG.findall(text))


def without_lora_tags(text: str) -> str:
    """Return a prompt without its LoRA tags, whatever stands in them."""
    if not _TAG.search(text):
        return text
    rest = re.sub(r"[\s,]*,", ",", _TAG.sub(" ", text))  # the tag's own comma goes with it
    return " ".join(rest.split()).strip(" ,")


def refuse_lora_tags(text: str, place: str) -> None:
    """Raise InvalidValueError if there is a LoRA tag in a text that isn't searched for them."""
    if found := _TAG.search(text):
        raise InvalidValueError(place, found[0], "without LoRA tags, which stand in the scene_description")


def _parse(tag: str) -> LoraUse:
    found = re.fullmatch(r"<lora:([^:=<>]+)((?::[^:<>]+)*)>", tag)
    if not found:
        raise InvalidValueError("LoRA tag", tag, _FORM)
    parts = [part.strip() for part in found[2].split(":")[1:]]
    positional = [part for part in parts if "=" not in part]
    if len(positional) > 2 or parts[: len(positional)] != positional:
        raise InvalidValueError("LoRA tag", tag, _FORM)
    named = dict(zip(("te", "unet") if len(positional) == 2 else ("unet",), positional, strict=False))
    for key, value in (part.split("=", 1) for part in parts[len(positional) :]):
        if key not in _KEYS:
            raise UnknownNameError(f"key of {tag}", key, tuple(_KEYS))
        if key in named:
            raise InvalidValueError("LoRA tag", tag, f"with {key} given once")
        named[key] = value
    return _use(tag, found[1].strip(), named)


def _use(tag: str, name: str, named: dict[str, str]) -> LoraUse:
    numbers = {key: _number(tag, key, value) for key, value in named.items() if key != "lbw"}
    if "te" in numbers:
        numbers.setdefault("unet", numbers["te"])  # A1111's rule; the other way round LoraUse has it
    given = {_KEYS[key]: value for key, value in numbers.items()}
    return LoraUse(name=name, blocks=_blocks(tag, named["lbw"]) if "lbw" in named else None, **given)


def _number(tag: str, key: str, value: str) -> float:
    smallest, largest = (0.0, 1.0) if key in {"start", "stop"} else (-2.0, 2.0)
    unit = ", a fraction of the steps," if key in {"start", "stop"} else ""
    try:
        return check_number(float(value), key, smallest, largest)
    except ValueError as error:  # InvalidValueError is one
        expected = f"with {key}{unit} a number between {smallest:g} and {largest:g}"
        raise InvalidValueError("LoRA tag", tag, expected) from error


def _blocks(tag: str, value: str) -> tuple[float, ...] | str:
    if value in blocks.PRESETS:
        return value
    items: Sequence[str] = value.split(",")
    if len(items) == 1:
        raise UnknownNameError(f"preset of block weights in {tag}", value, tuple(blocks.PRESETS))
    try:
        return blocks.block_weights([float(item) for item in items])
    except InvalidValueError as error:
        raise InvalidValueError("LoRA tag", tag, f"with lbw {error.expected}") from error
    except ValueError as error:
        raise InvalidValueError("LoRA tag", tag, "with numbers in lbw") from error
