"""Is the memory enough? Said by prediction; no model is loaded."""

import json
from collections.abc import Iterator
from dataclasses import replace

from imagelab.config import MemoryPolicy, Profile
from imagelab.doctor.report import Check

_NOT_PYTORCHS_GIB = 0.5  # CUDA's own context, and what the screen shows


def check_memory(profile: Profile, vram_gib: float) -> Iterator[Check]:
    """Compare what one picture of each preset is predicted to take with the memory of the graphics card in GiB.

    `vram_gib` 0: there is no card. Says nothing of a profile without targets for one, which isn't of SDXL's size.
    """
    wanted, name = profile.targets.vram_gib, f"{profile.name}: memory"
    if wanted is None:
        return
    if not vram_gib:
        found = f"made for a GPU with {wanted.peak:g} GiB; on a CPU a picture takes minutes"
        yield Check(name=name, status="warning", found=found, fix="The profile puppet is made for CPUs")
        return
    room = max(0.0, vram_gib - _NOT_PYTORCHS_GIB)
    asked, memory, fits = _predicted(profile, room)
    least, most = min(asked.values()), max(asked.values())
    found = f"{room:.1f} GiB; a picture is predicted to take {least:.1f} to {most:.1f}, the latter with a ControlNet"
    if fits and memory == profile.memory:
        yield Check(name=name, status="ok", found=found, details=asked)
    elif fits:
        own = profile.memory.model_dump()
        changed = {key: value for key, value in memory.model_dump().items() if value != own[key]}
        changes = " and ".join(f"{key} to {json.dumps(value)}" for key, value in changed.items())
        fix = f"Set {changes} in profiles.{profile.name}.memory of sdxl_config.yaml"
        yield Check(name=name, status="warning", found=found, fix=fix, details=asked)
    else:
        yield Check(name=name, status="problem", found=found, fix="Use a card with more memory", details=asked)


def _predicted(profile: Profile, room_gib: float) -> tuple[dict[str, float], MemoryPolicy, bool]:
    """Return {preset: predicted GiB}, the policy under which all of them fit, and whether there is one."""
    import torch

    from imagelab.memory_contract import Job, fit, measure_footprint, net_of, predict
    from imagelab.random_sdxl import sdxl_on_meta

    pipe, module = sdxl_on_meta()
    net, cuda = net_of(module, "ControlNet"), torch.device("cuda")
    models, memory, asked, fits = measure_footprint(pipe, cuda), profile.memory, {}, True
    for preset in profile.quality_presets.values():
        width, height = profile.size_px(preset.size)
        plain = Job(width=width, height=height, guided=preset.guidance_scale > 1, loras=True)
        for name, job in {
            preset.name: plain,
            f"{preset.name}, ControlNet": replace(plain, controls=(net,), net_bytes=net.nbytes),
        }.items():
            asked[name] = round(predict(job, profile.memory, models).peak_gib, 2)
            found = fit(job, memory, models, room_gib, cuda)
            memory, fits = found.memory, fits and found.fits
    return asked, memory, fits
