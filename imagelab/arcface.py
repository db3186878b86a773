"""Faces in pictures, found and embedded by insightface, one by one or many at a time.

An adapter over the models of `insightface.app.FaceAnalysis`: any pack in its layout works (buffalo_l, say). The
detector sees every picture at its pinned size: scaled to fit, proportions kept, put into the upper left corner, the
rest black. The embeddings are those of `FaceAnalysis.get`; only the recogniser is given many faces at once.
"""

import logging
import os
import re
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from imagelab.checks import check_whole
from imagelab.config import FacePack, Profile
from imagelab.errors import ImageFileError, InvalidValueError, ProfileError
from imagelab.face_crops import Bgr, alignment, crop, sharpness, to_bgr
from imagelab.face_pack import TASKS, identify_pack, share_pack, verify_pack
from imagelab.faces import Face, FaceEncoderId, FacesFound
from imagelab.models import resolve_source
from imagelab.rgb import Picture, Rgb, to_rgb
from imagelab.similarity import Embedding, unit

if TYPE_CHECKING:
    from insightface.app.face_analysis import FaceAnalysis

logger = logging.getLogger(__name__)

PictureT = TypeVar("PictureT")

CHUNK = 32  # pictures whose faces the recogniser gets at once
MAX_CROPS = 128  # of them: 19 MB as its input
MAX_WORKERS = 8  # threads; each keeps a chunk's crops, and all take turns in the Python between the long calls
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_REINSTALL = "Make the environment anew: `rm -rf .venv && make setup`"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Look:
    """What the detector saw in a picture, and the crops that are still to be embedded: none for a face in no pose."""

    faces: tuple[Face, ...] = ()
    crops: tuple[Bgr | None, ...] = ()
    fault: ImageFileError | InvalidValueError | None = None


