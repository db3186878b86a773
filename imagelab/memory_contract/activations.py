"""What the networks need beside their weights while they run, counted on meta tensors: nothing is computed."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL, ControlNetModel, ControlNetUnionModel, UNet2DConditionModel
from torch import Tensor, nn

from imagelab.control_set import ControlSet
from imagelab.errors import ModelFileError
from imagelab.memory_contract.live_bytes import FusedAttention, LiveBytes
from imagelab.memory_contract.nets import Net, config_text
from imagelab.prompt_attention import ask_ahead, asking_prompts_once, cross_attentions

_SIDES = (16, 128)  # latent pixels; between and beyond them memory grows along a straight line
_TOKENS = 77  # any number: what grows with it is kept from step to step, and isn't counted here
_TIME_IDS = 6  # numbers that tell SDXL the sizes of its picture
_MOST_ALIKE = 3  # passes of dedicated ControlNets of one shape: the sum, the last and the next; more take no more

_Pass = tuple[tuple[Tensor, ...], Callable[[], object]]  # what is there before, and what runs


class _Acting(NamedTuple):
    """What the ControlNet of a control is, as far as its activations depend on it."""

    name: str  # of a union one, which takes all of its controls in one pass
    config: str
    union: bool


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
    """The peaks of one picture's activations; weights, what is kept of the prompt and other passes' results left out.

    `copies` as in `LiveBytes`.
    """

    unet: Line  # of one pass; with guidance a picture takes two
    decoder: Line  # of the VAE
    config: str  # the UNet's
    dtype: torch.dtype
    copies: bool

    def controlled(self, nets: Sequence[Net]) -> Line:
        """Count a pass of the ControlNet of each control and then of the UNet; once for each set of shapes.

        Raises ModelFileError for one that doesn't fit the UNet.
        """
        acting: list[_Acting] = []
        for net in nets:
            one = _Acting(net.name if net.union else "", net.config, net.union)
            if net.union or acting.count(one) < _MOST_ALIKE:
                acting.append(one)
        try:
            return _count_controlled(self.config, self.dtype, self.copies, tuple(acting))
        except Exception as error:  # settings of a file, of which diffusers says many things
            if len({net.name for net in nets}) > 1:  # the others may be good: say which one it is
                for net in nets:
                    self.controlled([net])
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            fix = "Use one that was trained for the profile's base model"
            raise ModelFileError(Path(nets[0].name), f"is no ControlNet for this UNet: {reason}", fix) from error


def count_activations(unet: UNet2DConditionModel, vae: AutoencoderKL, *, copies: bool) -> Activations:
    """Count the activations of a UNet and a VAE; only their settings and dtypes matter.

    The VAE is taken in float32 if its settings ask for that and it is in float16.
    """
    vae_dtype = torch.float32 if upcasts(vae) else vae.dtype
    config = config_text(unet.config)
    return Activations(
        unet=_count_unet(config, unet.dtype, copies),
        decoder=_count_decoder(config_text(vae.config), vae_dtype, copies),
        config=config,
        dtype=unet.dtype,
        copies=copies,
    )


def upcasts(vae: AutoencoderKL) -> bool:
    """Say whether diffusers decodes in float32 what is kept in float16."""
    return bool(vae.dtype == torch.float16 and vae.config.force_upcast)


@lru_cache(maxsize=16)
def _count_unet(config: str, dtype: torch.dtype, copies: bool) -> Line:  # noqa: FBT001
    unet = _on_meta(UNet2DConditionModel, config, dtype)

    def make_pass(side: int) -> _Pass:
        prompt, *kept = _prompt(unet)
        return (prompt, *kept), lambda: unet(**_inputs(unet, side, prompt), return_dict=False)

    with asking_prompts_once(unet):
        return _line(make_pass, [unet], copies=copies)


@lru_cache(maxsize=16)
def _count_controlled(config: str, dtype: torch.dtype, copies: bool, acting: tuple[_Acting, ...]) -> Line:  # noqa: FBT001
    unet = _on_meta(UNet2DConditionModel, config, dtype)
    nets = {
        one: _on_meta(ControlNetUnionModel if one.union else ControlNetModel, one.config, dtype) for one in set(acting)
    }
    together = ControlSet([nets[one] for one in acting], [0] * len(acting))

    def make_pass(side: int) -> _Pass:
        prompt, *kept = _prompt(unet, *nets.values())
        maps = [_map(net, side) for net in together.nets]

        def run() -> None:
            given = _inputs(unet, side, prompt)
            down, mid = together(**given, controlnet_cond=maps, conditioning_scale=[1.0] * len(maps), return_dict=False)
            unet(**given, down_block_additional_residuals=down, mid_block_additional_residual=mid, return_dict=False)

        return (prompt, *kept, *maps), run

    with asking_prompts_once(unet, together):
        return _line(make_pass, [unet, together], copies=copies)


@lru_cache(maxsize=16)
def _count_decoder(config: str, dtype: torch.dtype, copies: bool) -> Line:  # noqa: FBT001
    vae = _on_meta(AutoencoderKL, config, dtype)
    channels = vae.config.latent_channels

    def make_pass(side: int) -> _Pass:
        return (), lambda: vae.decode(_empty(dtype, channels, side, side), return_dict=False)

    return _line(make_pass, [vae], copies=copies)


def _on_meta(model: Any, config: str, dtype: torch.dtype) -> Any:
    settings = json.loads(config)
    # One transformer has the peak of ten in a row, which all take the same place; so it is counted in a tenth the time.
    for name, value in {"transformer_layers_per_block": 1, "reverse_transformer_layers_per_block": None}.items():
        if name in settings:
            settings[name] = value
    with torch.device("meta"):
        made = model.from_config(settings)
    return nn.Module.to(made, dtype)  # diffusers' own `to` logs a warning, which is about weights that matter


def _prompt(*models: Any) -> list[Tensor]:
    """Return a prompt, and what the models keep of it from step to step."""
    prompt = _empty(models[0].dtype, _TOKENS, models[0].config.cross_attention_dim)
    layers = [layer for model in models for layer in cross_attentions(model)]
    with torch.no_grad():
        return [prompt, *ask_ahead(layers, prompt)]


def _map(net: Any, side: int) -> Tensor:
    factor = 2 ** (len(net.config.conditioning_embedding_out_channels) - 1)
    return _empty(net.dtype, net.config.conditioning_channels, side * factor, side * factor)


def _inputs(unet: Any, side: int, prompt: Tensor) -> dict[str, Any]:
    config = unet.config
    pooled = config.projection_class_embeddings_input_dim - _TIME_IDS * config.addition_time_embed_dim
    return {
        "sample": _empty(unet.dtype, config.in_channels, side, side),
        "timestep": torch.empty((), device="meta"),
        "encoder_hidden_states": prompt,
        "added_cond_kwargs": {
            "text_embeds": _empty(unet.dtype, pooled),
            "time_ids": _empty(unet.dtype, _TIME_IDS),
        },
    }


def _empty(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.empty(1, *shape, dtype=dtype, device="meta")


def _line(make_pass: Callable[[int], _Pass], modules: Sequence[nn.Module], *, copies: bool) -> Line:
    weights = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    small, large = _SIDES
    peaks = {}
    for side in _SIDES:
        before, run = make_pass(side)
        with torch.no_grad(), FusedAttention(), LiveBytes([*weights, *before], copies=copies) as counter:
            run()
        peaks[side] = counter.peak
    slope = (peaks[large] - peaks[small]) / (large**2 - small**2)
    return Line(fixed=peaks[small] - slope * small**2, per_pixel=slope)
