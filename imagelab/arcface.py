"""Faces in pictures, found and embedded by insightface.

An adapter over `insightface.app.FaceAnalysis`: any pack in its layout works (buffalo_l, say). The detector sees every
picture at its pinned size: scaled to fit, proportions kept, put into the upper left corner, the rest black.
"""

import logging
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imagelab.config import FacePack, Profile, Source
from imagelab.errors import InvalidValueError, ModelFileError, ModelNotFoundError, ProfileError
from imagelab.imagefiles import open_image, upright_rgb
from imagelab.models import SUMS_FILE, file_sha256, resolve_source, verify_weights
from imagelab.results import FaceStatus, Record
from imagelab.similarity import Embedding, unit

if TYPE_CHECKING:
    from insightface.app.common import Face as InsightFace
    from insightface.app.face_analysis import FaceAnalysis

logger = logging.getLogger(__name__)

Picture = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]  # a file, a PIL picture or (h, w, 3) RGB
SeveralFaces = Literal["require_one", "largest"]

SEVERAL_FACES: tuple[SeveralFaces, ...] = ("require_one", "largest")
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
MIN_VISIBLE_FRACTION = 0.5  # of a face's box: less of it inside the picture says little about who it is
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_TASKS = ("detection", "recognition")
_PACK_FIX = "A face pack is a folder with one detector and one ArcFace recogniser, both .onnx; copy it there again"


@dataclass(frozen=True, kw_only=True, slots=True)
class FaceEncoderId(Record):
    """What made an embedding: embeddings of two different encoders mean nothing to each other."""

    pack: str
    detector_sha256: str
    recogniser_sha256: str
    detector_size_px: tuple[int, int]  # width, height
    detection_threshold: float
    insightface: str  # version: it aligns the faces

    @property
    def label(self) -> str:
        """Return it in one short line, `puppet_face/0123abcd@128x128`."""
        width, height = self.detector_size_px
        return f"{self.pack}/{self.recogniser_sha256[:8]}@{width}x{height}"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Face:
    """A face in a picture; pixels count from the upper left corner, x right, y down."""

    box: tuple[float, float, float, float]  # x0, y0, x1, y1; may reach over the picture's border
    landmarks: NDArray[np.float32]  # (5, 2): eyes, nose, mouth corners, image left first
    score: float  # the detector's, 0 to 1
    visible_fraction: float  # of the box, inside the picture
    embedding: Embedding | None  # (d,), norm 1; None when the recogniser gave no direction (zero or NaN)

    @property
    def size_px(self) -> float:
        """Return the shorter side of the box."""
        x0, y0, x1, y1 = self.box
        return min(x1 - x0, y1 - y0)


