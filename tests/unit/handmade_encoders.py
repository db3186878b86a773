"""Encoders of tiny size with random weights, written as transformers and deepghs/ccip_onnx write them."""

from pathlib import Path

import numpy as np
import onnx
import torch
import transformers
from onnx import TensorProto, helper, numpy_helper

from imagelab.config import Source, load_configs
from imagelab.config.encoders import Encoder

SIDE_PX = 32


def write_dinov2(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE_PX, patch_size=8
    )
    transformers.Dinov2Model(config).save_pretrained(folder)
    return _write_processor(folder)


def write_clip(folder: Path, seed: int = 0) -> Path:
    """Write one without a tokenizer, as a pure image encoder."""
    torch.manual_seed(seed)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**size, "vocab_size": 20, "max_position_embeddings": 8},
        vision_config={**size, "image_size": SIDE_PX, "patch_size": 8},
        projection_dim=12,
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    return _write_processor(folder)


def _write_processor(folder: Path) -> Path:
    side = {"height": SIDE_PX, "width": SIDE_PX}
    transformers.CLIPImageProcessor(size={"shortest_edge": SIDE_PX}, crop_size=side).save_pretrained(folder)
    return folder


def write_ccip(folder: Path, *, side_px: int = 384, channels: int = 3) -> Path:
    """Write one whose features are the mean of each channel of what the network is given, and a constant 1."""
    folder.mkdir(parents=True)
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["means"]),
        helper.make_node("Pad", ["means", "pads", "one"], ["output"]),
    ]
    values = [
        numpy_helper.from_array(np.array([0, 0, 0, 1], np.int64), "pads"),
        numpy_helper.from_array(np.float32(1), "one"),
    ]
    graph = helper.make_graph(
        nodes,
        "handmade",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", channels, side_px, side_px])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", channels + 1])],
        values,
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), folder / "model_feat.onnx")
    return folder


WRITERS = {"clip": write_clip, "dinov2": write_dinov2, "ccip": write_ccip}


def profile_with(encoders: dict[str, Encoder]):
    """Return the puppet profile with other encoders, each of a folder under $IMAGELAB_MODELS."""
    for name, encoder in encoders.items():
        encoder._name = name
    return load_configs().profile("puppet").model_copy(update={"encoders": encoders})


def folder_encoder(kind: str, folder: str | None = None, **given) -> Encoder:
    return Encoder(kind=kind, source=Source(folder=folder or kind), **given)
