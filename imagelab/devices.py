"""The devices that PyTorch sees, and what to do when the memory of one is too small.

Nothing of diffusers is needed here: importing it takes seconds, which an encoder of pictures can do without.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import torch

from imagelab.errors import InvalidValueError, OutOfMemoryError

ResultT = TypeVar("ResultT")


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
    """Return what a call returns; raises OutOfMemoryError when the GPU's memory is too small for it."""
    with suppress(torch.OutOfMemoryError):
        return call()
    # Outside of a handler, whose traceback would keep the tensors alive: pytorch/pytorch#18853
    raise OutOfMemoryError("out of GPU memory", fix)
