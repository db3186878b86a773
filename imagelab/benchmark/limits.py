"""The physical limit: how much arithmetic a picture is, and how much of it the machine does in a second."""

from collections.abc import Callable
from contextlib import nullcontext
from time import perf_counter

import torch
from torch.utils.flop_counter import FlopCounterMode

# Side of the matrices: large enough that a GPU is full, small enough that a CPU core needs under a second.
_SIDE = {"cuda": 8192, "cpu": 1024}
_PRODUCTS = {"cuda": 10, "cpu": 3}
_ROUNDS = 3
_FLOP_PER_MAC = 2


def count_flop(draw: Callable[[], object], device: torch.device) -> int:
    """Return the floating-point operations, two to a multiply-add, of the convolutions and products in a call."""
    counter = FlopCounterMode(display=False)
    # torch's counter knows the fused attention of GPUs and not that of CPUs, so there it is made of plain products.
    plain = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with plain if device.type == "cpu" else nullcontext(), counter:
        draw()
    return int(counter.get_total_flops())


def matmul_flop_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """Return the best rate at which the device multiplied large square matrices of random numbers just now.

    Random, because products of zeros run faster; float32 as PyTorch is set to do it (without TF32, by default).
    """
    side, products = _SIDE[device.type], _PRODUCTS[device.type]
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    out = torch.mm(one, other)
    best = min(_seconds(device, lambda: torch.mm(one, other, out=out), products) for _ in range(_ROUNDS))
    return _FLOP_PER_MAC * side**3 * products / best


def _seconds(device: torch.device, call: Callable[[], object], times: int) -> float:
    synchronize(device)
    start = perf_counter()
    for _ in range(times):
        call()
    synchronize(device)
    return perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait until the device has done everything that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
