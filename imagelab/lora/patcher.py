"""LoRAs at inference: weights rewritten in place from pristine copies.

W = W0 + Σ weight · alpha/rank · (B·A), summed in float32. No wrappers: nothing runs slower, text encoders and
convolutions come for free, and what is taken off leaves no residue. docs/decisions/0003 says why.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from imagelab.errors import GenerationError
from imagelab.lora.layers import LoraLayer, Slot, find_weight
from imagelab.lora.read import read_lora
from imagelab.results import LoraRecord

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline


@dataclass(kw_only=True)
class LoraPatcher:
    """Owner of the LoRAs in a pipeline's weights.

    `applied` says what is in them now. Pristine copies are kept, in CPU memory, of touched weights only.
    """

    pipe: "StableDiffusionXLPipeline"
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
        pristine = parameter.detach().to(torch.float32)
        total = pristine.clone()
        for weight, layer in terms:
            total += layer.delta(pristine, weight)
        rewritten = total.to(parameter.dtype)
        if not rewritten.isfinite().all():
            reason = f"the LoRAs make {'.'.join(slot)} overflow {parameter.dtype}"
            raise GenerationError(reason, "Lower their weights")
        # In place: the address stays, so compiled code and CUDA graphs stay valid.
        parameter.data.copy_(rewritten)

    def _parameter(self, slot: Slot) -> torch.nn.Parameter:
        parameter = find_weight(self.pipe, slot)
        assert parameter is not None  # noqa: S101  read_lora fitted it
        return parameter
