"""Everything that determines a picture, in plain JSON types; the models are hashed, and none is loaded."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from imagelab.config import Profile
from imagelab.controls import PlannedControl
from imagelab.devices import device_name, resolve_device
from imagelab.environment import read_environment
from imagelab.errors import InvalidValueError
from imagelab.models import check_base, check_component, check_model, resolve_source
from imagelab.plan import Plan
from imagelab.preprocess import ControlMap
from imagelab.records import to_plain
from imagelab.versions import find_compiler, library_version

_LIBRARIES = (
    "imagelab", "torch", "diffusers", "transformers", "numpy", "pillow", "insightface",
    "onnxruntime", "onnxruntime-gpu",
)  # fmt: skip
_WRITTEN_OUT = ("request", "profile", "preset", "scheduler", "prompt", "loras", "seed", "controls")
_USUAL = {"guidance_start": 0.0, "guidance_stop": 1.0}  # said only where they are others: plans of before hold


def picture_recipe(plan: Plan, maps: Sequence[ControlMap], device: str) -> dict[str, Any]:
    """Return how a plan is drawn, but for its seed; `maps` are those of its controls.

    Raises ModelNotFoundError, ModelFileError, or InvalidValueError for a device that isn't there.
    """
    profile, request = plan.profile, plan.request
    dtype = _dtype(profile, device)
    rest = {item.name: getattr(plan, item.name) for item in dataclasses.fields(plan) if item.name not in _WRITTEN_OUT}
    rest = {name: value for name, value in rest.items() if name not in _USUAL or value != _USUAL[name]}
    recipe = {
        "profile": profile.name,
        "character": request.character,
        "scene_description": request.scene_description,
        "style": request.style,
        "quality_preset": plan.preset.name,
        "prompt": plan.prompt.positive,
        "negative_prompt": plan.prompt.negative,
        **rest,
        "scheduler": {"name": plan.scheduler.name, **plan.scheduler.model_dump(mode="json")},
        "loras": {lora.record.name: lora.record for lora in plan.loras},
        "controls": [_control(*pair, dtype) for pair in zip(plan.controls, maps, strict=True)],
        "memory": profile.memory.model_dump(mode="json"),
        "model_sha256": _model_sha256(profile, dtype),
    }
    plain = to_plain(recipe)
    assert isinstance(plain, dict)  # noqa: S101  a mapping stays one
    return plain


def drawing_environment(profile: Profile, device: str) -> dict[str, Any]:
    """Return where the pictures are drawn, as far as the same recipe may give other bits elsewhere.

    Raises GenerationError where models are to be compiled and there is no compiler.
    """
    where = resolve_device(device)
    versions = {name: library_version(name) for name in _LIBRARIES}
    if profile.compiled:
        versions["inductor"] = find_compiler()
    return {
        "device": device_name(where),
        "dtype": _dtype(profile, device),
        **read_environment(where).to_dict(),
        "versions": {name: version for name, version in versions.items() if version != "0+unknown"},
    }


def use_threads(environment: Mapping[str, Any]) -> None:
    """Let torch use as many threads as an environment of `drawing_environment` has; Ray, say, gives it one."""
    torch.set_num_threads(int(environment["threads"]))


def worker_devices(device: str, count: int) -> tuple[str, ...]:
    """Return the device of each of `count` processes: a GPU for each, or all on the CPU.

    Raises InvalidValueError for more of them than there are GPUs, and for a device that isn't there.
    """
    where = resolve_device(device)
    if where.type != "cuda":
        return (device,) * count
    return one_gpu_each(device, where.index or 0, count, torch.cuda.device_count())


def one_gpu_each(device: str, first: int, count: int, gpus: int) -> tuple[str, ...]:
    """Return one of a machine's GPUs for each of `count` processes, from the `first` on, which `device` means.

    Raises InvalidValueError for more processes than that.

    >>> one_gpu_each("cuda:1", 1, 2, gpus=4)
    ('cuda:1', 'cuda:2')
    """
    if count > (there := gpus - first):
        raise InvalidValueError("workers", count, f"at most one for each GPU from {device} on: {there}")
    return tuple(f"cuda:{first + number}" for number in range(count))


def _dtype(profile: Profile, device: str) -> str:
    return profile.dtype.cuda if resolve_device(device).type == "cuda" else profile.dtype.cpu


def _model_sha256(profile: Profile, dtype: str) -> Mapping[str, str]:
    base = resolve_source(profile.base, f"base model of profile {profile.name!r}")
    hashes = check_base(profile.base, base, dtype)
    if profile.vae:
        vae = check_component(resolve_source(profile.vae, f"VAE of profile {profile.name!r}"))
        hashes = {**hashes, **{f"vae override/{name}": value for name, value in vae.items()}}
    return hashes


def _control(control: PlannedControl, made: ControlMap, dtype: str) -> dict[str, Any]:
    hashes, _ = check_model(control.folder, dtype, packaged=control.packaged)
    return {
        "type": control.type,
        "model": control.model,
        "mode": control.mode,
        "model_sha256": hashes,
        "scale": control.scale,
        "start": control.start,
        "end": control.end,
        "resize": control.resize,
        "picture_sha256": control.picture_sha256,
        "map_sha256": made.sha256,
        "preprocessor": made.preprocessor,
    }
