"""What is given up, rung by rung, when the memory is too small for a picture."""

import torch

from imagelab.config import MemoryPolicy

_LOWER = {
    "resident": "text_encoder_offload",
    "text_encoder_offload": "model_offload",
    "model_offload": "sequential_offload",
}


def next_rung(memory: MemoryPolicy, device: torch.device) -> tuple[MemoryPolicy, str] | None:
    """Return a policy that needs less memory and what it does, None at the end; each rung is slower than the last.

    Tiles come before offloading: they cost a fifth of a second, as text encoders that come with each new prompt do, and
    offloading the others costs several.
    """
    if not (memory.vae_tiling and memory.vae_slicing):
        return memory.model_copy(update={"vae_tiling": True, "vae_slicing": True}), "the VAE decodes in tiles"
    if device.type != "cuda":  # there is nowhere to offload to
        return None
    lower = _LOWER.get(memory.policy)
    return (memory.model_copy(update={"policy": lower}), lower) if lower else None
