"""Train the oracle: a small classifier of what a render shows, the judge of prompt adherence.

It learns from renders only; generated pictures never enter its training, or it would learn to excuse them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  torch's own habit

from imagelab.puppets.oracle import Oracle, labels_of
from imagelab.puppets.train.dataset import BUCKETS, render_bucket, scene_of
from imagelab.puppets.train.loop import Plan, mixed_precision, train

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

BATCH = 48
PLAN = Plan(steps=1100, rate=2e-3, weight_decay=0.02, average=0.995)


def train_oracle(folder: Path, *, plan: Plan = PLAN) -> Oracle:
    """Train on the square bucket; labels are read off the scenes that its seeds name."""
    split, bucket = render_bucket("square", folder / "data"), BUCKETS["square"]
    scenes = [scene_of(seed)[0] for seed in range(bucket.first_seed, bucket.first_seed + bucket.pictures)]
    peopled = np.array([i for i, s in enumerate(scenes) if s.figures])
    labels = torch.tensor([labels_of(s) if s.figures else [0] * len(labels_of(scenes[peopled[0]])) for s in scenes])
    torch.manual_seed(0)
    net = Oracle()

    def loss(_: int, generator: torch.Generator) -> Tensor:
        pick = peopled[torch.randint(len(peopled), (BATCH,), generator=generator).numpy()]
        x = torch.from_numpy(np.ascontiguousarray(split.images[pick])).permute(0, 3, 1, 2).float() / 127.5 - 1
        x = (x + 1) * (0.93 + 0.14 * torch.rand(BATCH, 3, 1, 1, generator=generator)) - 1
        x = x + torch.randn(x.shape, generator=generator) * 0.04 * torch.rand(BATCH, 1, 1, 1, generator=generator)
        if torch.rand(1, generator=generator).item() < 0.3:
            side = int(64 + 60 * torch.rand(1, generator=generator).item())
            small = F.interpolate(x, (side, side), mode="bilinear", antialias=True)
            x = F.interpolate(small, (128, 128), mode="bilinear")
        with mixed_precision():
            found = net(x)
        wanted = labels[pick].T
        losses = [F.cross_entropy(f.float(), w, ignore_index=-1) for f, w in zip(found, wanted, strict=True)]
        return torch.stack(losses).mean()

    return train({"oracle": net}, loss, plan, folder / "oracle.pt")["oracle"].eval()
