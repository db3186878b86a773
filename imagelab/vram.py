"""GPU memory: how much is in use, and giving it back."""

import gc
import sys
from dataclasses import dataclass

_GIB = 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class VramReading:
    """GPU memory in GiB as PyTorch's allocator counts it; zeros where there is no GPU."""

    allocated_gib: float = 0.0
    reserved_gib: float = 0.0
    peak_gib: float = 0.0  # largest allocated_gib since the start or the last reset_peak


def read_vram(device: str = "cuda") -> VramReading:
    """Return what is in use on a device; zeros without CUDA."""
    if not _uses_cuda(device):
        return VramReading()
    from torch import cuda

    return VramReading(
        allocated_gib=cuda.memory_allocated(device) / _GIB,
        reserved_gib=cuda.memory_reserved(device) / _GIB,
        peak_gib=cuda.max_memory_allocated(device) / _GIB,
    )


def reset_peak(device: str = "cuda") -> None:
    """Let the peak start anew from what is in use now."""
    if _uses_cuda(device):
        from torch import cuda

        cuda.reset_peak_memory_stats(device)


def release_memory() -> None:
    """Collect garbage and hand the allocator's unused blocks back to the GPU."""
    gc.collect()  # modules and hooks refer to each other: counting references doesn't free them
    if _uses_cuda("cuda"):
        from torch import cuda

        cuda.empty_cache()


def _uses_cuda(device: str) -> bool:
    # Where torch was never imported nothing can be in use, and a reading needn't be what imports it.
    if not device.startswith("cuda") or "torch" not in sys.modules:
        return False
    from torch import cuda

    return cuda.is_available()
