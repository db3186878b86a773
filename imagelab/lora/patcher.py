"""LoRAs at inference: weights rewritten in place from pristine copies.

W = W0 + Σ strength · alpha/rank · (B·A), summed in float32. No wrappers: nothing runs slower, text encoders and
convolutions come for free, and what is taken off leaves no residue. docs/decisions/0003 says why.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
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
Wanted = Mapping[Slot, Sequence[Term]]  # what is to act on each weight; nothing: as the base model has it


@dataclass(kw_only=True)
class LoraPatcher:
    """Owner of the LoRAs in a pipeline's weights.

    `applied` says what is in them: every one of these LoRAs, whole. Only within `stepping` the UNet has those alone
    whose turn it is. Pristine copies are kept, in CPU memory, of weights that were ever touched, until `clear`: whoever
    rewrites weights by other means calls that first.
    """

    pipe: "StableDiffusionXLPipeline"
    device: "str | torch.device" = "cpu"  # where the sums are made: the same wherever offloading keeps weights
    at_hand: Callable[[], AbstractContextManager[None]] = field(
        default=nullcontext, repr=False
    )  # around each rewriting
    applied: tuple[LoraRecord, ...] = ()
    _files: LoraFiles = field(init=False, repr=False)
    _terms: dict[Slot, list[Term]] = field(default_factory=dict, repr=False)  # of `applied`
    _written: dict[Slot, Sequence[Term]] = field(default_factory=dict, repr=False)  # of weights that aren't pristine
    _pristine: dict[Slot, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Read files for the same pipeline."""
        self._files = LoraFiles(pipe=self.pipe, device=self.device, weight_of=self._base_weight)

    def apply(self, loras: Sequence[tuple[Path, LoraRecord]]) -> None:
        """Make exactly these LoRAs act; their order doesn't matter, to the bit.

        Only weights are written on which something else acts than before. Raises ModelFileError or GenerationError;
        the weights are pristine then.
        """
        loras = sorted(loras, key=lambda lora: lora[1].name)
        records = tuple(record for _, record in loras)
        if records == self.applied:
            return
        self.applied = ()
        with self.at_hand(), self._pristine_on_failure():
            self._terms = self._collect(loras)
            self._write({slot: self._terms.get(slot, ()) for slot in (*self._written, *self._terms)})
        self.applied = records

    def clear(self) -> None:
        """Put every touched weight back as it was, to the bit, and keep no copy of any."""
        with self.at_hand():
            self._restore(self._written)
        self._terms, self.applied = {}, ()
        self._written, self._pristine = {}, {}

    @property
    def in_text_encoders(self) -> frozenset[tuple[str, str, str, float]]:
        """Return what acts on the text encoders: {(LoRA, sha256 of its file, encoder, strength)}."""
        return frozenset(
            (record.name, record.sha256, slot[0], weight)
            for slot, terms in self._written.items()
            if slot[0] != "unet"
            for record, weight, _ in terms
        )

    @contextmanager
    def stepping(self, steps: int) -> Iterator[Callable[[int], bool]]:
        """Let each LoRA act at the steps of its own while a picture of so many steps is drawn.

        Gives a function to call with the number of the step that comes next, counted from 0 (which is set already);
        it says whether others act then.
        Only the UNet is rewritten, and only what the LoRAs touch that come or go. Afterwards, however that is reached,
        the weights are what `applied` says.
        """
        acting = self.applied

        def go_to(step: int) -> bool:
            nonlocal acting
            wanted = tuple(record for record in self.applied if step >= steps or record.acts_at(step, steps))
            if wanted == acting:
                return False
            self._change(wanted)
            acting = wanted
            return True

        try:
            go_to(0)
            yield go_to
        finally:
            go_to(steps)

    def _change(self, acting: Collection[LoraRecord]) -> None:
        terms = {slot: terms for slot, terms in self._terms.items() if slot[0] == "unet"}
        with self.at_hand(), self._pristine_on_failure():
            self._write({slot: [term for term in own if term[0] in acting] for slot, own in terms.items()})

    @contextmanager
    def _pristine_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:  # an interrupt in the middle, too
            self._restore(self._pristine)
            self._written, self._terms, self.applied = {}, {}, ()
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
        for slot in slots:
            self._parameter(slot).data.copy_(self._pristine[slot])

    def _write(self, wanted: Wanted) -> None:
        """Write each of these weights on which something else acts now, once."""
        finite = {}
        for slot, terms in wanted.items():
            if _same(terms, self._written.get(slot, ())):
                continue
            parameter = self._parameter(slot)
            if terms:
                rewritten = self._sum(slot, parameter, terms)
                finite[slot] = _all_finite(rewritten)
                # In place: the address stays, so compiled code and CUDA graphs stay valid.
                parameter.data.copy_(rewritten)
                self._written[slot] = terms
            else:
                self._restore([slot])
                del self._written[slot]
        if finite:  # asked all at once: each answer of a GPU is waited for
            for slot, good in zip(finite, torch.stack(list(finite.values())).tolist(), strict=True):
                if not good:
                    raise _spoilt(slot, self._parameter(slot), self._pristine[slot])

    def _sum(self, slot: Slot, parameter: Tensor, terms: Sequence[Term]) -> Tensor:
        base = self._pristine[slot] if slot in self._written else parameter.detach()  # pristine where it is, and near
        if slot not in self._pristine:
            self._pristine[slot] = _host_copy(base)
        pristine = base.to(self.device, torch.float32, non_blocking=True)
        total = pristine
        for _, weight, layer in terms:
            total = layer.delta(pristine, weight).add_(total)  # into what is a tensor of its own
        return total.to(parameter.dtype)

    def _base_weight(self, slot: Slot) -> Tensor | None:
        return self._pristine[slot] if slot in self._written else find_weight(self.pipe, slot)

    def _parameter(self, slot: Slot) -> torch.nn.Parameter:
        parameter = find_weight(self.pipe, slot)
        assert parameter is not None  # noqa: S101  read_lora fitted it
        return parameter


def _host_copy(weight: Tensor) -> Tensor:
    """Copy to CPU memory, where there is CUDA pinned: from there a GPU reads several times as fast."""
    pinned = torch.cuda.is_available()
    return torch.empty_like(weight, device="cpu", pin_memory=pinned).copy_(weight)


def _all_finite(tensor: Tensor) -> Tensor:
    """Return whether there is no NaN and no infinity in a tensor, as a tensor: the device isn't waited for."""
    # One pass, in which a NaN becomes both; isfinite makes several, and takes ten times as long on a CPU.
    return torch.stack(torch.aminmax(tensor)).isfinite().all()


def _same(one: Sequence[Term], other: Sequence[Term]) -> bool:
    """Say whether the same layers act, as strongly; layers of a file that was read again are others."""
    same_length = len(one) == len(other)
    return same_length and all(a[1] == b[1] and a[2] is b[2] for a, b in zip(one, other, strict=True))


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
