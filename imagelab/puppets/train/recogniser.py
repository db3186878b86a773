"""Train the ArcFace embedder of the puppet face pack (Deng et al. 2019, arXiv:1801.07698) and export it as ONNX."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  torch's own habit
from torch import nn
from tqdm.auto import tqdm

from imagelab.puppets.render import STYLES, render
from imagelab.puppets.train.loop import Plan, mixed_precision, train
from imagelab.puppets.world import sample_identity, sample_scene

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

# insightface's template for 112 x 112 crops: eyes, nose, mouth corners.
ARCFACE_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)
IDENTITIES, VIEWS, FIRST_SEED = 1500, 12, 3_000_000
SHORTER_SIDES_PX = (96, 128)
BATCH, SCALE, MARGIN, MARGIN_RAMP_STEPS = 96, 32.0, 0.35, 400
PLAN = Plan(steps=1400, rate=2e-3, weight_decay=5e-3, clip=5.0, average=0.995)


class Embedder(nn.Module):
    """Map (N, 3, 112, 112) RGB in -1..1 to (N, 128) embeddings; 0.85 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 96, 160, 160)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            for start, stride, groups in ((before, 2, 1), (after, 1, 1 if after < 96 else 8)):
                convolution = nn.Conv2d(start, after, 3, stride, 1, groups=groups, bias=False)
                layers += [convolution, nn.BatchNorm2d(after), nn.PReLU(after)]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(160 * 16, 128)
        self.norm = nn.BatchNorm1d(128)

    def forward(self, x: Tensor) -> Tensor:
        """Return embeddings, not of unit length."""
        embedding: Tensor = self.norm(self.head(self.body(x).flatten(1)))
        return embedding


def align(image: NDArray[np.uint8], landmarks: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Cut the 112 x 112 crop that insightface's `norm_crop` would."""
    matrix, _ = cv2.estimateAffinePartial2D(landmarks, ARCFACE_TEMPLATE, method=cv2.LMEDS)
    return np.asarray(cv2.warpAffine(image, matrix, (112, 112)), np.uint8)


def views_of_identity(seed: int) -> NDArray[np.uint8]:
    """Render (VIEWS, 112, 112, 3) aligned crops of one random identity in changing scenes, light and style."""
    rng = np.random.default_rng(seed)
    identity = sample_identity(rng)
    crops = []
    for _ in range(VIEWS):
        scene = sample_scene(rng, identity=identity)
        if rng.random() < 0.15:
            scene = replace(scene, style=str(rng.choice(list(STYLES))), light=str(rng.choice(["day", "warm_summer"])))
        side = int(rng.choice(SHORTER_SIDES_PX))
        drawn = render(scene, width=side, height=side)
        jitter = rng.normal(0, 0.012 * side / 2, (5, 2)).astype(np.float32)  # detectors are never exact
        crops.append(align(drawn.image, drawn.figures[0].landmarks + jitter))
    return np.stack(crops)


def render_identities(path: Path, *, workers: int | None = None) -> NDArray[np.uint8]:
    """Render the training crops (IDENTITIES, VIEWS, 112, 112, 3) to `path`, or open them."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        seeds = range(FIRST_SEED, FIRST_SEED + IDENTITIES)
        with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
            rows = pool.map(views_of_identity, seeds, chunksize=10)
            crops = np.stack(list(tqdm(rows, total=IDENTITIES, desc="render identities", mininterval=10)))
        part = path.with_suffix(".part.npy")
        np.save(part, crops)
        part.replace(path)
    stored: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return stored


def degrade(x: Tensor, generator: torch.Generator) -> Tensor:
    """Flip, tint, add noise and blur at random, as generators and cameras do."""
    n = len(x)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    x = torch.where(uniform(n, 1, 1, 1) < 0.5, x, x.flip(3))
    x = x + torch.randn(x.shape, generator=generator) * 0.05 * uniform(n, 1, 1, 1)
    x = (x + 1) * (0.8 + 0.4 * uniform(n, 3, 1, 1)) - 1
    if uniform(1).item() < 0.5:
        side = int(24 + 64 * uniform(1).item())
        small = F.interpolate(x, size=(side, side), mode="bilinear", antialias=True)
        x = F.interpolate(small, size=x.shape[-2:], mode="bilinear")
    return x


def train_recogniser(folder: Path, *, workers: int | None = None, plan: Plan = PLAN) -> Embedder:
    """Train the embedder with an additive angular margin that is ramped in."""
    crops = render_identities(folder / "data" / "identities.npy", workers=workers)
    torch.manual_seed(0)
    net, classes = Embedder(), nn.Linear(128, len(crops), bias=False)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        who = torch.randint(len(crops), (BATCH,), generator=generator)
        view = torch.randint(VIEWS, (BATCH,), generator=generator)
        x = torch.from_numpy(crops[who.numpy(), view.numpy()]).permute(0, 3, 1, 2).float() / 127.5 - 1
        x = degrade(x, generator)
        with mixed_precision():
            embedding = net(x)
        cosine = F.normalize(embedding.float()) @ F.normalize(classes.weight).T
        angle = torch.acos(cosine.clamp(-1 + 1e-6, 1 - 1e-6))
        mine = F.one_hot(who, len(crops)).bool()
        margin = MARGIN * min(1.0, step / MARGIN_RAMP_STEPS)
        return F.cross_entropy(SCALE * torch.where(mine, torch.cos(angle + margin), cosine), who)

    best = train({"net": net, "classes": classes}, loss, plan, folder / "recogniser.pt")
    return cast("Embedder", best["net"].eval())
