"""peft's configuration of an adapter, which says what its tensors don't: alpha.

diffusers puts it into the file's metadata, peft itself into adapter_config.json beside the file.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

IN_METADATA = "lora_adapter_metadata"  # {"unet.lora_alpha": 8, …}
BESIDE = "adapter_config.json"
_CLIP = "text_model."


@dataclass(frozen=True, kw_only=True, slots=True)
class PeftConfig:
    """The configuration of one model's adapter."""

    values: Mapping[str, Any]

    def scale(self, module: str, rank: int | None) -> float:
        """Return alpha / rank of a module, by peft's rules.

        Raises ValueError, TypeError, AttributeError or re.error for a configuration that makes no sense.
        """
        rank = rank or int(self._own("rank_pattern", module, self.values["r"]))
        alpha = self._own("alpha_pattern", module, self.values.get("lora_alpha", self.values.get("alpha", rank)))
        return float(alpha) / (math.sqrt(rank) if self.values.get("use_rslora") else rank)

    @property
    def use_dora(self) -> bool:
        """Say whether every module has lengths of its own."""
        return bool(self.values.get("use_dora"))

    def _own(self, patterns: str, module: str, default: Any) -> Any:
        for pattern, own in (self.values.get(patterns) or {}).items():
            # a pattern names the end of a module's path: peft.tuners.tuners_utils.get_pattern_key
            if re.match(rf"(.*\.)?({pattern.removeprefix(_CLIP)})$", module.removeprefix(_CLIP)):
                return own
        return default


def read_peft_configs(path: Path, metadata: Mapping[str, str], *, alone: bool) -> dict[str, PeftConfig]:
    """Return {component: configuration}; empty where there is none.

    `alone` says that the file is peft's own, of one model. Raises ValueError for what isn't a configuration, and for
    a file of peft's own without one.
    """
    if alone:
        return {"unet": PeftConfig(values=_read_beside(path.with_name(BESIDE)))}
    configs: dict[str, dict[str, Any]] = {}
    for key, value in _parse(metadata.get(IN_METADATA, "{}"), f"its metadata {IN_METADATA}").items():
        component, _, name = key.partition(".")
        configs.setdefault(component, {})[name] = value
    return {component: PeftConfig(values=values) for component, values in configs.items()}


def _read_beside(beside: Path) -> dict[str, Any]:
    if not beside.is_file():
        raise ValueError(f"is peft's own format, and {BESIDE}, which says its alpha, isn't beside it")
    return _parse(beside.read_text(encoding="utf-8", errors="replace"), BESIDE)


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise ValueError(f"carries no LoraConfig that could say alpha: {where} isn't one")  # noqa: TRY004  of the file
    return values
