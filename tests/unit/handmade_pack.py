"""A face pack made by hand, in insightface's layout, whose answers can be worked out on paper.

Its detector finds a face wherever it is told to, whatever the picture; its recogniser's embedding is the mean colour of
the aligned crop, -1 to 1 in the order R, G, B.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from imagelab.config import Configs, Source, load_configs
from imagelab.references import CharacterReferenceManager

SIZE_PX = 128
STRIDES = (8, 16, 32)
# Eyes, nose, mouth corners of an upright face, as parts of its box.
LANDMARKS = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]], np.float32)

Box = tuple[float, float, float, float]  # x0, y0, x1, y1


def write_pack(
    folder: Path, faces: tuple[tuple[Box, float], ...] = (((32, 32, 96, 96), 0.9),), factor: float = 1.0
) -> Path:
    """Write a pack that finds `faces`, each a box in the detector's 128 x 128 pixels and a score.

    `factor` is what its embeddings are multiplied by: with 0 or NaN it gives what is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(_detector(faces), folder / "det.onnx")
    onnx.save(_recogniser(factor), folder / "w_mean_colour.onnx")
    return folder


def _detector(faces: tuple[tuple[Box, float], ...]) -> onnx.ModelProto:
    tables = {"score": 1, "box": 4, "landmarks": 10}
    outputs: dict[str, np.ndarray] = {
        f"{name}_{stride}": np.zeros(((SIZE_PX // stride) ** 2 * 2, width), np.float32)
        for name, width in tables.items()
        for stride in STRIDES
    }
    for (x0, y0, x1, y1), score in faces:
        column, row = int((x0 + x1) / 2 // 8), int((y0 + y1) / 2 // 8)
        anchor = (row * (SIZE_PX // 8) + column) * 2
        centre = np.array([column * 8, row * 8], np.float32)
        points = np.array([x0, y0]) + LANDMARKS * np.array([x1 - x0, y1 - y0])
        outputs["score_8"][anchor] = score
        outputs["box_8"][anchor] = np.array([centre[0] - x0, centre[1] - y0, x1 - centre[0], y1 - centre[1]]) / 8
        outputs["landmarks_8"][anchor] = ((points - centre) / 8).ravel()
    nodes, values = [], []
    for name, value in outputs.items():
        # Zero times the picture: the outputs must depend on the input.
        nodes += [helper.make_node("Add", [f"{name}_constant", "nothing"], [name])]
        values += [numpy_helper.from_array(value, f"{name}_constant")]
    nodes = [
        helper.make_node("ReduceMean", ["picture"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        *nodes,
    ]
    values += [numpy_helper.from_array(np.float32(0), "zero")]
    return _model(nodes, values, [SIZE_PX, SIZE_PX], {name: list(value.shape) for name, value in outputs.items()})


def _recogniser(factor: float) -> onnx.ModelProto:
    nodes = [
        helper.make_node("GlobalAveragePool", ["picture"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["colour"]),
        helper.make_node("Mul", ["colour", "factor"], ["embedding"]),
    ]
    values = [numpy_helper.from_array(np.float32(factor), "factor")]
    return _model(nodes, values, [112, 112], {"embedding": [1, 3]})


def _model(nodes: list, values: list, side: list[int], outputs: dict[str, list[int]]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "handmade",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, [1, 3, *side])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        values,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def plain(colour: str | tuple[int, int, int], size: tuple[int, int] = (128, 128)) -> Image.Image:
    """Return a picture of one colour."""
    return Image.new("RGB", size, colour)


def framed(colour: str | tuple[int, int, int], seed: int) -> Image.Image:
    """Return a picture whose face is of one colour, in a frame of blocks that no other seed has."""
    blocks = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    image = Image.fromarray(blocks).resize((128, 128), Image.Resampling.NEAREST)
    image.paste(plain(colour, (96, 96)), (16, 16))  # the pack's face, and what is cut out around it, lie in there
    return image


REDS = ((255, 0, 0), (235, 20, 0), (245, 0, 25))


def write_reference_folders(folder: Path) -> None:
    """Write a pack, and three reddish pictures into each of the folders luca and given."""
    write_pack(folder / "face")
    for name in ("luca", "given"):
        (folder / name).mkdir()
        for index, colour in enumerate(REDS):
            plain(colour).save(folder / name / f"{index}.png")


def handmade_manager(folder: Path) -> CharacterReferenceManager:
    """Return a manager with the pack, the references of luca, and a store of its own in the folder."""
    configs = handmade_configs({"luca": "luca"})
    return CharacterReferenceManager(store=folder / "store", profile="puppet", configs=configs, device="cpu")


def handmade_configs(references: dict[str, str] | None = None) -> Configs:
    """Return the configuration with the pack in $IMAGELAB_MODELS/face, and reference folders beside it by character."""
    configs = load_configs()
    puppet = configs.profile("puppet")
    face = puppet.face.model_copy(update={"source": Source(folder="face")})
    profiles = {**configs.sdxl.profiles, "puppet": puppet.model_copy(update={"face": face})}
    characters = {
        name: character.model_copy(
            update={"references": {"puppet": Source(folder=references[name])} if name in (references or {}) else {}}
        )
        for name, character in configs.character_presets.characters.items()
    }
    return replace(
        configs,
        sdxl=configs.sdxl.model_copy(update={"profiles": profiles}),
        character_presets=configs.character_presets.model_copy(update={"characters": characters}),
    )
