"""Train the annotators: transformers' own pose, depth and segmentation models, at puppet size.

They see a picture of any shape squeezed to 128 x 128, as their processors do it. The one for poses sees it padded to a
square and a margin, as VitPose's processor does it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional
from transformers import (
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    DPTImageProcessor,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    VitPoseBackboneConfig,
    VitPoseConfig,
    VitPoseForPoseEstimation,
    VitPoseImageProcessor,
)

from imagelab.puppets.figure import COCO_KEYPOINTS, EYE, MOUTH, PARTS
from imagelab.puppets.train.dataset import BUCKETS, render_bucket
from imagelab.puppets.train.loop import Plan, train
from imagelab.puppets.train.truth import render_truth

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from imagelab.puppets.train.truth import Truth

SIDE_PX, BATCH = 128, 8
POSE_MARGIN = 1.25  # of the picture's longer side: how much VitPose's processor looks at
MEAN = STD = [0.5] * 3
PLANS = {
    "pose": Plan(steps=5000, rate=1.5e-3, warmup=50, average=0.99, weight_decay=0.02),
    "depth": Plan(steps=2600, rate=1.5e-3, warmup=50, average=0.99, weight_decay=0.02),
    "seg": Plan(steps=1800, rate=2e-3, warmup=50, average=0.99, weight_decay=0.02),
    "normal": Plan(steps=1800, rate=2e-3, warmup=50, average=0.99, weight_decay=0.02),
}


def _build_pose() -> VitPoseForPoseEstimation:
    backbone = VitPoseBackboneConfig(
        image_size=(SIDE_PX, SIDE_PX), patch_size=(8, 8), hidden_size=96, num_hidden_layers=4, num_attention_heads=4,
        mlp_ratio=2, out_indices=[4],
    )  # fmt: skip
    labels = dict(enumerate(COCO_KEYPOINTS))
    return VitPoseForPoseEstimation(
        VitPoseConfig(backbone_config=backbone, id2label=labels, label2id={v: k for k, v in labels.items()})
    )


def _build_depth() -> DepthAnythingForDepthEstimation:
    backbone = Dinov2Config(
        hidden_size=64, num_hidden_layers=4, num_attention_heads=4, mlp_ratio=2, image_size=SIDE_PX, patch_size=8,
        out_indices=[1, 2, 3, 4], reshape_hidden_states=False, apply_layernorm=True,
    )  # fmt: skip
    model = DepthAnythingForDepthEstimation(
        DepthAnythingConfig(
            backbone_config=backbone, patch_size=8, reassemble_hidden_size=64, neck_hidden_sizes=[16, 24, 32, 48],
            fusion_hidden_size=24, head_hidden_size=16,
        )
    )  # fmt: skip
    torch.nn.init.constant_(model.head.conv3.bias, 0.4)  # a ReLU follows, which must not be dead from the start
    return model


def _build_segformer(labels: tuple[str, ...]) -> SegformerForSemanticSegmentation:
    return SegformerForSemanticSegmentation(
        SegformerConfig(
            depths=(1, 1, 1, 1), hidden_sizes=(16, 32, 48, 64), strides=(2, 2, 2, 2), num_attention_heads=(1, 2, 3, 4),
            mlp_ratios=(2, 2, 2, 2), decoder_hidden_size=64, classifier_dropout_prob=0.0,
            id2label=dict(enumerate(labels)),
            label2id={v: k for k, v in enumerate(labels)},
        )
    )  # fmt: skip


def _build_seg() -> SegformerForSemanticSegmentation:
    return _build_segformer(PARTS)


def _build_normal() -> SegformerForSemanticSegmentation:
    return _build_segformer(("x", "y", "z"))


def _worsen(x: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, tint and roughen (N, 3, H, W) pictures in -1..1, as a VAE, a resize or a JPEG would."""
    n = len(x)
    scale = float(torch.empty(1).uniform_(0.45, 1.0, generator=generator))
    blurred = functional.interpolate(
        functional.interpolate(x, scale_factor=scale, mode="bilinear", antialias=True), x.shape[2:], mode="bilinear"
    )
    x = torch.where(torch.rand(n, 1, 1, 1, generator=generator) < 0.5, blurred, x)
    gain = 0.8 + 0.4 * torch.rand(n, 3, 1, 1, generator=generator)
    shift = 0.2 * torch.rand(n, 3, 1, 1, generator=generator) - 0.1
    noise = torch.randn(x.shape, generator=generator) * 0.06 * torch.rand(n, 1, 1, 1, generator=generator)
    return (x * gain + shift + noise).clamp(-1, 1)


def _pose_loss(model: nn.Module, x: Tensor, truth: list[NDArray[Any]]) -> Tensor:
    points = torch.from_numpy(np.stack(truth))
    found = model(x).heatmaps
    side = found.shape[-1]
    at = points[..., :2] * (side / SIDE_PX) - 0.5
    grid = torch.arange(side)
    away = (grid[None, None, None, :] - at[..., 0, None, None]) ** 2 + (
        grid[None, None, :, None] - at[..., 1, None, None]
    ) ** 2
    wanted = torch.exp(-away / (2 * 1.5**2)) * points[..., 2, None, None]
    total: Tensor = ((found - wanted) ** 2 * (1 + 20 * wanted)).mean() * 100
    return total


