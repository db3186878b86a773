"""Infotext and what it is about: a record of ours written in A1111's words, and anybody's read."""

import re
from collections.abc import Callable
from pathlib import PurePosixPath

from imagelab.metadata.control_units import find_units, format_unit
from imagelab.metadata.infotext import Infotext, parse_infotext
from imagelab.metadata.lenient import plain_number, read_size, to_number, to_whole
from imagelab.metadata.lora_tags import find_lora_tags, lora_tag, named_hashes, write_hashes
from imagelab.metadata.sampler_names import schedule_name, split_sampler
from imagelab.metadata.values import PictureMetadata, Writer
from imagelab.results import GenerationRecord

_VAE = "vae override/"  # what the loader puts before the files of a VAE that isn't the base model's
_AUTOV2, _AUTOV3 = 10, 12  # hex digits of the file's hash, and of the tensors'
_FORGE = re.compile(r"f\d|neo|classic")  # how versions of Forge and of its descendants begin
_LEFT_OUT = {"Clip skip": "1", "RNG": "GPU"}  # what A1111 leaves out where it is so


def infotext_of(record: GenerationRecord) -> Infotext:
    """Say in A1111's words how a picture was drawn; the LoRAs become tags at the end of the prompt."""
    tags = " ".join(lora_tag(lora, record.steps) for lora in record.loras)
    return Infotext(
        prompt=f"{record.prompt} {tags}".strip(),
        negative_prompt=record.negative_prompt,
        settings=_settings(record),
        hashes=_hashes(record),
    )


def _settings(record: GenerationRecord) -> dict[str, str]:
    hashes = _hashes(record)
    settings = {
        "Steps": str(record.steps),
        "Sampler": record.sampler or record.scheduler,
        "Schedule type": record.schedule_type,
        "CFG scale": plain_number(record.guidance_scale),
        "Seed": str(record.seed),
        "Size": f"{record.width}x{record.height}",
        "Model hash": hashes.get("model", ""),
        "Model": model_name(record),
        "VAE hash": hashes.get("vae", ""),
        "RNG": "CPU",
    }
    if (record.guidance_start, record.guidance_stop) != (0.0, 1.0):  # A1111 has no words for it
        settings["Guidance start"] = plain_number(record.guidance_start)
        settings["Guidance stop"] = plain_number(record.guidance_stop)
    settings |= {f"ControlNet {index}": format_unit(control) for index, control in enumerate(record.controls)}
    loras = [(lora.name, lora.tensors_sha256[:_AUTOV3]) for lora in record.loras if lora.tensors_sha256]
    settings["Lora hashes"] = write_hashes(loras)
    settings["Version"] = f"imagelab-{record.versions.get('imagelab', '0+unknown')}"
    return {key: value for key, value in settings.items() if value}


def _hashes(record: GenerationRecord) -> dict[str, str]:
    """Return what Civitai looks models up by: the first digits of the files' own hashes.

    Of a base model in several files it is the UNet's; no site knows that one, but it tells two models apart.
    """
    model = _first(record, lambda name: not name.startswith(_VAE), prefer="unet/")
    vae = _first(record, lambda name: name.startswith(_VAE), prefer=_VAE)
    named = {"model": model, "vae": vae} | {f"lora:{lora.name}": lora.sha256 for lora in record.loras}
    return {name: sha256[:_AUTOV2] for name, sha256 in named.items() if sha256}


def _first(record: GenerationRecord, fits: Callable[[str], bool], prefer: str) -> str:
    names = sorted(name for name in record.model_sha256 if fits(name))
    name = next((name for name in names if name.startswith(prefer)), names[0] if names else "")
    return record.model_sha256.get(name, "")


def model_name(record: GenerationRecord) -> str:
    """Return what to call the base model: its file or its name on the hub, else the profile."""
    source = PurePosixPath(record.base_model)
    if source.suffix == ".safetensors":
        return source.stem
    return source.name.partition("@")[0] if "@" in source.name else record.profile


def read_infotext(text: str) -> PictureMetadata:
    """Return what A1111's text says, whoever wrote it; an empty reading for a text without settings."""
    infotext = parse_infotext(text)
    settings = dict(infotext.settings)
    if not settings:
        return PictureMetadata()
    version = settings.get("Version")
    sampler, schedule = split_sampler(settings["Sampler"]) if "Sampler" in settings else (None, None)
    hashes = _lora_hashes(infotext)
    return PictureMetadata(
        writer=_writer(version),
        version=version,
        prompt=infotext.prompt,
        negative_prompt=infotext.negative_prompt,
        seed=to_whole(settings.get("Seed")),
        steps=to_whole(settings.get("Steps")),
        sampler=sampler,
        schedule=schedule or schedule_name(settings.get("Schedule type", "Automatic")),
        cfg=to_number(settings.get("CFG scale")),
        size=read_size(settings.get("Size")),
        model=settings.get("Model"),
        model_hash=settings.get("Model hash", infotext.hashes.get("model")),
        loras=find_lora_tags(infotext.prompt, hashes),
        controls=find_units(settings),
        settings=_LEFT_OUT | settings,
    )


def _writer(version: str | None) -> Writer:
    return "forge" if version and _FORGE.match(version) else "a1111"


def _lora_hashes(infotext: Infotext) -> dict[str, str]:
    short = {key.removeprefix("lora:"): value for key, value in infotext.hashes.items() if key.startswith("lora:")}
    return short | named_hashes(infotext.settings.get("Lora hashes", ""))
