"""Tell the truth about a LoRA file; no model is loaded, and a file for any base will do."""

import math
import re
from collections.abc import Iterable
from pathlib import Path

from imagelab.errors import ModelFileError
from imagelab.lora.base import Base
from imagelab.lora.faults import find_faults, shape_faults
from imagelab.lora.hashes import hash_lora
from imagelab.lora.layers import Slot
from imagelab.lora.names import PEFT_ALONE
from imagelab.lora.origin import find_origin
from imagelab.lora.read import scale_of
from imagelab.lora.report import LoraReport, ModuleReport
from imagelab.lora.stored import StoredLora, StoredModule, open_lora
from imagelab.lora.trigger_words import find_trigger_words
from imagelab.safetensors_files import check_safetensors

_COMPONENTS = (
    ("text_encoder_2", r"lora_te2_|text_encoder_2\."),
    ("text_encoder", r"lora_te1?_|text_encoder\."),
    ("unet", r"lora_unet_|lycoris_|unet\.|(base_model\.model\.)?(down_blocks|mid_block|up_blocks)\."),
)
_BLOCK = re.compile(
    r"(down_blocks|up_blocks|input_blocks|output_blocks|layers|double_blocks|single_blocks)[._](\d+)|mid_block|middle_block"
)


def inspect_lora(path: Path, *, base: Base | None = None, registered: Iterable[str] = ()) -> LoraReport:
    """Report on a LoRA file: format, ranks, base, modules, norms, hashes, trigger words, and what is wrong with it.

    `base` is what it is compared with: `pipeline_base(pipe)` or `profile_base(profile)`. `registered` are the
    trigger words of its registry row. Raises ModelFileError only if the file can't be read, or may be a pickle;
    ModelNotFoundError.
    """
    lora = open_lora(path)
    matched = [key for module in lora.modules if base and module.name in base.places for key in module.keys]
    keys = {*lora.others, *(key for module in lora.modules for key in module.keys)}
    return LoraReport(
        path=str(path),
        size_bytes=path.stat().st_size,
        format=" and ".join(lora.schemes) or "unknown names",
        kinds=tuple(sorted({module.kind for module in lora.modules})),
        origin=find_origin(lora),
        modules=tuple(_module(lora, module, base) for module in lora.modules),
        matched_keys=None if base is None else len(matched),
        unmatched_keys=None if base is None else tuple(sorted(keys.difference(matched))),
        faults=tuple(fault.reason for fault in find_faults(lora, base)),
        hashes=hash_lora(path, check_safetensors(path)),
        trigger_words=find_trigger_words(path, lora.metadata, registered),
        training={key: value for key, value in sorted(lora.metadata.items()) if key.startswith(("ss_", "modelspec."))},
    )


def _module(lora: StoredLora, module: StoredModule, base: Base | None) -> ModuleReport:
    slot = base.places.get(module.name) if base else None
    factors = None if any(shape_faults(module)) else module.factors()
    scale = _scale(lora, module, slot) if factors else None
    norm = factors.norm() * abs(scale) if factors and scale is not None and module.magnitude is None else None
    alpha = float(module.alpha) if module.alpha is not None and module.alpha.numel() == 1 else None
    return ModuleReport(
        name=module.name,
        component=slot[0] if slot else _component(module.name),
        block=_block(slot[1] if slot else module.name),
        module=slot[1] if slot else None,
        kind=module.kind,
        rank=factors.rank if factors else None,
        alpha=_finite(alpha),
        scale=scale,
        dtype=", ".join(sorted({str(part.dtype).removeprefix("torch.") for part in module.parts.values()})),
        norm=_finite(norm),
        is_finite=all(bool(part.float().isfinite().all()) for part in module.parts.values()),
    )


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


def _scale(lora: StoredLora, module: StoredModule, slot: Slot | None) -> float | None:
    component = _component(module.name)
    named = module.name.removeprefix(f"{component}.").removeprefix(PEFT_ALONE)
    try:
        return scale_of(lora, module, slot or (component, named))
    except (ModelFileError, RuntimeError, ZeroDivisionError):  # an alpha of two numbers, rank 0: among the faults
        return None


def _component(name: str) -> str:
    return next((component for component, pattern in _COMPONENTS if re.match(pattern, name)), "unknown")


def _block(name: str) -> str:
    found = _BLOCK.search(name)
    return found[0].replace("_", ".").replace(".block", "_block") if found else "outside of blocks"
