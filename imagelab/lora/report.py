"""What there is to know of a LoRA file, as values: for a table, for JSON, for the terminal."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imagelab.lora.hashes import LoraHashes
from imagelab.lora.origin import Origin
from imagelab.lora.trigger_words import TriggerWord
from imagelab.records import Record

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleReport(Record):
    """One module that a file touches."""

    name: str  # the file's own
    component: str  # "unet", "text_encoder", "text_encoder_2", "unknown"
    block: str  # in the names of the base where that is known, else in the file's
    module: str | None  # of the base; None where it has no such module, or wasn't given
    kind: str  # "LoRA", "LoCon", "LoHa", "LoKr", each perhaps "with DoRA"
    rank: int | None
    alpha: float | None  # None: the file has none, which means the rank
    scale: float | None  # alpha / rank, by the file or by peft's configuration
    dtype: str
    norm: float | None  # of the update at weight 1; None where it can't be computed, and for a DoRA
    is_finite: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraReport(Record):
    """The truth about a file."""

    path: str
    size_bytes: int
    format: str  # whose names it uses
    kinds: tuple[str, ...]
    origin: Origin
    modules: tuple[ModuleReport, ...]
    matched_keys: int | None  # None: no base was given to compare with
    unmatched_keys: tuple[str, ...] | None
    faults: tuple[str, ...]  # why it would be refused; empty if it wouldn't, as far as one can tell
    fixes: tuple[str, ...]  # what to do about each
    hashes: LoraHashes
    trigger_words: tuple[TriggerWord, ...]
    training: Mapping[str, str]  # ss_* and modelspec.* facts

    @property
    def block_norms(self) -> dict[str, float | None]:
        """Return {block: norm of the update}; None where that isn't known of every module, as with a DoRA."""
        squares: dict[str, list[float | None]] = {}
        for module in self.modules:
            squares.setdefault(f"{module.component}.{module.block}", []).append(module.norm)
        return {block: _joint(norms) for block, norms in sorted(squares.items())}

    def to_frame(self) -> "pd.DataFrame":
        """Return one row per module."""
        import pandas as pd

        columns = list(ModuleReport.__dataclass_fields__)
        return pd.DataFrame([module.to_dict() for module in self.modules], columns=columns)

    def to_text(self) -> str:
        """Return it as lines for the terminal."""
        ranks = sorted({module.rank for module in self.modules if module.rank is not None})
        lines = {
            "file": f"{self.path} ({self.size_bytes / 2**20:.1f} MiB)",
            "format": f"{self.format}; {', '.join(self.kinds) or 'no LoRA'}; rank {', '.join(map(str, ranks)) or '-'}",
            "base": f"{self.origin.base} ({'; '.join(self.origin.evidence) or 'nothing tells'})",
            "modules": self._modules_line(),
            "hashes": f"sha256 {self.hashes.sha256}, AutoV2 {self.hashes.autov2}, AutoV3 {self.hashes.autov3}",
        }
        told = [f"{stored.name} {_TRUTH[stored.is_true]}" for stored in self.hashes.stored]
        rows = [f"{name:<9}{text}" for name, text in lines.items()]
        rows += [f"{'':<9}{text}" for text in told]
        rows += [f"trigger  {_trigger_line(word)}" for word in self.trigger_words]
        unknown = f"unknown{' (DoRA)' if any('DoRA' in kind for kind in self.kinds) else ''}"
        norms = self.block_norms.items()
        rows += [f"norm     {block}: {unknown if norm is None else format(norm, '.4g')}" for block, norm in norms]
        rows += [f"training {key}: {value[:100]}" for key, value in self.training.items() if len(value) <= 200]
        rows += [f"fault    it {fault}. {fix}" for fault, fix in zip(self.faults, self.fixes, strict=True)]
        if self.matched_keys is None:
            rows.append("fault    not compared with a base")
        elif not self.faults:
            rows.append("fault    none found")
        return "\n".join(map(_printable, rows))

    def _modules_line(self) -> str:
        counts = Counter(module.component for module in self.modules)
        touched = ", ".join(f"{count} in {part}" for part, count in counts.items()) or "none"
        if self.unmatched_keys is None:
            return touched
        return f"{touched}; {self.matched_keys} keys fit the base, {len(self.unmatched_keys)} don't"


_TRUTH = {True: "is true", False: "is false: the file was changed after it was hashed", None: "can't be checked"}


def _joint(norms: list[float | None]) -> float | None:
    known = [norm for norm in norms if norm is not None]
    return math.hypot(*known) if len(known) == len(norms) else None


def _printable(text: str) -> str:
    """Escape what a file could make a terminal do."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def _trigger_line(word: TriggerWord) -> str:
    return f"{word.text} ({word.source}{f', {word.count} pictures' if word.count is not None else ''})"
