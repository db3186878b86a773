"""A profile's models, from local files to a pipeline that is ready to draw."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, StableDiffusionXLPipeline

from imagelab.config import Profile, Source
from imagelab.errors import ModelFileError
from imagelab.models import check_safetensors, file_sha256, resolve_source, verify_weights
from imagelab.pipeline import LoadedPipeline, apply_memory_policy, resolve_device, use_sdpa

_COMPONENTS = ("unet", "vae", "text_encoder", "text_encoder_2")
_VOCABULARIES = ("tokenizer.json", "vocab.json")
_AGAIN = "Fetch or copy the model again"
_ONE_FILE = (
    "It must be an SDXL checkpoint, and the rest of SDXL be in the local cache: "
    "`hf download stabilityai/stable-diffusion-xl-base-1.0 --include '*.json' '*.txt'`"
)
# Names that old files use, and what they became: transformers 5.6 flattened CLIPTextModel, diffusers 0.12 renamed
# the VAE's attention. Both libraries read the old ones.
_OLD_NAMES = (
    ("text_model.", ""),
    (".query.", ".to_q."),
    (".key.", ".to_k."),
    (".value.", ".to_v."),
    (".proj_attn.", ".to_out.0."),
)


def load_pipeline(profile: Profile, device: str = "auto") -> LoadedPipeline:
    """Load a profile's models from local files and put them where its memory policy says.

    Raises ModelNotFoundError, ModelFileError, or InvalidValueError for a device that isn't there.
    """
    where = resolve_device(device)
    dtype: torch.dtype = getattr(torch, profile.dtype.cuda if where.type == "cuda" else profile.dtype.cpu)
    base = resolve_source(profile.base, f"base model of profile {profile.name!r}")
    given: dict[str, Any] = {"dtype": dtype, "local_files_only": True}
    hashes = _check_base(profile.base, base, dtype)
    with _quietly():
        if profile.vae:
            folder = resolve_source(profile.vae, f"VAE of profile {profile.name!r}")
            hashes |= {f"vae override/{name}": value for name, value in _check_folder(folder, None).items()}
            vae = _load(AutoencoderKL.from_pretrained, folder, **given)
            _check_complete(vae, folder, None)
            given["vae"] = vae
        pipe = _load_base(base, dtype, given)
    for name in _COMPONENTS:
        # Not trained here, and gradients switched off choose the same CPU kernels before and after a LoRA.
        getattr(pipe, name).requires_grad_(requires_grad=False).eval()
    use_sdpa(pipe)
    pipe.set_progress_bar_config(disable=True)
    degraded = apply_memory_policy(pipe, profile.memory, where)
    config = dict(pipe.scheduler.config)
    return LoadedPipeline(pipe=pipe, device=where, sha256=hashes, degraded=degraded, scheduler_config=config)


def _check_base(source: Source, path: Path, dtype: torch.dtype) -> dict[str, str]:
    """Check the files of the base model as far as that goes without loading them, and return their hashes."""
    if path.is_file():
        check_safetensors(path)
        return {path.name: file_sha256(path)}
    index = path / "model_index.json"
    try:
        class_name = json.loads(index.read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelFileError(index, "isn't there or can't be read", "Put a model in diffusers' layout there") from error
    if class_name != "StableDiffusionXLPipeline":
        raise ModelFileError(index, f"is of a {class_name}, not of a StableDiffusionXLPipeline", "Use an SDXL model")
    for name in ("tokenizer", "tokenizer_2"):
        if not any((path / name / file).is_file() for file in _VOCABULARIES):  # transformers would make one up
            raise ModelFileError(path / name, f"holds none of {', '.join(_VOCABULARIES)}", _AGAIN)
    if source.package:
        return verify_weights(path)
    variant = _variant(path, dtype)
    return {
        f"{part}/{name}": value for part in _COMPONENTS for name, value in _check_folder(path / part, variant).items()
    }


def _check_folder(folder: Path, variant: str | None) -> dict[str, str]:
    files = _weight_files(folder, variant)
    for path in files:
        check_safetensors(path)
    return {path.name: _sha256(path) for path in files}


def _sha256(path: Path) -> str:
    # A hub cache links to blobs that are named by their hash: no need to read 7 GB.
    name = path.resolve().name
    return name if len(name) == 64 and path.is_symlink() else file_sha256(path)


def _weight_files(folder: Path, variant: str | None) -> list[Path]:
    files = sorted(path for path in folder.glob("*.safetensors") if (".fp16" in path.name) == (variant == "fp16"))
    if not files:
        raise ModelFileError(folder, "holds no .safetensors weights", _AGAIN)
    return files


def _variant(base: Path, dtype: torch.dtype) -> str | None:
    """Choose between the two sets of weights that SDXL is published in; either may be all that there is."""
    unet = base / "unet"
    half = any(unet.glob("*.fp16*.safetensors"))
    full = any(".fp16" not in path.name for path in unet.glob("*.safetensors"))
    return "fp16" if half and (dtype == torch.float16 or not full) else None


def _load_base(base: Path, dtype: torch.dtype, given: dict[str, Any]) -> StableDiffusionXLPipeline:
    if base.is_file():
        # Such a file holds weights alone; configuration and tokenizers are read from the hub's cache.
        return _load(StableDiffusionXLPipeline.from_single_file, base, fix=_ONE_FILE, add_watermarker=False, **given)
    variant = _variant(base, dtype)
    load = StableDiffusionXLPipeline.from_pretrained
    pipe = _load(load, base, variant=variant, use_safetensors=True, add_watermarker=False, **given)
    for name in _COMPONENTS:
        if name not in given:
            _check_complete(getattr(pipe, name), base / name, variant)
    return pipe


def _load(load: Callable[..., Any], path: Path, fix: str = _AGAIN, **given: Any) -> Any:
    try:
        return load(path, **given)
    except Warning:  # turned into an error by whoever runs us: not about the file
        raise
    except Exception as error:  # the loaders raise whatever the file leads them to: KeyError, OSError, RuntimeError ...
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelFileError(path, f"can't be loaded: {reason}", fix) from error


def _check_complete(module: torch.nn.Module, folder: Path, variant: str | None) -> None:
    """Refuse weights that leave a part of the module as it was initialised: the libraries only log that."""
    there = {_new_name(key) for path in _weight_files(folder, variant) for key in check_safetensors(path)}
    if missing := sorted(key for key in module.state_dict() if _new_name(key) not in there):
        raise ModelFileError(folder, f"lacks {len(missing)} tensors, {missing[0]} among them", _AGAIN)


def _new_name(key: str) -> str:
    for old, new in _OLD_NAMES:
        key = key.replace(old, new)
    return key


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence the libraries' progress bars: several to a model, and none says what is being waited for."""
    logs = (diffusers.utils.logging, transformers.utils.logging)
    were_on = [log.is_progress_bar_enabled() for log in logs]
    for log in logs:
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, was_on in zip(logs, were_on, strict=True):
            if was_on:
                log.enable_progress_bar()
