"""Is the memory enough? Said by prediction; no model is loaded."""

from collections.abc import Iterator
from dataclasses import replace

from imagelab.config import Profile
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
    asked, policy, fits = _predicted(profile, room)
    least, most = min(asked.values()), max(asked.values())
    found = f"{room:.1f} GiB; a picture is predicted to take {least:.1f} to {most:.1f}, the latter with a ControlNet"
    if fits and policy == profile.memory.policy:
        yield Check(name=name, status="ok", found=found, details=asked)
    elif fits:
        fix = f"Set profiles.{profile.name}.memory.policy to {policy} in sdxl_config.yaml"
        yield Check(name=name, status="warning", found=found, fix=fix, details=asked)
    else:
        yield Check(name=name, status="problem", found=found, fix="Use a card with more memory", details=asked)


def _predicted(profile: Profile, room_gib: float) -> tuple[dict[str, float], str, bool]:
    """Return {preset: predicted GiB}, the policy under which all of them fit, and whether there is one."""
    import torch

    from imagelab.memory_contract import Job, fit, measure_footprint, predict, weight_bytes
    from imagelab.random_sdxl import sdxl_on_meta

    pipe, net = sdxl_on_meta()
    cuda = torch.device("cuda")
    models, memory, asked, fits = measure_footprint(pipe, cuda), profile.memory, {}, True
    for preset in profile.quality_presets.values():
        width, height = profile.size_px(preset.size)
        plain = Job(width=width, height=height, guided=preset.guidance_scale > 1, loras=True)
        for name, job in {
            preset.name: plain,
            f"{preset.name}, ControlNet": replace(plain, controls=1, net_bytes=weight_bytes(net)),
        }.items():
            asked[name] = round(predict(job, profile.memory, models).peak_gib, 2)
            found = fit(job, memory, models, room_gib, cuda)
            memory, fits = found.memory, fits and found.fits
    return asked, memory.policy, fits
