"""LoRA files that were read lately, so that going back to one doesn't read it again."""

from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from imagelab.lora.layers import LoraLayer
from imagelab.lora.read import read_lora

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline

_KEPT_BYTES = 2**30  # of files; an SDXL LoRA has 20 to 900 MB

Version = tuple[Path, int, int]  # the file as it was: (path, mtime in ns, size)


@dataclass(kw_only=True)
class LoraFiles:
    """Reads LoRAs for one pipeline and keeps the last ones, up to 1 GiB of files, as long as a file doesn't change."""

    pipe: "StableDiffusionXLPipeline"
    _kept: OrderedDict[Version, tuple[LoraLayer, ...]] = field(default_factory=OrderedDict, repr=False)

    def read(self, path: Path) -> tuple[LoraLayer, ...]:
        """Return a LoRA's layers; raises what `read_lora` raises."""
        version = _version(path)
        if version is None:
            return read_lora(path, self.pipe)  # which says what is wrong
        if version not in self._kept:
            self._forget(version[0])
            self._kept[version] = read_lora(path, self.pipe)
        self._kept.move_to_end(version)
        layers = self._kept[version]
        while sum(size for _, _, size in self._kept) > _KEPT_BYTES:
            self._kept.popitem(last=False)
        return layers

    def holds(self, path: Path) -> bool:
        """Say whether a file can be had without reading it."""
        return _version(path) in self._kept

    def _forget(self, path: Path) -> None:
        for version in [version for version in self._kept if version[0] == path]:
            del self._kept[version]


def _version(path: Path) -> Version | None:
    if not path.is_file():
        return None
    stat = path.stat()
    return path.resolve(), stat.st_mtime_ns, stat.st_size