def _depth_loss(model: nn.Module, x: Tensor, truth: list[NDArray[Any]]) -> Tensor:
    wanted = torch.from_numpy(np.stack(truth).astype(np.float32))
    found = model(x).predicted_depth
    near = (wanted > 0).float()
    error = (found - wanted).abs() * (1 + 4 * near)
    edges = (found - wanted).diff(dim=-1).abs().mean() + (found - wanted).diff(dim=-2).abs().mean()
    total: Tensor = error.mean() + edges
    return total


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    return functional.interpolate(model(x).logits, x.shape[2:], mode="bilinear")


def _seg_loss(model: nn.Module, x: Tensor, truth: list[NDArray[Any]]) -> Tensor:
    weights = torch.ones(len(PARTS))
    weights[[EYE, MOUTH]] = 1.5  # a hundredth of the pixels
    return functional.cross_entropy(_logits(model, x), torch.from_numpy(np.stack(truth)).long(), weights)


def _normal_loss(model: nn.Module, x: Tensor, truth: list[NDArray[Any]]) -> Tensor:
    wanted = functional.normalize(torch.from_numpy(np.stack(truth)).permute(0, 3, 1, 2).float(), dim=1)
    found = _logits(model, x)
    cosine = functional.cosine_similarity(found, wanted, dim=1)
    total: Tensor = (1 - cosine).mean() + 0.2 * (found - wanted).pow(2).mean()
    return total


def _squeeze(map_: NDArray[Any]) -> NDArray[Any]:
    """Return a map resized to the annotators' square by its nearest pixels."""
    rows, columns = (((np.arange(SIDE_PX) + 0.5) * side / SIDE_PX).astype(int) for side in map_.shape[:2])
    squeezed: NDArray[Any] = map_[rows][:, columns]
    return squeezed


def _keypoints(points: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Move points into the square that a picture is padded to."""
    side = POSE_MARGIN * max(height, width)
    offset = np.array([(side - width) / 2, (side - height) / 2, 0], np.float32)
    return np.asarray((points + offset) * [SIDE_PX / side, SIDE_PX / side, 1], np.float32)


def _picture(image: NDArray[np.uint8], *, padded: bool) -> Tensor:
    """Return (3, 128, 128) in -1..1."""
    x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1  # a memory map is read-only
    if padded:
        h, w = x.shape[2:]
        side = POSE_MARGIN * max(h, w)
        across, down = int(side - w) // 2, int(side - h) // 2
        x = functional.pad(x, (across, across, down, down), value=-1.0)
    return functional.interpolate(x, (SIDE_PX, SIDE_PX), mode="bilinear", antialias=True)[0]


# task: what builds its model, what measures it, the field of Truth that it learns
TASKS: dict[
    str, tuple[Callable[[], PreTrainedModel], Callable[[nn.Module, Tensor, list[NDArray[Any]]], Tensor], str]
] = {
    "depth": (_build_depth, _depth_loss, "depth"),
    "seg": (_build_seg, _seg_loss, "parts"),
    "normal": (_build_normal, _normal_loss, "normals"),
    "pose": (_build_pose, _pose_loss, "keypoints"),
}


def annotator_processor(task: str) -> Any:
    """Return the preprocessing that a task's annotator was trained with."""
    size = {"height": SIDE_PX, "width": SIDE_PX}
    kinds = {"pose": VitPoseImageProcessor, "depth": DPTImageProcessor}
    return kinds.get(task, SegformerImageProcessor)(size=size, image_mean=MEAN, image_std=STD)


def train_annotator(task: str, folder: Path, *, plan: Plan | None = None) -> PreTrainedModel:
    """Train the annotator of a task on the ground truth of renders, made worse at random."""
    build, measure, field = TASKS[task]
    splits = [(render_bucket(name, folder / "data"), render_truth(name, folder / "data")) for name in BUCKETS]
    shares = torch.tensor([float(len(truth)) for _, truth in splits])
    torch.manual_seed(0)
    model = build()

    def example(generator: torch.Generator) -> tuple[Tensor, NDArray[Any]]:
        split, truth = splits[int(torch.multinomial(shares, 1, generator=generator))]
        k = int(torch.randint(len(truth), (1,), generator=generator))
        return _picture(split.images[k], padded=task == "pose"), _target(truth, field, k)

    def loss(_: int, generator: torch.Generator) -> Tensor:
        pictures, truth = zip(*(example(generator) for _ in range(BATCH)), strict=True)
        return measure(model, _worsen(torch.stack(pictures), generator), list(truth))

    model.train()
    return train({task: model}, loss, plan or PLANS[task], folder / f"annotator_{task}.pt")[task].eval()


def _target(truth: Truth, field: str, k: int) -> NDArray[Any]:
    found: NDArray[Any] = getattr(truth, field)[k]
    return _keypoints(found, *truth.depth.shape[1:]) if field == "keypoints" else _squeeze(found)
