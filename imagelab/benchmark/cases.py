"""What is measured: presets × {base, LoRA, ControlNet, both} × batch sizes, stock diffusers, and changes of LoRAs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Literal, get_args

from imagelab.checks import check_whole
from imagelab.config import Configs, Profile, pick
from imagelab.controls import control_use
from imagelab.errors import InvalidValueError, ProfileError
from imagelab.records import Record
from imagelab.results import GenerationRequest, LoraUse

if TYPE_CHECKING:
    from PIL.Image import Image

Variant = Literal["base", "lora", "controlnet", "both"]
# ours, or diffusers' own pipeline on the same models: with a VAE that is fit for their dtype, the same once more (what
# its ratio to itself strays from 1 is noise), and with the VAE in float32, as SDXL's is run as it is published
Engine = Literal["imagelab", "diffusers", "diffusers_again", "diffusers_fp32_vae"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
SCENE = "running on the beach, excited expression"
MAX_BATCH = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Case(Record):
    """One thing to measure."""

    quality_preset: str
    variant: Variant = "base"
    batch_size: int = 1
    engine: Engine = "imagelab"
    loras: tuple[str, ...] = ()
    control: str | None = None

    @property
    def name(self) -> str:
        """Return a name that no other case of a plan has."""
        loras = f" ({len(self.loras)} LoRAs)" if len(self.loras) > 1 else ""
        parts = [self.quality_preset, f"{self.variant}{loras}", f"batch {self.batch_size}"]
        return " ".join([*parts, *([self.engine] if self.engine != "imagelab" else [])])

    def request(self, control_image: "Image") -> GenerationRequest:
        """Return what is drawn; a control follows `control_image` as a map that is ready."""
        controls = (
            (control_use(type=self.control, image=control_image, is_map=True, place="control"),) if self.control else ()
        )
        return GenerationRequest(
            character=None,
            scene_description=SCENE,
            quality_preset=self.quality_preset,
            additional_loras=tuple(LoraUse(name=name) for name in self.loras),
            controls=controls,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraChange(Record):
    """Other LoRAs in the weights than before: how long that takes is measured by itself."""

    before: tuple[str, ...]
    after: tuple[str, ...]

    @property
    def name(self) -> str:
        """Return a name that no other change of a benchmark has."""
        before, after = len(self.before) or "none", len(self.after) or "none"
        other = "" if not (self.before and self.after) else " other" if after == 1 else " others"
        return f"LoRAs: {before} to {after}{other}"


def plan_cases(
    configs: Configs,
    profile: Profile,
    *,
    presets: Iterable[str] | None = None,
    variants: Iterable[str] = VARIANTS,
    batch_sizes: Iterable[int] = (1,),
    lora_count: int = 1,
    stock: bool = True,
) -> tuple[Case, ...]:
    """Return the cases of a profile, each once: every preset (None: the one that its targets are for) in every variant.

    A variant with LoRAs takes the first `lora_count` of the registry's that have a file for the profile, one with a
    ControlNet the first kind of control that has one. With `stock` diffusers' own pipeline is measured beside each base
    case, and once more beside itself. Raises UnknownNameError, InvalidValueError, or ProfileError where the profile
    lacks what a variant needs.
    """
    names = [profile.targets.quality_preset] if presets is None else [profile.preset(name).name for name in presets]
    kinds = [pick("variant", {kind: kind for kind in VARIANTS}, name) for name in variants]
    sizes = [check_whole(size, "batch_sizes", 1, MAX_BATCH) for size in batch_sizes]
    check_whole(lora_count, "lora_count", 1, 16)
    for argument, given in {"presets": names, "variants": kinds, "batch_sizes": sizes}.items():
        if not given:
            raise InvalidValueError(argument, [], "at least one")
    for name in names:  # the first step can't be told from what comes before it, so a second is needed
        check_whole(profile.preset(name).steps, f"steps of quality preset {name}", 2, 1000)
    loras = _loras(configs, profile, lora_count) if {"lora", "both"} & set(kinds) else ()
    control = _control(configs, profile) if {"controlnet", "both"} & set(kinds) else None
    cases: list[Case] = []
    for preset, kind, size in product(names, kinds, sizes):
        case = Case(
            quality_preset=preset,
            variant=kind,
            batch_size=size,
            loras=loras if kind in ("lora", "both") else (),
            control=control if kind in ("controlnet", "both") else None,
        )
        cases += [case, *(_stock(case) if stock and kind == "base" else [])]
    return tuple(dict.fromkeys(cases))


def _stock(case: Case) -> Sequence[Case]:
    return [replace(case, engine=engine) for engine in get_args(Engine) if engine != "imagelab"]


def plan_lora_changes(configs: Configs, profile: Profile, cases: Iterable[Case]) -> tuple[LoraChange, ...]:
    """Return, for each number of LoRAs that the cases have: putting them in, changing them for others, taking them out.

    The others are the registry's first that the case hasn't, as many as it has, as far as there are so many.
    """
    there = _registered(configs, profile)
    changes: list[LoraChange] = []
    for count, loras in {len(case.loras): case.loras for case in cases if case.loras}.items():
        others = tuple([*(name for name in there if name not in loras), *loras][:count])
        changes.append(LoraChange(before=(), after=loras))
        changes += [LoraChange(before=loras, after=others)] if set(others) != set(loras) else []
        changes.append(LoraChange(before=loras, after=()))
    return tuple(changes)


def _registered(configs: Configs, profile: Profile) -> list[str]:
    loras = configs.lora_registry.loras.items()  # one for few steps goes with a preset of few steps
    return [name for name, lora in loras if profile.name in lora.files and lora.kind != "speed"]


def _loras(configs: Configs, profile: Profile, count: int) -> tuple[str, ...]:
    there = _registered(configs, profile)
    if len(there) < count:
        fix = "Add files for it to lora_registry.yaml, or measure without them: variants=['base']"
        raise ProfileError(profile.name, f"{len(there)} of the {count} LoRAs that are to be measured", fix)
    return tuple(there[:count])


def _control(configs: Configs, profile: Profile) -> str:
    kinds: Mapping[str, object] = configs.controlnet.by_name
    for kind in kinds:
        try:
            configs.control_source(kind, profile.name)
        except ProfileError:
            continue
        return kind
    fix = "Add one to controlnet_config.yaml, or measure without: variants=['base', 'lora']"
    raise ProfileError(profile.name, "no ControlNet to measure", fix)
