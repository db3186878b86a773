"""What two records of one request differ in: what went in, and where it was drawn."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from imagelab.differences import leaves
from imagelab.errors import shorten
from imagelab.records import Record
from imagelab.results import GenerationRecord

_ENVIRONMENT = ("environment", "versions", "device", "degraded")
# No input: what it took, what others call things, where a file lay, and a second hash of one.
_LEFT_OUT = (
    "seconds",
    "peak_vram_gib",
    "predicted_vram_gib",
    "schema_version",
    "sampler",
    "schedule_type",
    "tensors_sha256",
)
_OF_THE_PICTURE = ("image_sha256", "is_map", "preprocessor", "params", "preprocessor_sha256")  # that a map was made of
_NOTHING = "nothing"


@dataclass(frozen=True, kw_only=True, slots=True)
class Change(Record):
    """Something that isn't as it was when the picture was drawn."""

    name: str  # dotted, as in the record: loras.luca.sha256
    recorded: str
    now: str

    def __str__(self) -> str:
        """Say it on one line."""
        return f"{self.name}: {self.recorded}, now {self.now}"


def compare_records(
    recorded: GenerationRecord, now: GenerationRecord, *, given_as_maps: Collection[int] = ()
) -> tuple[tuple[Change, ...], tuple[Change, ...]]:
    """Return what changed in the inputs, weights and configuration among them, and in the environment.

    `given_as_maps`: the controls whose map took the place of the picture that it was made of; how it was made then
    doesn't matter. What an older record doesn't say isn't compared.
    """
    before, after = _leaves(recorded, given_as_maps), _leaves(now, given_as_maps)
    unsaid = [name for name in ("environment", "scheduler_settings") if not getattr(recorded, name)]
    changes = [
        (name, Change(name=_shown(name), recorded=_shown(before.get(name)), now=_shown(after.get(name))))
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name) and name.partition(".")[0] not in unsaid
    ]
    inputs = tuple(change for name, change in changes if name.partition(".")[0] not in _ENVIRONMENT)
    environment = tuple(change for name, change in changes if name.partition(".")[0] in _ENVIRONMENT)
    return inputs, environment


def _leaves(record: GenerationRecord, given_as_maps: Collection[int]) -> dict[str, Any]:
    data = record.to_dict()
    data["loras"] = {lora["name"]: lora for lora in data["loras"]}
    for index, control in enumerate(data["controls"]):
        for name in ("image", *(_OF_THE_PICTURE if index in given_as_maps else ())):
            del control[name]
    data["controls"] = {str(index): control for index, control in enumerate(data["controls"])}
    return {name: value for name, value in leaves(data).items() if not set(name.split(".")) & set(_LEFT_OUT)}


def _shown(value: object) -> str:
    if value is None:
        return _NOTHING
    # Bare where it is short and has no control characters in it, which a terminal would obey.
    return value if isinstance(value, str) and len(value) <= 64 and value.isprintable() else shorten(value)