@dataclass(frozen=True, kw_only=True, slots=True)
class FaceLimits:
    """What a face must have to be compared with another."""

    min_face_px: float = 16.0
    min_score: float = 0.0
    min_visible_fraction: float = MIN_VISIBLE_FRACTION

    def admit(self, face: Face) -> bool:
        """Say whether a face is good enough."""
        return (
            face.embedding is not None
            and face.size_px >= self.min_face_px
            and face.score >= self.min_score
            and face.visible_fraction >= self.min_visible_fraction
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FaceReading:
    """The one face that a picture is judged by, or why there is none."""

    status: FaceStatus
    embedding: Embedding | None = None  # (d,), norm 1; there if and only if status is ok
    face: Face | None = None


def read_faces(faces: Sequence[Face], limits: FaceLimits, several: SeveralFaces = "require_one") -> FaceReading:
    """Choose the face that a picture is judged by.

    Faces that `limits` refuse don't count, unless there are no others: then the status is low_quality. Of several that
    are left, `several` says whether the largest is taken or none.
    """
    if not faces:
        return FaceReading(status="no_face")
    good = [face for face in faces if limits.admit(face)]
    if not good:
        return FaceReading(status="low_quality")
    if len(good) > 1 and several == "require_one":
        return FaceReading(status="several_faces")
    largest = max(good, key=lambda face: face.size_px)
    return FaceReading(status="ok", embedding=largest.embedding, face=largest)


def to_rgb(picture: Picture) -> NDArray[np.uint8]:
    """Return a picture as (h, w, 3) RGB: the same whether it is given as a file or opened by PIL.

    Raises ImageFileError for a file that isn't one, InvalidValueError for any other thing.
    """
    if isinstance(picture, str | os.PathLike):
        return np.asarray(open_image(picture))
    if isinstance(picture, Image.Image):
        return np.asarray(upright_rgb(picture))
    if isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3:
        return picture
    shown = f"array {picture.shape} of {picture.dtype}" if isinstance(picture, np.ndarray) else picture
    raise InvalidValueError("picture", shown, "a file, a PIL picture or an RGB array (h, w, 3) of uint8")


class FaceEncoder:
    """Finds faces and embeds them; the models load at the first picture.

    A context manager; `close` may be called twice. `device`: auto takes CUDA where torch and onnxruntime both have it,
    cuda insists. Computes on one thread: the models are small and torch wants the cores.
    """

    def __init__(self, profile: Profile, device: str = "auto") -> None:
        if not isinstance(device, str) or not _DEVICE.fullmatch(device):
            raise InvalidValueError("device", device, "auto, cpu, cuda or cuda:<number>")
        self._profile = profile
        self._device = device
        self._analysis: FaceAnalysis | None = None
        self._id: FaceEncoderId | None = None
        self._closed = False

    @property
    def pack(self) -> FacePack:
        """Return the configured pack."""
        return self._profile.face

    @property
    def is_loaded(self) -> bool:
        """Say whether the models are in memory."""
        return self._analysis is not None

    @property
    def encoder(self) -> FaceEncoderId:
        """Return what embeddings of this encoder are marked with; loads the models."""
        self._load()
        assert self._id is not None  # noqa: S101  _load sets both
        return self._id

    @property
    def providers(self) -> tuple[str, ...]:
        """Return what onnxruntime really runs on (its sessions say, not its build); loads the models."""
        models = self._load().models
        return tuple(dict.fromkeys(name for task in _TASKS for name in models[task].session.get_providers()))

    def faces(self, picture: Picture) -> tuple[Face, ...]:
        """Return all faces of a picture, the surest first; none for one so thin that the detector would see no row.

        Raises ImageFileError or InvalidValueError for the picture; ModelNotFoundError, ModelFileError or ProfileError
        when the models load.
        """
        rgb = to_rgb(picture)
        analysis = self._load()
        if _vanishes(rgb.shape, self.pack.detector_size_px):
            return ()
        with warnings.catch_warnings():
            # insightface 2.1 calls SimilarityTransform.estimate, which skimage 0.26 deprecates, for every face.
            warnings.filterwarnings("ignore", category=FutureWarning, message=r"`estimate` is deprecated")
            warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"insightface|skimage")
            found = analysis.get(np.ascontiguousarray(rgb[:, :, ::-1]))  # it wants BGR, as OpenCV reads files
        return tuple(sorted((_face(face, rgb.shape) for face in found), key=lambda face: -face.score))

    def close(self) -> None:
        """Give the models' memory back; a closed encoder can't be used again."""
        self._closed = True
        self._analysis = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_analysis", None) is not None:
            warnings.warn(f"{type(self).__name__} was not closed", ResourceWarning, stacklevel=2, source=self)

    def _load(self) -> "FaceAnalysis":
        if self._closed:
            raise InvalidValueError("face encoder", "closed", "open: make a new one")
        if self._analysis is None:
            folder = resolve_source(self.pack.source, f"face pack {self.pack.name!r}")
            _verify(folder, self.pack.source)
            providers = self._providers_to_ask_for()
            self._analysis = _open_pack(folder, self.pack, providers)
            self._id = _identify(self._analysis, self.pack)
            self._report_providers(providers)
        return self._analysis

    def _providers_to_ask_for(self) -> list[Any]:
        if self._device == "cpu" or (self._device == "auto" and not _has_onnxruntime_gpu()):
            return [_CPU]
        import torch  # before onnxruntime: it brings the CUDA libraries, insightface#2344

        if torch.cuda.is_available():
            return [(_CUDA, {"device_id": int(self._device.partition(":")[2] or 0)}), _CPU]
        if self._device == "auto":
            return [_CPU]
        raise ProfileError(self._profile.name, "torch finds no CUDA device for the face models", "Use device='auto'")

    def _report_providers(self, asked: list[Any]) -> None:
        if _CUDA in self.providers or asked == [_CPU]:
            return
        reason = f"onnxruntime runs the face models on {', '.join(self.providers)}, not on {_CUDA}"
        fix = "Exactly one onnxruntime may be installed, the GPU one: see `python -m imagelab doctor`"
        if self._device != "auto":
            self._analysis = None
            raise ProfileError(self._profile.name, reason, fix)
        logger.warning("%s. %s", reason, fix)


