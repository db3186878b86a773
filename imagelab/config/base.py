"""The vocabulary that the four schemas share: strict types, names, sizes and where a model comes from."""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    Strict,
    StringConstraints,
)

from imagelab.errors import UnknownNameError

# The charset of Civitai's <lora:NAME:WEIGHT> reader: a wider one would write infotext that can't be read back.
NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"
# Relative, with forward slashes: no "..", "~", drive, backslash, URL or hidden file can be written with it.
_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9_.+ ()-]*"
RELATIVE_PATH = rf"^{_SEGMENT}(/{_SEGMENT})*$"
SAFETENSORS_FILE = rf"^({_SEGMENT}/)*{_SEGMENT}\.safetensors$"
SHA256 = r"^[0-9a-f]{64}$"
HUB_REPO = r"^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$"
HUB_REVISION = r"^[0-9a-f]{40}$"

PATTERNS_IN_WORDS = {
    NAME: "made of letters, digits and _ . - only, not beginning with . or -",
    RELATIVE_PATH: "a relative path with forward slashes, without .. or ~",
    SAFETENSORS_FILE: "a relative path to a .safetensors file",
    SHA256: "64 lower-case hex digits",
    HUB_REPO: "owner/name",
    HUB_REVISION: "a full commit hash, 40 hex digits",
}

Name = Annotated[str, StringConstraints(pattern=NAME, max_length=64)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=2000)]
RelativePath = Annotated[str, StringConstraints(pattern=RELATIVE_PATH)]
SafetensorsFile = Annotated[str, StringConstraints(pattern=SAFETENSORS_FILE)]
Sha256 = Annotated[str, StringConstraints(pattern=SHA256)]

SidePx = Annotated[int, Field(ge=64, le=4096, multiple_of=8)]  # 8: what the VAE downsamples by
SizePx = Annotated[tuple[SidePx, SidePx], Strict(strict=False)]  # [width, height]; YAML has lists, not tuples
Fraction = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=-2, le=2)]  # of a LoRA; negative ones are in use ("detail sliders")
Positive = Annotated[float, Field(gt=0)]


class Config(BaseModel):
    """Base of all schemas: "20" is no number, an unknown key is an error, nothing changes after loading."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Entry(Config):
    """A row of a table; it knows the name that it stands under."""

    _name: str = PrivateAttr(default="")

    @property
    def name(self) -> str:
        """Return the key of this entry in its table."""
        return self._name


EntryT = TypeVar("EntryT", bound=Entry)


def name_entries(table: dict[Any, EntryT]) -> dict[Any, EntryT]:
    """Tell each entry its key."""
    for name, entry in table.items():
        entry._name = name  # noqa: SLF001  the key is the name: the YAML needn't say it twice
    return table


Table = Annotated[dict[Name, EntryT], AfterValidator(name_entries)]


ValueT = TypeVar("ValueT")


def pick(kind: str, table: Mapping[str, ValueT], name: object) -> ValueT:
    """Return the entry of that name, or raise UnknownNameError with the nearest one."""
    if isinstance(name, str) and name in table:
        return table[name]
    raise UnknownNameError(kind, name, tuple(table))


class HubModel(Config):
    """A model on the Hugging Face hub, pinned."""

    repo: Annotated[str, StringConstraints(pattern=HUB_REPO)]
    revision: Annotated[str, StringConstraints(pattern=HUB_REVISION)]
    """Full commit hash: a branch name would let the weights change under a run."""


class Source(Config):
    """Where a model comes from: exactly one of the four."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})

    package: RelativePath | None = None
    """Folder that ships inside the imagelab package."""
    folder: RelativePath | None = None
    """Folder under the model root ($IMAGELAB_MODELS, or models/ in the project)."""
    single_file: SafetensorsFile | None = None
    """One .safetensors file under the model root."""
    hub: HubModel | None = None
    """Snapshot in the local Hugging Face cache; nothing is downloaded behind your back."""
