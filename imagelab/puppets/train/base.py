"""Train the puppet SDXL: `UNet2DConditionModel` and both text encoders together, on the VAE's latents."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm.auto import tqdm
from transformers import CLIPTokenizer

from imagelab.puppets.train.dataset import BUCKETS, Split, face_weights, render_bucket
from imagelab.puppets.train.loop import Plan, mixed_precision, named, train
from imagelab.puppets.train.text import TEXT_WIDTH, build_text_encoders, encode, token_ids, train_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from torch import Tensor, nn

    Control = Callable[[Tensor, Tensor, Tensor, Tensor], dict[str, Any]]  # (pick, noisy, times, text) -> residuals

BATCH = 24
EMPTY_PROMPT_SHARE = 0.1  # what classifier-free guidance needs
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}  # SDXL's
PLAN = Plan(steps=5000, rate=1e-3, warmup=200, average=0.999, flat=0.5)
REFINED = Plan(steps=2100, rate=1e-3, warmup=100, average=0.998, flat=0.4)


def build_unet() -> UNet2DConditionModel:
    """Return the untrained model, with SDXL's size and crop conditioning (`text_time`)."""
    time_width = 8
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 128, 160),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4, 5),  # numbers of heads, by an old misnomer
        transformer_layers_per_block=(1, 1, 1),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=time_width,
        projection_class_embeddings_input_dim=time_width * 6 + TEXT_WIDTH,
        cross_attention_dim=2 * TEXT_WIDTH,
        norm_num_groups=16,
    )


def min_snr_weight(alphas: Tensor, gamma: float = 5.0) -> Tensor:
    """Weigh an epsilon loss so that no noise level dominates (Hang et al. 2023, arXiv:2303.09556)."""
    snr = alphas / (1 - alphas)
    return torch.clamp(snr, max=gamma) / snr


@torch.no_grad()
def encode_pictures(vae: AutoencoderKL, images: np.ndarray, batch: int = 64) -> Tensor:
    """Encode (N, H, W, 3) bytes to the modes of their latents, unscaled."""
    vae.to(memory_format=torch.channels_last)
    out = []
    for k in tqdm(range(0, len(images), batch), desc="encode", mininterval=5):
        x = torch.from_numpy(np.array(images[k : k + batch])).permute(0, 3, 1, 2).float() / 127.5 - 1
        with mixed_precision():
            out.append(vae.encode(x).latent_dist.mode().float())
    return torch.cat(out)


class Latents:
    """A bucket as the UNet sees it: latents, token ids, time ids, and how much each latent cell counts."""

    def __init__(self, latents: Tensor, split: Split, tokenizer: CLIPTokenizer) -> None:
        self.latents = latents
        self.ids = token_ids(tokenizer, split.captions)
        self.time_ids = torch.from_numpy(split.time_ids).float()
        height, width = latents.shape[2:]
        self.weights = torch.from_numpy(face_weights(split.face_boxes, height, width, cell_px=8))[:, None]


def denoising_loss(
    unet: nn.Module, first: nn.Module, second: nn.Module, data: Latents, empty: Tensor, alphas: Tensor,
    generator: torch.Generator, batch: int = BATCH, empty_share: float = EMPTY_PROMPT_SHARE,
    control: Control | None = None, noisier: float = 1.0,
) -> Tensor:  # fmt: skip
    """Return the weighted epsilon loss of one random batch.

    `control` adds to what the UNet computes; `noisier` above 1 draws more of the early, noisy times.
    """
    pick = torch.randint(len(data.latents), (batch,), generator=generator)
    clean, ids = data.latents[pick], data.ids[pick].clone()
    ids[torch.rand(batch, generator=generator) < empty_share] = empty
    # One time from each of `batch` equal intervals: the loss differs most along time, so batches then differ less.
    even = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    t = ((1 - (1 - even) ** noisier) * len(alphas)).long().clamp(max=len(alphas) - 1)
    noise = torch.randn(clean.shape, generator=generator)
    a = alphas[t].view(-1, 1, 1, 1)
    # At these sizes the fused attention's backward pass and bfloat16 text encoders are the slow ways on a CPU.
    with sdpa_kernel(SDPBackend.MATH):
        hidden, pooled = encode(ids, first, second)
    added = {"text_embeds": pooled, "time_ids": data.time_ids[pick]}
    noisy = a.sqrt() * clean + (1 - a).sqrt() * noise
    with sdpa_kernel(SDPBackend.MATH), mixed_precision():
        residuals = control(pick, noisy, t, hidden) if control else {}
        found = unet(noisy, t, hidden, added_cond_kwargs=added, **residuals).sample
    error = ((found.float() - noise).pow(2) * data.weights[pick]).mean((1, 2, 3))
    total: Tensor = (error * min_snr_weight(alphas[t])).mean()
    return total


