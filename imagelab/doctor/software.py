"""The machine: Python, libraries, graphics card. Each library is imported by the check that asks it."""

import platform
import sys
from collections.abc import Iterator
from importlib.metadata import distributions

from imagelab.config import Profile
from imagelab.doctor.report import Check, first_line

REINSTALL = "Install the lock again without dependencies: `rm .venv/.imagelab-lock && make setup`"
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
        try:
            version = str(__import__(name).__version__)
        except Exception as error:  # noqa: BLE001  a broken build raises RuntimeError, OSError, AttributeError ...
            fix = REINSTALL + " (torch and torchvision must be builds of one kind, PyPI's own)"
            yield Check(name=name, status="problem", found=f"doesn't import: {first_line(error)}", fix=fix)
        else:
            yield Check(name=name, status="ok", found=version, details={"version": version})


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
        there = name in installed
        yield Check(
            name=name,
            status="problem" if there else "ok",
            found=f"{installed[name]} is installed" if there else "absent, as it must be",
            fix=f"Remove it: `pip uninstall {name}`" if there else "",
        )
    for module, siblings in _ONE_OF.items():
        found = {name: installed[name] for name in siblings if name in installed}
        shown = ", ".join(f"{name} {version}" for name, version in found.items()) or "not installed"
        yield Check(
            name=module,
            status="ok" if len(found) == 1 else "problem",
            found=shown if len(found) <= 1 else f"{shown}: they overwrite each other",
            fix="" if len(found) == 1 else REINSTALL,
            details=found,
        )


def check_memory(profile: Profile) -> Iterator[Check]:
    """Compare the machine with what the profile's targets were set for."""
    wanted = profile.targets.vram_gib if profile.targets else None
    if wanted is None:
        return
    try:
        import torch

        total = torch.cuda.mem_get_info()[1] / _GIB if torch.cuda.is_available() else 0.0
    except Exception:  # noqa: BLE001  said by the checks of torch and CUDA already
        return
    name = f"{profile.name}: memory"
    if not total:
        found = f"made for a GPU with {wanted.peak:g} GiB; on a CPU a picture takes minutes"
        yield Check(name=name, status="warning", found=found, fix="The profile puppet is made for CPUs")
    elif total < wanted.peak:
        fix = f"Set profiles.{profile.name}.memory.policy to model_offload in sdxl_config.yaml"
        yield Check(
            name=name, status="warning", found=f"{total:.1f} GiB where {wanted.peak:g} are planned for", fix=fix
        )
    else:
        yield Check(name=name, status="ok", found=f"{total:.1f} GiB, {wanted.peak:g} are planned for")