def _has_onnxruntime_gpu() -> bool:
    try:
        return bool(version("onnxruntime-gpu"))
    except PackageNotFoundError:
        return False


def _verify(folder: Path, source: Source) -> None:
    if not any(folder.glob("*.onnx")):
        raise ModelNotFoundError("face pack", folder / "*.onnx", _PACK_FIX)
    if source.package or (folder / SUMS_FILE).is_file():
        verify_weights(folder)


def _open_pack(folder: Path, pack: FacePack, providers: list[Any]) -> "FaceAnalysis":
    """Load the detector and the recogniser with the detector's size pinned, or say what is wrong with the pack."""
    import onnxruntime
    from insightface.app.face_analysis import FaceAnalysis

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        # The folder exists, so insightface doesn't go and download a pack of that name.
        analysis = FaceAnalysis(
            name=str(folder), allowed_modules=list(_TASKS), providers=providers, sess_options=options
        )
        analysis.prepare(ctx_id=0, det_thresh=pack.detection_threshold, det_size=pack.detector_size_px)
    except Exception as error:  # onnxruntime's, onnx's, protobuf's and insightface's own: they share no base
        raise _diagnose(folder, error) from error
    if missing := [task for task in _TASKS if task not in analysis.models]:
        raise ModelFileError(folder, f"has no model for face {missing[0]}", _PACK_FIX)
    if (sizes := analysis.det_model.input_sizes) != [pack.detector_size_px]:
        fix = f"Set detector_size_px of face pack {pack.name} to it in sdxl_config.yaml"
        raise ModelFileError(folder, f"its detector takes {sizes[0]}, not {pack.detector_size_px}", fix)
    return analysis


def _diagnose(folder: Path, error: Exception) -> ModelFileError:
    """Find the file of a pack that doesn't load."""
    import onnx

    for path in sorted(folder.glob("*.onnx")):
        try:
            onnx.checker.check_model(str(path))
        except Exception as fault:  # noqa: BLE001  as above
            return ModelFileError(path, f"is truncated or no ONNX model ({_first_line(fault)})", _PACK_FIX)
    reason = "has no face detector" if isinstance(error, AssertionError) else f"can't be loaded: {_first_line(error)}"
    return ModelFileError(folder, reason, _PACK_FIX)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _identify(analysis: "FaceAnalysis", pack: FacePack) -> FaceEncoderId:
    detector, recogniser = (file_sha256(Path(analysis.models[task].model_file)) for task in _TASKS)
    return FaceEncoderId(
        pack=pack.name,
        detector_sha256=detector,
        recogniser_sha256=recogniser,
        detector_size_px=pack.detector_size_px,
        detection_threshold=pack.detection_threshold,
        insightface=version("insightface"),
    )


def _vanishes(shape: tuple[int, ...], detector_size_px: tuple[int, int]) -> bool:
    """Say whether nothing is left of a picture that is scaled to fit, which OpenCV refuses to do."""
    height, width = shape[:2]
    if not height or not width:
        return True
    ratio = height / width
    return min(detector_size_px[0] * ratio, detector_size_px[1] / ratio) < 1


def _face(found: "InsightFace", shape: tuple[int, ...]) -> Face:
    height, width = shape[:2]
    x0, y0, x1, y1 = (float(value) for value in found.bbox)
    inside = max(0.0, min(x1, width) - max(x0, 0.0)) * max(0.0, min(y1, height) - max(y0, 0.0))
    return Face(
        box=(x0, y0, x1, y1),
        landmarks=np.asarray(found.kps, np.float32),
        score=float(found.det_score),
        visible_fraction=inside / max((x1 - x0) * (y1 - y0), 1e-6),
        embedding=_direction(found.embedding),
    )


def _direction(embedding: Any) -> Embedding | None:
    # Asking the norm of insightface's own Face would divide by zero first.
    try:
        return unit(embedding)
    except InvalidValueError:
        return None
