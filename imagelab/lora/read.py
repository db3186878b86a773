"""LoRA files, read by diffusers' converters and fitted to a pipeline."""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from diffusers import StableDiffusionXLPipeline
from diffusers.utils.state_dict_utils import (
    StateDictType,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from torch import Tensor

from imagelab.errors import ModelFileError
from imagelab.lora.layers import LoraLayer, Slot, find_weight
from imagelab.safetensors_files import check_safetensors

_OTHER_KINDS = {
    "dora_scale": "a DoRA",
    "lora_magnitude_vector": "a DoRA",
    "hada_w1": "a LoHa",
    "lokr_w": "a LoKr",
    ".lora_B.bias": "a LoRA with biases",
}
_TOUCHES_NOTHING = "Use a LoRA that was trained on this base model"
_AGAIN = "Fetch or train it again"

_CLIP = "text_model."


def read_lora(path: Path, pipe: StableDiffusionXLPipeline) -> tuple[LoraLayer, ...]:
    """Read a LoRA in kohya's, diffusers' or peft's format and fit it to the pipeline's modules.

    Raises ModelFileError unless all of it fits: every key, every shape, every number, and an effect at all.
    """
    header = check_safetensors(path)
    for part, kind in _OTHER_KINDS.items():
        if any(part in key for key in header):
            raise ModelFileError(path, f"is {kind}, which isn't supported", "Use a plain LoRA")
    tensors, alphas, metadata = _parse(path, pipe)
    pairs, strays = _paired(pipe, tensors)
    strays += _dropped(header, tensors)
    if strays or not pairs:
        shown = ", ".join(sorted(strays)[:5]) or "no LoRA tensors at all"
        raise ModelFileError(path, f"has {len(strays)} keys that fit nothing in the model: {shown}", _TOUCHES_NOTHING)
    layers = tuple(_layer(path, pipe, slot, pair, alphas, metadata) for slot, pair in pairs.items())
    if not any(layer.scale and layer.up.any() and layer.down.any() for layer in layers):
        raise ModelFileError(path, "changes nothing: all its updates are zero", "Train it, or leave it out")
    return layers


def _parse(
    path: Path, pipe: StableDiffusionXLPipeline
) -> tuple[dict[str, Tensor], dict[Slot, float], Mapping[str, Any]]:
    """Return ({peft key with component: tensor}, {slot: alpha}, peft's configuration if the file carries it)."""
    try:
        tensors, alphas, metadata = pipe.lora_state_dict(
            path, unet_config=pipe.unet.config, use_safetensors=True, local_files_only=True, return_lora_metadata=True
        )
        names = _peft_names(tensors)
        by_slot = {}
        for key, alpha in (alphas or {}).items():
            down = key.removesuffix(".alpha")
            down = down if down.endswith(".down.weight") else f"{down}.lora.down.weight"
            by_slot[_slot(pipe, _peft_names([down])[down])] = float(alpha)
    except Exception as error:  # the converters raise what a surprising key leads them to: KeyError, ValueError ...
        reason = " ".join(str(error).split())[:200]
        raise ModelFileError(path, f"can't be read as a LoRA: {reason}", "Use a LoRA for SDXL") from error
    return {names[key]: tensor for key, tensor in tensors.items()}, by_slot, metadata or {}


def _peft_names(keys: Iterable[str]) -> dict[str, str]:
    """Map each key of diffusers' formats, of which there are several, to peft's: ...lora_A.weight, ...lora_B.weight."""
    names = {}
    for key in keys:
        if key.startswith("unet."):
            converted = convert_unet_state_dict_to_peft({key: key})
        else:
            converted = convert_state_dict_to_peft({key: key}, original_type=StateDictType.DIFFUSERS_OLD)
            converted = convert_state_dict_to_peft(converted, original_type=StateDictType.DIFFUSERS)
        names[key] = next(iter(converted))
    return names


def _slot(pipe: StableDiffusionXLPipeline, key: str) -> Slot:
    component, _, rest = key.partition(".")
    module = re.sub(r"\.lora_[AB]\.weight$", "", rest)
    # transformers 5.6 flattened CLIPTextModel, but not CLIPTextModelWithProjection, and files say one or the other.
    spellings = (module, module.removeprefix(_CLIP), _CLIP + module)
    slots = [(component, spelling) for spelling in spellings if find_weight(pipe, (component, spelling)) is not None]
    return slots[0] if slots else (component, module)


def _paired(
    pipe: StableDiffusionXLPipeline, tensors: Mapping[str, Tensor]
) -> tuple[dict[Slot, dict[str, Tensor]], list[str]]:
    """Return ({slot: {"A": down, "B": up}}, the keys that belong to no weight or have no partner)."""
    pairs: dict[Slot, dict[str, Tensor]] = {}
    strays = []
    for key, tensor in tensors.items():
        slot, match = _slot(pipe, key), re.search(r"\.lora_([AB])\.weight$", key)
        if match and find_weight(pipe, slot) is not None:
            pairs.setdefault(slot, {})[match[1]] = tensor
        else:
            strays.append(key)
    strays += [".".join(slot) for slot, pair in pairs.items() if len(pair) != 2]
    return pairs, strays


def _dropped(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> list[str]:
    """Return what the converter left out without a word: it drops half of a file that mixes two naming schemes."""
    keys = [key for key in header if key != "__metadata__" and not key.endswith(".alpha")]
    return [] if len(keys) == len(tensors) else keys[: abs(len(keys) - len(tensors))]


def _layer(
    path: Path,
    pipe: StableDiffusionXLPipeline,
    slot: Slot,
    pair: Mapping[str, Tensor],
    alphas: Mapping[Slot, float],
    metadata: Mapping[str, Any],
) -> LoraLayer:
    down, up = pair["A"], pair["B"]
    weight = find_weight(pipe, slot)
    assert weight is not None  # noqa: S101  _paired
    name = ".".join(slot)
    rank = down.shape[0]
    if not _fits(down, up, weight):
        shapes = f"{tuple(up.shape)} × {tuple(down.shape)} for a weight of {tuple(weight.shape)}"
        raise ModelFileError(path, f"was made for another base model: {name} is {shapes}", _TOUCHES_NOTHING)
    for part in (down, up):
        if not part.is_floating_point():
            raise ModelFileError(path, f"is quantised: {name} holds {part.dtype}", "Use a LoRA in float16 or float32")
    try:
        scale = alphas[slot] / rank if slot in alphas else _scale_of_peft(metadata, slot, rank)
    except (AttributeError, TypeError, ValueError, re.error) as error:
        reason = f"carries a LoraConfig that says nothing sensible about alpha: {error}"
        raise ModelFileError(path, reason, _AGAIN) from error
    if not all(part.isfinite().all() for part in (down, up)) or not math.isfinite(scale):
        raise ModelFileError(path, f"has NaN or infinity in {name}", _AGAIN)
    return LoraLayer(slot=slot, down=down, up=up, scale=scale)


def _fits(down: Tensor, up: Tensor, weight: Tensor) -> bool:
    if not (2 <= down.ndim <= 4 and 2 <= up.ndim <= 4 and down.shape[0] > 0):
        return False
    matrix = weight.flatten(1).shape
    pointwise = all(side == 1 for side in up.shape[2:])
    kernel = down.shape[2:] == weight.shape[2:] or all(side == 1 for side in (*down.shape[2:], *weight.shape[2:]))
    product = (up.shape[0], up.shape[1], down.shape[0], down.flatten(1).shape[1])
    return pointwise and kernel and product == (matrix[0], down.shape[0], up.shape[1], matrix[1])


def _scale_of_peft(metadata: Mapping[str, Any], slot: Slot, rank: int) -> float:
    """Look alpha / rank up in the LoraConfig that peft saves; a file that carries none means 1."""
    component, module = slot
    alpha = metadata.get(f"{component}.lora_alpha", rank)
    patterns: Mapping[str, float] = metadata.get(f"{component}.alpha_pattern") or {}
    for pattern, own in patterns.items():
        # peft's own rule: a pattern names the end of a module's path
        if re.match(rf"(.*\.)?({pattern.removeprefix(_CLIP)})$", module.removeprefix(_CLIP)):
            alpha = own
            break
    return float(alpha) / (math.sqrt(rank) if metadata.get(f"{component}.use_rslora") else rank)
