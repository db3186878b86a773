"""The update that a LoRA makes to one weight."""

from dataclasses import dataclass

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

Slot = tuple[str, str]  # (component, module): ("unet", "mid_block.resnets.0.conv1")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraLayer:
    """The update of one weight: `scale · up @ down`."""

    slot: Slot
    down: Tensor  # A: (rank, in) or (rank, in, kh, kw)
    up: Tensor  # B: (out, rank) or (out, rank, 1, 1)
    scale: float  # alpha / rank

    def delta(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        """Return what a LoRA of this strength adds to the pristine `weight`: float32, of its shape, on its device."""
        up, down = (part.to(weight.device, torch.float32).flatten(1) for part in (self.up, self.down))
        return (strength * self.scale * (up @ down)).reshape(weight.shape)


def find_weight(pipe: StableDiffusionXLPipeline, slot: Slot) -> torch.nn.Parameter | None:
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
