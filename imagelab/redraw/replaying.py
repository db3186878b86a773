"""A picture drawn again from what it carries, and compared pixel for pixel."""

import os
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imagelab.character import CharacterGenerator
from imagelab.config import Configs
from imagelab.errors import InvalidValueError
from imagelab.imagefiles import as_jpeg, open_image, pixels_sha256, read_picture_chunk
from imagelab.records import Record
from imagelab.redraw.changes import Change, compare_records
from imagelab.redraw.control_pictures import find_controls
from imagelab.results import Generation, GenerationRecord

if TYPE_CHECKING:
    from PIL.Image import Image

_JPEG = b"\xff\xd8"  # how one begins
_BOUND = 1  # grey level that a picture drawn beside others is off, on a CPU in float32: decision 11
_DRAWN_TOGETHER = (
    "it was one of {size} drawn at once (determinism fast) and is drawn alone now, which moves the last bits: "
    f"by at most {_BOUND} of 255 grey levels on a CPU in float32"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelDifference(Record):
    """How far two pictures of one size lie apart."""

    pixels: int  # that differ
    of: int
    largest: int  # of a channel, in grey levels of 255
    mean: float  # likewise, of all


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """What came of drawing a picture again."""

    identical: bool  # pixel for pixel; of a JPEG, which keeps none: before it was compressed, and again after
    is_jpeg: bool  # the new picture was compressed, too, before it was compared
    difference: PixelDifference | None  # from the file; None: identical, or of another size
    as_recorded: bool | None  # whether the record drew the picture that it came with; None: an old one doesn't say
    file_changed: bool  # its pixels are known to be others than those that were written with the record
    inputs_changed: tuple[Change, ...]  # weights, LoRAs, maps, the configuration's values
    environment_changed: tuple[Change, ...]  # versions, device, threads
    recorded: GenerationRecord  # what the file carries
    generation: Generation  # the new picture and its record

    def to_text(self) -> str:
        """Say what came of it, in a line each: the outcome, what is known of its cause, and what changed."""
        lines = [self._headline(), *self._causes()]
        for what, changes in (("inputs", self.inputs_changed), ("environment", self.environment_changed)):
            lines += [f"{what} changed:", *(f"  {change}" for change in changes)] if changes else []
        if not self.identical and len(lines) == 1:
            lines.append("nothing that the record names has changed")
        return "\n".join(lines)

    def _headline(self) -> str:
        if self.identical:
            return "identical: the same picture, pixel for pixel" + (", before it was compressed" * self.is_jpeg)
        if self.difference is None:
            return "different: of another size"
        apart = self.difference
        share = f"{apart.pixels} of {apart.of} pixels ({apart.pixels / apart.of:.1%})"
        return f"different: {share}, by at most {apart.largest} and on average {apart.mean:.2f} of 255 grey levels"

    def _causes(self) -> list[str]:
        causes = []
        if self.file_changed:
            causes.append("the file was changed since it was drawn: its pixels aren't those that the record came with")
        if self.as_recorded is False and self.recorded.batch_size > 1:
            causes.append(_DRAWN_TOGETHER.format(size=self.recorded.batch_size))
        if self.as_recorded is False and not self._is_within_the_bound():
            named = self.inputs_changed or self.environment_changed
            why = "what changed may be why" if named else "it was edited, or something that it doesn't name has changed"
            causes.append(f"the record doesn't draw the picture that it came with: {why}")
        return causes

    def _is_within_the_bound(self) -> bool:
        """Say whether having been drawn beside others explains what is different."""
        return self.recorded.batch_size > 1 and self.difference is not None and self.difference.largest <= _BOUND


def replay(
    image: str | os.PathLike[str],
    generator: CharacterGenerator | None = None,
    *,
    controls: Iterable[str | os.PathLike[str]] = (),
    configs: Configs | None = None,
    device: str | None = None,
) -> Replay:
    """Draw a picture again from the record in it, and compare.

    Without a `generator`, which must be of the record's profile, one is made: on the CPU for a picture that was drawn
    there, unless a `device` is given. `controls` are files or folders of the control maps, or of the pictures that they
    were made of; a map that lies beside the picture, where it was saved, is found without. No path of the record is
    opened, and nothing of it is run.

    Raises ImageFileError for a picture without a record, or one whose control map isn't found, and what
    `CharacterGenerator.generate` raises for a record that can't be drawn with what there is here.
    """
    path = Path(image)
    chunk, shown = read_picture_chunk(path), open_image(path)
    generation, as_maps = _draw(chunk.record, path, generator, map(Path, controls), configs, device)
    inputs, environment = compare_records(chunk.record, generation.record, given_as_maps=as_maps)
    is_jpeg = path.read_bytes()[:2] == _JPEG
    drawn = as_jpeg(generation.image) if is_jpeg else generation.image
    as_recorded = None if chunk.pixels_sha256 is None else chunk.pixels_sha256 == pixels_sha256(generation.image)
    is_same = pixels_sha256(drawn) == pixels_sha256(shown)
    # A JPEG's own pixels aren't recorded: they are known where the picture that was compressed has come out again.
    is_changed = not is_same if is_jpeg else chunk.pixels_sha256 != pixels_sha256(shown)
    identical = is_same and (as_recorded is not False or not is_jpeg)
    return Replay(
        identical=identical,
        is_jpeg=is_jpeg,
        difference=None if identical else _difference(drawn, shown),
        as_recorded=as_recorded,
        file_changed=is_changed and (as_recorded is True or (as_recorded is False and not is_jpeg)),
        inputs_changed=inputs,
        environment_changed=environment,
        recorded=chunk.record,
        generation=generation,
    )


def _draw(
    recorded: GenerationRecord,
    path: Path,
    generator: CharacterGenerator | None,
    controls: Iterable[Path],
    configs: Configs | None,
    device: str | None,
) -> tuple[Generation, frozenset[int]]:
    """Return the new picture, and which of its controls followed their saved maps."""
    with ExitStack() as stack:
        if generator is None:
            where = device or ("cpu" if recorded.device == "cpu" else "auto")
            generator = stack.enter_context(CharacterGenerator(recorded.profile, where, configs))
        if generator.profile.name != recorded.profile:
            raise InvalidValueError(
                "generator", generator.profile.name, f"of the picture's profile, {recorded.profile}"
            )
        request, as_maps = find_controls(recorded, path, generator.configs, controls)
        return generator.generate(request), as_maps


def _difference(drawn: "Image", shown: "Image") -> PixelDifference | None:
    if drawn.size != shown.size:
        return None
    apart = np.abs(np.asarray(drawn, dtype=np.int16) - np.asarray(shown, dtype=np.int16))
    return PixelDifference(
        pixels=int(apart.any(axis=2).sum()),
        of=drawn.width * drawn.height,
        largest=int(apart.max()),
        mean=float(apart.mean()),
    )
