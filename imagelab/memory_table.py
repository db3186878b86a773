"""Which sizes and batches of SDXL fit a graphics card, predicted: no weights and no GPU are needed."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import get_args

import torch

from imagelab.config import Profile
from imagelab.config.sdxl import MemoryPolicyName
from imagelab.errors import InvalidValueError
from imagelab.memory_contract import Fit, Job, fit, measure_footprint, predict, weight_bytes
from imagelab.random_sdxl import sdxl_on_meta
from imagelab.reporting import Measurement
from imagelab.versions import drawing_versions

BATCHES = range(1, 9)
VARIANTS = ("base", "lora", "controlnet", "both")


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """A case of the table: what is asked for, what it would take, and what is drawn instead of it."""

    preset: str
    size: str
    variant: str
    job: Job
    asked_gib: float
    fit: Fit


def predict_cases(profile: Profile, room_gib: float) -> list[Planned]:
    """Predict each preset, size, batch and variant of a profile with SDXL's models in float16 on a GPU."""
    pipe, net = sdxl_on_meta()
    device = torch.device("cuda")
    models, net_bytes = measure_footprint(pipe, device), weight_bytes(net)
    return [
        Planned(
            preset=preset,
            size=size,
            variant=variant,
            job=job,
            asked_gib=predict(job, profile.memory, models).peak_gib,
            fit=fit(job, profile.memory, models, room_gib, device),
        )
        for preset, size, variant, job in _cases(profile, net_bytes)
    ]


def _cases(profile: Profile, net_bytes: int) -> Iterator[tuple[str, str, str, Job]]:
    sizes = {name: tuple(size) for name, size in profile.sizes.items()} | _extreme_sizes(profile)
    for (preset, settings), (size, px), variant, pictures in product(
        profile.quality_presets.items(), sizes.items(), VARIANTS, BATCHES
    ):
        controlled = variant in {"controlnet", "both"}
        job = Job(
            width=px[0],
            height=px[1],
            pictures=pictures,
            guided=settings.guidance_scale > 1,
            loras=variant in {"lora", "both"},
            controls=int(controlled),
            net_bytes=net_bytes if controlled else 0,
        )
        yield preset, size, variant, job


def _extreme_sizes(profile: Profile) -> dict[str, tuple[int, int]]:
    low, high = profile.size_limits.min_px, profile.size_limits.max_px
    return {"smallest": (low, low), "longest": (low, high), "largest": (high, high)}


def tabulate(profile: Profile, room_gib: float, policy: str | None = None) -> Measurement:
    """Return the table of a profile, with rows of its default preset and without LoRAs, which change no peak.

    `policy`: to begin with, None for the profile's own. Raises InvalidValueError for one that doesn't exist.
    """
    profile = profile if policy is None else _with_policy(profile, policy)
    cases = predict_cases(profile, room_gib)
    shown = [case for case in cases if case.preset == profile.default_quality_preset and not case.job.loras]
    return Measurement(
        what=f"Predicted, not measured: peak GPU memory where PyTorch has {room_gib:g} GiB, {profile.name}, float16; "
        f"{len(cases)} cases of presets, sizes, LoRAs, ControlNet and batches of 1 to 8",
        command=f"python -m imagelab predict-memory --profile {profile.name} --room {room_gib:g}"
        f" --policy {profile.memory.policy}",
        machine={"device": "none, counted on meta tensors"} | drawing_versions(),
        facts={
            "cases": len(cases),
            "cases_over_the_room": sum(not case.fit.fits for case in cases),
            "cases_drawn_in_parts": sum(case.fit.job.pictures < case.job.pictures for case in cases),
            "cases_offloaded": sum(bool(case.fit.given_up) for case in cases),
            "largest_peak_gib": round(max(case.fit.prediction.peak_gib for case in cases), 2),
        },
        rows=tuple(_row(case, profile.memory.policy) for case in shown if case.job.pictures in {1, 4, 8}),
    )


def _with_policy(profile: Profile, policy: str) -> Profile:
    known = get_args(MemoryPolicyName)
    if policy not in known:
        raise InvalidValueError("policy", policy, f"one of {', '.join(known)}")
    return profile.model_copy(update={"memory": profile.memory.model_copy(update={"policy": policy})})


def _row(case: Planned, policy: str) -> dict[str, str | int | float]:
    job, fitted = case.job, case.fit
    return {
        "variant": case.variant,
        "size_px": f"{job.width} x {job.height}",
        "pictures": job.pictures,
        f"asked_gib_{policy}": round(case.asked_gib, 2),
        "at_once": fitted.job.pictures,
        "policy": fitted.memory.policy,
        "peak_gib": round(fitted.prediction.peak_gib, 2),
    }
