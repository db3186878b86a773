"""The estimators that see in a picture what a control map shows: joints, depth, parts, normals.

transformers' and diffusers' own classes and processors, from safetensors alone (controlnet_aux's detectors load
pickles). Each is read for one picture and dropped: maps are kept, so a second look at the same picture costs nothing,
and nothing of them lies beside SDXL while it draws.
"""

from collections.abc import Callable, Mapping
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imagelab.control_models import check_estimator
from imagelab.devices import resolve_device, within_memory
from imagelab.errors import ModelFileError
from imagelab.model_loading import load_network, load_or_refuse, quietly

if TYPE_CHECKING:
    from PIL.Image import Image

_PERSON = "person"
_PERSON_THRESHOLD = 0.5
_MARIGOLD_STEPS = 4  # prs-eth's recommendation for v1-1
_OUT_OF_MEMORY = "Make the map on the CPU (device='cpu'), lower the preprocessor's resolution, or give a ready map"
GivenT = ParamSpec("GivenT")
ResultT = TypeVar("ResultT")


def _in_memory(estimate: Callable[GivenT, ResultT]) -> Callable[GivenT, ResultT]:
    """Make GenerationError of a GPU whose memory an estimator doesn't fit in."""

    @wraps(estimate)
    def estimate_or_refuse(*args: GivenT.args, **kwargs: GivenT.kwargs) -> ResultT:
        return within_memory(partial(estimate, *args, **kwargs), _OUT_OF_MEMORY)

    return estimate_or_refuse


@_in_memory
@torch.no_grad()
def estimate_people(
    model: Path, detector: Path | None, image: "Image", params: Mapping[str, Any], device: str
) -> list[NDArray[np.float64]]:
    """Return the COCO joints (17, 3) of each person: x and y in px, confidence.

    VitPose looks for one person in each box; without a detector there is one box, the picture. Raises ModelFileError.
    """
    from transformers import VitPoseForPoseEstimation

    boxes = find_people(detector, image, params, device) if detector else [[0.0, 0.0, *map(float, image.size)]]
    if not boxes:
        return []
    processor, network = load_network(VitPoseForPoseEstimation, model, device)
    inputs = processor(image, boxes=[boxes], return_tensors="pt").to(network.device)
    if getattr(network.config.backbone_config, "num_experts", 1) > 1:
        inputs["dataset_index"] = torch.zeros(len(boxes), dtype=torch.int64, device=network.device)  # COCO's expert
    (people,) = processor.post_process_pose_estimation(network(**inputs), boxes=[boxes])
    joints = [torch.cat([person["keypoints"], person["scores"][:, None]], dim=1) for person in people]
    return [_numpy(joint) for joint in joints]


@torch.no_grad()
def find_people(detector: Path, image: "Image", params: Mapping[str, Any], device: str) -> list[list[float]]:
    """Return the boxes of people: left, top, width and height in px.

    Raises ModelFileError, also for a detector that doesn't know people.
    """
    from transformers import AutoModelForObjectDetection

    processor, network = load_network(AutoModelForObjectDetection, detector, device)
    labels = [index for index, name in network.config.id2label.items() if name.lower() == _PERSON]
    if not labels:
        raise ModelFileError(detector, "knows no label 'person'", "Use a detector of COCO's or Objects365's labels")
    inputs = processor(image, return_tensors="pt").to(network.device)
    threshold = params.get("person_threshold", _PERSON_THRESHOLD)
    (found,) = processor.post_process_object_detection(
        network(**inputs), threshold=threshold, target_sizes=[(image.height, image.width)]
    )
    people = torch.tensor([int(label) in labels for label in found["labels"]], dtype=torch.bool)
    return [
        [left, top, right - left, bottom - top] for left, top, right, bottom in found["boxes"].cpu()[people].tolist()
    ]


