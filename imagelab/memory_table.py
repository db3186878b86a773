"""Which sizes and batches of SDXL fit a graphics card, predicted: no weights and no GPU are needed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import get_args

import torch

from imagelab.config import Profile
from imagelab.config.sdxl import MemoryPolicyName
from imagelab.controls import MAX_CONTROLS
from imagelab.errors import InvalidValueError
from imagelab.memory_contract import Fit, Footprint, Job, Net, fit, measure_footprint, net_of, predict
from imagelab.plan import MAX_TOGETHER
from imagelab.random_sdxl import sdxl_on_meta, union_on_meta
from imagelab.reporting import Measurement
from imagelab.versions import drawing_versions

BATCHES = (*range(1, 9), 16, 32, MAX_TOGETHER)
CHUNKS = (1, 25)  # the latter: a text as long as a request takes, 8,000 characters of English
_CUDA = torch.device("cuda")
_SHOWN_SIZES, _SHOWN_BATCHES = {"square", "largest"}, {1, 8, MAX_TOGETHER}


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """A case of the table: what is asked for, what it would take, and what is drawn instead of it."""

    preset: str
    size: str
    controls: str
    job: Job
    asked_gib: float
    fit: Fit


def predict_cases(profile: Profile, room_gib: float) -> list[Planned]:
    """Predict each preset, size, batch, set of controls and length of prompt, with SDXL's models in float16 on a GPU.

    Controls: none, one, and as many as a request takes; each by a dedicated ControlNet, or all by a union one.
    """
    models, dedicated, union = _sdxl()
    return [
        Planned(
            preset=preset,
            size=size,
            controls=controls,
            job=job,
            asked_gib=predict(job, profile.memory, models).peak_gib,
            fit=fit(job, profile.memory, models, room_gib, _CUDA),
        )
        for preset, size, controls, job in _cases(profile, dedicated, union)
    ]


@cache
def _sdxl() -> tuple[Footprint, Net, Net]:
    pipe, net = sdxl_on_meta()
    return measure_footprint(pipe, _CUDA), net_of(net, "dedicated"), net_of(union_on_meta(pipe.unet), "union")


def _cases(profile: Profile, dedicated: Net, union: Net) -> Iterator[tuple[str, str, str, Job]]:
    sizes = {name: tuple(size) for name, size in profile.sizes.items()} | _extreme_sizes(profile)
    sets: dict[str, tuple[Net, ...]] = {"none": ()}
    sets |= {f"{number} {net.name}": (net,) * number for number in (1, MAX_CONTROLS) for net in (dedicated, union)}
    for (preset, settings), (size, px), loras, (name, nets), chunks, pictures in product(
        profile.quality_presets.items(), sizes.items(), (False, True), sets.items(), CHUNKS, BATCHES
    ):
        job = Job(
            width=px[0],
            height=px[1],
            pictures=pictures,
            guided=settings.guidance_scale > 1,
            loras=loras,
            chunks=chunks,
            controls=nets,
            net_bytes=nets[0].nbytes if nets else 0,
        )
        yield preset, size, name, job


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
    shown = [case for case in shown if case.size in _SHOWN_SIZES and case.job.pictures in _SHOWN_BATCHES]
    return Measurement(
        what=f"Predicted, not measured: peak GPU memory where PyTorch has {room_gib:g} GiB, {profile.name}, float16; "
        f"{len(cases)} cases of presets, sizes, LoRAs, up to {MAX_CONTROLS} controls of one ControlNet, prompts of up "
        f"to {CHUNKS[-1]} chunks and batches of up to {MAX_TOGETHER}",
        command=f"python -m imagelab predict-memory --profile {profile.name} --room {room_gib:g}"
        f" --policy {profile.memory.policy}",
        machine={"device": "none, counted on meta tensors"} | drawing_versions(),
        facts=_facts(profile, room_gib, cases),
        rows=tuple(_row(case, profile.memory.policy) for case in shown),
    )


def _facts(profile: Profile, room_gib: float, cases: list[Planned]) -> dict[str, float]:
    models, dedicated, union = _sdxl()
    side = profile.size_limits.max_px
    largest = Job(width=side, height=side, loras=True, controls=(union,) * MAX_CONTROLS, net_bytes=union.nbytes)

    def fits(job: Job) -> bool:
        return fit(job, profile.memory, models, room_gib, _CUDA).fits

    def with_different(number: int) -> Job:
        nets = tuple(replace(dedicated, name=str(index)) for index in range(number))
        return replace(largest, controls=nets, net_bytes=number * dedicated.nbytes)

    return {
        "cases": len(cases),
        "cases_over_the_room": sum(not case.fit.fits for case in cases),
        "cases_drawn_in_parts": sum(case.fit.job.pictures < case.job.pictures for case in cases),
        "cases_offloaded": sum(case.fit.memory.policy != profile.memory.policy for case in cases),
        "cases_tiled": sum(case.fit.memory.vae_tiling > profile.memory.vae_tiling for case in cases),
        "largest_peak_gib": round(max(case.fit.prediction.peak_gib for case in cases), 2),
        # What no case bounds: the most that the largest picture is drawn with before it is refused.
        "most_chunks_of_a_prompt": _most(lambda number: fits(replace(largest, chunks=number)), 2000),
        "most_different_controlnets": _most(lambda number: fits(with_different(number)), MAX_CONTROLS),
    }


def _most(fits: Callable[[int], bool], end: int) -> int:
    """Return the largest number up to `end` that fits, 0 for none; all below one that fits do, too."""
    low, high = 0, end
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _with_policy(profile: Profile, policy: str) -> Profile:
    known = get_args(MemoryPolicyName)
    if policy not in known:
        raise InvalidValueError("policy", policy, f"one of {', '.join(known)}")
    return profile.model_copy(update={"memory": profile.memory.model_copy(update={"policy": policy})})


def _row(case: Planned, policy: str) -> dict[str, str | int | float]:
    job, fitted = case.job, case.fit
    return {
        "size_px": f"{job.width} x {job.height}",
        "controls": case.controls,
        "chunks": job.chunks,
        "pictures": job.pictures,
        f"asked_gib_{policy}": round(case.asked_gib, 2),
        "at_once": fitted.job.pictures,
        "policy": fitted.memory.policy,
        "tiles": "yes" if fitted.memory.vae_tiling else "no",
        "peak_gib": round(fitted.prediction.peak_gib, 2),
    }
