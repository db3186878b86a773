"""Train the ControlNets: first diffusers' union of all kinds, then one of its own for each kind, starting from it.

They are the UNet's encoder without its attention: what a map says is local, and eight megabytes become two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import ControlNetModel, ControlNetUnionModel, DDPMScheduler
from torch import nn

from imagelab.puppets.maps import true_map
from imagelab.puppets.train.base import NOISE, Latents, denoising_loss
from imagelab.puppets.train.dataset import BUCKETS, Split, render_bucket
from imagelab.puppets.train.loop import Plan, train
from imagelab.puppets.train.text import token_ids
from imagelab.puppets.train.truth import Truth, render_truth

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
    from numpy.typing import NDArray
    from torch import Tensor

MODES = {"pose": 0, "depth": 1, "canny": 3, "normal": 4, "seg": 5}  # xinsir's order; 2 is for scribbles
UNION_TYPES = 6
TWO_AT_ONCE = 0.25  # of the union's batches follow two maps
EMPTY_PROMPT_SHARE = 0.5  # or the prompt would do the map's work
NOISIER = 2.0  # what a picture is made of is settled early; T2I-Adapter favours these times too (arXiv:2302.08453)
SILU_GAIN = 1.8  # keeps a signal between 0, where SiLU halves it, and 1, where it takes a quarter, about as large
UNION_PLAN = Plan(steps=2900, rate=2e-3, warmup=30, average=0.99, flat=0.5)
PLAN = Plan(steps=860, rate=1.5e-3, warmup=20, average=0.98, flat=0.5)


class Guided(Latents):
    """The first pictures of a bucket as the UNet sees them, with their maps."""

    def __init__(self, latents: Tensor, split: Split, truth: Truth, tokenizer: Any) -> None:
        n = len(truth)
        first = Split(split.images[:n], split.captions[:n], split.time_ids[:n], split.face_boxes[:n])
        super().__init__(latents[:n], first, tokenizer)
        self.images, self.truth = first.images, truth

    def maps(self, kind: str, pick: Tensor) -> Tensor:
        """Return the (N, 3, H, W) maps of some pictures, in 0..1."""
        drawn = np.stack([self._map(kind, int(k)) for k in pick])
        return torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 255

    def _map(self, kind: str, k: int) -> NDArray[np.uint8]:
        truth = self.truth
        return true_map(
            kind, image=self.images[k], depth=truth.depth[k], normals=truth.normals[k] / 127, parts=truth.parts[k],
            keypoints=truth.keypoints[k],
        )  # fmt: skip


def _shape(unet: UNet2DConditionModel) -> dict[str, Any]:
    config: Any = unet.config
    return {
        "in_channels": config.in_channels,
        "block_out_channels": config.block_out_channels,
        "down_block_types": ("DownBlock2D",) * len(config.block_out_channels),
        "layers_per_block": config.layers_per_block,
        "norm_num_groups": config.norm_num_groups,
        "cross_attention_dim": config.cross_attention_dim,
        "attention_head_dim": config.attention_head_dim,
        "use_linear_projection": config.use_linear_projection,
        "conditioning_embedding_out_channels": (16, 24, 32, 48),
    }


def build_union(unet: UNet2DConditionModel) -> ControlNetUnionModel:
    """Return a union ControlNet that starts as a copy of the UNet's encoder and changes nothing yet."""
    width = unet.config.block_out_channels[0]
    net = ControlNetUnionModel(
        **_shape(unet), num_control_type=UNION_TYPES, addition_time_embed_dim=unet.config.addition_time_embed_dim,
        num_trans_channel=width, num_trans_head=4, num_proj_channel=width,
    )  # fmt: skip
    for part in ("conv_in", "time_embedding", "down_blocks", "mid_block"):
        getattr(net, part).load_state_dict(getattr(unet, part).state_dict(), strict=False)
    _let_maps_in(net.controlnet_cond_embedding)
    return net


