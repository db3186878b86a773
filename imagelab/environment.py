"""What machine draws, and how its libraries are set: what the same request may come out differently by."""

import platform
from functools import cache
from pathlib import Path

import torch

from imagelab.results import Environment


def read_environment(device: torch.device) -> Environment:
    """Return what a picture that is drawn now on a device depends on, beside the versions of the libraries."""
    on_cuda = device.type == "cuda"
    return Environment(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        processor=_processor(),
        threads=torch.get_num_threads(),
        attention=_attention(on_cuda=on_cuda),
        precision=torch.get_float32_matmul_precision(),
        cuda=torch.version.cuda if on_cuda else None,
        cudnn=str(torch.backends.cudnn.version()) if on_cuda else None,
        driver=_driver() if on_cuda else None,
    )


@cache
def _processor() -> str:
    """Return the processor's name: its instructions choose the kernels, and those the last bit."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # another system than Linux
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    name = next(named, platform.processor() or platform.machine())
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


@cache
def _driver() -> str | None:
    path = Path("/proc/driver/nvidia/version")
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return next((word for word in text.split() if word[:1].isdigit() and "." in word), None)


def _attention(*, on_cuda: bool) -> str:
    """Name what scaled_dot_product_attention, the only attention here, may choose from."""
    backends = torch.backends.cuda
    kernels = {
        "flash": backends.flash_sdp_enabled(),
        "mem_efficient": backends.mem_efficient_sdp_enabled(),
        "cudnn": backends.cudnn_sdp_enabled(),
        "math": backends.math_sdp_enabled(),
    }
    usable = "/".join(name for name, enabled in kernels.items() if enabled) if on_cuda else "cpu"
    return f"scaled_dot_product_attention ({usable})"
