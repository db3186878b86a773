"""LoRAs at inference: weights rewritten in place from pristine copies.

W = W0 + Σ strength · alpha/rank · (B·A), summed in float32. No wrappers: nothing runs slower, text encoders and
convolutions come for free, and what is taken off leaves no residue. docs/decisions/0003 says why.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from imagelab.errors import GenerationError
from imagelab.lora.blocks import block_of, strength
from imagelab.lora.files import LoraFiles
from imagelab.lora.layers import LoraLayer, Slot, find_weight
from imagelab.results import LoraRecord

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline

Term = tuple[LoraRecord, float, LoraLayer]  # a LoRA, how strongly it acts on a weight, and with what


@dataclass(kw_only=True)
class LoraPatcher:
    """Owner of the LoRAs in a pipeline's weights.

    `applied` says what is in them: every one of these LoRAs, whole. Only within `stepping` the UNet has those alone
    whose turn it is. Pristine copies are kept, in CPU memory, of touched weights only.
    """

    pipe: "StableDiffusionXLPipeline"
    device: "str | torch.device" = "cpu"  # where the sums are made: the same wherever offloading keeps weights
    at_hand: Callable[[], AbstractContextManager[None]] = field(
        default=nullcontext, repr=False
    )  # around each rewriting
    applied: tuple[LoraRecord, ...] = ()
    _files: LoraFiles = field(init=False, repr=False)
    _terms: dict[Slot, list[Term]] = field(default_factory=dict, repr=False)
    _pristine: dict[Slot, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Read files for the same pipeline."""
        self._files = LoraFiles(pipe=self.pipe)

    def apply(self, loras: Sequence[tuple[Path, LoraRecord]]) -> None:
        """Make exactly these LoRAs act; their order doesn't matter, to the bit.

        Raises ModelFileError or GenerationError; the weights are pristine then.
        """
        loras = sorted(loras, key=lambda lora: lora[1].name)
        records = tuple(record for _, record in loras)
        if records == self.applied:
            return
        self.applied = ()
        with self.at_hand(), self._pristine_on_failure():
            if not all(self._files.holds(path) for path, _ in loras):
                self._restore(self._pristine.keys())  # whether a DoRA changes anything is seen on the base's weights
            self._terms = self._collect(loras)
            self._restore(self._pristine.keys() - self._terms.keys())
            self._rewrite(self._terms, records)
        self.applied = records

    def clear(self) -> None:
        """Put every touched weight back as it was, to the bit."""
        with self.at_hand():
            self._restore(self._pristine.keys())
        self._terms, self.applied = {}, ()

    @contextmanager
    def stepping(self, steps: int) -> Iterator[Callable[[int], None]]:
        """Let each LoRA act at the steps of its own while a picture of so many steps is drawn.

        Gives a function to call with the number of the step that comes next, counted from 0 (which is set already).
        Only the UNet is rewritten, and only what the LoRAs touch that come or go. Afterwards, however that is reached,
        the weights are what `applied` says.
        """
        acting = self.applied

        def go_to(step: int) -> None:
            nonlocal acting
            wanted = tuple(record for record in self.applied if step >= steps or record.acts_at(step, steps))
            if wanted != acting:
                self._change(acting, wanted)
                acting = wanted

        try:
            go_to(0)
            yield go_to
        finally:
            go_to(steps)

    def _change(self, before: Collection[LoraRecord], after: Collection[LoraRecord]) -> None:
        changed = set(before) ^ set(after)
        slots = [
            slot
            for slot, terms in self._terms.items()
            if slot[0] == "unet" and any(record in changed for record, *_ in terms)
        ]
        with self.at_hand(), self._pristine_on_failure():
            self._rewrite(slots, after)

    @contextmanager
    def _pristine_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:  # an interrupt in the middle, too
            self._restore(self._pristine.keys())
            self._terms, self.applied = {}, ()
            raise

    def _collect(self, loras: Collection[tuple[Path, LoraRecord]]) -> dict[Slot, list[Term]]:
        """Return what acts on each weight; where that is nothing, the weight isn't touched."""
        terms: dict[Slot, list[Term]] = {}
        try:
            for path, record in loras:
                layers = self._files.read(path, record.sha256)
                acting = [(layer, weight) for layer in layers if (weight := strength(record, layer.slot))]
                if not acting:
                    raise _idle(record, layers)
                for layer, weight in acting:
                    terms.setdefault(layer.slot, []).append((record, weight, layer))
        finally:
            self._files.forget_all_but([path for path, _ in loras])
        return terms

    def _restore(self, slots: Iterable[Slot]) -> None:
        for slot in list(slots):
            self._parameter(slot).data.copy_(self._pristine[slot])
            del self._pristine[slot]

    def _rewrite(self, slots: Iterable[Slot], acting: Collection[LoraRecord]) -> None:
        for slot in slots:
            parameter = self._parameter(slot)
            if slot not in self._pristine:
                self._pristine[slot] = parameter.detach().to("cpu", copy=True)
            pristine = self._pristine[slot].to(self.device, torch.float32)
            total = pristine.clone()
            for record, weight, layer in self._terms[slot]:
                if record in acting:
                    total += layer.delta(pristine, weight)
            rewritten = total.to(parameter.dtype)
            if not rewritten.isfinite().all():
                raise _spoilt(slot, rewritten, pristine)
            # In place: the address stays, so compiled code and CUDA graphs stay valid.
            parameter.data.copy_(rewritten)

    def _parameter(self, slot: Slot) -> torch.nn.Parameter:
        parameter = find_weight(self.pipe, slot)
        assert parameter is not None  # noqa: S101  read_lora fitted it
        return parameter


def _idle(record: LoraRecord, layers: Iterable[LoraLayer]) -> GenerationError:
    """Say why a LoRA acts on nothing that its file is for."""
    touched = sorted({f"{layer.slot[0]} {block_of(layer.slot)}" for layer in layers})
    reason = f"LoRA {record.name} acts on nothing: it changes only {', '.join(touched)}, where its weights are 0"
    return GenerationError(reason, "Give it a weight there, or leave it out")


def _spoilt(slot: Slot, rewritten: Tensor, pristine: Tensor) -> GenerationError:
    """Say what is wrong with a weight that isn't finite."""
    name = ".".join(slot)
    if not pristine.isfinite().all():
        return GenerationError(f"{name} of the base model holds NaN or infinity", "Fetch the base model again")
    if rewritten.isinf().any():
        return GenerationError(f"the LoRAs make {name} overflow {rewritten.dtype}", "Lower their weights")
    return GenerationError(f"the LoRAs make {name} NaN", "Leave out one after the other to find the one that does")
