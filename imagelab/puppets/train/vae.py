"""Train the puppet VAE: diffusers' `AutoencoderKL`, eight times smaller latents with four channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers import AutoencoderKL

from imagelab.puppets.train.dataset import BUCKETS, Split, render_bucket
from imagelab.puppets.train.loop import Plan, train

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

CROP_PX = 64  # crops of this size are far faster than whole pictures on a CPU, and hold all there is to learn
BATCH = 32
WHOLE = Plan(steps=2000, rate=3e-3, betas=(0.9, 0.99), weight_decay=1e-4)
DECODER = Plan(steps=1600, rate=1.5e-3, betas=(0.9, 0.99), weight_decay=1e-4)


def build_vae() -> AutoencoderKL:
    """Return the untrained model, 2.6 M parameters."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(16, 32, 64, 128),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        mid_block_add_attention=False,
        sample_size=128,
    )


def _crops(splits: list[Split], generator: torch.Generator) -> Tensor:
    rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
    weights = np.array([len(s.captions) for s in splits], float)
    out = []
    for k in rng.choice(len(splits), BATCH, p=weights / weights.sum()):
        images = splits[k].images
        h, w = images.shape[1:3]
        i, y, x = rng.integers(len(images)), rng.integers(h - CROP_PX + 1), rng.integers(w - CROP_PX + 1)
        out.append(images[i, y : y + CROP_PX, x : x + CROP_PX])
    crops: Tensor = torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return crops


def _edges(x: Tensor) -> Tensor:
    return torch.cat([x.diff(dim=-1).flatten(1), x.diff(dim=-2).flatten(1)], 1)


def _distance(found: Tensor, wanted: Tensor) -> Tensor:
    """L1 for sharpness, edges for outlines, squares for the worst pixels."""
    error = found - wanted
    total: Tensor = error.abs().mean() + (_edges(found) - _edges(wanted)).abs().mean() + 4 * error.pow(2).mean()
    return total


def train_vae(folder: Path, *, whole: Plan = WHOLE) -> AutoencoderKL:
    """Train encoder and decoder together."""
    splits = [render_bucket(name, folder / "data") for name in BUCKETS]
    torch.manual_seed(0)
    vae = build_vae()

    def loss(_: int, generator: torch.Generator) -> Tensor:
        wanted = _crops(splits, generator)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(wanted).latent_dist
            found = vae.decode(posterior.sample(generator=generator)).sample
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean.pow(2) + logvar.exp() - 1 - logvar).mean()
        total: Tensor = _distance(found.float(), wanted) + 1e-4 * kl
        return total

    train({"vae": vae}, loss, whole, folder / "vae.pt")
    return vae


def polish_decoder(vae: AutoencoderKL, folder: Path, *, plan: Plan = DECODER) -> AutoencoderKL:
    """Train the decoder alone on the encoder's modes: latents, and all that was learnt on them, stay valid."""
    splits = [render_bucket(name, folder / "data") for name in BUCKETS]
    vae.requires_grad_(False)
    vae.decoder.requires_grad_(True)
    vae.post_quant_conv.requires_grad_(True)
    decoder = {"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv}

    def loss(_: int, generator: torch.Generator) -> Tensor:
        wanted = _crops(splits, generator)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                latents = vae.encode(wanted).latent_dist.mode()
            found = vae.decode(latents).sample
        return _distance(found.float(), wanted)

    train(decoder, loss, plan, folder / "vae_decoder.pt")
    return vae
