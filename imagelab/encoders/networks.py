"""Networks of transformers as encoders: CLIP (StyleID among others, which is one with other weights) and DINOv2."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from imagelab.config import Source
from imagelab.encoders.base import combine_sha256
from imagelab.encoders.region import RegionEncoder
from imagelab.errors import InvalidValueError, ModelFileError
from imagelab.model_loading import load_network, load_or_refuse
from imagelab.models import AGAIN, check_model, resolve_source
from imagelab.similarity import unit

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class _Network:
    """A network of transformers in float32, which these small ones can afford, and its image processor."""

    class_name: ClassVar[str]
    model_type: ClassVar[str]  # as config.json calls it

    def __init__(self, source: Source, what: str, device: str) -> None:
        self.folder = resolve_source(source, f"{what} (config.json, preprocessor_config.json and .safetensors weights)")
        _refuse_pickles(self.folder)
        hashes, _ = check_model(self.folder, "float32", packaged=source.package is not None)
        _check_type(self.folder, self.model_type, self.class_name)
        weights = {name: digest for name, digest in hashes.items() if name.endswith(".safetensors")}
        self.weights_sha256 = combine_sha256(weights)
        self._processor, self.network = load_network(getattr(transformers, self.class_name), self.folder, device)
        # another version may scale pictures otherwise
        self.preprocessing = {**self._processor.to_dict(), "transformers": transformers.__version__}

    @torch.no_grad()
    def features(self, pictures: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Return the raw features (n, d) of RGB pictures."""
        inputs = self._processor(images=list(pictures), return_tensors="pt")
        return _numpy(self._embed(inputs["pixel_values"].to(self.network.device)))

    def _embed(self, pixels: Tensor) -> Tensor:
        raise NotImplementedError


class Clip(_Network):
    """CLIPModel: the image features, projected to where texts are too."""

    class_name, model_type = "CLIPModel", "clip"
    _tokenizer: Any = None

    def _embed(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.network.visual_projection(self.network.vision_model(pixels).pooler_output)
        return features

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], list[int]]:
        """Return the raw features (n, d) of texts, and how many tokens of each were beyond what CLIP can read."""
        if self._tokenizer is None:
            given = {"local_files_only": True}
            self._tokenizer = load_or_refuse(transformers.AutoTokenizer.from_pretrained, self.folder, **given)
        limit = self.network.config.text_config.max_position_embeddings
        lengths = [len(self._tokenizer(text).input_ids) for text in texts]
        tokens = self._tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=limit, return_tensors="pt"
        ).to(self.network.device)
        states = self.network.text_model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        features = self.network.text_projection(states.pooler_output)
        return _numpy(features), [max(0, length - limit) for length in lengths]


class Dinov2(_Network):
    """Dinov2Model: the CLS token after the last layer's norm."""

    class_name, model_type = "Dinov2Model", "dinov2"

    def _embed(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.network(pixels).last_hidden_state[:, 0]
        return features


class ClipEncoder(RegionEncoder[Clip]):
    """CLIP as an encoder of pictures, and of texts to compare them with."""

    def embed_texts(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], tuple[int, ...]]:
        """Return unit embeddings (n, d) of texts, and how many tokens of each CLIP couldn't read (77 are its limit).

        Raises InvalidValueError for what is no text; else as `load`.
        """
        for text in texts:
            if not isinstance(text, str):
                raise InvalidValueError("prompt", text, "a text")
        features, beyond = self.load().text_features(texts)
        return np.stack([unit(row) for row in features]), tuple(beyond)


def _refuse_pickles(folder: Path) -> None:
    pickles = sorted(path for path in folder.iterdir() if path.suffix in _PICKLES)
    if pickles and not any(folder.glob("*.safetensors")):
        reason = "is pickled, which can run code when it is read, and there are no .safetensors weights beside it"
        fix = "Fetch the .safetensors file of the model, or convert it where you trust it: save_pretrained writes one"
        raise ModelFileError(pickles[0], reason, fix)


def _check_type(folder: Path, model_type: str, class_name: str) -> None:
    path = folder / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelFileError(path, "can't be read or names no model_type", AGAIN) from error
    if found != model_type:
        fix = "Name its folder under the encoder kind that it is of"
        raise ModelFileError(path, f"is of a {found} model, not of a {class_name} ({model_type})", fix)


def _numpy(values: Tensor) -> NDArray[np.float32]:
    return values.float().cpu().numpy()
