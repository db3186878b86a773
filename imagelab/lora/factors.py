"""The matrices that a file stores for one module, and the update that they stand for.

LoRA and LoCon are those of kohya-ss/sd-scripts, LoHa and LoKr those of KohakuBlueleaf/LyCORIS, which peft shares.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Factors(ABC):
    """Base of the factorisations: their product is a matrix (out, in · kernel), without alpha."""

    @property
    @abstractmethod
    def rank(self) -> int | None:
        """Return the rank that alpha is divided by; None where nothing is factored."""

    @abstractmethod
    def product(self) -> Tensor:
        """Multiply out, on the device that the parts are on; raises RuntimeError where shapes don't chain."""

    def parts(self) -> dict[str, Tensor]:
        """Return the stored tensors by name."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: part for name, part in named.items() if part is not None}

    def to(self, device: torch.device | str, dtype: torch.dtype | None = torch.float32) -> Self:
        """Return the same on a device, None for the dtype it has; on "meta" the product has a shape and is free."""
        return replace(self, **{name: part.to(device, dtype) for name, part in self.parts().items()})

    def norm(self) -> float:
        """Return the Frobenius norm of the product."""
        return float(self.to("cpu").product().norm())


@dataclass(frozen=True, kw_only=True, slots=True)
class LowRank(Factors):
    """LoRA, and LoCon, whose convolutions may have a core: `up · down` or `up · mid · down`."""

    down: Tensor  # A: (rank, in) or (rank, in, kh, kw)
    up: Tensor  # B: (out, rank) or (out, rank, 1, 1)
    mid: Tensor | None = None  # (rank, rank, kh, kw)

    @property
    def rank(self) -> int:
        """Return the rank."""
        return int(self.down.shape[0])

    def product(self) -> Tensor:
        """Multiply out."""
        return _multiply(self.up, self.down) if self.mid is None else _tucker(self.mid, self.up.flatten(1).T, self.down)

    def norm(self) -> float:
        """Return the norm by way of matrices of the rank's size: thousands of times less work than the product."""
        if self.mid is not None:
            return Factors.norm(self)
        up, down = (part.to("cpu", torch.float32).flatten(1) for part in (self.up, self.down))
        return float(((up.T @ up) * (down @ down.T)).sum().clamp(min=0).sqrt())


@dataclass(frozen=True, kw_only=True, slots=True)
class Hadamard(Factors):
    """LoHa: the elementwise product of two low-rank matrices, which for a convolution may have cores."""

    w1_a: Tensor  # (out, rank); with a core (rank, out)
    w1_b: Tensor  # (rank, in · kernel); with a core (rank, in)
    w2_a: Tensor
    w2_b: Tensor
    t1: Tensor | None = None  # (rank, rank, kh, kw)
    t2: Tensor | None = None

    @property
    def rank(self) -> int:
        """Return the rank of either matrix."""
        return int(self.w1_b.shape[0])

    def product(self) -> Tensor:
        """Multiply out; raises ValueError where the halves differ in shape."""
        one, other = _compose(self.w1_a, self.w1_b, self.t1), _compose(self.w2_a, self.w2_b, self.t2)
        if one.shape != other.shape or self.w1_b.shape[0] != self.w2_b.shape[0]:  # or torch would broadcast
            raise ValueError(f"its halves are {tuple(one.shape)} and {tuple(other.shape)}")
        return one * other


@dataclass(frozen=True, kw_only=True, slots=True)
class Kronecker(Factors):
    """LoKr: the Kronecker product of two matrices, each whole or of low rank."""

    w1: Tensor | None = None
    w1_a: Tensor | None = None
    w1_b: Tensor | None = None
    w2: Tensor | None = None  # a convolution's kernel is in the second
    w2_a: Tensor | None = None
    w2_b: Tensor | None = None
    t2: Tensor | None = None

    @property
    def rank(self) -> int | None:
        """Return the rank of the matrix that has one: LyCORIS gives both the same."""
        factored = self.w1_b if self.w2_b is None else self.w2_b
        return None if factored is None else int(factored.shape[0])

    def product(self) -> Tensor:
        """Multiply out; raises ValueError where a matrix is there twice or by half."""
        first = _whole_or_product("w1", self.w1, self.w1_a, self.w1_b, None)
        second = _whole_or_product("w2", self.w2, self.w2_a, self.w2_b, self.t2)
        return torch.kron(first, second)


def build_factors(parts: Mapping[str, Tensor]) -> Factors:
    """Build what the parts make up: `{"lora.down": …, "lora.up": …}`; raises ValueError for what is missing."""
    kinds = {name.split(".")[0] for name in parts}
    if len(kinds) != 1:
        raise ValueError(f"mixes {' and '.join(sorted(kinds))}" if kinds else "has no matrices")
    kind = FACTORS[kinds.pop()]
    given = {name.split(".")[1]: part for name, part in parts.items()}
    required = {field.name for field in fields(kind) if field.type is Tensor}
    if missing := sorted(required - given.keys()):
        raise ValueError(f"lacks {', '.join(missing)}")
    return kind(**given)


FACTORS: Mapping[str, type[LowRank] | type[Hadamard] | type[Kronecker]] = {
    "lora": LowRank,
    "hada": Hadamard,
    "lokr": Kronecker,
}


def _multiply(left: Tensor, right: Tensor) -> Tensor:
    return left.flatten(1) @ right.flatten(1)


def _tucker(core: Tensor, left: Tensor, right: Tensor) -> Tensor:
    # LyCORIS's rebuild_tucker; its left factor is stored as (rank, out)
    return torch.einsum("ijkl,ip,jq->pqkl", core, left, right.flatten(1)).flatten(1)


def _compose(left: Tensor, right: Tensor, core: Tensor | None) -> Tensor:
    return _multiply(left, right) if core is None else _tucker(core, left, right)


def _whole_or_product(
    name: str, whole: Tensor | None, left: Tensor | None, right: Tensor | None, core: Tensor | None
) -> Tensor:
    if whole is not None and left is None and right is None and core is None:
        return whole.flatten(1)
    if whole is None and left is not None and right is not None:
        return _compose(left, right, core)
    raise ValueError(f"needs either {name}, or {name}_a and {name}_b")
