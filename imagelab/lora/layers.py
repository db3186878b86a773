"""The update that a LoRA makes to one weight."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from imagelab.lora.factors import Factors

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline  # seconds; who only reads a file needs none

Slot = tuple[str, str]  # (component, module): ("unet", "mid_block.resnets.0.conv1")
COMPONENTS = ("unet", "text_encoder", "text_encoder_2")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraLayer:
    """The update of one weight: `scale · factors`, and for a DoRA the length that the sum's rows then get."""

    slot: Slot
    factors: Factors
    scale: float  # alpha / rank
    magnitude: Tensor | None = None  # (out, 1, …), or (1, in, …) where a LyCORIS file keeps columns

    def on(self, device: torch.device | str) -> Self:
        """Return the same with its tensors on a device, in the dtype that they have."""
        magnitude = None if self.magnitude is None else self.magnitude.to(device)
        return replace(self, factors=self.factors.to(device, None), magnitude=magnitude)

    def delta(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        """Return what a LoRA of this strength adds to the pristine `weight`: float32, of its shape, on its device.

        For a DoRA that is `m · (W + s·BA) / ‖W + s·BA‖ − W`, the strength in `s`, as diffusers and peft have it
        (arXiv 2402.09353); so it isn't linear in the strength. At strength 0 it is zero, which theirs isn't. A row of
        zeros has no direction, so it gets no length.
        """
        if not strength:
            return torch.zeros_like(weight, dtype=torch.float32)
        product = self.factors.to(weight.device).product()  # a tensor of its own, so it may be scaled where it is
        update = product.mul_(strength * self.scale).reshape(weight.shape)
        if self.magnitude is None:
            return update
        magnitude, pristine = (tensor.detach().to(weight.device, torch.float32) for tensor in (self.magnitude, weight))
        summed = pristine + update
        lengths = _lengths(summed, magnitude)
        return torch.where(lengths > 0, magnitude * summed / lengths, summed) - pristine

    def changes(self, weight: Tensor) -> bool:
        """Say whether the layer, at strength 1, does anything to a weight that rounding to its dtype leaves."""
        pristine = weight.detach().float()
        if self.magnitude is None:
            return not torch.equal((pristine + self.delta(pristine)).to(weight.dtype), weight)
        if self.scale and self.factors.to(weight.device).product().any():
            return True
        # an untrained DoRA has the weight's own lengths, rounded to the file's dtype and summed in whatever order
        magnitude = self.magnitude.to(weight.device, torch.float32)
        lengths = _lengths(pristine, magnitude)
        smallest = 4 * max(torch.finfo(kind).eps for kind in (self.magnitude.dtype, weight.dtype))
        return bool(((magnitude - lengths).abs() > smallest * lengths).any())


def _lengths(matrix: Tensor, magnitude: Tensor) -> Tensor:
    """Return the lengths of the rows, or of the columns, that a DoRA has lengths for."""
    across = [axis for axis, size in enumerate(magnitude.shape) if size == 1]
    lengths: Tensor = torch.linalg.vector_norm(matrix, dim=across, keepdim=True)
    return lengths


def find_weight(pipe: "StableDiffusionXLPipeline", slot: Slot) -> torch.nn.Parameter | None:
    """Return the weight of a linear or convolution layer, None for anything else."""
    component, name = slot
    if component not in COMPONENTS:
        return None
    try:
        module = getattr(pipe, component).get_submodule(name)
    except AttributeError:
        return None
    weight = module.weight if isinstance(module, torch.nn.Linear | torch.nn.Conv2d) else None
    return weight if isinstance(weight, torch.nn.Parameter) else None
