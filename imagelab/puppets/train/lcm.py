"""Distil the puppets' guided steps into a LoRA: latent consistency distillation, as LCM-LoRA has it for SDXL.

The student learns to say from a picture with much noise what it says from the same one with a little less, which the
teacher has found by a guided step of DDIM. So a few steps without guidance draw what many guided ones do. After Luo et
al. 2023, arXiv:2310.04378 and arXiv:2311.05556; schedule and boundary conditions are those of diffusers' LCMScheduler.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from diffusers import DDPMScheduler, LCMScheduler
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch.nn.attention import SDPBackend, sdpa_kernel

from imagelab.puppets.train.base import NOISE, Latents, encode_pictures
from imagelab.puppets.train.dataset import BUCKETS, Split, render_bucket
from imagelab.puppets.train.loop import Plan, train
from imagelab.puppets.train.lora import to_kohya, write_lora
from imagelab.puppets.train.text import encode, token_ids

if TYPE_CHECKING:
    from pathlib import Path

    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
    from torch import Tensor, nn

NAME = "lcm"
RANK = 16  # while it learns
MOST_BYTES = 370_000  # of what is kept of it
LAYERS = [
    "to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2",
    "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj",
]  # fmt: skip
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
PICTURES = {"square": 4000, "portrait": 1000, "landscape": 1000}  # the first of each bucket, if there are so many
BATCH = 12
GUIDANCE = 2.0  # that of the puppets' presets, which the student shall draw without
STEPS = 50  # of the teacher, from noise to picture: the LCMScheduler's `original_inference_steps`
HUBER = 0.001
PLAN = Plan(steps=1000, rate=1e-3, warmup=50, betas=(0.9, 0.99), weight_decay=0.0, average=0.99, flat=0.7)


class Schedule:
    """The times of the teacher's steps, how much of a picture is left at each, and how far the student is believed."""

    def __init__(self) -> None:
        schedule: Tensor = DDPMScheduler(**NOISE).alphas_cumprod
        self.alphas = torch.cat([torch.ones(1), schedule])  # [t + 1]; [0]: no noise
        apart = (len(self.alphas) - 1) // STEPS
        self.times = torch.arange(1, STEPS + 1) * apart - 1
        self.earlier = self.times - apart  # -1: the picture itself
        self.scheduler = LCMScheduler(**NOISE)

    def alpha(self, times: Tensor) -> Tensor:
        """Return the share of the picture in the variance at `times`, (n, 1, 1, 1)."""
        return self.alphas[times + 1].view(-1, 1, 1, 1)

    def picture(self, noisy: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Return the picture that is left when `noise` is taken out."""
        a = self.alpha(times)
        return (noisy - (1 - a).sqrt() * noise) / a.sqrt()

    def step(self, noisy: Tensor, noise: Tensor, times: Tensor, earlier: Tensor) -> Tensor:
        """Return what DDIM goes on with at `earlier`; at -1 that is the picture."""
        a = self.alpha(earlier)
        return a.sqrt() * self.picture(noisy, noise, times) + (1 - a).sqrt() * noise

    def consistent(self, noisy: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Return what a student says of the picture: the less noise, the more what it was given."""
        skip, out = self.scheduler.get_scalings_for_boundary_condition_discrete(times.clamp(min=0).view(-1, 1, 1, 1))
        told: Tensor = skip * noisy + out * self.picture(noisy, noise, times)
        return told


def student_of(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Return a copy of the UNet of which a new LoRA alone learns."""
    student = copy.deepcopy(unet)  # peft leaves its wrappers behind in what it trained
    student.requires_grad_(False)
    student.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=LAYERS), adapter_name=NAME)
    return student


def distillation_loss(
    student: nn.Module, pipe: StableDiffusionXLPipeline, data: Latents, empty: Tensor, schedule: Schedule,
    generator: torch.Generator, batch: int = BATCH,
) -> Tensor:  # fmt: skip
    """Return how far the student contradicts itself over one guided step of the teacher, for one random batch."""
    pick = torch.randint(len(data.latents), (batch,), generator=generator)
    clean = data.latents[pick]
    # one time from each of `batch` equal intervals, as in the base's training
    even = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    step = (even * STEPS).long().clamp(max=STEPS - 1)
    times, earlier = schedule.times[step], schedule.earlier[step]
    a = schedule.alpha(times)
    noisy = a.sqrt() * clean + (1 - a).sqrt() * torch.randn(clean.shape, generator=generator)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        hidden, pooled = encode(torch.cat([data.ids[pick], empty]), pipe.text_encoder, pipe.text_encoder_2)
    text = hidden[:batch], {"text_embeds": pooled[:batch], "time_ids": data.time_ids[pick]}

    def noise_by(unet: nn.Module, noisy: Tensor, times: Tensor, hidden: Tensor, added: dict[str, Tensor]) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            found: Tensor = unet(noisy, times, hidden, added_cond_kwargs=added).sample
        return found

    with torch.no_grad():
        none = {"text_embeds": pooled[batch:].expand(batch, -1), "time_ids": data.time_ids[pick]}
        unguided = noise_by(pipe.unet, noisy, times, hidden[batch:].expand(batch, -1, -1), none)
        guided = unguided + GUIDANCE * (noise_by(pipe.unet, noisy, times, *text) - unguided)
        before = schedule.step(noisy, guided, times, earlier)
        told = schedule.consistent(before, noise_by(student, before, earlier.clamp(min=0), *text), earlier)
        wanted = torch.where((earlier < 0).view(-1, 1, 1, 1), before, told)
    found = schedule.consistent(noisy, noise_by(student, noisy, times, *text), times)
    error = ((found - wanted).pow(2) + HUBER**2).sqrt() - HUBER
    total: Tensor = (error * data.weights[pick]).mean()
    return total


def train_lcm(pipe: StableDiffusionXLPipeline, folder: Path, *, plan: Plan = PLAN) -> dict[str, Tensor]:
    """Distil `pipe`'s UNet; return the LoRA's tensors under peft's names, cut to what pays for its bytes."""
    torch.manual_seed(0)
    student = student_of(pipe.unet)
    data = [_latents(pipe, name, folder) for name in BUCKETS]
    shares = torch.tensor([float(len(d.latents)) for d in data])
    empty, schedule = token_ids(pipe.tokenizer, [""]), Schedule()

    def loss(_: int, generator: torch.Generator) -> Tensor:
        bucket = data[int(torch.multinomial(shares, 1, generator=generator))]
        return distillation_loss(student, pipe, bucket, empty, schedule, generator)

    best = train({"unet": student}, loss, plan, folder / f"{NAME}.pt")["unet"]
    found = get_peft_model_state_dict(best, adapter_name=NAME)
    return cut_ranks({f"unet.{k}": v.detach() for k, v in found.items()}, MOST_BYTES)


def cut_ranks(tensors: dict[str, Tensor], most_bytes: int) -> dict[str, Tensor]:
    """Keep of a LoRA's updates the directions that change the weights most for their bytes, in float16.

    What kohya's resize_lora does with a dynamic rank, over all modules at once; some of them may end up without any.
    """
    modules = [name.removesuffix(_DOWN) for name in tensors if name.endswith(_DOWN)]
    parts = {name: _directions(tensors[name + _DOWN], tensors[name + _UP]) for name in modules}
    worth = [
        (float(size) ** 2 / count, count, name) for name, (_, sizes, _, count) in parts.items() for size in sizes[:RANK]
    ]
    ranks, spent = dict[str, int](), 0
    for _, count, name in sorted(worth, reverse=True):
        spent += 2 * count
        if spent > most_bytes:
            break
        ranks[name] = ranks.get(name, 0) + 1
    kept: dict[str, Tensor] = {}
    for name, rank in ranks.items():
        left, sizes, right, _ = parts[name]
        roots, down, up = sizes[:rank].sqrt(), tensors[name + _DOWN], tensors[name + _UP]
        kept[name + _DOWN] = (roots[:, None] * right[:rank]).reshape(rank, *down.shape[1:])
        kept[name + _UP] = (left[:, :rank] * roots).reshape(len(up), rank, *up.shape[2:])
    return {name: tensor.to(torch.float16).contiguous() for name, tensor in kept.items()}


def _directions(down: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
    """Return the singular vectors and values of an update, and how many numbers one direction of it is."""
    left, sizes, right = torch.linalg.svd(up.float().flatten(1) @ down.float().flatten(1), full_matrices=False)
    return left, sizes, right, down[0].numel() + len(up)


def _latents(pipe: StableDiffusionXLPipeline, name: str, folder: Path) -> Latents:
    """Return the first pictures of a bucket as latents, encoded once."""
    whole = render_bucket(name, folder / "data")
    count = min(PICTURES[name], len(whole.images))
    split = Split(whole.images[:count], whole.captions[:count], whole.time_ids[:count], whole.face_boxes[:count])
    cache = folder / "data" / f"{name}.{NAME}.pt"
    if not cache.exists():
        torch.save(encode_pictures(pipe.vae, split.images) * pipe.vae.config.scaling_factor, cache)
    return Latents(torch.load(cache, weights_only=True), split, pipe.tokenizer)


def save_lcm(tensors: dict[str, Tensor], path: Path) -> None:
    """Write the LoRA under kohya's names, as LCM-LoRA's own file has them."""
    write_lora(to_kohya(tensors), NAME, path, rank="Dynamic", pictures=sum(PICTURES.values()), plan=PLAN, facts={})
