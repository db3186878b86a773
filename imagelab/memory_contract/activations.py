"""What the networks need beside their weights while they run, counted on meta tensors: nothing is computed."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn

from imagelab.memory_contract.live_bytes import FusedAttention, LiveBytes

_SIDES = (16, 128)  # latent pixels; between and beyond them memory grows along a straight line
_TOKENS = 77
_TIME_IDS = 6  # numbers that tell SDXL the sizes of its picture


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """Bytes as a straight line over the number of latent pixels."""

    fixed: float
    per_pixel: float

    def at(self, pixels: float) -> float:
        """Return the bytes at so many latent pixels."""
        return self.fixed + self.per_pixel * pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class Activations:
    """The peaks of one picture's activations, weights and results of other passes left out."""

    unet: Line  # of one pass; with guidance a picture takes two
    controlled: Line  # of one pass of a ControlNet and then of the UNet
    decoder: Line  # of the VAE


def count_activations(unet: UNet2DConditionModel, vae: AutoencoderKL, *, copies: bool) -> Activations:
    """Count the activations of a UNet, a ControlNet for it and a VAE; only their settings and dtypes matter.

    `copies` as in `LiveBytes`. The VAE is taken in float32 if its settings ask for that and it is in float16.
    """
    vae_dtype = torch.float32 if upcasts(vae) else vae.dtype
    return _count(_text(unet), _text(vae), unet.dtype, vae_dtype, copies)


def upcasts(vae: AutoencoderKL) -> bool:
    """Say whether diffusers decodes in float32 what is kept in float16."""
    return bool(vae.dtype == torch.float16 and vae.config.force_upcast)


def _text(module: Any) -> str:
    return json.dumps({key: value for key, value in module.config.items() if not key.startswith("_")}, sort_keys=True)


@lru_cache(maxsize=16)
def _count(unet_text: str, vae_text: str, dtype: torch.dtype, vae_dtype: torch.dtype, copies: bool) -> Activations:  # noqa: FBT001
    config = json.loads(unet_text)
    # One transformer has the peak of ten in a row, which all take the same place; so it is counted in a tenth the time.
    config |= {"transformer_layers_per_block": 1, "reverse_transformer_layers_per_block": None}
    with torch.device("meta"):
        unet = _cast(UNet2DConditionModel.from_config(config), dtype)
        net = _cast(ControlNetModel.from_unet(unet, load_weights_from_unet=False), dtype)
        vae = _cast(AutoencoderKL.from_config(json.loads(vae_text)), vae_dtype)

    def pass_of_unet(side: int) -> None:
        unet(**_inputs(unet, side), return_dict=False)

    def pass_of_both(side: int) -> None:
        given = _inputs(unet, side)
        factor = 2 ** (len(net.config.conditioning_embedding_out_channels) - 1)
        down, mid = net(**given, controlnet_cond=_empty(dtype, 3, side * factor, side * factor), return_dict=False)
        unet(**given, down_block_additional_residuals=down, mid_block_additional_residual=mid, return_dict=False)

    def decoding(side: int) -> None:
        vae.decode(_empty(vae_dtype, vae.config.latent_channels, side, side), return_dict=False)

    return Activations(
        unet=_line(pass_of_unet, [unet], copies=copies),
        controlled=_line(pass_of_both, [unet, net], copies=copies),
        decoder=_line(decoding, [vae], copies=copies),
    )


def _cast(module: Any, dtype: torch.dtype) -> Any:
    return nn.Module.to(module, dtype)  # diffusers' own `to` logs a warning, which is about weights that matter


def _inputs(unet: Any, side: int) -> dict[str, Any]:
    config = unet.config
    pooled = config.projection_class_embeddings_input_dim - _TIME_IDS * config.addition_time_embed_dim
    return {
        "sample": _empty(unet.dtype, config.in_channels, side, side),
        "timestep": torch.empty((), device="meta"),
        "encoder_hidden_states": _empty(unet.dtype, _TOKENS, config.cross_attention_dim),
        "added_cond_kwargs": {
            "text_embeds": _empty(unet.dtype, pooled),
            "time_ids": _empty(unet.dtype, _TIME_IDS),
        },
    }


def _empty(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.empty(1, *shape, dtype=dtype, device="meta")


def _line(run: Callable[[int], None], modules: list[nn.Module], *, copies: bool) -> Line:
    weights = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    small, large = _SIDES
    peaks = {}
    for side in _SIDES:
        with torch.no_grad(), FusedAttention(), LiveBytes(weights, copies=copies) as counter:
            run(side)
        peaks[side] = counter.peak
    slope = (peaks[large] - peaks[small]) / (large**2 - small**2)
    return Line(fixed=peaks[small] - slope * small**2, per_pixel=slope)
