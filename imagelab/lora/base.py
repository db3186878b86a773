"""The modules that a LoRA can touch, and the shapes of their weights: of a pipeline, or of files that aren't loaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch

from imagelab.config import Profile
from imagelab.errors import ProfileError
from imagelab.lora.layers import COMPONENTS, Slot
from imagelab.lora.names import spellings
from imagelab.models import choose_variant, resolve_source, weight_files
from imagelab.safetensors_files import check_safetensors

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """A base model, as far as a LoRA file is concerned."""

    shapes: Mapping[Slot, tuple[int, ...]]  # {slot: shape of its weight}, of linear and convolution layers
    places: Mapping[str, Slot]  # {name in a file: slot}, in every spelling

    @classmethod
    def of(cls, shapes: Mapping[Slot, tuple[int, ...]]) -> Self:
        """Write down how files may spell the modules."""
        return cls(shapes=shapes, places=spellings(shapes))

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Return the shape of the weight that a file's name stands for; None if there is no such module."""
        return self.shapes[self.places[name]] if name in self.places else None

    @property
    def context_width(self) -> int | None:
        """Return how many channels the cross-attention reads: 2048 in SDXL."""
        widths = (shape[1] for (part, name), shape in self.shapes.items() if part == "unet" and "attn2.to_k" in name)
        return next(widths, None)


def pipeline_base(pipe: "StableDiffusionXLPipeline") -> Base:
    """Describe the base model of a loaded pipeline."""
    return Base.of(
        {
            (component, name): tuple(module.weight.shape)
            for component in COMPONENTS
            for name, module in getattr(pipe, component).named_modules()
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
        }
    )


def profile_base(profile: Profile) -> Base:
    """Describe a profile's base model by the headers of its files: nothing is loaded.

    Raises ModelNotFoundError, ModelFileError, or ProfileError for a base in one file, whose names are others.
    """
    folder = resolve_source(profile.base, f"base model of profile {profile.name}")
    if folder.is_file():
        fix = "Compare with a loaded pipeline instead: inspect_lora(path, base=pipeline_base(generator.pipeline))"
        raise ProfileError(profile.name, "its base model is one file, which doesn't name its modules", fix)
    return Base.of(
        {
            (component, name.removesuffix(".weight")): tuple(entry["shape"])
            for component in COMPONENTS
            for path in weight_files(folder / component, choose_variant(folder, "float16"))  # either has the shapes
            for name, entry in check_safetensors(path).items()
            # two axes or four: linear or convolution; a text encoder's tables of embeddings have two as well
            if name.endswith(".weight") and len(entry["shape"]) in (2, 4) and ".embeddings." not in f".{name}"
        }
    )
