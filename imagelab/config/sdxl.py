"""Schema of `sdxl_config.yaml`: profiles, presets, schedulers, prompt templates."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from imagelab.config.base import (
    Config,
    Entry,
    Name,
    Positive,
    SidePx,
    SizePx,
    Source,
    Table,
    Text,
    pick,
)
from imagelab.config.encoders import Encoder
from imagelab.config.face import FacePack
from imagelab.config.loras import LoraChoices
from imagelab.config.options import MAX_STEPS, SCHEDULER_KWARGS, for_editors
from imagelab.errors import InvalidValueError

Dtype = Literal["float16", "bfloat16", "float32"]
MemoryPolicyName = Literal["resident", "text_encoder_offload", "model_offload", "sequential_offload"]
SchedulerClass = Literal[
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "LCMScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
]


class QualityPreset(Entry):
    """How much work goes into a picture."""

    steps: Annotated[int, Field(ge=1, le=150)]
    guidance_scale: Annotated[float, Field(ge=0, le=30)]
    scheduler: Name
    """A key of `schedulers`."""
    size: Name
    """A key of the profile's `sizes`."""
    quality_words: str = ""
    """Appended to the prompt."""
    loras: LoraChoices = ()
    """What the preset can't do without: LoRAs that make few steps enough."""
    max_guidance_scale: Annotated[float, Field(ge=0, le=30)] | None = None
    """A request may not ask for more; null for what the scheduler allows."""


class SizeLimits(Config):
    """The sizes that a profile draws."""

    min_px: SidePx
    max_px: SidePx
    multiple_px: Annotated[int, Field(ge=8, le=64, multiple_of=8)] = 8


class DtypePolicy(Config):
    """Precision of the weights on each kind of device."""

    cuda: Dtype
    cpu: Dtype


class MemoryLimit(Config):
    """GiB that may be in use at once on each kind of device; None: no limit, and nothing is predicted."""

    cuda: Positive | None = None
    cpu: Positive | None = None


class MemoryPolicy(Config):
    """What stays on the GPU, and how the VAE decodes."""

    policy: MemoryPolicyName
    """What stays, from fast to small: everything; all but the text encoders, which come layer by layer for a prompt
    that is new; the model that runs; the layer that runs."""
    vae_slicing: bool
    """Decode a batch picture by picture."""
    vae_tiling: bool
    """Decode a picture tile by tile."""
    vae_tile_px: Annotated[SidePx, Field(multiple_of=32)]
    """Side of a tile; must be below the picture's, or nothing is tiled. diffusers cuts other tiles to a wrong size."""
    limit_gib: MemoryLimit = MemoryLimit()
    """What is predicted to need more is drawn in a slower way, or refused."""


class LatencySeconds(Config):
    """Upper limits for one picture."""

    base: Positive
    lora: Positive | None = None
    controlnet: Positive | None = None


class VramGib(Config):
    """Upper limits for allocated GPU memory."""

    base: Positive
    lora: Positive
    controlnet: Positive
    peak: Positive


class Targets(Config):
    """What the benchmark holds a profile to."""

    device: Text
    """The machine that the numbers are promised for."""
    quality_preset: Name
    latency_seconds: LatencySeconds
    vram_gib: VramGib | None = None


class Profile(Entry):
    """A complete set of models and the settings that suit it."""

    description: Text
    licence: Text
    """Of the base weights."""
    base: Source
    vae: Source | None = None
    """Replaces the VAE of the base."""
    preview_vae: Source | None = None
    """A tiny VAE of the same latents, which shows a picture while it is drawn. Without its files a linear map does."""
    loras: Source
    """Folder with the files that lora_registry.yaml names."""
    face: FacePack
    clip: Source | None = None
    """CLIP for the prompt-adherence metric."""
    encoders: Table[Encoder] = Field(default_factory=dict)
    """What may judge whether pictures show one character, by name."""
    dtype: DtypePolicy
    memory: MemoryPolicy
    compiled: bool = False
    """Compile UNet, ControlNets and the VAE's decoder: minutes once, faster steps afterwards, other last bits."""
    size_limits: SizeLimits
    sizes: dict[Name, SizePx]
    """Name: [width, height] in pixels."""
    default_quality_preset: Name
    quality_presets: Table[QualityPreset]
    negative_prompt: Name
    """A key of `negative_prompts`, used unless a character or a request says otherwise."""
    targets: Targets

    def preset(self, name: str | None = None) -> QualityPreset:
        """Return a quality preset, by default the profile's own.

        Raises UnknownNameError.
        """
        return pick("quality preset", self.quality_presets, self.default_quality_preset if name is None else name)

    def size_px(self, name: str) -> tuple[int, int]:
        """Return (width, height) of a named size.

        Raises UnknownNameError.
        """
        return pick("size", self.sizes, name)

    def encoder(self, name: str) -> Encoder:
        """Return an encoder.

        Raises UnknownNameError.
        """
        return pick("encoder", self.encoders, name)

    def check_size(self, width: int, height: int) -> None:
        """Refuse a size in pixels that the profile's models don't draw.

        Raises InvalidValueError.
        """
        limits = self.size_limits
        for name, side in (("width", width), ("height", height)):
            fits = type(side) is int and limits.min_px <= side <= limits.max_px and side % limits.multiple_px == 0
            if not fits:
                expected = f"a multiple of {limits.multiple_px} between {limits.min_px} and {limits.max_px}"
                raise InvalidValueError(name, side, f"{expected} (profile {self.name})")


class Scheduler(Entry):
    """A diffusers scheduler by name."""

    model_config = ConfigDict(json_schema_extra=for_editors(SCHEDULER_KWARGS, "class_name", "kwargs"))

    class_name: SchedulerClass
    kwargs: dict[Name, Any] = Field(default_factory=dict)  # which ones, the class decides: cross_checks
    """Overrides of the configuration that the base weights bring."""
    sampler: Text
    """What A1111 infotext calls it."""
    schedule_type: Text = "Automatic"
    """What A1111 infotext calls its noise schedule."""
    max_guidance_scale: Annotated[float, Field(ge=0, le=30)] | None = None
    """It draws nothing sensible above; null for no limit of its own."""

    @property
    def max_steps(self) -> int | None:
        """Return how many steps it knows; None for no limit of its own."""
        return MAX_STEPS.get(self.class_name)


class Style(Entry):
    """A look in words."""

    prompt: Text
    negative_prompt: str = ""


class SdxlConfig(Config):
    """Profiles, schedulers and prompt templates."""

    default_profile: Name
    profiles: Annotated[Table[Profile], Field(min_length=1)]
    schedulers: Annotated[Table[Scheduler], Field(min_length=1)]
    negative_prompts: dict[Name, str]
    styles: Table[Style]
