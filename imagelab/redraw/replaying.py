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
from imagelab.redraw.changes import Change, compare_records
from imagelab.redraw.control_pictures import find_controls
from imagelab.results import Generation, Record

if TYPE_CHECKING:
    from PIL.Image import Image

_JPEG = b"\xff\xd8"  # how one begins


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
    inputs_changed: tuple[Change, ...]  # weights, LoRAs, maps, the configuration's values; also the file itself
    environment_changed: tuple[Change, ...]  # versions, device, threads
    generation: Generation  # the new picture and its record

    def to_text(self) -> str:
        """Say what came of it, in a line, and what changed, in one line each."""
        lines = [self._headline()]
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
    recorded = chunk.record
    with ExitStack() as stack:
        if generator is None:
            where = device or ("cpu" if recorded.device == "cpu" else "auto")
            generator = stack.enter_context(CharacterGenerator(recorded.profile, where, configs))
        if generator.profile.name != recorded.profile:
            raise InvalidValueError(
                "generator", generator.profile.name, f"of the picture's profile, {recorded.profile}"
            )
        request, as_maps = find_controls(recorded, path, generator.configs, map(Path, controls))
        generation = generator.generate(request)
    inputs, environment = compare_records(recorded, generation.record, given_as_maps=as_maps)
    is_jpeg = path.read_bytes()[:2] == _JPEG
    drawn = as_jpeg(generation.image) if is_jpeg else generation.image
    is_as_recorded = chunk.pixels_sha256 in (None, pixels_sha256(generation.image))
    # What a JPEG's own pixels were is known where the picture that was compressed has come out again.
    whole = chunk.pixels_sha256
    if whole and is_jpeg:
        whole = pixels_sha256(drawn) if is_as_recorded else None
    if whole not in (None, file := pixels_sha256(shown)):
        inputs = (Change(name="pixels of the file", recorded=str(whole), now=file), *inputs)
    identical = pixels_sha256(drawn) == file and (is_as_recorded or not is_jpeg)
    return Replay(
        identical=identical,
        is_jpeg=is_jpeg,
        difference=None if identical else _difference(drawn, shown),
        inputs_changed=inputs,
        environment_changed=environment,
        generation=generation,
    )


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
