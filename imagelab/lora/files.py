"""LoRA files that were read lately, so that going back to one doesn't read it again."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from imagelab.lora.layers import LoraLayer, Slot
from imagelab.lora.read import check_unchanged, fit_lora, open_unchanged, read_lora

if TYPE_CHECKING:
    import torch
    from diffusers import StableDiffusionXLPipeline

_KEPT_BYTES = 2**30  # of files that aren't in use; an SDXL LoRA has 20 to 900 MB
_ON_DEVICE_BYTES = 2**28  # of files, in use or not, that are kept where sums are made; others go there each time

Version = tuple[Path, int, int]  # the file as it was: (path, mtime in ns, size)


@dataclass(kw_only=True)
class LoraFiles:
    """Reads LoRAs for one pipeline and keeps them as long as a file doesn't change, and 1 GiB of those out of use."""

    pipe: "StableDiffusionXLPipeline"
    weight_of: "Callable[[Slot], torch.Tensor | None]"  # of the base model
    device: "str | torch.device" = "cpu"  # where their updates are computed
    _on_device: set[Version] = field(default_factory=set, repr=False)
    _kept: OrderedDict[Version, tuple[str, tuple[LoraLayer, ...]]] = field(default_factory=OrderedDict, repr=False)

    def read(self, path: Path, sha256: str = "") -> tuple[LoraLayer, ...]:
        """Return a LoRA's layers; raises what `read_lora` raises."""
        version = _version(path)
        if version is None:
            return read_lora(path, self.pipe)  # which says what is wrong
        if version not in self._kept:
            self._forget(version[0])
            lora = open_unchanged(path, sha256)
            self._kept[version] = lora.sha256, self._placed(version, fit_lora(lora, self.pipe, self.weight_of))
        self._kept.move_to_end(version)
        digest, layers = self._kept[version]
        check_unchanged(path, digest, sha256)
        return layers

    def forget_all_but(self, in_use: Iterable[Path]) -> None:
        """Drop what was read longest ago, until all that isn't in use is within the bound."""
        used = {path.resolve() for path in in_use}
        idle = [version for version in self._kept if version[0] not in used]
        while sum(size for _, _, size in idle) > _KEPT_BYTES:
            self._drop(idle.pop(0))

    def _placed(self, version: Version, layers: tuple[LoraLayer, ...]) -> tuple[LoraLayer, ...]:
        """Put a file's matrices where sums are made, as long as there is room for it."""
        if sum(size for _, _, size in (*self._on_device, version)) > _ON_DEVICE_BYTES:
            return layers
        self._on_device.add(version)
        return tuple(layer.on(self.device) for layer in layers)

    def _forget(self, path: Path) -> None:
        for version in [version for version in self._kept if version[0] == path]:
            self._drop(version)

    def _drop(self, version: Version) -> None:
        del self._kept[version]
        self._on_device.discard(version)


def _version(path: Path) -> Version | None:
    if not path.is_file():
        return None
    stat = path.stat()
    return path.resolve(), stat.st_mtime_ns, stat.st_size
