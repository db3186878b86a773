"""LoRA files, fitted to a pipeline: all of a file, or a refusal."""

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from imagelab.errors import ModelFileError
from imagelab.lora.base import pipeline_base
from imagelab.lora.faults import find_faults
from imagelab.lora.layers import LoraLayer, Slot, find_weight
from imagelab.lora.stored import StoredLora, StoredModule, open_lora

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline

_AGAIN = "Fetch or train it again"


def read_lora(path: Path, pipe: "StableDiffusionXLPipeline") -> tuple[LoraLayer, ...]:
    """Read a LoRA of kohya's, LyCORIS's, diffusers' or peft's format and fit it to the pipeline's modules.

    LoRA, LoCon, DoRA, LoHa and LoKr. Raises ModelFileError unless all of it fits: every key, every shape, every
    number, and an effect at all; ModelNotFoundError.
    """
    lora, base = open_lora(path), pipeline_base(pipe)
    for fault in find_faults(lora, base):
        raise ModelFileError(path, fault.reason, fault.fix)
    slots = [base.places[module.name] for module in lora.modules]
    layers = tuple(
        _layer(lora, module, slot, base.shapes[slot]) for module, slot in zip(lora.modules, slots, strict=True)
    )
    if not any(layer.changes(weight) for layer in layers if (weight := find_weight(pipe, layer.slot)) is not None):
        raise ModelFileError(path, "changes nothing: all its updates are zero", "Train it, or leave it out")
    return layers


def _layer(lora: StoredLora, module: StoredModule, slot: Slot, shape: tuple[int, ...]) -> LoraLayer:
    scale = scale_of(lora, module, slot)
    magnitude = None if module.magnitude is None else _shaped(module, module.magnitude, shape)
    return LoraLayer(slot=slot, factors=module.factors(), scale=scale, magnitude=magnitude)


def scale_of(lora: StoredLora, module: StoredModule, slot: Slot | None) -> float:
    """Return alpha / rank of a module: by the file's alpha, else by peft's configuration, else 1.

    Raises ModelFileError for an alpha that is no finite number.
    """
    rank = module.factors().rank
    if module.alpha is not None:
        scale = float(module.alpha) / rank if rank else 1.0  # LyCORIS ignores the alpha of a whole LoKr
    elif slot is None or slot[0] not in lora.peft:
        scale = 1.0
    else:
        try:
            scale = lora.peft[slot[0]].scale(slot[1], rank)
        except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError, re.error) as error:
            reason = f"carries a LoraConfig that says nothing sensible about alpha: {error}"
            raise ModelFileError(lora.path, reason, _AGAIN) from error
    if not math.isfinite(scale):
        raise ModelFileError(lora.path, f"has NaN or infinity for alpha in {module.name}", _AGAIN)
    return scale


def _shaped(module: StoredModule, lengths: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Give a DoRA's lengths the axes of the weight; peft's are always of rows, a LyCORIS file says by its shape."""
    rows = "magnitude" in module.parts or lengths.shape[0] == shape[0]
    ones = [1] * (len(shape) - 2)
    return lengths.reshape(shape[0], 1, *ones) if rows else lengths.reshape(1, shape[1], *ones)
