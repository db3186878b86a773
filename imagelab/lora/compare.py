"""How much LoRAs change the weights, block by block, and how far they pull the same way."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from math import nan, sqrt
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from imagelab.config.blocks import BLOCKS
from imagelab.errors import UnknownNameError
from imagelab.lora.blocks import block_of, strength
from imagelab.lora.layers import COMPONENTS, LoraLayer, Slot, find_weight
from imagelab.lora.read import read_lora
from imagelab.results import LoraRecord

if TYPE_CHECKING:
    import pandas as pd
    from diffusers import StableDiffusionXLPipeline

ALL = "all"  # beside the names of the blocks: the whole model


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)  # tensors can't be compared as a whole
class LoraComparison:
    """What n LoRAs, at their weights, do to each block of the base model, and to ALL of it."""

    names: tuple[str, ...]
    base_norms: Mapping[str, float]  # {block: norm of all of its linear and convolution weights}
    products: Mapping[str, Tensor]  # {block: (n, n) inner products of the LoRAs' updates, float64}

    def effect(self, name: str, block: str = ALL) -> float:
        """Return the norm of a LoRA's update relative to that of the base weights; 0 where it changes nothing.

        Raises UnknownNameError.
        """
        index = self._index(name)
        return sqrt(self._products(block)[index, index].item()) / self.base_norms[block]

    def interference(self, one: str, other: str, block: str = ALL) -> float:
        """Return the cosine between two LoRAs' updates: 1 one way, 0 out of each other's way, -1 against each other.

        NaN where one of them changes nothing. Raises UnknownNameError.
        """
        first, second = self._index(one), self._index(other)
        products = self._products(block)
        norms = sqrt(products[first, first].item()) * sqrt(products[second, second].item())
        return products[first, second].item() / norms if norms else nan

    def _index(self, name: str) -> int:
        if name not in self.names:
            raise UnknownNameError("LoRA of the comparison", name, self.names)
        return self.names.index(name)

    def _products(self, block: str) -> Tensor:
        if block not in self.products:
            raise UnknownNameError("block of the base model", block, tuple(self.products))
        return self.products[block]

    def effects(self) -> "pd.DataFrame":
        """Return a table of relative effects: a row per block, a column per LoRA."""
        import pandas as pd  # slow to import, and only notebooks want tables

        columns = {name: [self.effect(name, block) for block in self.products] for name in self.names}
        return pd.DataFrame(columns, index=pd.Index(list(self.products), name="block"))

    def interferences(self) -> "pd.DataFrame":
        """Return a table of cosines: a row per block, a column per pair of LoRAs."""
        import pandas as pd  # as above

        columns = {
            f"{one} × {other}": [self.interference(one, other, block) for block in self.products]
            for one, other in combinations(self.names, 2)
        }
        return pd.DataFrame(columns, index=pd.Index(list(self.products), name="block"))


@torch.no_grad()
def compare_loras(pipe: "StableDiffusionXLPipeline", loras: Sequence[tuple[Path, LoraRecord]]) -> LoraComparison:
    """Measure the updates that LoRAs would make to a pipeline without LoRAs in its weights.

    Step ranges don't count: it is the update while a LoRA acts. Raises ModelFileError.
    """
    layers: defaultdict[Slot, dict[int, tuple[LoraLayer, float]]] = defaultdict(dict)
    for index, (path, record) in enumerate(loras):
        for layer in read_lora(path, pipe, record.sha256):
            layers[layer.slot][index] = (layer, strength(record, layer.slot))
    squares: defaultdict[str, float] = defaultdict(float)
    products = {block: torch.zeros(len(loras), len(loras), dtype=torch.float64) for block in (*BLOCKS, ALL)}
    for slot, weight in _weights(pipe):
        gram = _products(weight, layers.get(slot, {}), len(loras))
        for block in (block_of(slot), ALL):
            squares[block] += torch.linalg.vector_norm(weight, dtype=torch.float64).item() ** 2
            products[block] += gram
    blocks = [block for block in (*BLOCKS, ALL) if squares[block]]  # the puppets lack a few
    return LoraComparison(
        names=tuple(record.name for _, record in loras),
        base_norms={block: sqrt(squares[block]) for block in blocks},
        products={block: products[block] for block in blocks},
    )


def _products(weight: Tensor, layers: Mapping[int, tuple[LoraLayer, float]], count: int) -> Tensor:
    """Return the (count, count) inner products of the updates of one weight."""
    products = torch.zeros(count, count, dtype=torch.float64)
    updates = {index: layer.delta(weight, factor).flatten().double() for index, (layer, factor) in layers.items()}
    for (one, first), (other, second) in product(updates.items(), repeat=2):
        products[one, other] = first @ second
    return products


def _weights(pipe: "StableDiffusionXLPipeline") -> Iterator[tuple[Slot, Tensor]]:
    for component in COMPONENTS:
        for name, _ in getattr(pipe, component).named_modules():
            weight = find_weight(pipe, (component, name))
            if weight is not None:
                yield (component, name), weight.detach().float()