@_in_memory
@torch.no_grad()
def estimate_depth(model: Path, image: "Image", params: Mapping[str, Any], device: str) -> NDArray[np.float64]:
    """Return the depth (h, w) of each pixel, near = large, in the model's own unit; raises ModelFileError."""
    from transformers import AutoModelForDepthEstimation

    processor, network = load_network(AutoModelForDepthEstimation, model, device)
    outputs = network(**_inputs(processor, image, params, network.device))
    (found,) = processor.post_process_depth_estimation(outputs, target_sizes=[(image.height, image.width)])
    return _numpy(found["predicted_depth"])


@_in_memory
@torch.no_grad()
def estimate_labels(
    model: Path, image: "Image", params: Mapping[str, Any], device: str
) -> tuple[NDArray[np.int64], int]:
    """Return the label (h, w) of each pixel, and how many labels the model knows; raises ModelFileError."""
    from transformers import AutoModelForSemanticSegmentation

    processor, network = load_network(AutoModelForSemanticSegmentation, model, device)
    outputs = network(**_inputs(processor, image, params, network.device))
    (labels,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[(image.height, image.width)])
    return labels.cpu().numpy().astype(np.int64), int(network.config.num_labels)


@_in_memory
@torch.no_grad()
def estimate_normals(model: Path, image: "Image", params: Mapping[str, Any], device: str) -> NDArray[np.float64]:
    """Return the unit normal (h, w, 3) of each pixel: x right (left with `flip_x`), y up, z to the camera.

    By Marigold's pipeline where the folder holds one, else by a segmentation network whose three outputs are x, y and
    z. Raises ModelFileError.
    """
    if (model / "model_index.json").is_file():
        normals = _marigold(model, image, params, device)
    else:
        normals = _three_outputs(model, image, params, device)
    if params.get("flip_x"):
        normals = normals * torch.tensor([-1.0, 1.0, 1.0])
    return _numpy(torch.nn.functional.normalize(normals, dim=-1))


def _three_outputs(model: Path, image: "Image", params: Mapping[str, Any], device: str) -> Tensor:
    from transformers import AutoModelForSemanticSegmentation

    processor, network = load_network(AutoModelForSemanticSegmentation, model, device)
    if network.config.num_labels != 3:
        raise ModelFileError(model, f"has {network.config.num_labels} outputs, not x, y and z", "Name a normals model")
    logits = network(**_inputs(processor, image, params, network.device)).logits.float()
    size = (image.height, image.width)
    normals: Tensor = torch.nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)[0].cpu()
    return normals.permute(1, 2, 0)


def _marigold(model: Path, image: "Image", params: Mapping[str, Any], device: str) -> Tensor:
    import diffusers

    check_estimator(model, "normals", packaged=False)  # a pipeline of another class would load as far as it fits
    with quietly():
        where = resolve_device(device)
        dtype = torch.float16 if where.type == "cuda" else torch.float32
        given = {"dtype": dtype, "local_files_only": True, "use_safetensors": True}
        pipe = load_or_refuse(diffusers.MarigoldNormalsPipeline.from_pretrained, model, **given).to(where)
    pipe.set_progress_bar_config(disable=True)
    found = pipe(
        image,
        num_inference_steps=params.get("steps", _MARIGOLD_STEPS),
        processing_resolution=params.get("resolution"),  # None: the model's own
        generator=torch.Generator("cpu").manual_seed(params.get("seed", 0)),  # it draws noise: the same each time
        output_type="pt",
    )
    normals: Tensor = found.prediction[0].float().cpu()
    return normals.permute(1, 2, 0)


def _inputs(processor: Any, image: "Image", params: Mapping[str, Any], device: torch.device) -> Any:
    side = params.get("resolution")
    size = {"size": {"height": side, "width": side}} if side else {}
    return processor(image, return_tensors="pt", **size).to(device)


def _numpy(values: Tensor) -> NDArray[np.float64]:
    return values.detach().cpu().double().numpy()
