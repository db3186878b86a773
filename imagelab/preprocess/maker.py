"""Makes control maps and keeps them: the same picture with the same parameters is looked at once."""

import hashlib
import json
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagelab.config import Configs, load_configs, project_root
from imagelab.control_models import check_estimator
from imagelab.controls import PlannedControl, PlannedPreprocessor, control_use, plan_preprocessor
from imagelab.errors import ImageFileError, InvalidValueError
from imagelab.imagefiles import open_image, pixels_sha256, save_png
from imagelab.preprocess.draw import draw_map, refuse_blank
from imagelab.preprocess.fit import fit_picture
from imagelab.versions import library_version

if TYPE_CHECKING:
    import os

    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlMap:
    """A map that a ControlNet obeys, and how it was made."""

    image: "Image"  # RGB
    type: str
    sha256: str  # of its pixels
    picture_sha256: str  # of the pixels that it was made of
    preprocessor: str | None  # None: it was given
    params: Mapping[str, Any]
    preprocessor_sha256: Mapping[str, str]  # {file: hash}


@dataclass(kw_only=True)
class MapMaker:
    """Makes control maps and keeps the last ones, by picture and parameters: in memory, and in `folder` if given.

    `device`: where estimators run, "auto", "cpu" or "cuda".
    """

    device: str = "auto"
    kept: int = 32  # maps in memory
    folder: Path | None = None
    _maps: "OrderedDict[str, Image]" = field(default_factory=OrderedDict, repr=False)

    def fit(self, control: PlannedControl, width: int, height: int) -> ControlMap:
        """Return the map of a control at a size in px, made of its picture unless that is a map already.

        Raises ControlMapError when nothing is found in the picture or a ready map says nothing, ModelFileError,
        InvalidValueError (no such device), GenerationError (out of GPU memory).
        """
        is_map = control.preprocessor is None
        size = (width, height)
        fitted = fit_picture(control.picture, size, control.resize, control_type=control.type, is_map=is_map)
        made = fitted.content
        hashes: dict[str, str] = {}
        if control.preprocessor is None:
            refuse_blank(
                made, control.type, str(control.image), "Use a map that shows something where it is cropped to"
            )
        else:
            made, hashes = self.make(control.type, made, control.preprocessor, str(control.image))
        return _record(fitted.on_canvas(made), control.type, control.picture_sha256, control.preprocessor, hashes)

    def make(
        self, control_type: str, picture: "Image", preprocessor: PlannedPreprocessor, name: str
    ) -> tuple["Image", dict[str, str]]:
        """Return a picture's map, of its size, and {file: sha256} of the estimator; `name` calls the picture in errors.

        Raises ControlMapError, ModelFileError, InvalidValueError, GenerationError.
        """
        hashes = _hashes(preprocessor)
        key = _key(pixels_sha256(picture), control_type, preprocessor, hashes, self.device)
        made = self._maps.get(key) or self._read(key)
        if made is None:
            made = draw_map(control_type, picture, preprocessor, self.device, name)
            self._write(key, made)
        self._maps[key] = made
        self._maps.move_to_end(key)
        while len(self._maps) > self.kept:
            self._maps.popitem(last=False)
        return made, hashes

    def _write(self, key: str, made: "Image") -> None:
        if self.folder is None:
            return
        try:
            save_png(made, self.folder / f"{key}.png")
        except (ImageFileError, InvalidValueError) as error:  # the map is there all the same, and will be made again
            warnings.warn(f"a control map isn't kept: {error}", stacklevel=2)

    def _read(self, key: str) -> "Image | None":
        path = self.folder / f"{key}.png" if self.folder else None
        try:
            return open_image(path) if path and path.is_file() else None
        except ImageFileError:  # cut off by a full disk, say: it is made again
            return None


def map_maker(configs: Configs, device: str = "auto") -> MapMaker:
    """Return a maker of maps that keeps them as controlnet_config.yaml says."""
    config = configs.controlnet
    folder = None if config.map_folder is None else project_root() / config.map_folder
    return MapMaker(device=device, kept=config.cached_maps, folder=folder)


def make_control_map(
    control_type: str,
    image: "str | os.PathLike[str] | Image",
    profile: str | None = None,
    *,
    device: str = "auto",
    configs: Configs | None = None,
    maker: MapMaker | None = None,
) -> ControlMap:
    """Return the control map of a picture, of the picture's size: pose, canny, depth, seg or normal.

    A `maker` of one's own, on its own device, keeps the maps of several calls. Raises UnknownNameError,
    InvalidValueError, ImageFileError, ProfileError, ModelNotFoundError, ModelFileError, GenerationError (out of GPU
    memory), or ControlMapError when nothing is found in the picture.

    >>> edges = make_control_map("canny", "docs/images/contact_sheet.png")
    >>> edges.image.mode, edges.preprocessor
    ('RGB', 'canny')
    """
    configs = load_configs() if configs is None else configs
    control = configs.control(control_type)
    use = control_use(image=image, place="picture", type=control_type)
    picture = use.picture or open_image(use.image)
    preprocessor = plan_preprocessor(configs, configs.profile(profile), control)
    maker = map_maker(configs, device) if maker is None else maker
    made, hashes = maker.make(control_type, picture, preprocessor, str(use.image))
    return _record(made, control_type, pixels_sha256(picture), preprocessor, hashes)


def _record(
    image: "Image",
    control_type: str,
    picture_sha256: str,
    preprocessor: PlannedPreprocessor | None,
    hashes: Mapping[str, str],
) -> ControlMap:
    return ControlMap(
        image=image,
        type=control_type,
        sha256=pixels_sha256(image),
        picture_sha256=picture_sha256,
        preprocessor=preprocessor.name if preprocessor else None,
        params=preprocessor.params if preprocessor else {},
        preprocessor_sha256=hashes,
    )


def _hashes(preprocessor: PlannedPreprocessor) -> dict[str, str]:
    """Return {file: sha256} of an estimator's weights, checked."""
    hashes: dict[str, str] = {}
    models = (
        ("model", preprocessor.model, preprocessor.packaged),
        ("detector", preprocessor.detector, preprocessor.detector_packaged),
    )
    for role, folder, packaged in models:
        if folder is None:
            continue
        files = check_estimator(folder, preprocessor.name if role == "model" else role, packaged=packaged)
        hashes |= {f"{role}/{name}": digest for name, digest in files.items()}
    return hashes


def _key(
    picture_sha256: str, control_type: str, preprocessor: PlannedPreprocessor, hashes: Mapping[str, str], device: str
) -> str:
    """Name a map by all that makes it what it is; GPUs round otherwise than CPUs, and drawing may change."""
    made_by = [
        preprocessor.name,
        dict(preprocessor.params),
        dict(hashes),
        _device_type(preprocessor, device),
        library_version("imagelab"),
    ]
    parts = [picture_sha256, control_type, *made_by]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _device_type(preprocessor: PlannedPreprocessor, device: str) -> str:
    if preprocessor.model is None:  # OpenCV's alone: no reason to import torch
        return "cpu"
    from imagelab.devices import resolve_device

    return resolve_device(device).type
