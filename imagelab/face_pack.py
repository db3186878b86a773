"""A face pack in insightface's layout, opened: a folder with one detector and one ArcFace recogniser, both .onnx."""

import warnings
from collections.abc import Hashable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from imagelab.config import FacePack, Source
from imagelab.errors import ModelFileError, ModelNotFoundError
from imagelab.faces import FaceEncoderId
from imagelab.models import SUMS_FILE, file_sha256, verify_weights

if TYPE_CHECKING:
    from insightface.app.face_analysis import FaceAnalysis

TASKS = ("detection", "recognition")
# What is open, for as long as anybody uses it: five encoders that look at faces need the models in memory once.
_opened: "WeakValueDictionary[Hashable, FaceAnalysis]" = WeakValueDictionary()
_PACK_FIX = "A face pack is a folder with one detector and one ArcFace recogniser, both .onnx; copy it there again"


def verify_pack(folder: Path, source: Source) -> None:
    """Raise ModelNotFoundError or ModelFileError unless the folder holds models, and the ones that it lists."""
    if not any(folder.glob("*.onnx")):
        nested = next(iter(sorted(folder.glob("*/*.onnx"))), None)  # antelopev2.zip unpacks into antelopev2/antelopev2
        fix = f"The models lie in {nested.parent}: move them up into {folder}" if nested else _PACK_FIX
        raise ModelNotFoundError("face pack", folder / "*.onnx", fix)
    if source.package or (folder / SUMS_FILE).is_file():
        verify_weights(folder)


def share_pack(folder: Path, pack: FacePack, providers: list[Any]) -> "FaceAnalysis":
    """Return the pack that is open already with these files and settings, else `open_pack`; raises as it does.

    It goes when the last one that holds it lets it go, so nobody has to own it.
    """
    files = tuple(
        (path.name, (stat := path.stat()).st_mtime_ns, stat.st_size) for path in sorted(folder.glob("*.onnx"))
    )
    key = (folder.resolve(), files, pack.detector_size_px, pack.detection_threshold, str(providers))
    found = _opened.get(key)
    if found is None:
        found = _opened[key] = open_pack(folder, pack, providers)
    return found


def open_pack(folder: Path, pack: FacePack, providers: list[Any]) -> "FaceAnalysis":
    """Load the detector and the recogniser with the detector's size pinned.

    Raises ModelFileError that says what is wrong with the pack; ImportError without insightface or onnxruntime.
    """
    import onnxruntime
    from insightface.app.face_analysis import FaceAnalysis

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        with warnings.catch_warnings():
            # Who asked for the provider is told so by FaceEncoder, with what to do about it.
            warnings.filterwarnings("ignore", message="Specified provider", category=UserWarning)
            # The folder exists, so insightface doesn't go and download a pack of that name.
            analysis = FaceAnalysis(
                name=str(folder), allowed_modules=list(TASKS), providers=providers, sess_options=options
            )
        analysis.prepare(ctx_id=0, det_thresh=pack.detection_threshold, det_size=pack.detector_size_px)
    except Exception as error:  # onnxruntime's, onnx's, protobuf's and insightface's own: they share no base
        raise _diagnose(folder, error) from error
    _check(analysis, folder, pack)
    return analysis


def identify_pack(analysis: "FaceAnalysis", pack: FacePack) -> FaceEncoderId:
    """Return what the embeddings of an opened pack are marked with."""
    detector, recogniser = (file_sha256(Path(analysis.models[task].model_file)) for task in TASKS)
    return FaceEncoderId(
        pack=pack.name,
        detector_sha256=detector,
        recogniser_sha256=recogniser,
        detector_size_px=pack.detector_size_px,
        detection_threshold=pack.detection_threshold,
        insightface=version("insightface"),
    )


def _check(analysis: "FaceAnalysis", folder: Path, pack: FacePack) -> None:
    if missing := [task for task in TASKS if task not in analysis.models]:
        raise ModelFileError(folder, f"has no model for face {missing[0]}", _PACK_FIX)
    if (sizes := analysis.det_model.input_sizes) != [pack.detector_size_px]:
        fix = f"Set detector_size_px of face pack {pack.name} to it in sdxl_config.yaml"
        raise ModelFileError(folder, f"its detector takes {sizes[0]}, not {pack.detector_size_px}", fix)
    if not analysis.det_model.use_kps:
        raise ModelFileError(folder, "its detector finds no landmarks, and faces are aligned by them", _PACK_FIX)


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
