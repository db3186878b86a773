"""What goes into the services and what comes out: frozen values, written to files as records."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from imagelab.records import IN_MEMORY, Record, to_plain

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

SCHEMA_VERSION = 1

FaceStatus = Literal["ok", "no_face", "several_faces", "low_quality", "decode_error"]
ControlModel = Literal["dedicated", "union"]
Resize = Literal["stretch", "crop", "fill"]
Metric = Literal["cosine", "euclidean"]
ItemStatus = Literal["accepted", "rejected", "unscorable", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraUse(Record):
    """A LoRA by its registry name, and how strongly, where and when it acts.

    `start` and `stop` are fractions of the steps: step i of n, counted from 0, belongs to it when start ≤ i/n < stop.
    They hold for the UNet; the text encoders are asked once, before the first step, with every LoRA that acts at all.
    """

    name: str
    weight: float | None = None  # None: the registry's default_weight
    text_encoder_weight: float | None = None  # None: as `weight`
    text_encoder_2_weight: float | None = None  # None: as `text_encoder_weight`
    blocks: tuple[float, ...] | str | None = None  # config.blocks: 12 or 20 weights or a preset; None: the registry's
    start: float | None = None  # None: 0
    stop: float | None = None  # None: 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlUse(Record):
    """A picture that a picture shall follow, in one respect; None stands for the configuration's value.

    It acts at step i of n, counted from 0, where start <= i/n and (i+1)/n <= end; one that acts at none is refused,
    unless its scale is 0.
    """

    type: str  # pose, canny, depth, seg or normal
    image: Path  # of a picture in memory: "memory/" and its sha256
    scale: float | None = None
    start: float | None = None  # fraction of the steps after which it sets in
    end: float | None = None  # fraction of the steps after which it lets go
    is_map: bool = False  # True: `image` is the map, no picture to make one of
    resize: str = "crop"  # how it comes to the picture's size: stretch, crop or fill
    model: str | None = None  # dedicated or union; None: dedicated where the profile has such a ControlNet
    picture: Any = field(default=None, compare=False, repr=False, metadata=IN_MEMORY)  # PIL's, where there is no file


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationRequest(Record):
    """What to draw; None stands for the preset's, the character's or the profile's own value."""

    character: str | None  # None: nobody in particular, the scene alone
    scene_description: str = ""
    quality_preset: str | None = None
    style: str | None = None
    seed: int | None = None  # None: drawn at random, and recorded
    negative_prompt: str | None = None  # replaces the templates
    width: int | None = None  # px
    height: int | None = None  # px
    steps: int | None = None
    guidance_scale: float | None = None
    guidance_start: float = 0.0  # fractions of the steps, as a LoRA's: a step in between is guided, which costs twice
    guidance_stop: float = 1.0
    scheduler: str | None = None
    additional_loras: tuple[LoraUse, ...] = ()
    use_character_loras: bool = True
    controls: tuple[ControlUse, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraRecord(Record):
    """A LoRA as it was applied."""

    name: str
    weight: float
    text_encoder_weight: float
    sha256: str
    text_encoder_2_weight: float | None = None  # None: as `text_encoder_weight`
    blocks: tuple[float, ...] | None = None  # weights of config.blocks.BLOCKS; None: 1 in all of them
    start: float = 0.0
    stop: float = 1.0
    tensors_sha256: str = ""  # of the file without its header, which programs rewrite: A1111's and kohya's hash

    def acts_at(self, step: int, steps: int) -> bool:
        """Say whether it acts in the UNet at a step, counted from 0, of how many."""
        return self.start <= step / steps < self.stop

    def to_use(self) -> LoraUse:
        """Return what to ask for to have it applied so again."""
        given = {item.name: getattr(self, item.name) for item in dataclasses.fields(LoraUse)}
        return LoraUse(**given | {"blocks": self.blocks or "ALL"})  # None would be the registry's default


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlRecord(Record):
    """A control as it acted, and the map that it acted with."""

    type: str
    model: ControlModel
    model_sha256: Mapping[str, str]  # {file of the ControlNet: hash}
    scale: float
    start: float
    end: float
    resize: Resize
    is_map: bool
    image: Path  # as it was given
    image_sha256: str  # of its pixels, upright and RGB, with its size: `imagefiles.pixels_sha256`
    map_sha256: str  # likewise of the map, at the picture's size
    preprocessor: str | None = None  # None: the map was given
    params: Mapping[str, Any] = field(default_factory=dict)  # of the preprocessor
    preprocessor_sha256: Mapping[str, str] = field(default_factory=dict)  # {file of its models: hash}


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment(Record):
    """The machine and the settings of its libraries, as far as pixels depend on them."""

    python: str
    system: str  # the operating system
    processor: str
    threads: int  # of PyTorch, for one operation
    attention: str  # what may compute it
    precision: str  # of float32 matrix products: highest, high (TF32) or medium
    cuda: str | None = None  # versions, where CUDA draws
    cudnn: str | None = None
    driver: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationRecord(Record):
    """How a picture was drawn, with everything resolved: what it takes to draw it again.

    Two records are equal when they describe the same picture; what time and memory it took doesn't count.
    """

    profile: str
    base_model: str  # where it comes from, as the configuration says it
    model_sha256: Mapping[str, str]  # {file of the base model: hash}; empty where nothing lists hashes
    character: str | None
    scene_description: str
    style: str | None
    quality_preset: str
    prompt: str
    negative_prompt: str
    seed: int
    width: int  # px
    height: int  # px
    steps: int
    guidance_scale: float
    scheduler: str
    loras: tuple[LoraRecord, ...]
    device: str
    dtype: str
    memory_policy: str
    scheduler_settings: Mapping[str, Any] = field(default_factory=dict)  # diffusers' class, and what it was told
    sampler: str = ""  # what A1111 calls it
    schedule_type: str = "Automatic"  # likewise, of the noise
    guidance_start: float = 0.0  # fractions of the steps between which it was guided
    guidance_stop: float = 1.0
    vae_tile_px: int | None = None  # None: the picture was decoded as a whole
    controls: tuple[ControlRecord, ...] = ()
    batch_size: int = 1  # pictures drawn at once, which moves the last bits
    degraded: tuple[str, ...] = ()  # what the machine couldn't do as configured
    versions: Mapping[str, str] = field(default_factory=dict)  # imagelab, torch, diffusers, transformers
    environment: Environment | None = None  # None: of a record that is older than this
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)  # {stage: duration}, of the whole batch
    peak_vram_gib: float = field(default=0.0, compare=False)  # with the weights; 0 where there is no GPU
    predicted_vram_gib: float = field(default=0.0, compare=False)  # of that, before it was drawn
    schema_version: int = SCHEMA_VERSION

    def to_request(self) -> GenerationRequest:
        """Return the request that draws this picture again, as long as the configuration's texts are the same.

        A control picture that was in memory only is asked for by its hash, which `generate` refuses: put its saved map
        in its place.
        """
        loras = tuple(lora.to_use() for lora in self.loras)
        controls = tuple(_use_of(control) for control in self.controls)
        own = {item.name for item in dataclasses.fields(self)} - {"controls"}
        shared = own.intersection(item.name for item in dataclasses.fields(GenerationRequest))
        given = {name: getattr(self, name) for name in shared}
        return GenerationRequest(**given, additional_loras=loras, use_character_loras=False, controls=controls)


