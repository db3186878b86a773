"""What a run is going to do, written down before it does any of it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from imagelab.differences import differences
from imagelab.results import GenerationRequest, Record

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchRequest(Record):
    """What a batch was asked for; picture i is drawn from seed + i."""

    picture: GenerationRequest  # the first one
    num_images: int  # of a batch until so many are accepted: at most
    enable_consistency_check: bool
    threshold: float | None  # a cosine; None: the consistency check is off
    save_rejected: bool
    until_accepted: int | None = None  # as many accepted ones end the batch

    def picture_from(self, seed: int) -> GenerationRequest:
        """Return what draws the picture of a seed."""
        return replace(self.picture, seed=seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Job(Record):
    """One picture to draw."""

    index: int
    seed: int
    id: str  # hash of what determines the picture and its verdict: the same in any run that would draw the same

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
    recipe: Mapping[str, Any]  # how each picture is drawn, all choices made, with the hashes of the models; no seed
    judging: Mapping[str, Any]  # what its face is compared with; empty where none is
    environment: Mapping[str, Any]  # where the same recipe gives the same bits
    references: Mapping[str, Any] | None = None  # Provenance of the references, for metadata.json
    schema_version: int = SCHEMA_VERSION

    @property
    def jobs(self) -> tuple[Job, ...]:
        """Return the pictures to draw, in their order."""
        first = self.request.picture.seed or 0
        common = _sha256({"recipe": self.recipe, "judging": self.judging, "environment": self.environment})
        seeds = range(first, first + self.request.num_images)
        return tuple(
            Job(index=index, seed=seed, id=_sha256({"common": common, "seed": seed}))
            for index, seed in enumerate(seeds)
        )

    def changes(self, now: "RunPlan") -> tuple[str, ...]:
        """Name what is another in `now`, and what it was; not what makes no difference to any picture or verdict."""
        return differences(self.determining(), now.determining())

    def determining(self) -> dict[str, Any]:
        """Return what makes a difference, by the names that people give it."""
        request = self.request
        asked = {name: getattr(request, name) for name in ("num_images", "until_accepted", "save_rejected")}
        plain = self.to_dict()
        return {
            **asked,
            "seed": request.picture.seed,
            **plain["recipe"],
            "consistency check": plain["judging"] or None,
            "environment": plain["environment"],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanFile(Record):
    """What plan.json holds: the plan, and its jobs for whoever reads it."""

    plan: RunPlan
    created: str  # ISO 8601, UTC
    jobs: tuple[Job, ...] = field(default=(), compare=False)


def _sha256(value: Mapping[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
