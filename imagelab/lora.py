"""LoRA at inference: files read by diffusers' converters, weights rewritten in place from pristine copies.

W = W0 + Σ weight · alpha/rank · (B·A), summed in float32. No wrappers: nothing runs slower, text encoders and
convolutions come for free, and what is taken off leaves no residue. docs/decisions/0003 says why.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.utils.state_dict_utils import (
    StateDictType,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from torch import Tensor

from imagelab.errors import GenerationError, ModelFileError
from imagelab.results import LoraRecord
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

Slot = tuple[str, str]  # (component, module): ("unet", "mid_block.resnets.0.conv1")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraLayer:
    """The update of one weight: `scale · up @ down`."""

    slot: Slot
    down: Tensor  # A: (rank, in) or (rank, in, kh, kw)
    up: Tensor  # B: (out, rank) or (out, rank, 1, 1)
    scale: float  # alpha / rank

    def delta(self, weight: Tensor) -> Tensor:
        """Return the update in float32, in the shape and on the device of `weight`."""
        up, down = (part.to(weight.device, torch.float32).flatten(1) for part in (self.up, self.down))
        return (self.scale * (up @ down)).reshape(weight.shape)


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
    slots = [(component, spelling) for spelling in spellings if _weight(pipe, (component, spelling)) is not None]
    return slots[0] if slots else (component, module)


def _paired(
    pipe: StableDiffusionXLPipeline, tensors: Mapping[str, Tensor]
) -> tuple[dict[Slot, dict[str, Tensor]], list[str]]:
    """Return ({slot: {"A": down, "B": up}}, the keys that belong to no weight or have no partner)."""
    pairs: dict[Slot, dict[str, Tensor]] = {}
    strays = []
    for key, tensor in tensors.items():
        slot, match = _slot(pipe, key), re.search(r"\.lora_([AB])\.weight$", key)
        if match and _weight(pipe, slot) is not None:
            pairs.setdefault(slot, {})[match[1]] = tensor
        else:
            strays.append(key)
    strays += [".".join(slot) for slot, pair in pairs.items() if len(pair) != 2]
    return pairs, strays


def _dropped(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> list[str]:
    """Return what the converter left out without a word: it drops half of a file that mixes two naming schemes."""
    keys = [key for key in header if key != "__metadata__" and not key.endswith(".alpha")]
    return [] if len(keys) == len(tensors) else keys[: abs(len(keys) - len(tensors))]


def _weight(pipe: StableDiffusionXLPipeline, slot: Slot) -> torch.nn.Parameter | None:
    """Return the weight of a linear or convolution layer, None for anything else."""
    component, name = slot
    if component not in ("unet", "text_encoder", "text_encoder_2"):
        return None
    try:
        module = getattr(pipe, component).get_submodule(name)
    except AttributeError:
        return None
    weight = module.weight if isinstance(module, torch.nn.Linear | torch.nn.Conv2d) else None
    return weight if isinstance(weight, torch.nn.Parameter) else None


def _layer(
    path: Path,
    pipe: StableDiffusionXLPipeline,
    slot: Slot,
    pair: Mapping[str, Tensor],
    alphas: Mapping[Slot, float],
    metadata: Mapping[str, Any],
) -> LoraLayer:
    down, up = pair["A"], pair["B"]
    weight = _weight(pipe, slot)
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


@dataclass(kw_only=True)
class LoraPatcher:
    """Owner of the LoRAs in a pipeline's weights.

    `applied` says what is in them now. Pristine copies are kept, in CPU memory, of touched weights only.
    """

    pipe: StableDiffusionXLPipeline
    applied: tuple[LoraRecord, ...] = ()
    _pristine: dict[Slot, Tensor] = field(default_factory=dict, repr=False)

    def apply(self, loras: Sequence[tuple[Path, LoraRecord]]) -> None:
        """Make exactly these LoRAs act; their order doesn't matter, to the bit.

        Raises ModelFileError or GenerationError; the weights are pristine then.
        """
        loras = sorted(loras, key=lambda lora: lora[1].name)
        records = tuple(record for _, record in loras)
        if records == self.applied:
            return
        self.clear()  # also where a file turns out to be bad: what acts is what was asked for, or nothing
        updates: dict[Slot, list[tuple[float, LoraLayer]]] = {}
        for path, record in loras:
            for layer in read_lora(path, self.pipe):
                weight = record.weight if layer.slot[0] == "unet" else record.text_encoder_weight
                updates.setdefault(layer.slot, []).append((weight, layer))
        try:
            for slot, terms in updates.items():
                self._rewrite(slot, terms)
        except BaseException:
            self.clear()
            raise
        self.applied = records

    def clear(self) -> None:
        """Put every touched weight back as it was, to the bit."""
        for slot, pristine in self._pristine.items():
            self._parameter(slot).data.copy_(pristine)
        self._pristine.clear()
        self.applied = ()

    def _rewrite(self, slot: Slot, terms: Sequence[tuple[float, LoraLayer]]) -> None:
        parameter = self._parameter(slot)
        self._pristine[slot] = parameter.detach().to("cpu", copy=True)
        total = parameter.detach().to(torch.float32, copy=True)
        for weight, layer in terms:
            total += weight * layer.delta(parameter)
        rewritten = total.to(parameter.dtype)
        if not rewritten.isfinite().all():
            reason = f"the LoRAs make {'.'.join(slot)} overflow {parameter.dtype}"
            raise GenerationError(reason, "Lower their weights")
        # In place: the address stays, so compiled code and CUDA graphs stay valid.
        parameter.data.copy_(rewritten)

    def _parameter(self, slot: Slot) -> torch.nn.Parameter:
        parameter = _weight(self.pipe, slot)
        assert parameter is not None  # noqa: S101  read_lora fitted it
        return parameter
