"""Does everything work with these weights? One small job for each thing that imagelab promises of a profile.

A LoRA or reference pictures that aren't there leave their job out, with the reason; the base has to be there.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Literal

from imagelab.character import CharacterGenerator
from imagelab.config import Configs, Source
from imagelab.errors import ImageLabError, InvalidValueError, ModelNotFoundError, ProfileError
from imagelab.imagefiles import mean_difference
from imagelab.references import CharacterReferenceManager
from imagelab.results import Generation, GenerationRequest, LoraUse

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """What one job came to."""

    name: str
    status: Literal["ok", "failed", "left out"]
    detail: str
    seconds: float
    images: "Mapping[str, Image]" = field(default_factory=dict, repr=False)


class _FailedError(Exception):
    """A job did something else than it should have."""


_Outcome = tuple[str, Mapping[str, Generation]]


def with_base(configs: Configs, profile: str | None, model: str | os.PathLike[str] | None) -> Configs:
    """Return configs whose profile draws with the base in `model`, a diffusers folder or a .safetensors file.

    None changes nothing. Raises InvalidValueError where there is neither, UnknownNameError for the profile.
    """
    if model is None:
        return configs
    path, chosen = Path(model).expanduser().resolve(), configs.profile(profile)
    if path.suffix == ".safetensors" and path.is_file():
        base = Source.model_construct(single_file=str(path))
    elif (path / "model_index.json").is_file():
        base = Source.model_construct(folder=str(path))
    else:
        wanted = "a .safetensors file, or a folder in diffusers' layout, with model_index.json in it"
        raise InvalidValueError("base model", str(model), wanted)
    return configs.with_profile(chosen.model_copy(update={"base": base}))


def check_profile(
    generator: CharacterGenerator, manager: CharacterReferenceManager, request: GenerationRequest
) -> tuple[Check, ...]:
    """Try the base, a LoRA, a character and the consistency check, and say of each how it went.

    `request` is the picture that all of them draw, of a character. Raises what loading the base raises.
    """
    plain = replace(request, use_character_loras=False, additional_loras=())
    generator.load()
    return (
        _try("base", lambda: _base(generator, plain)),
        _try("LoRA", lambda: _lora(generator, plain)),
        _try("character", lambda: _character(generator, request)),
        _try("consistency", lambda: _consistency(generator, manager, request)),
    )


def _try(name: str, job: Callable[[], _Outcome]) -> Check:
    clock = perf_counter()
    try:
        detail, drawn = job()
    except (ModelNotFoundError, ProfileError) as error:
        return Check(name=name, status="left out", detail=str(error), seconds=perf_counter() - clock)
    except (_FailedError, ImageLabError) as error:
        return Check(name=name, status="failed", detail=str(error), seconds=perf_counter() - clock)
    images = {caption: generation.image for caption, generation in drawn.items()}
    return Check(name=name, status="ok", detail=detail, seconds=perf_counter() - clock, images=images)


def _base(generator: CharacterGenerator, plain: GenerationRequest) -> _Outcome:
    """Draw without LoRAs, twice: pipelines refuse black and NaN pictures, so what is left to go wrong is chance."""
    first, second = generator.generate(plain), generator.generate(plain)
    _demand(first.image == second.image, "the same seed drew two different pictures")
    return "the same seed draws the same picture, bit for bit", {"base": first}


def _lora(generator: CharacterGenerator, plain: GenerationRequest) -> _Outcome:
    """Draw with a LoRA of the character, at weight 1 and 0, and without it again: it acts, and it leaves no trace."""
    name = _lora_name(generator, plain)
    at = {
        weight: generator.generate(replace(plain, additional_loras=(LoraUse(name=name, weight=weight),)))
        for weight in (1.0, 0.0)
    }
    after = generator.generate(plain)
    moved = mean_difference(at[1.0].image, at[0.0].image)
    _demand(moved > 0, f"LoRA {name} at weight 1 drew the picture of weight 0")
    _demand(mean_difference(at[0.0].image, after.image) == 0, f"LoRA {name} at weight 0 isn't what there is without it")
    return f"{name} moves the picture by {moved:.1f} grey levels, and leaves no trace", {name: at[1.0]}


def _character(generator: CharacterGenerator, request: GenerationRequest) -> _Outcome:
    """Draw the character in two scenes of its own."""
    scenes = list(generator.configs.character(_character_of(request)).scenes)[:2]
    if not scenes:
        fix = "Name some in character_presets.yaml"
        raise ProfileError(generator.profile.name, f"{request.character} has no scenes", fix)
    drawn = {scene: generator.generate(replace(request, scene_description=scene)) for scene in scenes}
    _demand(len({generation.image.tobytes() for generation in drawn.values()}) == len(scenes), "scenes look alike")
    return f"drawn in {len(scenes)} scenes: {', '.join(scenes)}", drawn


def _consistency(
    generator: CharacterGenerator, manager: CharacterReferenceManager, request: GenerationRequest
) -> _Outcome:
    """Compare a drawn picture with the references: a face is found, and the score is one that a cosine can have."""
    drawn = generator.generate(request)
    verdict = manager.check_character_consistency(_character_of(request), drawn.image)
    _demand(verdict.status == "ok", f"the face could not be compared: {verdict.status} {verdict.reason}".rstrip())
    word = "consistent" if verdict.is_consistent else "not consistent"
    return f"similarity {verdict.similarity_score:.2f}, threshold {verdict.threshold:.2f}: {word}", {"checked": drawn}


def _lora_name(generator: CharacterGenerator, request: GenerationRequest) -> str:
    loras = generator.configs.character(_character_of(request)).loras
    if not loras:
        fix = "Name one in character_presets.yaml"
        raise ProfileError(generator.profile.name, f"{request.character} has no LoRA", fix)
    return loras[0].name


def _character_of(request: GenerationRequest) -> str:
    if request.character is None:
        raise InvalidValueError("character", None, "the name of a character: its LoRA and its references are tried")
    return request.character


def _demand(holds: bool, otherwise: str) -> None:  # noqa: FBT001
    if not holds:
        raise _FailedError(otherwise)
