"""The control pictures of a picture that is to be drawn again: found by their hashes, where the user says.

A record names paths, but a record comes with somebody's picture: no path of it is opened. Looked at is what lies beside
the picture under the names that maps are saved by, there or one folder up, and what the user gives.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from imagelab.config import Configs
from imagelab.controls import map_background
from imagelab.errors import ImageFileError, shorten
from imagelab.imagefiles import control_map_path, open_image, pixels_sha256, shared_map_path
from imagelab.results import ControlRecord, ControlUse, GenerationRecord, GenerationRequest

_SHA256 = re.compile("[0-9a-f]{64}")
_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


def find_controls(
    record: GenerationRecord, picture: Path, configs: Configs, given: Iterable[Path] = ()
) -> tuple[GenerationRequest, frozenset[int]]:
    """Return the request that draws a picture again, and which of its controls are followed by their saved maps.

    `given` are files, or folders of files, that may be the maps or what they were made of. Raises ImageFileError for a
    control of which nothing is found, UnknownNameError for one that the configuration doesn't know.
    """
    request, files = record.to_request(), tuple(_files(given))
    found = [
        _find(use, control, index, picture, configs, files)
        for index, (use, control) in enumerate(zip(request.controls, record.controls, strict=True))
    ]
    as_maps = frozenset(
        index
        for index, (use, control) in enumerate(zip(found, record.controls, strict=True))
        if use.is_map and not control.is_map
    )
    return replace(request, controls=tuple(found)), as_maps


def _files(given: Iterable[Path]) -> Iterator[Path]:
    for path in given:
        if path.is_dir():
            yield from sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES)
        else:
            open_image(path)  # what was given by name must be a picture
            yield path


def _find(
    use: ControlUse, control: ControlRecord, index: int, picture: Path, configs: Configs, files: tuple[Path, ...]
) -> ControlUse:
    configs.control(control.type)  # an unknown one is no part of a file's name
    candidates = (*(path for path in _beside(control, index, picture) if path.is_file()), *files)
    for path in candidates:
        if _hash(path, map_background(control.type)) == control.map_sha256:
            return replace(use, image=path, is_map=True)
    for path in candidates:
        if _hash(path, map_background(control.type) if control.is_map else (255, 255, 255)) == control.image_sha256:
            return replace(use, image=path)
    what = f"the map of its {control.type} control (pixels_sha256 {shorten(control.map_sha256, 20)})"
    source = f"{shorten(control.image.name)} (pixels_sha256 {shorten(control.image_sha256, 20)})"
    raise ImageFileError(
        picture, f"{what} isn't beside it", f"Give it, or what it was made of, {source}: --control FILE"
    )


def _beside(control: ControlRecord, index: int, picture: Path) -> Iterator[Path]:
    """Yield where the map may lie: beside its picture, or in the folder of the run that drew it."""
    yield control_map_path(picture, index, control.type)
    if _SHA256.fullmatch(control.map_sha256):  # whatever else a stranger wrote is no part of a file's name
        for folder in (picture.parent, picture.parent.parent):
            yield shared_map_path(folder, index, control.type, control.map_sha256)


def _hash(path: Path, background: tuple[int, int, int]) -> str | None:
    try:
        return pixels_sha256(open_image(path, background))
    except ImageFileError:
        return None
