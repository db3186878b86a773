"""What a benchmark would measure, said in seconds: no weights are read, no picture is drawn."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from imagelab.benchmark.cases import Case, plan_lora_changes
from imagelab.benchmark.run import capped, check_cap, control_image
from imagelab.character import CharacterGenerator
from imagelab.config import Configs, Profile
from imagelab.devices import device_name, resolve_device
from imagelab.errors import ImageLabError, ModelNotFoundError
from imagelab.memory_contract import Fit, Job, Net, fit, measure_footprint, net_of, predict, read_net
from imagelab.models import COMPONENTS, resolve_source
from imagelab.plan import plan_generation
from imagelab.random_sdxl import sdxl_on_meta


def rehearse(
    cases: Sequence[Case],
    *,
    configs: Configs,
    profile: str | None = None,
    device: str = "auto",
    runs: int = 5,
    vram_cap_gib: float | None = None,
    compiled: bool | None = None,
) -> str:
    """Say what `run_benchmark` would measure: cases, rounds, GiB that are predicted, and what lacks its files.

    Memory is predicted of each case by itself; a base model that isn't there counts as SDXL's own. Raises
    InvalidValueError for a device or a cap that isn't there, ProfileError for models that can't be compiled.
    """
    where = resolve_device(device)
    check_cap(where, vram_cap_gib)
    configs = capped(configs, profile, vram_cap_gib)
    chosen = CharacterGenerator(profile, device, configs, compiled=compiled).profile
    missing = {case: _missing(configs, chosen, case) for case in cases}
    changes = plan_lora_changes(configs, chosen, cases)
    table = list(_rows(cases, configs, chosen, where, missing))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lacking = dict.fromkeys(what for one in missing.values() for what in one)
    return "\n".join(
        [
            f"{chosen.name} on {device_name(where)}: {runs} rounds of {len(cases)} cases after a warm-up",
            *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table),
            *(f"{change.name}: {_said(change.before)} to {_said(change.after)}" for change in changes),
            *([f"missing: {what}" for what in lacking] or ["all models are there"]),
        ]
    )


def _said(loras: Sequence[str]) -> str:
    return ", ".join(loras) or "the base model's weights"


def _rows(
    cases: Sequence[Case],
    configs: Configs,
    profile: Profile,
    device: torch.device,
    missing: Mapping[Case, Sequence[str]],
) -> Iterator[tuple[str, ...]]:
    yield "case", "GiB predicted", "drawn so", "models"
    models, nets = _on_meta(configs, profile, device)
    footprint = measure_footprint(models, device)
    limit = getattr(profile.memory.limit_gib, device.type)
    for case in cases:
        files = "missing" if missing[case] else "there"
        if case.engine != "imagelab":  # nobody predicts what diffusers takes
            yield case.name, "", "", files
            continue
        job = _job(profile, case, nets)
        asked = predict(job, profile.memory, footprint, offloads=device.type == "cuda").peak_gib
        room = float("inf") if limit is None else limit
        fitted = fit(job, profile.memory, footprint, room, device, compiled=profile.compiled)
        yield case.name, f"{asked:.3g}", _way(job, fitted, limit), files


def _way(job: Job, fitted: Fit, limit: float | None) -> str:
    if not fitted.fits:
        return f"refused: {fitted.prediction.peak_gib:.3g} GiB at the least, {limit:g} are allowed"
    parts = f"{fitted.job.pictures} at once" if fitted.job.pictures < job.pictures else ""
    given_up = [what for what in (parts, *fitted.given_up) if what]
    return f"{', '.join(given_up)}: {fitted.prediction.peak_gib:.3g} GiB" if given_up else "as asked"


def _job(profile: Profile, case: Case, nets: Mapping[str, Net]) -> Job:
    controls = tuple(net for kind, net in nets.items() if kind == case.control)
    preset = profile.preset(case.quality_preset)
    width, height = profile.size_px(preset.size)
    return Job(
        width=width,
        height=height,
        pictures=case.batch_size,
        guided=preset.guidance_scale > 1,
        loras=bool(case.loras or preset.loras),
        controls=controls,
        net_bytes=sum(net.nbytes for net in controls),
    )


def _on_meta(configs: Configs, profile: Profile, device: torch.device) -> tuple[Any, Mapping[str, Net]]:
    """Return a profile's models as shapes without numbers, and the ControlNet of each kind of control that is there."""
    dtype = getattr(torch, profile.dtype.cuda if device.type == "cuda" else profile.dtype.cpu)
    try:
        base = resolve_source(profile.base)
        vae = resolve_source(profile.vae) if profile.vae else base / "vae"
    except ModelNotFoundError:
        base = vae = Path()
    if not (base / "model_index.json").is_file():  # it isn't there, or is a single file: SDXL's, of one shape
        pipe, net = sdxl_on_meta()
        _cast((*(getattr(pipe, name) for name in COMPONENTS), net), dtype)
        return pipe, {kind: net_of(net, kind) for kind in configs.controlnet.by_name}
    with torch.device("meta"):
        texts = [CLIPTextConfig.from_pretrained(base / name) for name in ("text_encoder", "text_encoder_2")]
        pipe = SimpleNamespace(
            unet=UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(base / "unet")),
            vae=AutoencoderKL.from_config(AutoencoderKL.load_config(vae)),
            text_encoder=CLIPTextModel(texts[0]),
            text_encoder_2=CLIPTextModelWithProjection(texts[1]),
        )
    _cast(vars(pipe).values(), dtype)
    nets = {}
    for kind in configs.controlnet.by_name:
        with suppress(ImageLabError):  # `_missing` says it
            nets[kind] = read_net(resolve_source(configs.control_source(kind, profile.name)), dtype)
    return pipe, nets


def _cast(modules: Iterable[nn.Module], dtype: torch.dtype) -> None:
    for module in modules:
        module.type(dtype)  # not `to`, of which diffusers' models warn


def _missing(configs: Configs, profile: Profile, case: Case) -> list[str]:
    """Return what is said of files that a case needs and lacks."""
    sources = {"base model": profile.base, "VAE": profile.vae, "face pack": profile.face.source}
    looks: list[Callable[[], object]] = [
        *(partial(resolve_source, source, what) for what, source in sources.items() if source),
        partial(plan_generation, configs, profile, case.request(control_image(profile))),
    ]
    said = []
    for look in looks:
        try:
            look()
        except ImageLabError as error:
            said.append(str(error))
    return said
