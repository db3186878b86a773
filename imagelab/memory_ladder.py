"""What is given up, rung by rung, when the memory is too small for a picture."""

from itertools import pairwise
from typing import get_args

import torch

from imagelab.config import MemoryPolicy
from imagelab.config.sdxl import MemoryPolicyName

NOT_COMPILED: MemoryPolicyName = "sequential_offload"  # puts its hooks on each layer, inside of what is compiled
_LOWER = dict(pairwise(get_args(MemoryPolicyName)))  # which names them from fast to small


def next_rung(memory: MemoryPolicy, device: torch.device, *, compiled: bool = False) -> tuple[MemoryPolicy, str] | None:
    """Return a policy that needs less memory and what it does, None at the end; each rung is slower than the last.

    Text encoders that come with each new prompt cost some tenths of a second, as tiles do, and change no bit: so they
    leave before tiles change the picture. Offloading the other models costs seconds a picture, and comes last. For
    compiled models it ends where hooks would sit inside of their graphs.
    """
    offloads = device.type == "cuda"  # else there is nowhere to offload to
    tiled = memory.vae_tiling and memory.vae_slicing
    if not (tiled or (offloads and memory.policy == "resident")):
        return memory.model_copy(update={"vae_tiling": True, "vae_slicing": True}), "the VAE decodes in tiles"
    lower = _LOWER.get(memory.policy) if offloads else None
    if lower is None or (compiled and lower == NOT_COMPILED):
        return None
    return memory.model_copy(update={"policy": lower}), lower
