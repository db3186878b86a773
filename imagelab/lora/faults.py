"""What is wrong with a LoRA file, one fault after the other: reading raises the first, inspecting lists them all."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from imagelab.lora.base import Base
from imagelab.lora.layers import Slot
from imagelab.lora.names import PEFT_ALONE, are_mixed, guess_slot
from imagelab.lora.origin import Origin, find_origin
from imagelab.lora.stored import StoredLora, StoredModule

_USE_ANOTHER = "Use a LoRA that was trained on this base model"
AGAIN = "Fetch or train it again"
TRAIN = "Train it, or leave it out"
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
        yield Fault("is empty: it has no LoRA tensors at all", AGAIN)
    yield from _unknown_kinds(lora)
    if are_mixed(lora.schemes):
        yield Fault(f"mixes naming schemes: {' and '.join(lora.schemes)}", "Convert it to one of them")
    if lora.peft_fault:
        yield Fault(lora.peft_fault, "Copy it from where the file comes from")
    if base is None:
        yield from _strangers(lora)
    else:
        yield from _another_base(find_origin(lora), base)
        yield from _misfits(lora, base)
    magnitudes = sum(module.magnitude is not None for module in lora.modules)
    if 0 < magnitudes < len(lora.modules) or (not magnitudes and any(config.use_dora for config in lora.peft.values())):
        yield Fault(f"is a DoRA with lengths for {magnitudes} of its {len(lora.modules)} modules", AGAIN)
    for module in lora.modules:
        yield from _module_faults(module, None if base is None else base.shape(module.name))
        yield from _scale_faults(lora, module, base)
    if lora.modules and all(_is_zero(lora, module, base) for module in lora.modules):
        yield Fault("changes nothing: all its updates are zero", TRAIN)


def slot_of(module: StoredModule, base: Base | None) -> Slot:
    """Return the base's slot for a module; without a base, or for a name that it lacks, what the name looks like."""
    return (base.places.get(module.name) if base else None) or guess_slot(module.name)


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


def _strangers(lora: StoredLora) -> Iterator[Fault]:
    if lora.others:
        what = f"has {len(lora.others)} keys that no LoRA has" if lora.modules else "has no LoRA tensors at all"
        yield Fault(f"{what}: {', '.join(lora.others[:5])}", "Use a LoRA, LoCon, DoRA, LoHa or LoKr")


def _misfits(lora: StoredLora, base: Base) -> Iterator[Fault]:
    strays = [*lora.others, *(key for module in lora.modules if module.name not in base.places for key in module.keys)]
    if strays:
        shown = ", ".join(sorted(strays)[:5])
        yield Fault(f"has {len(strays)} keys that fit nothing in the model: {shown}{_whose(strays)}", _USE_ANOTHER)
    taken: dict[Slot, str] = {}
    for module in lora.modules:
        slot = base.places.get(module.name)
        if slot and taken.setdefault(slot, module.name) != module.name:
            yield Fault(f"has {'.'.join(slot)} twice: as {taken[slot]} and as {module.name}", AGAIN)


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
        # float8 has no isfinite of its own; an alpha is judged with the scale
        if name != "alpha" and not part.float().isfinite().all():
            yield Fault(f"has NaN or infinity in {module.name} ({name})", AGAIN)


def _scale_faults(lora: StoredLora, module: StoredModule, base: Base | None) -> Iterator[Fault]:
    if any(shape_faults(module)):
        return
    try:
        lora.scale(module, slot_of(module, base))
    except ValueError as error:
        yield Fault(str(error), AGAIN)


def _is_zero(lora: StoredLora, module: StoredModule, base: Base | None) -> bool:
    """Say whether a module can't change any weight; a DoRA's lengths can, whatever its matrices are."""
    if module.magnitude is not None or any(shape_faults(module)):
        return False
    try:
        return lora.scale(module, slot_of(module, base)) == 0 or module.factors().norm() == 0
    except ValueError:
        return False


def shape_faults(module: StoredModule, shape: tuple[int, ...] | None = None) -> Iterator[Fault]:
    """Yield what is missing in a module, what doesn't multiply, and what isn't for a weight of this shape."""
    try:
        factors = module.factors()
    except ValueError as error:
        yield Fault(f"is incomplete: {module.name} {error}", AGAIN)
        return
    parts = factors.parts().values()
    sizes = " · ".join(str(tuple(part.shape)) for part in parts)
    try:
        product = tuple(factors.to("meta").product().shape)
    except (RuntimeError, ValueError, IndexError) as error:
        told = f": {error}" if isinstance(error, ValueError) else ""
        yield Fault(f"has matrices that don't fit each other: {module.name} is {sizes}{told}", AGAIN)
        return
    if factors.rank == 0:
        yield Fault(f"has rank 0 in {module.name}", AGAIN)
    if shape is None:
        return
    kernels = [tuple(part.shape[2:]) for part in parts]
    if product != (shape[0], math.prod(shape[1:])) or any(math.prod(k) > 1 and k != shape[2:] for k in kernels):
        yield Fault(f"was made for another base model: {module.name} is {sizes} for a weight of {shape}", _USE_ANOTHER)
    if module.magnitude is not None and lengths_shape(module, shape) is None:
        lengths = f"{tuple(module.magnitude.shape)} lengths in {module.name} for a weight of {shape}"
        yield Fault(f"was made for another base model: {lengths}", _USE_ANOTHER)


def lengths_shape(module: StoredModule, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the shape in which a DoRA's lengths go with a weight; None if they don't, or there are none.

    peft's are one for each row, however they lie. A LyCORIS file says by the shape whether they are of rows or columns.
    """
    if module.magnitude is None:
        return None
    lengths, count, ones = tuple(module.magnitude.shape), module.magnitude.numel(), (1,) * (len(shape) - 2)
    if count == shape[0] and ("magnitude" in module.parts or lengths[:1] == (shape[0],)):
        return (shape[0], 1, *ones)
    if count == shape[1] and "magnitude" not in module.parts and lengths[:2] == (1, shape[1]):
        return (1, shape[1], *ones)
    return None
