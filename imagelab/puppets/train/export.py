"""Write trained models where the package reads them: half precision, safetensors or ONNX, with their checksums."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch
from PIL import Image

from imagelab.puppets.render import render
from imagelab.puppets.train.detector import SIDE_PX, STRIDES
from imagelab.puppets.train.story import read_story
from imagelab.puppets.world import CHARACTERS, HELD_OUT_SEED, Figure, Scene

if TYPE_CHECKING:
    from pathlib import Path

    from diffusers import ModelMixin
    from torch import nn

OPSET = 17
NOT_SUMMED = {"SHA256SUMS.json", "MODEL_CARD.md", "evaluation.json", "training.json"}


def export_detector(net: nn.Module, path: Path) -> None:
    """Write the detector with a free height and width; insightface tells it by its nine outputs."""
    kinds = ("score", "box", "landmarks")
    names = [f"{kind}_{stride}" for kind in kinds for stride in STRIDES]
    free = {"image": {2: "height", 3: "width"}, **{name: {0: f"anchors_{name}"} for name in names}}
    _export(net, torch.zeros(1, 3, SIDE_PX, SIDE_PX), path, ["image"], names, free)


def export_recogniser(net: nn.Module, path: Path) -> None:
    """Write the embedder with a free batch size; insightface tells it by its 112 x 112 input."""
    free = {"face": {0: "batch"}, "embedding": {0: "batch"}}
    _export(net, torch.zeros(1, 3, 112, 112), path, ["face"], ["embedding"], free)


def _export(net: nn.Module, example: torch.Tensor, path: Path, inputs: list[str], outputs: list[str],
            free: dict[str, dict[int, str]]) -> None:  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        # The new exporter wants onnxscript, one more package for two plain convolutional nets.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            net.eval(), (example,), str(path), dynamo=False, opset_version=OPSET, input_names=inputs,
            output_names=outputs, dynamic_axes=free,
        )  # fmt: skip
    store_halves(path)


def store_halves(path: Path) -> None:
    """Let an ONNX file hold its weights in float16; it computes in float32 as before, and is half as long."""
    model = onnx.load(path)
    graph, casts = model.graph, []
    for tensor in [t for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) > 1]:
        name, values = tensor.name, onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
        casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def save_controlnet(net: ModelMixin, folder: Path) -> None:
    """Write a ControlNet with its large weights in float8, which `from_pretrained` turns into any other dtype.

    Its residuals change by two to four hundredths. Weights that are mostly smaller than float8's smallest normal number
    would change more, and stay in float16, as do biases and norms.
    """
    smallest = torch.finfo(torch.float8_e4m3fn).smallest_normal
    for parameter in net.parameters():
        fits = parameter.ndim > 1 and parameter.std() >= smallest
        parameter.data = parameter.data.to(torch.float8_e4m3fn if fits else torch.float16)
    net.save_pretrained(folder)


REFERENCE_VIEWS = ((0.0, 0.0), (0.35, 0.0), (-0.35, 0.05), (0.15, -0.1), (-0.2, 0.1), (0.05, 0.05))
REFERENCE_EXPRESSIONS = ("neutral", "happy", "neutral", "sad", "happy", "surprised")
REFERENCE_PLACES = ("beach", "town", "forest", "beach", "town", "underwater")


def export_references(folder: Path) -> None:
    """Render six reference pictures of each fixed character: other views, places, shirts and expressions."""
    for name, character in CHARACTERS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        looks = zip(REFERENCE_VIEWS, REFERENCE_PLACES, REFERENCE_EXPRESSIONS, strict=True)
        for k, ((yaw, pitch), place, expression) in enumerate(looks):
            shirt = character.shirts[k % len(character.shirts)]
            figure = Figure(identity=character.identity, shirt=shirt, expression=expression, yaw=yaw, pitch=pitch)
            scene = Scene(figures=(figure,), place=place, seed=HELD_OUT_SEED + k)
            Image.fromarray(render(scene, width=160, height=160).image).save(folder / name / f"{name}_{k + 1}.png")


def write_checksums(folder: Path) -> None:
    """Write `SHA256SUMS.json`, which is checked when a model is loaded."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in NOT_SUMMED)
    sums = {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
    (folder / "SHA256SUMS.json").write_text(json.dumps(sums, indent=1, sort_keys=True) + "\n")


def install(work: Path, weights: Path) -> None:
    """Copy finished models over the package's, add the story of their training, and write the checksums anew."""
    story = read_story(work, weights)
    shutil.copytree(work / "out", weights, dirs_exist_ok=True)
    for path in (*weights.glob("base/*/config.json"), *weights.glob("tiny_vae/config.json")):
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)  # diffusers writes where a model was loaded from: a folder of this machine
        if config.get("_class_name") == "AutoencoderTiny":
            config.pop("block_out_channels", None)  # what the class writes, and logs a warning about when it reads it
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (weights / "training.json").write_text(json.dumps(story, indent=1) + "\n")
    write_checksums(weights)