def _use_of(control: ControlRecord) -> ControlUse:
    shared = ("type", "image", "scale", "start", "end", "is_map", "resize", "model")
    return ControlUse(**{name: getattr(control, name) for name in shared})


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """A picture and how it came about."""

    image: "Image"  # RGB
    record: GenerationRecord
    control_maps: tuple["Image", ...] = ()  # RGB, of the picture's size, in the order of `record.controls`


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict(Record):
    """Whether the face in a picture is the character's."""

    character_name: str
    status: FaceStatus
    similarity_score: float | None  # under the metric: a cosine, or a distance; None unless status is ok
    threshold: float
    metric: Metric
    encoder: str  # the face pack
    calibrated: bool = False  # whether the threshold was fitted to this pack and character
    calibration: str | None = None  # which calibration that was, in a few words
    reason: str = ""  # why the status isn't ok, where there is more to say

    @property
    def is_consistent(self) -> bool:
        """Say whether a face was compared and is near enough; a face that can't be compared never is."""
        if self.status != "ok" or self.similarity_score is None:
            return False
        if self.metric == "euclidean":
            return self.similarity_score <= self.threshold
        return self.similarity_score >= self.threshold


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchItem(Record):
    """One picture of a batch and what became of it."""

    index: int
    seed: int
    status: ItemStatus
    reason: str = ""  # why it isn't accepted
    path: Path | None = None  # relative to the batch's output_dir; None when it wasn't kept
    similarity_score: float | None = None  # None: not scored, which is no score of 0
    verdict: Verdict | None = None
    perceptual_hash: str | None = None
    sha256: str | None = None  # of the file
    degraded: tuple[str, ...] = ()  # of its record: what the machine couldn't do as configured


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchResult(Record):
    """A batch: what became of every picture that was asked for, in order; those without an item are pending."""

    items: tuple[BatchItem, ...]
    requested: int  # of a batch that has reached its number of accepted ones: as many as that took
    character: str
    scene_description: str
    threshold: float | None = None  # None: the consistency check was off
    encoder: str | None = None  # the face pack that compared
    output_dir: Path | None = None
    calibration: str | None = None  # which calibration the threshold is of, in a few words; None: of none
    until_accepted: int | None = None  # as many accepted ones end the batch; None: it isn't ended by them
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)  # {stage: duration}
    schema_version: int = SCHEMA_VERSION

    @property
    def total_generated(self) -> int:
        """Count the pictures that were drawn."""
        return sum(item.status != "failed" for item in self.items)

    @property
    def total_accepted(self) -> int:
        """Count the pictures that passed the filter."""
        return sum(item.status == "accepted" for item in self.items)

    @property
    def pending(self) -> int:
        """Count the pictures that are still to be drawn: those of a batch that was stopped."""
        return self.requested - len(self.items)

    @property
    def fell_short(self) -> bool:
        """Say whether all pictures were drawn and fewer of them accepted than should have ended the batch."""
        return self.until_accepted is not None and not self.pending and self.total_accepted < self.until_accepted

    @property
    def counts(self) -> dict[str, int]:
        """Return how many pictures became what: accepted, rejected, unscorable, failed, pending; together requested."""
        counted = {status: sum(item.status == status for item in self.items) for status in get_args(ItemStatus)}
        return counted | {"pending": self.pending}

    @property
    def consistency_scores(self) -> tuple[float, ...]:
        """Return the similarities of all pictures that have one, accepted or not."""
        return tuple(item.similarity_score for item in self.items if item.similarity_score is not None)

    @property
    def accepted_scores(self) -> tuple[float, ...]:
        """Return the similarities of the accepted pictures: selected by them, so no measure of how well was drawn."""
        accepted = (item.similarity_score for item in self.items if item.status == "accepted")
        return tuple(score for score in accepted if score is not None)

    @property
    def mean_similarity(self) -> float:
        """Return the mean of the scores, NaN if there are none."""
        scores = self.consistency_scores
        return math.fsum(scores) / len(scores) if scores else math.nan

    @property
    def acceptance_rate(self) -> float:
        """Return accepted / asked for, NaN for an empty batch; a failed picture counts against it."""
        return self.total_accepted / self.requested if self.requested else math.nan

    def to_frame(self) -> "pd.DataFrame":
        """Return a table with a row per picture."""
        import pandas as pd  # slow to import, and only notebooks want tables

        columns = [column.name for column in dataclasses.fields(BatchItem) if column.name != "verdict"]
        rows = [[to_plain(getattr(item, column)) for column in columns] for item in self.items]
        return pd.DataFrame(rows, columns=columns)
