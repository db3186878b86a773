"""Train the face detector of the puppet face pack, with the nine outputs that insightface knows as SCRFD.

At strides 8, 16 and 32 each cell has two anchors; scores, then box distances, then landmark offsets, in units of the
stride from the cell's corner (Guo et al. 2021, arXiv:2105.04714; insightface `model_zoo/scrfd.py` decodes them).
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  torch's own habit
from torch import nn
from tqdm.auto import tqdm

from imagelab.puppets.render import STYLES, render
from imagelab.puppets.train.loop import Plan, mixed_precision, train
from imagelab.puppets.world import sample_scene

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

SIDE_PX = 128
STRIDES = (8, 16, 32)
SMALLEST_PX = {8: 0.0, 16: 26.0, 32: 64.0}  # a face belongs to the last stride whose size it reaches
ANCHORS = 2
MAX_FACES = 3
PICTURES, FIRST_SEED = 4000, 4_000_000
SIZES = ((128, 128), (96, 160), (160, 96))
BATCH = 24
PLAN = Plan(steps=4500, rate=2e-3, weight_decay=1e-2, average=0.995)


class Faces(NamedTuple):
    """Detector training pictures: letterboxed RGB, boxes and landmarks with NaN where there is no face."""

    images: NDArray[np.uint8]  # (N, 128, 128, 3)
    boxes: NDArray[np.float32]  # (N, 3, 4)
    landmarks: NDArray[np.float32]  # (N, 3, 5, 2)


def letterbox(image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
    """Fit a picture into the upper left of a black square as insightface does; return it and the scale."""
    scale = SIDE_PX / max(image.shape[:2])
    small = cv2.resize(image, (int(image.shape[1] * scale), int(image.shape[0] * scale)))
    out = np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8)
    out[: small.shape[0], : small.shape[1]] = small
    return out, scale


def sample_picture(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    """Render a picture of no to three puppets at a random size, sometimes zoomed or cut by the border."""
    rng = np.random.default_rng(seed)
    count = int(rng.choice([0, 1, 2, 3], p=[0.22, 0.53, 0.15, 0.10]))
    scene = sample_scene(rng, figures=count)
    style = str(rng.choice(list(STYLES), p=[0.85, 0.15]))
    scene = replace(scene, zoom=scene.zoom * float(np.exp(rng.uniform(-0.45, 0.45))), style=style)
    width, height = SIZES[int(rng.integers(len(SIZES)))]
    shift = (rng.uniform(-0.18, 0.18) * width, rng.uniform(-0.12, 0.12) * height)
    drawn = render(scene, width=width, height=height, shift_px=shift)
    image, scale = letterbox(drawn.image)
    boxes = np.full((MAX_FACES, 4), np.nan, np.float32)
    points = np.full((MAX_FACES, 5, 2), np.nan, np.float32)
    kept = 0
    for truth in drawn.figures:
        x, y = truth.landmarks[:3].T  # a face without its eyes and nose in view is no face
        if (x > 0).all() and (x < width).all() and (y > 0).all() and (y < height).all():
            boxes[kept], points[kept] = truth.face_box * scale, truth.landmarks * scale
            kept += 1
    return image, boxes, points


def render_faces(path: Path, *, workers: int | None = None) -> Faces:
    """Render the detector's training pictures to `path` (.npz), or open them."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
            rows = pool.map(sample_picture, range(FIRST_SEED, FIRST_SEED + PICTURES), chunksize=50)
            images, boxes, points = zip(*tqdm(rows, total=PICTURES, desc="render faces", mininterval=10), strict=True)
        part = path.with_suffix(".part.npz")
        np.savez(part, images=np.stack(images), boxes=np.stack(boxes), landmarks=np.stack(points))
        part.replace(path)
    with np.load(path) as stored:
        return Faces(stored["images"], stored["boxes"], stored["landmarks"])


def _block(before: int, after: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU())


