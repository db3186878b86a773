"""GPU memory: how much is in use, and giving it back."""

import gc
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_GIB = 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class VramReading:
    """GPU memory in GiB as PyTorch's allocator counts it; zeros where there is no GPU."""

    allocated_gib: float = 0.0
    reserved_gib: float = 0.0
    peak_gib: float = 0.0  # largest allocated_gib since the start or the last reset_peak
    peak_reserved_gib: float = 0.0  # likewise of reserved_gib


def read_vram(device: "str | torch.device" = "auto") -> VramReading:
    """Return what is in use on a device, "auto" being the GPU if there is one; zeros without CUDA."""
    if not _uses_cuda(device):
        return VramReading()
    from torch import cuda

    where = _gpu(device)
    return VramReading(
        allocated_gib=cuda.memory_allocated(where) / _GIB,
        reserved_gib=cuda.memory_reserved(where) / _GIB,
        peak_gib=cuda.max_memory_allocated(where) / _GIB,
        peak_reserved_gib=cuda.max_memory_reserved(where) / _GIB,
    )


def room_gib(device: "str | torch.device" = "auto") -> float | None:
    """Return the GiB that PyTorch may have in use on a device, what it holds already included; None without CUDA.

    That is what nobody else holds, and no more than `set_per_process_memory_fraction` lets it have.
    """
    if not _uses_cuda(device):
        return None
    from torch import cuda

    where = _gpu(device)
    free, total = cuda.mem_get_info(where)
    return min(free + cuda.memory_reserved(where), total * cuda.get_per_process_memory_fraction(where)) / _GIB


def reset_peak(device: "str | torch.device" = "auto") -> None:
    """Let the peak start anew from what is in use now."""
    if _uses_cuda(device):
        from torch import cuda

        cuda.reset_peak_memory_stats(_gpu(device))


def release_memory() -> None:
    """Collect garbage and hand the allocator's unused blocks back to the GPU."""
    gc.collect()  # modules and hooks refer to each other: counting references doesn't free them
    if _uses_cuda("auto"):
        from torch import cuda

        cuda.empty_cache()


def _gpu(device: "str | torch.device") -> str:
    return "cuda" if str(device) == "auto" else str(device)


def _uses_cuda(device: "str | torch.device") -> bool:
    # Where torch was never imported nothing can be in use, and a reading needn't be what imports it.
    if not _gpu(device).startswith("cuda") or "torch" not in sys.modules:
        return False
    from torch import cuda

    return cuda.is_available()
