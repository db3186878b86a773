"""What a run is going to do, written down before it does any of it."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from imagelab.checks import check_whole
from imagelab.differences import differences
from imagelab.errors import InvalidValueError
from imagelab.records import Record
from imagelab.results import GenerationRequest, ItemStatus

MAX_IMAGES = 10_000  # what four digits in a file's name count
# Kept, since making one takes longer than what it encodes: two values a job, of ten thousand jobs.
_ENCODER = json.JSONEncoder(sort_keys=True, allow_nan=False, separators=(",", ":"))
SCHEMA_VERSION = 2  # 2: the environment is that of the pictures' records


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant(Record):
    """Pictures of a run that differ in nothing but their seeds: a batch is one variant, a sweep has several."""

    picture: GenerationRequest  # the first one
    seeds: tuple[int, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)  # what sets it apart from the run's others: {axis: value}


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchRequest(Record):
    """What a run was asked for; of a batch, picture i is drawn from seed + i."""

    picture: GenerationRequest  # the first one; of a sweep: what all have in common
    num_images: int  # of a batch until so many are accepted: at most
    enable_consistency_check: bool
    threshold: float | None  # a cosine; None: the consistency check is off
    save_rejected: bool
    until_accepted: int | None = None  # as many accepted ones end the batch
    swept: tuple[Variant, ...] = ()  # the variants of a sweep, in their order; of a batch none
    pictures_at_once: int = 1  # more than 1: drawn together, which moves their last bits

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Return what is drawn: a sweep's variants, or the batch as the one over its seeds."""
        first = self.picture.seed or 0
        return self.swept or (Variant(picture=self.picture, seeds=tuple(range(first, first + self.num_images))),)

    def keeps(self, status: ItemStatus) -> bool:
        """Say whether a picture of which that became is kept; of a failure there is none."""
        return status == "accepted" or (self.save_rejected and status != "failed")

    def picture_of(self, job: "Job") -> GenerationRequest:
        """Return what draws the picture of a job."""
        picture = self.swept[job.variant].picture if self.swept else self.picture
        return replace(picture, seed=job.seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Job(Record):
    """One picture to draw."""

    index: int
    seed: int
    id: str  # hash of what determines the picture and its verdict: the same in any run that would draw the same
    variant: int = 0  # which of the run's

    @property
    def file_name(self) -> str:
        """Return what its picture's file is called."""
        return f"{self.index:04d}_seed{self.seed}.png"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPlan(Record):
    """A run: what was asked for, and everything that determines what comes out.

    What isn't compared when a run goes on is what doesn't change a picture or its verdict.
    """

    request: BatchRequest
    recipes: tuple[
        Mapping[str, Any], ...
    ]  # how each variant is drawn, all choices made, with the models' hashes; no seed
    judgings: tuple[Mapping[str, Any], ...]  # what each variant's faces are compared with; empty where none are
    environment: Mapping[str, Any]  # where the same recipe gives the same bits
    references: Mapping[str, Any] | None = None  # Provenance of the references, for metadata.json
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        """Raise InvalidValueError for a plan that doesn't say of each of its pictures how it comes about."""
        check_whole(self.request.num_images, "num_images", 1, MAX_IMAGES)
        count = len(self.request.swept) or 1
        for name, given in (("recipes", self.recipes), ("judgings", self.judgings)):
            if len(given) != count:
                raise InvalidValueError(name, len(given), f"as many as there are variants: {count}")

    @property
    def recipe(self) -> Mapping[str, Any]:
        """Return how the first variant is drawn: of a batch, all of it."""
        return self.recipes[0]

    @property
    def judging(self) -> Mapping[str, Any]:
        """Return what the first variant's faces are compared with: of a batch, all of them."""
        return self.judgings[0]

    @property
    def jobs(self) -> tuple[Job, ...]:
        """Return the pictures to draw, in their order."""
        jobs: list[Job] = []
        times: Counter[str] = Counter()  # two settings may come to the same picture
        for number, variant in enumerate(self.request.variants):
            drawn = {"recipe": self.recipes[number], "judging": self.judgings[number]}
            common = _sha256(drawn | {"environment": self.environment})
            for seed in variant.seeds:
                same = _sha256({"common": common, "seed": seed})
                name = _sha256({"same": same, "copy": times[same]}) if times[same] else same
                times[same] += 1
                jobs.append(Job(index=len(jobs), seed=seed, id=name, variant=number))
        return tuple(jobs)

    def changes(self, now: "RunPlan") -> tuple[str, ...]:
        """Name what is another in `now`, and what it was; not what makes no difference to any picture or verdict."""
        return differences(self.determining(), now.determining())

    def determining(self) -> dict[str, Any]:
        """Return what makes a difference, by the names that people give it."""
        request, plain = self.request, self.to_dict()
        count = "max_images" if request.until_accepted else "num_images"
        together = request.pictures_at_once
        asked = {
            "until_accepted": request.until_accepted,
            "save_rejected": request.save_rejected,
            "determinism": f"fast, {together} at once" if together > 1 else "strict",
        }
        drawn = [
            {**recipe, "consistency check": judging or None}
            for recipe, judging in zip(plain["recipes"], plain["judgings"], strict=True)
        ]
        for one in drawn:
            one.pop("pictures_at_once", None)  # which determinism says
        if not request.swept:
            asked = {count: request.num_images, **asked, "seed": request.picture.seed}
            return {**asked, **drawn[0], "environment": plain["environment"]}
        pairs = zip(request.swept, drawn, strict=True)
        swept = [
            {"settings": variant.settings, "seeds": ", ".join(map(str, variant.seeds)), **one} for variant, one in pairs
        ]
        return {**asked, "swept": swept, "environment": plain["environment"]}


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanFile(Record):
    """What plan.json holds: the plan, and its jobs for whoever reads it."""

    plan: RunPlan
    created: str  # ISO 8601, UTC
    jobs: tuple[Job, ...] = field(default=(), compare=False)


def _sha256(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(_ENCODER.encode(value).encode()).hexdigest()