class Detector(nn.Module):
    """Map (1, 3, H, W) RGB in -1..1 to SCRFD's nine outputs, each flattened to rows of anchors."""

    def __init__(self) -> None:
        super().__init__()
        stem = ((3, 16, 2), (16, 24, 2), (24, 32, 1), (32, 48, 2), (48, 48, 1))
        self.stem = nn.Sequential(*(_block(*widths) for widths in stem))
        self.to16 = nn.Sequential(_block(48, 64, 2), _block(64, 64, 1))
        self.to32 = nn.Sequential(_block(64, 96, 2), _block(96, 96, 1), _block(96, 96, 1))
        self.down = nn.ModuleList(nn.Conv2d(c, 48, 1) for c in (48, 64, 96))
        self.smooth = nn.ModuleList(_block(48, 48, 1) for _ in STRIDES)
        self.score = nn.ModuleList(nn.Conv2d(48, ANCHORS, 3, padding=1) for _ in STRIDES)
        self.box = nn.ModuleList(nn.Conv2d(48, ANCHORS * 4, 3, padding=1) for _ in STRIDES)
        self.points = nn.ModuleList(nn.Conv2d(48, ANCHORS * 10, 3, padding=1) for _ in STRIDES)
        for name, parameter in self.score.named_parameters():
            if name.endswith("bias"):  # faces are rare: start from "no"
                nn.init.constant_(parameter, -4.0)

    def maps(self, x: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return for each stride: logits (N, A, h, w), boxes (N, 4 A, h, w), landmarks (N, 10 A, h, w)."""
        at8 = self.stem(x)
        at16 = self.to16(at8)
        at32 = self.to32(at16)
        c32 = self.down[2](at32)
        c16 = self.down[1](at16) + F.interpolate(c32, scale_factor=2.0, mode="nearest")
        c8 = self.down[0](at8) + F.interpolate(c16, scale_factor=2.0, mode="nearest")
        out = []
        for k, level in enumerate((c8, c16, c32)):
            f = self.smooth[k](level)
            out.append((self.score[k](f), F.relu(self.box[k](f)), self.points[k](f)))
        return out

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return scores at three strides, then boxes, then landmarks, one row an anchor."""
        levels = self.maps(x)

        def rows(t: Tensor, width: int) -> Tensor:
            return t.permute(0, 2, 3, 1).reshape(-1, width)

        return (
            *(rows(torch.sigmoid(s), 1) for s, _, _ in levels),
            *(rows(b, 4) for _, b, _ in levels),
            *(rows(p, 10) for _, _, p in levels),
        )


def _targets(boxes: Tensor, landmarks: Tensor, stride: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return, for each cell of a stride, whether it answers for a face (1, 0; -1: either), its box and points."""
    n, side = len(boxes), SIDE_PX // stride
    score = torch.zeros(n, side, side)
    box, points = torch.zeros(n, 4, side, side), torch.zeros(n, 10, side, side)
    grid = torch.arange(side) * float(stride)
    corner = torch.stack(torch.meshgrid(grid, grid, indexing="xy"))  # (2, h, w): x, y
    above = {8: 26.0, 16: 64.0, 32: 1e9}[stride]
    for i, j in (~boxes[:, :, 0].isnan()).nonzero().tolist():
        b = boxes[i, j]
        size = float((b[2:] - b[:2]).amax())
        middle = (b[:2] + b[2:]) / 2
        far = ((corner - middle[:, None, None]).abs() / (b[2:] - b[:2])[:, None, None]).amax(0)
        mine = SMALLEST_PX[stride] <= size < above
        near = (corner - middle[:, None, None]).norm(dim=0) <= max(0.22 * size, 0.75 * stride)
        if mine:
            score[i][near] = 1.0
            box[i][:, near] = (torch.cat([corner - b[:2, None, None], b[2:, None, None] - corner]) / stride)[:, near]
            offsets = (landmarks[i, j].reshape(10, 1, 1) - corner.repeat(5, 1, 1)) / stride
            points[i][:, near] = offsets[:, near]
        else:
            blurred = (far < 0.3) & (score[i] == 0) & (SMALLEST_PX[stride] * 0.75 <= size < above * 1.33)
            score[i][blurred] = -1.0
    return score, box, points


def detection_loss(net: Detector, x: Tensor, boxes: Tensor, landmarks: Tensor) -> Tensor:
    """Return focal loss on scores plus L1 on boxes and landmarks of the cells that answer for a face."""
    total = torch.zeros(())
    with mixed_precision():
        levels = net.maps(x)
    for stride, (logit, box, points) in zip(STRIDES, levels, strict=True):
        score_t, box_t, points_t = _targets(boxes, landmarks, stride)
        care, face = (score_t >= 0)[:, None].float(), (score_t > 0)
        wanted = score_t.clamp(min=0)[:, None].expand_as(logit)
        p = torch.sigmoid(logit.float())
        focal = F.binary_cross_entropy_with_logits(logit.float(), wanted, reduction="none") * (p - wanted).abs() ** 2
        positives = max(1.0, float(face.sum()))
        total = total + (focal * care).sum() / positives
        if face.any():
            near = 32.0 / stride  # errors count in pixels of a middling face, whatever the stride
            for found, target, channels, weight in ((box, box_t, 4, 4.0), (points, points_t, 10, 16.0)):
                each = found.float().unflatten(1, (ANCHORS, channels))
                error = F.smooth_l1_loss(each, target[:, None].expand_as(each), reduction="none", beta=0.1)
                total = total + (error.mean(2) * face[:, None]).sum() / positives / ANCHORS / near * weight
    return total


def mirror(x: Tensor, boxes: Tensor, landmarks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Flip pictures left to right; eyes and mouth corners change places, so that image left still comes first."""
    swapped = landmarks[:, :, [1, 0, 2, 4, 3]].clone()
    swapped[..., 0] = SIDE_PX - swapped[..., 0]
    turned = boxes[..., [2, 1, 0, 3]].clone()
    turned[..., [0, 2]] = SIDE_PX - turned[..., [0, 2]]
    return x.flip(3), turned, swapped


def _augment(x: Tensor, generator: torch.Generator) -> Tensor:
    n = len(x)
    x = (x + 1) * (0.75 + 0.5 * torch.rand(n, 3, 1, 1, generator=generator)) - 1
    x = x + torch.randn(x.shape, generator=generator) * 0.06 * torch.rand(n, 1, 1, 1, generator=generator)
    if torch.rand(1, generator=generator).item() < 0.4:
        side = int(48 + 72 * torch.rand(1, generator=generator).item())
        small = F.interpolate(x, (side, side), mode="bilinear", antialias=True)
        x = F.interpolate(small, x.shape[-2:], mode="bilinear")
    return x


def train_detector(folder: Path, *, workers: int | None = None, plan: Plan = PLAN) -> Detector:
    """Train the detector from scratch."""
    faces = render_faces(folder / "data" / "faces.npz", workers=workers)
    boxes, landmarks = torch.from_numpy(faces.boxes), torch.from_numpy(faces.landmarks)
    torch.manual_seed(0)
    net = Detector()

    def loss(_: int, generator: torch.Generator) -> Tensor:
        pick = torch.randint(len(faces.images), (BATCH,), generator=generator)
        x = torch.from_numpy(faces.images[pick.numpy()]).permute(0, 3, 1, 2).float()
        batch = (x - 127.5) / 128.0, boxes[pick], landmarks[pick]
        x, b, points = mirror(*batch) if torch.rand(1, generator=generator).item() < 0.5 else batch
        return detection_loss(net, _augment(x, generator), b, points)

    return train({"net": net}, loss, plan, folder / "detector.pt")["net"].eval()
