"""A1111's LoRA tags, `<lora:name:te:unet:lbw=...>`, as other programs read and write them."""

import math
import re
from collections.abc import Iterable, Mapping

from imagelab.metadata.lenient import plain_number, to_number
from imagelab.metadata.values import LoraMention
from imagelab.results import LoraRecord

_TAG = re.compile(r"<lora:([^:<>]+)((?::[^:<>]*)*)>")


def lora_tag(lora: LoraRecord, steps: int) -> str:
    """Return the tag that asks A1111 for a LoRA.

    Civitai finds the weight in `<lora:name:weight>` with a weight of 0 or more; what that can't say takes A1111's
    longer forms, and those of its block-weight extension, which counts `start` and `stop` in steps. What isn't said at
    all is a weight of the second text encoder's own.
    """
    weights = [lora.text_encoder_weight, lora.weight] if lora.text_encoder_weight != lora.weight else [lora.weight]
    parts = [plain_number(weight) for weight in weights]
    if lora.blocks is not None:
        parts.append("lbw=" + ",".join(plain_number(weight) for weight in lora.blocks))
    if lora.start > 0:
        parts.append(f"start={math.ceil(lora.start * steps)}")
    if lora.stop < 1:
        parts.append(f"stop={math.ceil(lora.stop * steps)}")
    return f"<lora:{':'.join([lora.name, *parts])}>"


def find_lora_tags(prompt: str, hashes: Mapping[str, str]) -> tuple[LoraMention, ...]:
    """Return the LoRAs that a prompt's tags name, with their hashes, then those that only have a hash.

    One number is for both the UNet and the text encoders, two are A1111's `te:unet`; `te=` and `unet=` name them.
    """
    tagged = [_mention(name, options, hashes) for name, options in _TAG.findall(prompt)]
    names = {mention.name for mention in tagged}
    return (*tagged, *(LoraMention(name=name, hash=value) for name, value in hashes.items() if name not in names))


def _mention(name: str, options: str, hashes: Mapping[str, str]) -> LoraMention:
    parts = options.split(":")[1:]
    named = {key: value for key, equals, value in (part.partition("=") for part in parts) if equals}
    positional = [part for part in parts if "=" not in part]
    text = to_number(named.get("te", positional[0] if positional else "1"))
    unet = named.get("unet", positional[1] if len(positional) > 1 else None)
    weight = text if unet is None else to_number(unet)
    return LoraMention(name=name, weight=weight, text_encoder_weight=text, hash=hashes.get(name))


def named_hashes(text: str) -> dict[str, str]:
    """Read `name: hash, name2: hash2`; Fooocus's older `name: hash: weight` loses its weight.

    >>> named_hashes("luca: 0123456789ab, town: 0123456789")
    {'luca': '0123456789ab', 'town': '0123456789'}
    """
    pairs = (item.split(":") for item in text.split(","))
    return {pair[0].strip(): pair[1].strip() for pair in pairs if len(pair) > 1 and pair[0].strip()}


def write_hashes(hashes: Iterable[tuple[str, str]]) -> str:
    """Write `name: hash, name2: hash2`; A1111 takes colons and commas out of the names."""
    return ", ".join(f"{re.sub('[:,]', '', name)}: {value}" for name, value in hashes)
