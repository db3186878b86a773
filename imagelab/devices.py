"""The devices that PyTorch sees, and what to do when the memory of one is too small.

Nothing of diffusers is needed here: importing it takes seconds, which an encoder of pictures can do without.
"""

from collections.abc import Callable
from typing import TypeVar

import torch

from imagelab.errors import InvalidValueError, OutOfMemoryError

ResultT = TypeVar("ResultT")

# What PyTorch raises as a plain RuntimeError: the driver, and the libraries that allocate for themselves.
_NO_GPU_MEMORY = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
_NO_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "could not create a primitive")  # the latter is oneDNN's


def resolve_device(device: str) -> torch.device:
    """Return the device for "auto", "cpu", "cuda" or "cuda:1"; raises InvalidValueError if it isn't there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    numbered = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    known = ["auto", "cpu", *(["cuda", *numbered] if numbered else [])]
    if device not in known:  # torch.device itself counts in 8 bits: to it, cuda:256 is cuda:0
        raise InvalidValueError("device", device, f"one that PyTorch sees ({', '.join(known)})")
    return torch.device(device)


def device_name(device: torch.device) -> str:
    """Name a device for a record: "cpu" or "cuda (NVIDIA ...)"."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


def within_memory(call: Callable[[], ResultT], fix: str) -> ResultT:
    """Return what a call returns; raises OutOfMemoryError when the memory, the GPU's or the machine's, is too small."""
    try:
        return call()
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        where = "memory" if _is_the_machines(error) else "GPU memory"
    # Outside of a handler, whose traceback would keep the tensors alive: pytorch/pytorch#18853
    raise OutOfMemoryError(f"out of {where}", fix)


def _is_out_of_memory(error: Exception) -> bool:
    on_gpu = isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _NO_GPU_MEMORY)
    return on_gpu or _is_the_machines(error)


def _is_the_machines(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY)