class FaceEncoder:
    """Finds faces and embeds them; the models load at the first picture.

    A context manager; `close` may be called twice. Encoders of one pack share its models while they are open.
    `device`: auto takes CUDA where torch and onnxruntime both have it, cuda insists. A picture is computed on one
    thread: the models are small and torch wants the cores.
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
        return tuple(dict.fromkeys(name for task in TASKS for name in models[task].session.get_providers()))

    def faces(self, picture: Picture) -> tuple[Face, ...]:
        """Return all faces of a picture, the surest first; none for one so thin that the detector would see no row.

        Raises ImageFileError or InvalidValueError for the picture; ModelNotFoundError, ModelFileError or ProfileError
        when the models load.
        """
        (found,) = self._find([picture], self._load())
        if found.fault is not None:
            raise found.fault
        return found.faces

    def faces_in(
        self,
        pictures: Iterable[PictureT],
        *,
        chunk: int = CHUNK,
        workers: int = MAX_WORKERS,
        read: Callable[[PictureT], Rgb] = to_rgb,  # type: ignore[assignment]  # without it pictures are what to_rgb takes
    ) -> Iterator[FacesFound]:
        """Yield the faces of many pictures, in their order; a picture that can't be looked at says why.

        The recogniser gets the faces of `chunk` pictures at once, and `workers` threads, at most one a core, look at a
        chunk each; they call `read`, which raises as `to_rgb`. No more pictures than theirs and one chunk in waiting
        are taken from `pictures` ahead, so it may be a generator of any length. Raises InvalidValueError for the
        numbers, and as `faces` when the models load.
        """
        check_whole(chunk, "chunk", 1, 10_000)
        # The cores that this process may use, as taskset or a job's scheduler leave them: more threads only wait.
        threads = min(check_whole(workers, "workers", 1, 64), len(os.sched_getaffinity(0)))
        analysis = self._load()
        pool = ThreadPoolExecutor(threads, thread_name_prefix="faces")
        waiting: deque[Future[list[FacesFound]]] = deque()
        source = iter(pictures)
        try:
            while part := list(islice(source, chunk)):
                waiting.append(pool.submit(self._find, part, analysis, read))
                if len(waiting) > threads:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

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

    def _find(
        self,
        pictures: Sequence[PictureT],
        analysis: "FaceAnalysis",
        read: Callable[[PictureT], Rgb] = to_rgb,  # type: ignore[assignment]  # as above
    ) -> list[FacesFound]:
        """Return the faces of a chunk of pictures; several threads may be in here at once.

        onnxruntime's sessions allow that, and all that insightface's models keep from call to call is a table of
        anchors, the same whoever writes it.
        """
        looks = [_look(picture, analysis, self.pack.detector_size_px, read) for picture in pictures]
        crops = [crop for look in looks for crop in look.crops if crop is not None]
        embeddings = iter(_embed(crops, analysis.models["recognition"]))
        return [
            FacesFound(
                faces=tuple(
                    face if crop is None else replace(face, embedding=next(embeddings))
                    for face, crop in zip(look.faces, look.crops, strict=True)
                ),
                fault=look.fault,
            )
            for look in looks
        ]

    def _load(self) -> "FaceAnalysis":
        if self._closed:
            raise InvalidValueError("face encoder", "closed", "open: make a new one")
        if self._analysis is None:
            folder = resolve_source(self.pack.source, f"face pack {self.pack.name!r}")
            verify_pack(folder, self.pack.source)
            providers = self._providers_to_ask_for()
            try:
                self._analysis = share_pack(folder, self.pack, providers)
            except ImportError as error:
                raise ProfileError(self._profile.name, f"can't look at faces: {error}", _REINSTALL) from error
            self._id = identify_pack(self._analysis, self.pack)
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


def _look(
    picture: PictureT, analysis: "FaceAnalysis", detector_size_px: tuple[int, int], read: Callable[[PictureT], Rgb]
) -> _Look:
    try:
        rgb = read(picture)
    except (ImageFileError, InvalidValueError) as error:
        return _Look(fault=error)
    if _vanishes(rgb.shape, detector_size_px):
        return _Look()
    bgr, side_px = to_bgr(rgb), analysis.models["recognition"].input_size[0]
    with np.errstate(all="ignore"):
        boxes, landmarks = analysis.det_model.detect(bgr)
    found = [_detected(bgr, box, points, side_px) for box, points in zip(boxes, landmarks, strict=True)]
    found.sort(key=lambda pair: -pair[0].score)
    return _Look(faces=tuple(face for face, _ in found), crops=tuple(crop for _, crop in found))


def _vanishes(shape: tuple[int, ...], detector_size_px: tuple[int, int]) -> bool:
    """Say whether nothing is left of a picture that is scaled to fit, which OpenCV refuses to do."""
    height, width = shape[:2]
    if not height or not width:
        return True
    ratio = height / width
    return min(detector_size_px[0] * ratio, detector_size_px[1] / ratio) < 1


def _detected(
    bgr: Bgr, box: NDArray[np.float32], landmarks: NDArray[np.float32], side_px: int
) -> tuple[Face, Bgr | None]:
    """Return a face that isn't embedded yet, and its crop."""
    height, width = bgr.shape[:2]
    x0, y0, x1, y1, score = (float(value) for value in box)
    inside = max(0.0, min(x1, width) - max(x0, 0.0)) * max(0.0, min(y1, height) - max(y0, 0.0))
    matrix = alignment(landmarks, side_px)
    cut = None if matrix is None else crop(bgr, matrix, side_px)
    face = Face(
        box=(x0, y0, x1, y1),
        landmarks=np.asarray(landmarks, np.float32),
        score=score,
        visible_fraction=inside / max((x1 - x0) * (y1 - y0), 1e-6),
        embedding=None,
        off_centre=float(np.hypot(x0 + x1 - width, y0 + y1 - height) / np.hypot(width, height)),
        sharpness=None if cut is None or matrix is None else sharpness(cut, matrix, (width, height)),
    )
    return face, cut


def _embed(crops: list[Bgr], recogniser: Any) -> Iterator[Embedding | None]:
    """Yield the unit embedding of each crop; None where the model gives no direction."""
    fixed = recogniser.input_shape[0]  # a number where the model was exported for so many, else a name
    at_once = fixed if isinstance(fixed, int) and fixed > 0 else MAX_CROPS
    for start in range(0, len(crops), at_once):
        given = crops[start : start + at_once]
        missing = at_once - len(given) if at_once == fixed else 0
        features = recogniser.get_feat([*given, *given[-1:] * missing])
        yield from (_direction(feature) for feature in features[: len(given)])


def _direction(embedding: Any) -> Embedding | None:
    try:
        return unit(embedding)
    except InvalidValueError:
        return None
