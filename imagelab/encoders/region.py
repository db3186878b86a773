"""An encoder of a network that takes any picture: what it is shown is the whole picture, or the face in it."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imagelab.config import Encoder
from imagelab.devices import within_memory
from imagelab.encoders.base import EncoderId, Reading, check_pictures, settings_sha256, text_sha256
from imagelab.encoders.face import ArcFaceEncoder, crop_face
from imagelab.errors import ImageFileError, InvalidValueError
from imagelab.faces import Face
from imagelab.results import FaceStatus
from imagelab.rgb import Picture, Rgb, to_rgb
from imagelab.similarity import unit

BATCH = 16
_OUT_OF_MEMORY = "Embed on the CPU (device='cpu')"


class FeatureModel(Protocol):
    """A loaded network and its own preprocessing."""

    @property
    def weights_sha256(self) -> str:
        """Return the sha256 of its weights."""

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """Return whatever decides what the network sees of a picture, versions included."""

    def features(self, pictures: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Return the raw features (n, d) of RGB pictures."""


ModelT = TypeVar("ModelT", bound=FeatureModel)
T = TypeVar("T")
Shown = tuple[Rgb, Face]  # a picture and a face that was found in it
Look = tuple[FaceStatus, Image.Image | None]  # of a picture, and what the network is shown of it


class RegionEncoder(Generic[ModelT]):
    """Embeds pictures, or their faces, by any network; it loads at the first picture.

    With `faces` the network is shown the aligned face, and a picture without one has that as its status.
    """

    def __init__(self, config: Encoder, load: Callable[[], ModelT], faces: ArcFaceEncoder | None = None) -> None:
        self._config, self._load_model, self._faces = config, load, faces
        self._model: ModelT | None = None
        self._closed = False

    @property
    def id(self) -> EncoderId:
        """Return what its embeddings are marked with; loads the models."""
        model = self.load()
        preprocessing = settings_sha256({"network": dict(model.preprocessing), "face": self._face_settings()})
        return EncoderId(
            label=f"{self._config.name}/{text_sha256(model.weights_sha256 + preprocessing)[:8]}",
            kind=self._config.kind,
            region=self._config.region,
            weights_sha256=model.weights_sha256,
            preprocessing_sha256=preprocessing,
        )

    def embed(self, pictures: Sequence[Picture]) -> list[Reading]:
        """Return a reading for each picture, as IdentityEncoder says; low_quality where the network sees nothing."""
        return self._in_batches(check_pictures(pictures), self._looks)

    def embed_faces(self, shown: Sequence[Shown]) -> list[Reading]:
        """Return a reading for each face that was found before, by whatever limits; nothing is detected again.

        An encoder of region picture is shown the whole picture around it. low_quality where the network sees nothing.
        """
        return self._in_batches(shown, self._cut_out)

    def load(self) -> ModelT:
        """Return the network, loaded; raises ModelNotFoundError, ModelFileError, or InvalidValueError once closed."""
        if self._closed:
            raise InvalidValueError("encoder", f"{self._config.name} (closed)", "open: make a new one")
        if self._model is None:
            self._model = self._load_model()
        return self._model

    def close(self) -> None:
        """Give the models' memory back; a closed encoder can't be used again."""
        self._closed, self._model = True, None
        if self._faces is not None:
            self._faces.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_model", None) is not None:
            warnings.warn(f"encoder {self._config.name} was not closed", ResourceWarning, stacklevel=2, source=self)

    def _in_batches(self, given: Sequence[T], look: Callable[[Sequence[T]], Iterator[Look]]) -> list[Reading]:
        model = self.load()
        starts = range(0, len(given), BATCH)  # batch by batch: a set of files needn't fit into memory
        batches = (list(look(given[start : start + BATCH])) for start in starts)
        return [reading for seen in batches for reading in self._embed_batch(model, seen)]

    def _embed_batch(self, model: ModelT, seen: Sequence[Look]) -> list[Reading]:
        images = [image for _, image in seen if image is not None]
        rows = iter(within_memory(partial(model.features, images), _OUT_OF_MEMORY) if images else ())
        return [Reading(status=status) if image is None else _reading(next(rows)) for status, image in seen]

    def _looks(self, pictures: Sequence[Picture]) -> Iterator[Look]:
        if self._faces is None:
            yield from map(_whole_picture, pictures)
            return
        for reading, crop in self._faces.looks(pictures, self._config.side_px, self._config.margin):
            yield reading.status, crop

    def _cut_out(self, shown: Sequence[Shown]) -> Iterator[Look]:
        for rgb, face in shown:
            if self._faces is None:
                yield _whole_picture(rgb)
            else:
                crop = crop_face(rgb, face, self._config.side_px, self._config.margin)
                yield ("low_quality" if crop is None else "ok"), crop

    def _face_settings(self) -> dict[str, Any]:
        if self._faces is None:
            return {}
        return {**self._faces.settings, "side_px": self._config.side_px, "margin": self._config.margin}


def _whole_picture(picture: Picture) -> Look:
    try:
        rgb = to_rgb(picture)
    except ImageFileError:
        return "decode_error", None
    return ("ok", Image.fromarray(rgb)) if rgb.size else ("low_quality", None)


def _reading(features: NDArray[np.float32]) -> Reading:
    try:
        return Reading(status="ok", embedding=unit(features))
    except InvalidValueError:  # zero or NaN: no direction to compare
        return Reading(status="low_quality")
