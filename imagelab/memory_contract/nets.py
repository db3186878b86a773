"""What ControlNets are, as far as memory depends on it, told before they are read."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from imagelab.control_models import is_union, read_entries
from imagelab.read_once import read_once
from imagelab.safetensors_files import check_safetensors

_ASKS_PROMPT = (".attn2.to_k.weight", ".attn2.to_v.weight")  # (numbers, d) of diffusers' cross-attention


@dataclass(frozen=True, kw_only=True, slots=True)
class Net:
    """A ControlNet, as far as memory depends on it."""

    name: str  # which tells it from others that look the same
    config: str  # JSON
    union: bool  # obeys all of its controls in one pass
    nbytes: int  # of its weights
    token: int  # bytes of the keys and values that it keeps of one token of the prompt while it draws


def read_net(folder: Path, dtype: torch.dtype) -> Net:
    """Say what a folder's ControlNet will be once it is read in a dtype; only the files' headers are read.

    Raises ModelFileError.
    """
    files = sorted(folder.glob("*.safetensors"))
    variants = [path for path in files if ".fp16" in path.name]
    shapes = {name: shape for path in variants or files for name, shape in _shapes(path).items()}  # one of two sets
    return _net(str(folder), read_entries(folder / "config.json"), shapes, dtype)


def net_of(module: Any, name: str) -> Net:
    """Say what a ControlNet in memory is."""
    return _net(name, module.config, {key: value.shape for key, value in module.state_dict().items()}, module.dtype)


def config_text(config: Mapping[str, Any]) -> str:
    """Return the settings of a model of diffusers as JSON, without what it notes about their origin."""
    return json.dumps({key: value for key, value in config.items() if not key.startswith("_")}, sort_keys=True)


def token_bytes(shapes: Mapping[str, Sequence[int]], dtype: torch.dtype) -> int:
    """Return the bytes of the keys and values of one token in a model of diffusers with weights of these shapes."""
    return sum(shape[0] for name, shape in shapes.items() if name.endswith(_ASKS_PROMPT)) * dtype.itemsize


def weight_bytes(module: nn.Module) -> int:
    """Return the bytes of a module's parameters and buffers."""
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def _net(name: str, config: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], dtype: torch.dtype) -> Net:
    return Net(
        name=name,
        config=config_text(config),
        union=is_union(shapes),
        nbytes=sum(map(math.prod, shapes.values())) * dtype.itemsize,
        token=token_bytes(shapes, dtype),
    )


@read_once
def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    return {name: tuple(entry["shape"]) for name, entry in check_safetensors(path).items() if name != "__metadata__"}
