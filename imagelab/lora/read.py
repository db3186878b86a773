"""LoRA files, fitted to a pipeline: all of a file, or a refusal."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from imagelab.errors import ModelFileError
from imagelab.lora.base import Base, pipeline_base
from imagelab.lora.faults import TRAIN, find_faults, lengths_shape
from imagelab.lora.layers import LoraLayer, Slot, find_weight
from imagelab.lora.stored import StoredLora, StoredModule, open_lora

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline
    from torch import Tensor


def read_lora(path: Path, pipe: "StableDiffusionXLPipeline", sha256: str = "") -> tuple[LoraLayer, ...]:
    """Read a LoRA of kohya's, LyCORIS's, diffusers' or peft's format and fit it to the pipeline's modules.

    LoRA, LoCon, DoRA, LoHa and LoKr. Raises ModelFileError unless all of it fits: every key, every shape, every
    number, and an effect at all; and unless what is read has this sha256, if one is given. ModelNotFoundError.
    """
    return fit_lora(open_unchanged(path, sha256), pipe, partial(find_weight, pipe))


def open_unchanged(path: Path, sha256: str) -> StoredLora:
    """Read a file as `open_lora` does; raises ModelFileError also unless it has this sha256, if one is given."""
    lora = open_lora(path)
    check_unchanged(path, lora.sha256, sha256)
    return lora


def check_unchanged(path: Path, actual: str, expected: str) -> None:
    """Raise ModelFileError if what was read isn't the file that a record names; it may name none."""
    if expected and actual != expected:
        reason = f"was changed while it was in use: its sha256 was {expected} and is {actual}"
        raise ModelFileError(path, reason, "Ask for the picture again")


def fit_lora(
    lora: StoredLora, pipe: "StableDiffusionXLPipeline", weight_of: "Callable[[Slot], Tensor | None]"
) -> tuple[LoraLayer, ...]:
    """Fit what a file holds to the pipeline's modules; raises ModelFileError unless all of it fits.

    Whether it changes anything is seen on what `weight_of` gives: the base model's weights.
    """
    base = pipeline_base(pipe)
    for fault in find_faults(lora, base):
        raise ModelFileError(lora.path, fault.reason, fault.fix)
    layers = tuple(_layer(lora, module, base) for module in lora.modules)
    if not any(layer.changes(weight) for layer in layers if (weight := weight_of(layer.slot)) is not None):
        raise ModelFileError(lora.path, "changes nothing: what it adds is lost in rounding, if it isn't zero", TRAIN)
    return layers


def _layer(lora: StoredLora, module: StoredModule, base: Base) -> LoraLayer:
    slot = base.places[module.name]
    shape = lengths_shape(module, base.shapes[slot])
    magnitude = None if module.magnitude is None or shape is None else module.magnitude.reshape(shape)
    return LoraLayer(slot=slot, factors=module.factors(), scale=lora.scale(module, slot), magnitude=magnitude)
