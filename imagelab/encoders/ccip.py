"""CCIP as an encoder: is it the same anime character? ONNX files as deepghs/ccip_onnx publishes them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from imagelab.config import Source
from imagelab.devices import resolve_device
from imagelab.errors import ModelFileError, ModelNotFoundError, ProfileError
from imagelab.models import file_sha256, resolve_source

FILE = "model_feat.onnx"
SIDE_PX = 384
# CLIP's own, https://github.com/deepghs/imgutils: imgutils/metrics/ccip.py
_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
_FIX = f"Put a folder of https://huggingface.co/deepghs/ccip_onnx there, {FILE} is what is needed of it"
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class Ccip:
    """CCIP's features (n, 768), of the picture stretched to 384 x 384.

    CCIP compares features by a learned metric, in a second file (model_metrics.onnx) that isn't used here: like those
    of all other encoders, its features are compared by their cosine. CCIP's published thresholds are of that metric and
    mean nothing here; calibrate.
    """

    def __init__(self, source: Source, what: str, device: str) -> None:
        folder = resolve_source(source, f"{what} ({FILE})")
        self._path = folder / FILE
        if not self._path.is_file():
            raise ModelNotFoundError(what, self._path, _FIX)
        self.weights_sha256 = file_sha256(self._path)
        self._session = _open(self._path, device)
        self.preprocessing: dict[str, Any] = {
            "side_px": SIDE_PX,
            "resample": "bilinear, stretched",
            "mean": _MEAN.tolist(),
            "std": _STD.tolist(),
        }

    def features(self, pictures: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Return the raw features (n, d) of RGB pictures."""
        pixels = np.stack([_prepare(picture) for picture in pictures])
        (features,) = self._session.run(None, {self._session.get_inputs()[0].name: pixels})
        return np.asarray(features, np.float32)


def _prepare(picture: Image.Image) -> NDArray[np.float32]:
    """Return (3, 384, 384), R before G before B."""
    stretched = picture.resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR)
    levels = np.asarray(stretched, np.float32) / 255
    return np.ascontiguousarray(((levels - _MEAN) / _STD).transpose(2, 0, 1))


def _open(path: Path, device: str) -> Any:
    on_gpu = resolve_device(device).type == "cuda"
    gpu = (_CUDA, {"device_id": resolve_device(device).index or 0})
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, options, providers=[gpu, _CPU] if on_gpu else [_CPU])
    except Exception as error:  # onnxruntime's own: they share no base
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelFileError(path, f"can't be loaded: {reason}", _FIX) from error
    if device.startswith("cuda") and _CUDA not in session.get_providers():
        reason = f"onnxruntime runs {path.name} on {', '.join(session.get_providers())}, not on {_CUDA}"
        raise ProfileError("ccip", reason, "Exactly one onnxruntime may be installed, the GPU one")
    _check_signature(path, session)
    return session


def _check_signature(path: Path, session: Any) -> None:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    shape = inputs[0].shape if len(inputs) == len(outputs) == 1 else ()
    # A dimension of a name is free.
    fits = len(shape) == 4 and all(
        found == wanted or not isinstance(found, int)
        for found, wanted in zip(shape[1:], (3, SIDE_PX, SIDE_PX), strict=True)
    )
    if not fits or len(outputs[0].shape) != 2:
        shapes = [list(item.shape) for item in (*inputs, *outputs)]
        wanted = f"one input (n, 3, {SIDE_PX}, {SIDE_PX}) and one output (n, d)"
        raise ModelFileError(path, f"has inputs and outputs {shapes}, not {wanted}", _FIX)
