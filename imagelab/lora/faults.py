"""What is wrong with a LoRA file, one fault after the other: reading raises the first, inspecting lists them all."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from imagelab.lora.base import Base
from imagelab.lora.layers import Slot
from imagelab.lora.names import PEFT_ALONE, are_mixed
from imagelab.lora.origin import Origin, find_origin
from imagelab.lora.stored import StoredLora, StoredModule

_USE_ANOTHER = "Use a LoRA that was trained on this base model"
_AGAIN = "Fetch or train it again"
_OTHER_KINDS: tuple[tuple[str, str], ...] = (
    (r"\.oft_(blocks|diag)|\.oft_R", "an OFT"),
    (r"\.(a1|a2|b1|b2|bm1|bm2)\.weight$", "a GLoRA"),
    (r"\.diff(_b)?$|\.(w|b)_norm$", "a LoRA with whole differences of weights"),
    (r"\.lora_[AB]\.bias$|\.bias_(indices|values|size)$", "a LoRA with biases"),
    (r"\.lora_E$|\.ranknum$", "an AdaLoRA"),
    (r"\.on_input$|\.ia3_l$", "an IA3"),
    (r"\.vera_lambda", "a VeRA"),
    (r"\.lora_embedding_[AB]$|emb_params|string_to_param", "an embedding"),
    (r"^(model\.diffusion_model|first_stage_model|conditioner|cond_stage_model)\.", "a whole checkpoint, not a LoRA"),
    (r"(scale_weight|\.absmax|\.quant_state\.|\.quant_map)", "quantised"),
)


class Fault(NamedTuple):
    """What is wrong, and what to do."""

    reason: str
    fix: str


def find_faults(lora: StoredLora, base: Base | None = None) -> Iterator[Fault]:
    """Yield every reason not to apply a file, the most telling first; with a base model also what doesn't fit that."""
    if not lora.modules and not lora.others:
        yield Fault("is empty: it has no LoRA tensors at all", _AGAIN)
    yield from _unknown_kinds(lora)
    if are_mixed(lora.schemes):
        yield Fault(f"mixes naming schemes: {' and '.join(lora.schemes)}", "Convert it to one of them")
    if lora.peft_fault:
        yield Fault(lora.peft_fault, "Copy it from where the file comes from")
    if base is not None:
        yield from _another_base(find_origin(lora), base)
        yield from _misfits(lora, base)
    magnitudes = sum(module.magnitude is not None for module in lora.modules)
    if 0 < magnitudes < len(lora.modules) or (not magnitudes and any(config.use_dora for config in lora.peft.values())):
        yield Fault(f"is a DoRA with lengths for {magnitudes} of its {len(lora.modules)} modules", _AGAIN)
    for module in lora.modules:
        yield from _module_faults(module, None if base is None else base.shape(module.name))


def _unknown_kinds(lora: StoredLora) -> Iterator[Fault]:
    for pattern, kind in _OTHER_KINDS:
        if key := next((key for key in lora.others if re.search(pattern, key)), None):
            yield Fault(f"is {kind}, which isn't supported: {key}", "Use a LoRA, LoCon, DoRA, LoHa or LoKr")
            return


def _another_base(origin: Origin, base: Base) -> Iterator[Fault]:
    theirs, ours = origin.context_width, base.context_width
    if theirs and ours and theirs != ours:
        made_for = "another base model" if origin.base == "unknown" else origin.base
        widths = f"its cross-attention reads {theirs} channels, this model's {ours}"
        yield Fault(f"was made for {made_for}: {widths}", _USE_ANOTHER)
    elif origin.is_foreign:
        yield Fault(f"was made for {origin.base}: {'; '.join(origin.evidence)}", _USE_ANOTHER)


def _misfits(lora: StoredLora, base: Base) -> Iterator[Fault]:
    strays = [*lora.others, *(key for module in lora.modules if module.name not in base.places for key in module.keys)]
    if strays:
        shown = ", ".join(sorted(strays)[:5])
        yield Fault(f"has {len(strays)} keys that fit nothing in the model: {shown}{_whose(strays)}", _USE_ANOTHER)
    taken: dict[Slot, str] = {}
    for module in lora.modules:
        slot = base.places.get(module.name)
        if slot and taken.setdefault(slot, module.name) != module.name:
            yield Fault(f"has {'.'.join(slot)} twice: as {taken[slot]} and as {module.name}", _AGAIN)


def _whose(strays: list[str]) -> str:
    if any(key.startswith(PEFT_ALONE) and "encoder.layers." in key for key in strays):
        return "; peft's own format doesn't say which of the two text encoders it is for"
    return ""


def _module_faults(module: StoredModule, shape: tuple[int, ...] | None) -> Iterator[Fault]:
    # an alpha may be a whole number: it is in files that kohya's trainer wrote without a precision
    whole = (str(part.dtype) for name, part in module.parts.items() if name != "alpha" and not part.is_floating_point())
    if dtype := next(whole, None):
        yield Fault(f"is quantised: {module.name} holds {dtype}", "Use a LoRA in float16 or float32")
        return
    yield from shape_faults(module, shape)
    for name, part in module.parts.items():
        if not part.float().isfinite().all():  # float8 has no isfinite of its own
            yield Fault(f"has NaN or infinity in {module.name} ({name})", _AGAIN)
    if module.alpha is not None and module.alpha.numel() != 1:
        yield Fault(f"has an alpha of {module.alpha.numel()} numbers in {module.name}", _AGAIN)


def shape_faults(module: StoredModule, shape: tuple[int, ...] | None = None) -> Iterator[Fault]:
    """Yield what is missing in a module, what doesn't multiply, and what isn't for a weight of this shape."""
    try:
        factors = module.factors()
    except ValueError as error:
        yield Fault(f"is incomplete: {module.name} {error}", _AGAIN)
        return
    parts = factors.parts().values()
    sizes = " · ".join(str(tuple(part.shape)) for part in parts)
    try:
        product = tuple(factors.to("meta").product().shape)
    except (RuntimeError, ValueError, IndexError) as error:
        told = f": {error}" if isinstance(error, ValueError) else ""
        yield Fault(f"has matrices that don't fit each other: {module.name} is {sizes}{told}", _AGAIN)
        return
    if factors.rank == 0:
        yield Fault(f"has rank 0 in {module.name}", _AGAIN)
    if shape is None:
        return
    kernels = [tuple(part.shape[2:]) for part in parts]
    if product != (shape[0], math.prod(shape[1:])) or any(math.prod(k) > 1 and k != shape[2:] for k in kernels):
        yield Fault(f"was made for another base model: {module.name} is {sizes} for a weight of {shape}", _USE_ANOTHER)
    if module.magnitude is not None and not _lengths_fit(tuple(module.magnitude.shape), shape):
        lengths = f"{tuple(module.magnitude.shape)} lengths in {module.name} for a weight of {shape}"
        yield Fault(f"was made for another base model: {lengths}", _USE_ANOTHER)


def _lengths_fit(lengths: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Say whether a DoRA's lengths are one for each row of a weight, or, as LyCORIS may have it, for each column."""
    return math.prod(lengths) == shape[0] or (lengths[:2] == (1, shape[1]) and math.prod(lengths) == shape[1])
