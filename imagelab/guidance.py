"""Classifier-free guidance at a part of the steps only: a fast mode, which changes the picture.

A step without guidance asks the UNet about the prompt alone: half of the work. Guidance does harm in the first steps
and little in the last, finds arXiv 2404.07724. diffusers' SDXLCFGCutoffCallback can end it, and is wrong for more than
one picture; here it may also begin late, and each picture of a batch keeps its own prompt.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from imagelab.encoding import Embeddings


@dataclass(kw_only=True, slots=True)
class GuidanceSwitch:
    """Turns guidance on and off while a pipeline of diffusers draws so many pictures of one prompt in so many steps.

    Step i of n, counted from 0, is guided when start ≤ i/n < stop.
    """

    guidance_scale: float
    start: float
    stop: float
    steps: int
    pictures: int
    embeddings: Embeddings
    _scale: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Begin as the first step wants it."""
        # A tensor, which can be written to: the ControlNet pipeline keeps the number that it was called with.
        self._scale = torch.tensor(self._scale_at(0), dtype=torch.float64)

    def arguments(self, *, controlled: bool) -> dict[str, Any]:
        """Return what the pipeline's call takes for this."""
        inputs = ["latents", "prompt_embeds", "add_text_embeds", "add_time_ids", *(["image"] if controlled else [])]
        return {"guidance_scale": self._scale, "callback_on_step_end_tensor_inputs": inputs}

    def go_to(self, step: int, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Return the pipeline's tensors as the step needs them, where that is otherwise than before."""
        scale = self._scale_at(step)
        was, now = bool(self._scale > 1), scale > 1
        self._scale.fill_(scale)
        if step >= self.steps or was == now:
            return {}
        change = self._both(tensors) if now else self._prompt_alone(tensors)
        if "image" in tensors:  # the control maps, each repeated for every picture
            maps = tensors["image"]
            change["image"] = [torch.cat([one] * 2) if now else one[self.pictures :] for one in maps]
        return change

    def _scale_at(self, step: int) -> float:
        return self.guidance_scale if self.start <= step / self.steps < self.stop else 1.0

    def _prompt_alone(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        names = ("prompt_embeds", "add_text_embeds", "add_time_ids")  # (2 · pictures, …), those of the negative first
        return {name: tensors[name][self.pictures :] for name in names}

    def _both(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        prompt, pooled, times = (tensors[name] for name in ("prompt_embeds", "add_text_embeds", "add_time_ids"))
        negative = self.embeddings.negative.to(prompt).repeat(self.pictures, 1, 1)
        pooled_negative = self.embeddings.pooled_negative.to(pooled).repeat(self.pictures, 1)
        return {
            "prompt_embeds": torch.cat([negative, prompt]),
            "add_text_embeds": torch.cat([pooled_negative, pooled]),
            "add_time_ids": torch.cat([times] * 2),
        }
