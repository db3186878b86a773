"""The oracle: a small classifier of a puppet picture's attributes, the judge of prompt adherence."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import nn

from imagelab.puppets.world import ATTRIBUTES

if TYPE_CHECKING:
    from torch import Tensor

    from imagelab.puppets.world import Scene


def values_of(scene: Scene) -> dict[str, str]:
    """Return what the first figure's picture shows, attribute by attribute; a bald head has no hair colour."""
    f = scene.figures[0]
    values = {
        "hair": f.identity.hair, "hair_style": f.identity.hair_style, "skin": f.identity.skin, "shirt": f.shirt,
        "expression": f.expression, "pose": f.pose, "place": scene.place,
    }  # fmt: skip
    if f.identity.hair_style == "bald":
        del values["hair"]
    return values


def labels_of(scene: Scene) -> list[int]:
    """Return the index of each attribute's value, -1 where there is none."""
    shown = values_of(scene)
    return [values.index(shown[name]) if name in shown else -1 for name, values in ATTRIBUTES.items()]


class Oracle(nn.Module):
    """Map (N, 3, 128, 128) RGB in -1..1 to one (N, values) tensor of logits an attribute; 0.5 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 96, 128, 160)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            for start, stride, groups in ((before, 2, 1), (after, 1, 1 if after < 96 else 8)):
                convolution = nn.Conv2d(start, after, 3, stride, 1, groups=groups, bias=False)
                layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.squeeze = nn.Linear(160 * 16, 160)
        self.heads = nn.ModuleList(nn.Linear(160, len(values)) for values in ATTRIBUTES.values())

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the logits of each attribute, in the order of `ATTRIBUTES`."""
        features = torch.relu(self.squeeze(self.body(x).flatten(1)))
        return [head(features) for head in self.heads]
