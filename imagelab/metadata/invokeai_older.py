"""What InvokeAI wrote before its version 3: `sd-metadata`, a JSON object, and before that `Dream`, its command line.

What is in square brackets in a prompt of these is the negative prompt.
"""

import re
from collections.abc import Mapping
from typing import Any

from imagelab.metadata.lenient import read_mapping, to_list, to_mapping, to_number, to_size, to_text, to_whole
from imagelab.metadata.sampler_names import split_sampler
from imagelab.metadata.values import PictureMetadata

_DREAM = re.compile(r'\s*"(.*)"(\s+-\S.*)', re.DOTALL)
_OPTION = re.compile(r"\s-([A-Za-z]+) (\S+)")
_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_KEYS = {"s": "steps", "S": "seed", "W": "width", "H": "height", "C": "cfg_scale", "A": "sampler"}


def read_sd_metadata(text: str) -> PictureMetadata:
    """Return what `sd-metadata` says; an empty reading for what isn't a JSON object with an image in it."""
    data = read_mapping(text)
    image = to_mapping(data.get("image"))
    if not image:
        return PictureMetadata()
    given = image.get("prompt")
    parts = (to_text(to_mapping(item).get("prompt")) for item in to_list(given))
    prompt = given if isinstance(given, str) else " ".join(part for part in parts if part)
    return _reading(
        prompt,
        image,
        version=to_text(data.get("app_version")),
        model=to_text(data.get("model_weights")),
        model_hash=to_text(data.get("model_hash")),
    )


def read_dream(text: str) -> PictureMetadata:
    """Return what `Dream` says, `"a prompt" -s 50 -S 1 -W 512 -H 768 -C 7.5 -A k_lms`; an empty reading for others."""
    found = _DREAM.fullmatch(text)
    if not found:
        return PictureMetadata()
    options = dict(_OPTION.findall(found[2]))
    return _reading(found[1], {name: options.get(key) for key, name in _KEYS.items()})


def _reading(prompt: str, image: Mapping[str, Any], **more: str | None) -> PictureMetadata:
    name = to_text(image.get("sampler"))
    sampler, schedule = split_sampler(name) if name else (None, None)
    return PictureMetadata(
        writer="invokeai",
        prompt=_BRACKETS.sub("", prompt).strip(),
        negative_prompt=", ".join(_BRACKETS.findall(prompt)),
        seed=to_whole(image.get("seed")),
        steps=to_whole(image.get("steps")),
        sampler=sampler,
        schedule=schedule,
        cfg=to_number(image.get("cfg_scale")),
        size=to_size(image.get("width"), image.get("height")),
        version=more.get("version"),
        model=more.get("model"),
        model_hash=more.get("model_hash"),
    )
