"""Distil the puppet VAE's decoder into a tiny one for previews: diffusers' `AutoencoderTiny`, the class of TAESDXL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers import AutoencoderTiny
from tqdm.auto import trange

from imagelab.puppets.train.dataset import face_weights, render_bucket
from imagelab.puppets.train.loop import Plan, mixed_precision, train
from imagelab.puppets.train.vae import distance

if TYPE_CHECKING:
    from pathlib import Path

    from diffusers import AutoencoderKL
    from numpy.typing import NDArray
    from torch import Tensor

PICTURES = 2000  # the first of the square bucket, if there are so many
NOISY_SHARE = 0.4  # of the latents are as they are before a picture is done
LARGEST_SIGMA = 2.0  # of their noise; with more, the VAE itself shows nothing
BATCH = 4
TINY = Plan(steps=2500, rate=3e-3, betas=(0.9, 0.99), weight_decay=1e-4, average=0.99)


@dataclass(frozen=True, slots=True)
class Lessons:
    """What the decoder to be learnt from makes of latents."""

    latents: NDArray[np.float32]  # (N, 4, 16, 16), scaled as the UNet has them
    pictures: NDArray[np.uint8]  # (N, 128, 128, 3)
    face_boxes: NDArray[np.float32]  # (N or more, 4)


def build_tiny_vae() -> AutoencoderTiny:
    """Return the untrained model: a decoder of 84,000 parameters, and of an encoder what the class insists on."""
    return AutoencoderTiny(
        num_encoder_blocks=(0, 0, 0, 0),
        encoder_block_out_channels=(4, 4, 4, 4),
        num_decoder_blocks=(4, 4, 2, 1),
        decoder_block_out_channels=(16, 16, 16, 16),
    )


@torch.no_grad()
def decode_lessons(vae: AutoencoderKL, folder: Path) -> Lessons:
    """Encode renders, add noise to some, and decode them all; into `folder`, or open what is there."""
    split = render_bucket("square", folder / "data")
    path = folder / "tiny_vae_lessons.npz"
    if not path.exists():
        latents, pictures = [], []
        for k in trange(min(PICTURES, len(split.images)), desc="decode lessons", mininterval=10):
            generator = torch.Generator().manual_seed(k)
            render = torch.tensor(split.images[k]).permute(2, 0, 1)[None].float() / 127.5 - 1
            latent = vae.encode(render).latent_dist.mode() * vae.config.scaling_factor
            share, strength = torch.rand(2, generator=generator)
            if share < NOISY_SHARE:
                latent += LARGEST_SIGMA * strength * torch.randn(latent.shape, generator=generator)
            picture = vae.decode(latent / vae.config.scaling_factor).sample
            latents.append(latent[0].numpy())
            pictures.append(((picture[0].permute(1, 2, 0).clamp(-1, 1) + 1) * 127.5).round().byte().numpy())
        part = path.with_suffix(".part.npz")
        np.savez(part, latents=np.stack(latents), pictures=np.stack(pictures))
        part.replace(path)
    with np.load(path) as stored:
        return Lessons(stored["latents"], stored["pictures"], split.face_boxes)


def train_tiny_vae(vae: AutoencoderKL, folder: Path, *, plan: Plan = TINY) -> AutoencoderTiny:
    """Train the tiny decoder to show what the VAE's shows. It takes latents scaled as the UNet has them."""
    lessons = decode_lessons(vae, folder)
    torch.manual_seed(0)
    tiny = build_tiny_vae()
    for parameter in tiny.encoder.parameters():
        torch.nn.init.zeros_(parameter).requires_grad_(False)  # nothing encodes with it

    def loss(_: int, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(lessons.latents), (BATCH,), generator=generator).numpy()
        wanted = torch.from_numpy(lessons.pictures[chosen]).permute(0, 3, 1, 2).float() / 127.5 - 1
        weights = torch.from_numpy(face_weights(lessons.face_boxes[chosen], *wanted.shape[-2:]))[:, None]
        with mixed_precision():
            found = tiny.decode(torch.from_numpy(lessons.latents[chosen])).sample
        return distance(found.float(), wanted, weights)

    return train({"tiny_vae": tiny}, loss, plan, folder / "tiny_vae.pt")["tiny_vae"]
