"""Train the puppet VAE: diffusers' `AutoencoderKL`, eight times smaller latents with four channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers import AutoencoderKL

from imagelab.puppets.train.dataset import BUCKETS, Split, face_weights, render_bucket
from imagelab.puppets.train.loop import Plan, mixed_precision, named, train

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

CROP_PX = 64  # crops of this size are far faster than whole pictures on a CPU, and hold all there is to learn
BATCH = 16
FACE_SHARE = 0.6  # of the crops show the whole face
WHOLE = Plan(steps=2000, rate=3e-3, betas=(0.9, 0.99), weight_decay=1e-4, average=0.99)
REFINED = Plan(steps=700, rate=1e-3, betas=(0.9, 0.99), weight_decay=1e-4, average=0.99)
REFINED_DECODER = Plan(steps=800, rate=1e-3, betas=(0.9, 0.99), weight_decay=1e-4, average=0.99)
DECODER = Plan(steps=1600, rate=1.5e-3, betas=(0.9, 0.99), weight_decay=1e-4, average=0.99)


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


def _crops(splits: list[Split], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return (N, 3, 64, 64) crops in -1..1 and (N, 1, 64, 64) weights of their pixels."""
    rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
    weights = np.array([len(s.captions) for s in splits], float)
    out, boxes = [], []
    for k in rng.choice(len(splits), BATCH, p=weights / weights.sum()):
        images = splits[k].images
        h, w = images.shape[1:3]
        i, y, x = rng.integers(len(images)), rng.integers(h - CROP_PX + 1), rng.integers(w - CROP_PX + 1)
        face = splits[k].face_boxes[i]
        if rng.random() < FACE_SHARE and face.any():
            x, y = (
                int(np.clip(c - CROP_PX / 2 + rng.integers(-8, 9), 0, side - CROP_PX))
                for c, side in (((face[0] + face[2]) / 2, w), ((face[1] + face[3]) / 2, h))
            )
        out.append(images[i, y : y + CROP_PX, x : x + CROP_PX])
        boxes.append(face - [x, y, x, y])
    crops: Tensor = torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2).float() / 127.5 - 1
    weights = face_weights(np.asarray(boxes, np.float32), CROP_PX, CROP_PX)
    return crops, torch.from_numpy(weights)[:, None]


def distance(found: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    """L1 for sharpness, edges for outlines, squares for the worst pixels."""
    error = found - wanted
    across, down = error.diff(dim=-1).abs(), error.diff(dim=-2).abs()
    edges = ((across * weights[..., 1:]).mean() + (down * weights[..., 1:, :]).mean()) / 2
    total: Tensor = ((error.abs() + 4 * error.pow(2)) * weights).mean() + edges
    return total


def train_vae(folder: Path, *, start: Path | None = None) -> AutoencoderKL:
    """Train encoder and decoder together, from nothing or from the weights in `start`."""
    splits = [render_bucket(name, folder / "data") for name in BUCKETS]
    torch.manual_seed(0)
    vae = AutoencoderKL.from_pretrained(start, torch_dtype=torch.float32) if start else build_vae()

    def loss(_: int, generator: torch.Generator) -> Tensor:
        wanted, weights = _crops(splits, generator)
        with mixed_precision():
            posterior = vae.encode(wanted).latent_dist
            found = vae.decode(posterior.sample(generator=generator)).sample
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean.pow(2) + logvar.exp() - 1 - logvar).mean()
        total: Tensor = distance(found.float(), wanted, weights) + 1e-4 * kl
        return total

    return train({"vae": vae}, loss, REFINED if start else WHOLE, folder / named("vae", start))["vae"]


def polish_decoder(vae: AutoencoderKL, folder: Path, *, start: Path | None = None) -> AutoencoderKL:
    """Train the decoder alone on the encoder's modes: latents, and all that was learnt on them, stay valid."""
    splits = [render_bucket(name, folder / "data") for name in BUCKETS]
    vae.requires_grad_(False)
    vae.decoder.requires_grad_(True)
    vae.post_quant_conv.requires_grad_(True)
    decoder = {"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv}

    def loss(_: int, generator: torch.Generator) -> Tensor:
        wanted, weights = _crops(splits, generator)
        with mixed_precision():
            with torch.no_grad():
                latents = vae.encode(wanted).latent_dist.mode()
            found = vae.decode(latents).sample
        return distance(found.float(), wanted, weights)

    best = train(decoder, loss, REFINED_DECODER if start else DECODER, folder / named("vae_decoder", start))
    vae.decoder, vae.post_quant_conv = best["decoder"], best["post_quant_conv"]
    return vae