def _let_maps_in(embedding: nn.Module) -> None:
    """Give the layers that read the map a start at which it arrives.

    diffusers starts the last of them at zero, and the others halve what they are given. Behind the zero convolutions,
    which already make a new ControlNet do nothing, the map then has hardly a gradient: 1,200 steps taught it nothing.
    """
    for module in embedding.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=SILU_GAIN / (module.in_channels * 9) ** 0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def build_controlnet(unet: UNet2DConditionModel, union: ControlNetUnionModel) -> ControlNetModel:
    """Return a ControlNet for one kind of map that starts from what the union has learnt."""
    net = ControlNetModel(**_shape(unet), mid_block_type="UNetMidBlock2D")
    for part in (
        "conv_in", "time_embedding", "controlnet_cond_embedding", "down_blocks", "controlnet_down_blocks",
        "controlnet_mid_block",
    ):  # fmt: skip
        getattr(net, part).load_state_dict(getattr(union, part).state_dict())
    net.mid_block.load_state_dict(union.mid_block.state_dict(), strict=False)
    return net


def _guided(pipe: StableDiffusionXLPipeline, folder: Path) -> list[Guided]:
    scale = pipe.vae.config.scaling_factor
    return [
        Guided(
            torch.load(folder / "data" / f"{name}.latents.pt", weights_only=True) * scale,
            render_bucket(name, folder / "data"), render_truth(name, folder / "data"), pipe.tokenizer,
        )
        for name in BUCKETS
    ]  # fmt: skip


def _residuals(found: Any) -> dict[str, Any]:
    down, mid = found
    return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}


def _train(
    pipe: StableDiffusionXLPipeline, net: nn.Module, folder: Path, name: str, plan: Plan,
    follow: Callable[[Guided, torch.Generator, Tensor, Tensor, Tensor, Tensor], Any],
) -> Any:  # fmt: skip
    """Train a net on frozen base weights; `follow(data, generator, pick, noisy, times, text)` is its output."""
    data = _guided(pipe, folder)
    shares = torch.tensor([float(len(d.truth)) for d in data])
    empty, alphas = token_ids(pipe.tokenizer, [""]), DDPMScheduler(**NOISE).alphas_cumprod
    for part in (pipe.unet, pipe.text_encoder, pipe.text_encoder_2):
        part.requires_grad_(False)

    def loss(_: int, generator: torch.Generator) -> Tensor:
        bucket = data[int(torch.multinomial(shares, 1, generator=generator))]
        return denoising_loss(
            pipe.unet, pipe.text_encoder, pipe.text_encoder_2, bucket, empty, alphas, generator,
            empty_share=EMPTY_PROMPT_SHARE, noisier=NOISIER,
            control=lambda *given: _residuals(follow(bucket, generator, *given)),
        )  # fmt: skip

    return train({name: net}, loss, plan, folder / f"controlnet_{name}.pt")[name].eval()


def train_union(pipe: StableDiffusionXLPipeline, folder: Path, *, plan: Plan = UNION_PLAN) -> ControlNetUnionModel:
    """Train one ControlNet to obey every kind of map, and now and then two at once."""
    torch.manual_seed(0)
    net = build_union(pipe.unet)

    def follow(
        data: Guided, generator: torch.Generator, pick: Tensor, noisy: Tensor, times: Tensor, text: Tensor
    ) -> Any:
        count = 2 if torch.rand(1, generator=generator) < TWO_AT_ONCE else 1
        kinds = [tuple(MODES)[k] for k in torch.randperm(len(MODES), generator=generator)[:count]]
        modes = sorted(MODES[kind] for kind in kinds)
        kinds.sort(key=MODES.__getitem__)
        present = torch.zeros(len(pick), UNION_TYPES)
        present[:, modes] = 1
        maps = [data.maps(kind, pick) for kind in kinds]
        return net(
            noisy, times, text, controlnet_cond=maps, control_type=present, control_type_idx=modes,
            conditioning_scale=[1.0] * count, return_dict=False,
        )  # fmt: skip

    return _train(pipe, net, folder, "union", plan, follow)


def train_controlnet(
    pipe: StableDiffusionXLPipeline, kind: str, union: ControlNetUnionModel, folder: Path, *, plan: Plan = PLAN
) -> ControlNetModel:
    """Train a ControlNet of its own for one kind of map."""
    torch.manual_seed(0)
    net = build_controlnet(pipe.unet, union)

    def follow(data: Guided, _: torch.Generator, pick: Tensor, noisy: Tensor, times: Tensor, text: Tensor) -> Any:
        return net(noisy, times, text, controlnet_cond=data.maps(kind, pick), return_dict=False)

    return _train(pipe, net, folder, kind, plan, follow)