def make_pipeline(vae: AutoencoderKL, unet: nn.Module, first: nn.Module, second: nn.Module,
                  tokenizer: CLIPTokenizer) -> StableDiffusionXLPipeline:  # fmt: skip
    """Put the parts together as an ordinary SDXL pipeline."""
    scheduler = EulerDiscreteScheduler(**NOISE, timestep_spacing="leading", steps_offset=1)
    return StableDiffusionXLPipeline(
        vae=vae, unet=unet, text_encoder=first, text_encoder_2=second, tokenizer=tokenizer, tokenizer_2=tokenizer,
        scheduler=scheduler, force_zeros_for_empty_prompt=False, add_watermarker=False,
    )  # fmt: skip


def train_base(vae: AutoencoderKL, folder: Path, *, start: Path | None = None) -> StableDiffusionXLPipeline:
    """Train UNet and text encoders, from nothing or from the pipeline in `start`; return their running averages."""
    splits = {name: render_bucket(name, folder / "data") for name in BUCKETS}
    captions = itertools.chain.from_iterable(s.captions for s in splits.values())
    if start:  # its text encoders know its token ids
        tokenizer = CLIPTokenizer.from_pretrained(start / "tokenizer")
        tokenizer.save_pretrained(folder / "tokenizer")
    else:
        tokenizer = train_tokenizer(captions, folder / "tokenizer")
    vae.eval().requires_grad_(False)
    buckets = []
    for name, split in splits.items():
        cache = folder / "data" / f"{name}.latents.pt"
        if not cache.exists():
            torch.save(encode_pictures(vae, split.images), cache)
        buckets.append(Latents(torch.load(cache, weights_only=True), split, tokenizer))
    scale = 1 / buckets[0].latents.std().item()
    vae.register_to_config(scaling_factor=scale)
    for b in buckets:
        b.latents = b.latents * scale
    torch.manual_seed(0)
    first, second = build_text_encoders(tokenizer)
    models = {"unet": build_unet(), "first": first, "second": second}
    if start:
        parts = ("unet", "text_encoder", "text_encoder_2")
        for model, part in zip(models.values(), parts, strict=True):
            model.load_state_dict(type(model).from_pretrained(start / part).state_dict())
    empty = token_ids(tokenizer, [""])
    alphas = DDPMScheduler(**NOISE).alphas_cumprod
    shares = torch.tensor([float(len(b.latents)) for b in buckets])

    def loss(_: int, generator: torch.Generator) -> Tensor:
        data = buckets[int(torch.multinomial(shares, 1, generator=generator))]
        return denoising_loss(models["unet"], first, second, data, empty, alphas, generator)

    models["unet"].to(memory_format=torch.channels_last)  # a tenth faster on CPUs
    best = train(models, loss, REFINED if start else PLAN, folder / named("base", start))
    best["unet"].to(memory_format=torch.contiguous_format)
    return make_pipeline(vae, best["unet"].eval(), best["first"].eval(), best["second"].eval(), tokenizer)
