"""What the registry says of a LoRA file, held against the file."""

from pathlib import Path

from imagelab.config.loras import BASE_WIDTHS, BaseName
from imagelab.errors import ModelFileError
from imagelab.lora.origin import Origin, find_origin
from imagelab.lora.stored import open_header
from imagelab.read_once import read_once


def check_registered_base(path: Path, name: str, base: BaseName) -> None:
    """Raise ModelFileError if the file of the LoRA `name` isn't for the base model that the registry says.

    Only the header is read. A file whose keys and shapes don't tell passes: whether it fits the model, reading it says.
    Raises ModelFileError or ModelNotFoundError also for a file that can't be read.
    """
    origin = _origin(path)
    if found := _another(origin, base):
        evidence = "; ".join(origin.evidence)
        reason = f"is for {found}, and not for {base}, as the registry says: {evidence}"
        fix = f"Correct loras.{name}.base in lora_registry.yaml, or put the right file there"
        raise ModelFileError(path, reason, fix)


@read_once  # each picture asks
def _origin(path: Path) -> Origin:
    return find_origin(open_header(path))


def _another(origin: Origin, base: BaseName) -> str | None:
    """Return what a file is for, if that certainly isn't `base`."""
    width = origin.context_width
    if width is not None and width != BASE_WIDTHS[base]:
        ours = next((known for known, theirs in BASE_WIDTHS.items() if theirs == width), "another base model")
        return ours if origin.base == "unknown" else origin.base
    return origin.base if origin.is_foreign else None
