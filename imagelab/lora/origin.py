"""Which base model a LoRA was trained for: told by its keys, its shapes and its metadata, never by the file's name."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from imagelab.lora.stored import StoredLora, StoredModule
from imagelab.records import Record

_OWN_BLOCKS = r"(input|middle|output)_block|(time|label)_emb|out\."  # of the UNets of Stable Diffusion, SDXL's too
_BY_KEY: tuple[tuple[str, str], ...] = (
    (r"(^|[._])single_(transformer_)?blocks[._]", "Flux"),
    (r"(^|[._])double_blocks[._]", "Flux"),
    (r"(^|[._])joint_blocks[._]|add_[qkv]_proj|lora_te3|text_encoder_3", "SD 3"),
    (
        rf"^(lora_)?(transformer|diffusion_model)[._](?!{_OWN_BLOCKS})",
        "a transformer model, such as Flux or SD 3",
    ),
)
_OLD_SD = "SD 1.x or SD 2.x"
_BY_TEXT_ENCODER: tuple[tuple[str, str], ...] = (
    (r"^(lora_te2_|text_encoder_2\.)", "SDXL"),
    (r"^lora_te_", _OLD_SD),  # kohya numbers the text encoders where there are two
)
_BY_CONTEXT = {768: "SD 1.x", 1024: "SD 2.x", 1280: "the SDXL refiner", 2048: "SDXL"}  # channels of the text
_BY_VERSION = {"sdxl": "SDXL", "sd_v1": "SD 1.x", "sd_v2": "SD 2.x", "sd3": "SD 3", "flux": "Flux"}
_BY_ARCHITECTURE = {
    "stable-diffusion-xl-v1-refiner": "the SDXL refiner",
    "stable-diffusion-xl": "SDXL",
    "stable-diffusion-v1": "SD 1.x",
    "stable-diffusion-v2": "SD 2.x",
    "stable-diffusion-3": "SD 3",
    "flux": "Flux",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin(Record):
    """What a file was trained for, and how one can tell."""

    base: str  # "SDXL", or "unknown"
    evidence: tuple[str, ...]
    context_width: int | None  # channels that its cross-attention reads
    says: str | None  # the base that its metadata names, true or not

    @property
    def is_foreign(self) -> bool:
        """Say whether it was certainly not made for a model of SDXL's classes."""
        return self.base not in ("SDXL", "unknown")


def find_origin(lora: StoredLora) -> Origin:
    """Tell which base a LoRA is for; keys outweigh shapes, shapes the text encoders' names, and those the metadata."""
    by_key = _by_key(lora, _BY_KEY)
    by_text = _by_key(lora, _BY_TEXT_ENCODER)
    width = _context_width(lora)
    by_shape = _BY_CONTEXT.get(width or 0)
    says, where = _by_metadata(lora.metadata)
    evidence = []
    if by_key:
        evidence.append(f"keys are named as {by_key[0]}'s: {by_key[1]}")
    if width:
        whose = by_shape or "no model that is known"
        evidence.append(f"cross-attention reads {width} channels, as that of {whose}")
    if by_text:
        evidence.append(f"its text encoders are named as {by_text[0]}'s: {by_text[1]}")
    if says:
        evidence.append(f"{where} says {says}")
    told = by_text[0] if by_text else says or "unknown"
    if told == _OLD_SD and says in ("SD 1.x", "SD 2.x"):
        told = says
    base = by_key[0] if by_key else by_shape or ("unknown" if width else told)
    return Origin(base=base, evidence=tuple(evidence), context_width=width, says=says)


def _by_key(lora: StoredLora, table: tuple[tuple[str, str], ...]) -> tuple[str, str] | None:
    keys = [*(key for module in lora.modules for key in module.keys), *lora.others]
    for pattern, base in table:
        if key := next((key for key in keys if re.search(pattern, key)), None):
            return base, key
    return None


def _context_width(lora: StoredLora) -> int | None:
    """Return how many channels the cross-attention reads that the file touches; None if it touches none."""
    for module in lora.modules:
        if re.search(r"attn2[._](processor\.)?to_[kv]$", module.name) and (width := _width(module)):
            return width
    return None


def _width(module: StoredModule) -> int | None:
    down = module.parts.get("lora.down")
    if down is not None and down.ndim == 2:
        return int(down.shape[1])  # most are so, and for the first product of mere shapes torch imports sympy: a second
    try:
        return int(module.factors().to("meta").product().shape[1])
    except (RuntimeError, ValueError, IndexError):
        return int(down.shape[1]) if down is not None and down.ndim > 1 else None


def _by_metadata(metadata: Mapping[str, str]) -> tuple[str | None, str]:
    for field, table in (("ss_base_model_version", _BY_VERSION), ("modelspec.architecture", _BY_ARCHITECTURE)):
        value = metadata.get(field, "").lower()
        if base := next((base for begin, base in table.items() if value.startswith(begin)), None):
            return base, field
    return ("SD 2.x", "ss_v2") if metadata.get("ss_v2") == "True" else (None, "")
