"""A LoRA file as it is: its tensors, module by module, under the file's own names. No base model is needed."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from imagelab.errors import ModelFileError
from imagelab.lora.factors import Factors, build_factors
from imagelab.lora.layers import Slot
from imagelab.lora.names import PEFT_ALONE, name_schemes, split_key
from imagelab.lora.peft_config import PeftConfig, read_peft_configs
from imagelab.safetensors_files import FETCH_AGAIN, check_safetensors

_PICKLES = {".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle"}


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredModule:
    """What a file stores for one module."""

    name: str  # the file's own
    parts: Mapping[str, Tensor]  # {"lora.down": …, "alpha": …}
    keys: tuple[str, ...]  # of the parts, in the same order

    @property
    def kind(self) -> str:
        """Return LoRA, LoCon, DoRA, LoHa or LoKr."""
        name = {"hada": "LoHa", "lokr": "LoKr"}.get(next(iter(self._matrices()), "").split(".")[0], "LoRA")
        if name == "LoRA" and any(part.ndim == 4 and part.shape[2:].numel() > 1 for part in self.parts.values()):
            name = "LoCon"
        return f"{name} with DoRA" if self.magnitude is not None else name

    @property
    def alpha(self) -> Tensor | None:
        """Return the alpha that the file stores for this module."""
        return self.parts.get("alpha")

    @property
    def magnitude(self) -> Tensor | None:
        """Return a DoRA's lengths."""
        return self.parts.get("magnitude", self.parts.get("dora_scale"))

    def factors(self) -> Factors:
        """Return the matrices; raises ValueError for what is missing."""
        return build_factors(self._matrices())

    def _matrices(self) -> dict[str, Tensor]:
        return {name: part for name, part in self.parts.items() if "." in name}


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredLora:
    """All that a file holds."""

    path: Path
    modules: tuple[StoredModule, ...]
    others: tuple[str, ...]  # keys that no LoRA of a known kind has, or not twice
    schemes: tuple[str, ...]  # whose names it uses
    metadata: Mapping[str, str]
    peft: Mapping[str, PeftConfig]  # {component: peft's configuration}
    sha256: str  # of the bytes that all this was read from
    peft_fault: str | None = None  # why that can't be read

    def scale(self, module: StoredModule, slot: Slot) -> float:
        """Return alpha / rank of a module: by the file's alpha, else by peft's configuration, else 1.

        Raises ValueError, which says what is wrong, for an alpha that is no finite number.
        """
        rank, scale = module.factors().rank, 1.0
        if module.alpha is not None:
            if module.alpha.numel() != 1:
                raise ValueError(f"has an alpha of {module.alpha.numel()} numbers in {module.name}")
            alpha = float(module.alpha)
            is_idle = not rank and math.isfinite(alpha)  # LyCORIS ignores the alpha of a LoKr of whole matrices
            scale = 1.0 if is_idle else alpha / (rank or 1)
        elif slot[0] in self.peft:
            try:
                scale = self.peft[slot[0]].scale(slot[1], rank)
            except (AttributeError, KeyError, TypeError, ValueError, ArithmeticError, re.error) as error:
                raise ValueError(f"carries a LoraConfig that says nothing sensible about alpha: {error}") from error
        if not math.isfinite(scale):
            raise ValueError(f"has NaN or infinity for alpha in {module.name}")
        return scale


def open_lora(path: Path) -> StoredLora:
    """Read a file; nothing in it is judged yet.

    Raises ModelFileError if it can't be read or may be a pickle, which is not opened; ModelNotFoundError.
    """
    if path.suffix.lower() in _PICKLES:
        reason = f"isn't opened: a {path.suffix} file can be a pickle, which can run code"
        raise ModelFileError(path, reason, "Convert it to safetensors")
    header = check_safetensors(path)
    try:
        content = path.read_bytes()  # load_file maps the file, and what is kept would change with it
        tensors = load(content)
    except (SafetensorError, KeyError, OSError) as error:  # KeyError: a dtype that torch lacks
        raise ModelFileError(path, f"can't be read: {' '.join(str(error).split())[:200]}", FETCH_AGAIN) from error
    digest = hashlib.sha256(content).hexdigest()
    return _sort_out(path, digest, tensors, _text_only(header.get("__metadata__")))


def open_header(path: Path) -> StoredLora:
    """Read a file's header alone: what is stored has names and shapes, but no numbers, and the sha256 isn't known.

    Raises ModelFileError or ModelNotFoundError.
    """
    header = check_safetensors(path)
    metadata = _text_only(header.pop("__metadata__", None))
    try:
        tensors = {name: torch.empty(entry["shape"], device="meta") for name, entry in header.items()}
    except (RuntimeError, TypeError) as error:  # a size below 0, a size that is no whole number
        raise ModelFileError(path, "is corrupt: its header describes no tensors", FETCH_AGAIN) from error
    return _sort_out(path, "", tensors, metadata)


def _sort_out(path: Path, sha256: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> StoredLora:
    modules: dict[str, dict[str, str]] = {}
    others: list[str] = []
    for key in sorted(tensors):
        name, part = split_key(key) or ("", "")
        if name and part not in modules.get(name, {}):
            modules.setdefault(name, {})[part] = key
        else:
            others.append(key)
    peft: dict[str, PeftConfig] = {}
    fault = None
    try:
        peft = read_peft_configs(path, metadata, alone=any(name.startswith(PEFT_ALONE) for name in modules))
    except ValueError as error:
        fault = str(error)
    return StoredLora(
        path=path,
        modules=tuple(
            StoredModule(name=name, parts={part: tensors[key] for part, key in keys.items()}, keys=tuple(keys.values()))
            for name, keys in modules.items()
        ),
        others=tuple(others),
        schemes=name_schemes(tensors),
        metadata=metadata,
        peft=peft,
        sha256=sha256,
        peft_fault=fault,
    )


def _text_only(metadata: Any) -> dict[str, str]:
    items = metadata.items() if isinstance(metadata, dict) else ()
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in items}
