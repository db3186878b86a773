"""A profile's models, from local files to a pipeline that is ready to draw."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, StableDiffusionXLPipeline

from imagelab.compiling import check_compiling, compile_model
from imagelab.config import Profile
from imagelab.devices import resolve_device, within_memory
from imagelab.errors import ModelFileError, ModelNotFoundError
from imagelab.model_loading import check_complete, load_or_refuse, quietly
from imagelab.models import (
    AGAIN,
    COMPONENTS,
    check_base,
    check_component,
    check_model,
    choose_variant,
    resolve_source,
    sdxl_without_weights,
)
from imagelab.pipeline import OFFLOAD, LoadedPipeline, apply_memory_policy, use_sdpa
from imagelab.versions import find_compiler


def load_pipeline(profile: Profile, device: str = "auto") -> LoadedPipeline:
    """Load a profile's models from local files and put them where its memory policy says.

    Raises ModelNotFoundError, ModelFileError, InvalidValueError for a device that isn't there, OutOfMemoryError, or
    GenerationError where a profile's models are to be compiled and nothing can be.
    """
    where = resolve_device(device)
    compiler = find_compiler() if profile.compiled else None  # before what takes longer
    dtype = profile.dtype.cuda if where.type == "cuda" else profile.dtype.cpu
    base = resolve_source(profile.base, f"base model of profile {profile.name!r}")
    given: dict[str, Any] = {"dtype": getattr(torch, dtype), "local_files_only": True}
    hashes = check_base(profile.base, base, dtype)
    with quietly():
        if profile.vae:
            folder = resolve_source(profile.vae, f"VAE of profile {profile.name!r}")
            hashes |= {f"vae override/{name}": value for name, value in check_component(folder).items()}
            vae = load_or_refuse(AutoencoderKL.from_pretrained, folder, **given)
            check_complete(vae, folder, None)
            given["vae"] = vae
        pipe = _load_single_file(base, given) if base.is_file() else _load_folder(base, dtype, given)
    for name in COMPONENTS:
        # Not trained here, and gradients switched off choose the same CPU kernels before and after a LoRA.
        getattr(pipe, name).requires_grad_(requires_grad=False).eval()
    use_sdpa(pipe.unet, pipe.vae)
    pipe.set_progress_bar_config(disable=True)
    if compiler:
        check_compiling(where)
        compile_model(pipe.unet)
        compile_model(pipe.vae.decoder)
    degraded = within_memory(partial(apply_memory_policy, pipe, profile.memory, where), OFFLOAD)
    config = dict(pipe.scheduler.config)
    return LoadedPipeline(
        pipe=pipe,
        device=where,
        sha256=hashes,
        degraded=degraded,
        scheduler_config=config,
        compiled_by=compiler,
    )


def load_preview_vae(profile: Profile, loaded: LoadedPipeline) -> AutoencoderTiny | None:
    """Load the tiny VAE of a profile beside its pipeline; None if the profile has none, or its files aren't there.

    Raises ModelFileError.
    """
    source = profile.preview_vae
    if source is None:
        return None
    try:
        folder = resolve_source(source)
    except ModelNotFoundError:  # of use, and not needed: the doctor says where it should be
        return None
    dtype = loaded.dtype
    _, variant = check_model(folder, str(dtype).removeprefix("torch."), packaged=bool(source.package))
    with quietly():
        load = AutoencoderTiny.from_pretrained
        tiny = load_or_refuse(load, folder, dtype=dtype, variant=variant, use_safetensors=True, local_files_only=True)
    check_complete(tiny, folder, variant)
    return tiny.requires_grad_(requires_grad=False).eval().to(loaded.device)


def _load_single_file(base: Path, given: dict[str, Any]) -> StableDiffusionXLPipeline:
    rest = str(sdxl_without_weights())
    pipe = load_or_refuse(StableDiffusionXLPipeline.from_single_file, base, config=rest, add_watermarker=False, **given)
    for part in COMPONENTS:
        if missing := sorted(name for name, tensor in getattr(pipe, part).state_dict().items() if tensor.is_meta):
            raise ModelFileError(base, f"lacks {len(missing)} tensors of the {part}, {missing[0]} among them", AGAIN)
    return pipe


def _load_folder(base: Path, dtype: str, given: dict[str, Any]) -> StableDiffusionXLPipeline:
    variant = choose_variant(base, dtype)
    load = StableDiffusionXLPipeline.from_pretrained
    pipe = load_or_refuse(load, base, variant=variant, use_safetensors=True, add_watermarker=False, **given)
    for name in COMPONENTS:
        if name not in given:
            check_complete(getattr(pipe, name), base / name, variant)
    return pipe
