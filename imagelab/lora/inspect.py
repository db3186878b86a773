"""Tell the truth about a LoRA file; no model is loaded, and a file for any base will do."""

import math
import os
import re
from collections.abc import Iterable
from pathlib import Path

from imagelab.lora.base import Base
from imagelab.lora.faults import find_faults, shape_faults, slot_of
from imagelab.lora.hashes import hash_lora
from imagelab.lora.origin import find_origin
from imagelab.lora.report import LoraReport, ModuleReport
from imagelab.lora.stored import StoredLora, StoredModule, open_lora
from imagelab.lora.trigger_words import find_trigger_words
from imagelab.safetensors_files import check_safetensors

_BLOCK = re.compile(
    r"(down_blocks|up_blocks|input_blocks|output_blocks|layers|double_blocks|single_blocks)[._](\d+)|mid_block|middle_block"
)


def inspect_lora(
    path: str | os.PathLike[str], *, base: Base | None = None, registered: Iterable[str] = ()
) -> LoraReport:
    """Report on a LoRA file: format, ranks, base, modules, norms, hashes, trigger words, and what is wrong with it.

    `base` is what it is compared with: `pipeline_base(pipe)` or `profile_base(profile)`. `registered` are the
    trigger words of its registry row. Raises ModelFileError only if the file can't be read, or may be a pickle;
    ModelNotFoundError.
    """
    path = Path(path)
    lora = open_lora(path)
    faults = tuple(find_faults(lora, base))
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
        faults=tuple(fault.reason for fault in faults),
        fixes=tuple(fault.fix for fault in faults),
        hashes=hash_lora(path, check_safetensors(path)),
        trigger_words=find_trigger_words(path, lora.metadata, registered),
        training={key: value for key, value in sorted(lora.metadata.items()) if key.startswith(("ss_", "modelspec."))},
    )


def _module(lora: StoredLora, module: StoredModule, base: Base | None) -> ModuleReport:
    known = base is not None and module.name in base.places
    component, name = slot_of(module, base)
    factors = None if any(shape_faults(module)) else module.factors()
    scale = _scale(lora, module, base) if factors else None
    norm = factors.norm() * abs(scale) if factors and scale is not None and module.magnitude is None else None
    alpha = float(module.alpha) if module.alpha is not None and module.alpha.numel() == 1 else None
    return ModuleReport(
        name=module.name,
        component=component,
        block=_block(name),
        module=name if known else None,
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


def _scale(lora: StoredLora, module: StoredModule, base: Base | None) -> float | None:
    try:
        return lora.scale(module, slot_of(module, base))
    except ValueError:  # an alpha of two numbers: among the faults
        return None


def _block(name: str) -> str:
    found = _BLOCK.search(name)
    return found[0].replace("_", ".").replace(".block", "_block") if found else "outside of blocks"
