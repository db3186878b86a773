"""The machine: Python, libraries, graphics card. Each library is imported by the check that asks it."""

import platform
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import distributions
from importlib.util import find_spec

from imagelab.doctor.report import Check, first_line

REINSTALL = "Make the environment anew: `rm -rf .venv && make setup` (with conda, create it again)"
_FORBIDDEN = ("xformers", "mediapipe")
_ONE_OF = {  # module: the distributions that overwrite each other's files of it
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino"),
    "cv2": ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"),
}
_GIB = 2**30


def check_software() -> Iterator[Check]:
    """Look at everything that is the same for all profiles."""
    yield from _python()
    yield from _torch()
    yield from _cuda()
    yield from _attention()
    yield from _packages()


def _python() -> Iterator[Check]:
    version = platform.python_version()
    fine = sys.version_info >= (3, 11)
    yield Check(
        name="Python",
        status="ok" if fine else "problem",
        found=f"{version} on {platform.system()} {platform.machine()}",
        fix="" if fine else "imagelab needs Python 3.11 or newer",
        details={"version": version},
    )


def _torch() -> Iterator[Check]:
    for name in ("torch", "torchvision", "diffusers", "transformers"):
        version, fault = _import(name)
        fix = REINSTALL + " (torch and torchvision must be builds of one kind, PyPI's own)" if fault else ""
        yield Check(
            name=name,
            status="problem" if fault else "ok",
            found=fault or version,
            fix=fix,
            details={"version": version} if version else {},
        )


def _import(name: str) -> tuple[str, str]:
    """Return a module's version, and what is wrong if it doesn't import."""
    try:
        return str(import_module(name).__version__), ""
    except Exception as error:  # noqa: BLE001  a broken build raises RuntimeError, OSError, AttributeError ...
        return "", f"doesn't import: {first_line(error)}"


def read_vram_gib() -> float:
    """Return the memory of the graphics card; 0 without one, or with one that can't be asked."""
    try:
        import torch

        return torch.cuda.mem_get_info()[1] / _GIB if torch.cuda.is_available() else 0.0
    except Exception:  # noqa: BLE001  said by the checks of torch and CUDA already
        return 0.0


def _cuda() -> Iterator[Check]:
    try:
        import torch

        if not torch.cuda.is_available():
            yield Check(name="CUDA device", status="note", found="none, the CPU draws")
            return
        free, total = (value / _GIB for value in torch.cuda.mem_get_info())
        name = torch.cuda.get_device_name()
    except Exception as error:  # noqa: BLE001  as above: drivers fail in their own ways
        yield Check(name="CUDA device", status="warning", found=f"can't be asked: {first_line(error)}")
        return
    yield Check(name="CUDA device", status="ok", found=name, details={"cuda": torch.version.cuda})
    sizes = {"total_gib": round(total, 2), "free_gib": round(free, 2)}
    yield Check(name="VRAM", status="ok", found=f"{total:.1f} GiB, {free:.1f} GiB free", details=sizes)


def _attention() -> Iterator[Check]:
    try:
        import torch

        query = torch.ones(1, 1, 2, 8)
        torch.nn.functional.scaled_dot_product_attention(query, query, query)
        has_cuda, backends = torch.cuda.is_available(), torch.backends.cuda
        kernels = {
            "flash": has_cuda and backends.flash_sdp_enabled() and backends.is_flash_attention_available(),
            "memory-efficient": has_cuda and backends.mem_efficient_sdp_enabled(),
            "cuDNN": has_cuda and backends.cudnn_sdp_enabled(),
            "math": backends.math_sdp_enabled(),
        }
    except Exception as error:  # noqa: BLE001  as above
        yield Check(name="SDPA", status="problem", found=f"doesn't work: {first_line(error)}", fix=REINSTALL)
        return
    usable = [name for name, usable in kernels.items() if usable]
    found = f"works on CUDA; kernels: {', '.join(usable)}" if has_cuda else "works on the CPU"
    yield Check(name="SDPA", status="ok", found=found, details=kernels)


def _packages() -> Iterator[Check]:
    installed = {str(item.metadata["Name"]).lower().replace("_", "-"): item.version for item in distributions()}
    for name in _FORBIDDEN:
        there = name in installed or find_spec(name) is not None  # a copy on PYTHONPATH is no distribution
        yield Check(
            name=name,
            status="problem" if there else "ok",
            found=f"{installed.get(name, 'a copy')} is installed" if there else "absent, as it must be",
            fix=f"Remove it: `.venv/bin/pip uninstall {name}`, or take it from PYTHONPATH" if there else "",
        )
    for module, siblings in _ONE_OF.items():
        found = {name: installed[name] for name in siblings if name in installed}
        shown = ", ".join(f"{name} {version}" for name, version in found.items()) or "not installed"
        fault = ": they overwrite each other" if len(found) > 1 else f", {why}" if (why := _import(module)[1]) else ""
        yield Check(
            name=module,
            status="problem" if fault or not found else "ok",
            found=shown + fault,
            fix=REINSTALL if fault or not found else "",
            details=found,
        )
