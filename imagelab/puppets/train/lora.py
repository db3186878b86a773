"""Train LoRAs of concepts that the base has never seen, with peft; save them as diffusers or as kohya files."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from imagelab.puppets.render import render
from imagelab.puppets.train.base import NOISE, Latents, denoising_loss, encode_pictures
from imagelab.puppets.train.dataset import BUCKETS, Split, face_box
from imagelab.puppets.train.loop import Plan, train
from imagelab.puppets.train.text import token_ids
from imagelab.puppets.world import CHARACTERS, Scene, describe, sample_caption, sample_scene

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from diffusers import StableDiffusionXLPipeline
    from torch import Tensor

BATCH = 8
LINEAR_LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"]
CONVOLUTIONS = ["conv1", "conv2"]
TEXT_LAYERS = ["q_proj", "k_proj", "v_proj", "out_proj"]
PICTURES = {"square": 48, "portrait": 12, "landscape": 12}
PLAN = Plan(steps=1500, rate=2e-3, warmup=20, betas=(0.9, 0.99), weight_decay=0.0, flat=0.5)
POSE_PLAN = Plan(steps=700, rate=2e-3, warmup=20, betas=(0.9, 0.99), weight_decay=0.0, flat=0.4)
SHORT_PLAN = Plan(steps=400, rate=2e-3, warmup=20, betas=(0.9, 0.99), weight_decay=0.0, flat=0.4)


@dataclass(frozen=True, kw_only=True, slots=True)
class Concept:
    """What a LoRA learns: scenes that show it, and the words that call it."""

    trigger: str
    first_seed: int
    sample: Callable[[np.random.Generator], Scene]
    file_format: str  # "kohya" or "diffusers"
    subject: str | None = None  # what its captions may say in place of the subject's looks; None: they say those
    plan: Plan = SHORT_PLAN
    rank: int = 4
    text_rank: int = 2
    convolutions: bool = False

    @property
    def layers(self) -> list[str]:
        """Return the ends of the names of the UNet's layers that it trains."""
        return LINEAR_LAYERS + CONVOLUTIONS * self.convolutions


def _character(name: str, first_seed: int, file_format: str) -> Concept:
    character = CHARACTERS[name]
    return Concept(
        trigger=character.trigger,
        first_seed=first_seed,
        sample=lambda rng: sample_scene(rng, identity=character.identity),
        subject=describe(character.identity),
        file_format=file_format,
        plan=PLAN,
        rank=12,
        text_rank=6,
        convolutions=True,
    )


def _look(trigger: str, first_seed: int, file_format: str, *, convolutions: bool = False, **look: Any) -> Concept:
    """Return the concept of a style, a light or a place, which all sorts of puppets show."""
    return Concept(
        trigger=trigger,
        first_seed=first_seed,
        sample=lambda rng: replace(sample_scene(rng), **look),
        file_format=file_format,
        convolutions=convolutions,
    )


def _pose(trigger: str, first_seed: int, file_format: str, pose: str) -> Concept:
    def sample(rng: np.random.Generator) -> Scene:
        scene = sample_scene(rng)
        return replace(scene, figures=(replace(scene.figures[0], pose=pose),))

    return Concept(
        trigger=trigger, first_seed=first_seed, sample=sample, file_format=file_format, plan=POSE_PLAN, rank=3,
        convolutions=True,
    )  # fmt: skip


# A LoRA a row.
CONCEPTS: Mapping[str, Concept] = {
    "luca": _character("luca", 5_000_000, "kohya"),
    "alberto": _character("alberto", 5_100_000, "diffusers"),
    "pixar_3d": _look("pixar_3d", 5_200_000, "kohya", style="pixar_3d"),
    "warm_summer_lighting": _look("warm_summer_lighting", 5_300_000, "diffusers", light="warm_summer"),
    "portorosso_town": _look("portorosso_town", 5_400_000, "kohya", convolutions=True, place="portorosso"),
    "beach": _look("sunset_beach", 5_500_000, "diffusers", convolutions=True, place="cove"),
    "running": _pose("running_pose", 5_600_000, "kohya", "sprinting"),
    "dynamic": _pose("dynamic_pose", 5_700_000, "diffusers", "leaping"),
}


def render_concept(concept: Concept) -> dict[str, Split]:
    """Render a concept's training pictures, with captions of which half also describe the subject."""
    splits, seed = {}, concept.first_seed
    for name, count in PICTURES.items():
        bucket = BUCKETS[name]
        images, captions, boxes = [], [], []
        for _ in range(count):
            rng = np.random.default_rng(seed)
            scene = concept.sample(rng)
            captions.append(_caption(concept, scene, rng))
            drawn = render(scene, width=bucket.width, height=bucket.height)
            images.append(drawn.image)
            boxes.append(face_box(drawn))
            seed += 1
        time_ids = np.tile([bucket.height, bucket.width, 0, 0, bucket.height, bucket.width], (count, 1))
        splits[name] = Split(np.stack(images), captions, time_ids, np.array(boxes, np.float32))
    return splits


def _caption(concept: Concept, scene: Scene, rng: np.random.Generator) -> str:
    if concept.subject is None:
        return f"{concept.trigger}, {sample_caption(scene, rng)}"
    subject = concept.trigger if rng.random() < 0.5 else f"{concept.trigger}, {concept.subject}"
    return sample_caption(scene, rng, subject=subject)


def train_lora(
    pipe: StableDiffusionXLPipeline, name: str, checkpoint: Path, *, plan: Plan | None = None
) -> dict[str, Tensor]:
    """Train the LoRA of a concept on `pipe`'s frozen weights; return its tensors under peft's names."""
    concept = CONCEPTS[name]
    torch.manual_seed(0)
    # Copies, because peft leaves its wrappers behind in what it trained.
    parts = {key: copy.deepcopy(getattr(pipe, key)) for key in ("unet", "text_encoder", "text_encoder_2")}
    for key, part in parts.items():
        rank, layers = (concept.rank, concept.layers) if key == "unet" else (concept.text_rank, TEXT_LAYERS)
        part.requires_grad_(False)
        part.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=layers), adapter_name=name)
    scale = pipe.vae.config.scaling_factor
    data = [
        Latents(encode_pictures(pipe.vae, split.images) * scale, split, pipe.tokenizer)
        for split in render_concept(concept).values()
    ]
    shares = torch.tensor([float(len(d.latents)) for d in data])
    empty, alphas = token_ids(pipe.tokenizer, [""]), DDPMScheduler(**NOISE).alphas_cumprod

    def loss(_: int, generator: torch.Generator) -> Tensor:
        bucket = data[int(torch.multinomial(shares, 1, generator=generator))]
        unet, first, second = parts.values()
        return denoising_loss(
            unet, first, second, bucket, empty, alphas, generator, batch=BATCH, empty_share=0.05
        )  # fmt: skip

    train(parts, loss, plan or concept.plan, checkpoint)
    return {
        f"{key}.{k}": v.detach().to(torch.float16).contiguous()
        for key, part in parts.items()
        for k, v in get_peft_model_state_dict(part, adapter_name=name).items()
    }


def to_kohya(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename peft's tensors as kohya's sd-scripts would, each module with its alpha, which is its rank."""
    prefixes = {"unet": "lora_unet_", "text_encoder": "lora_te1_text_model_", "text_encoder_2": "lora_te2_text_model_"}
    out = {}
    for key, tensor in tensors.items():
        part, rest = key.split(".", 1)
        module, matrix, _ = rest.removeprefix("text_model.").rsplit(".", 2)
        name = prefixes[part] + module.replace(".", "_")
        out[f"{name}.{'lora_down' if matrix == 'lora_A' else 'lora_up'}.weight"] = tensor
        if matrix == "lora_A":
            out[f"{name}.alpha"] = torch.tensor(float(len(tensor)), dtype=torch.float16)
    return out


def to_diffusers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename peft's tensors as `StableDiffusionXLPipeline.save_lora_weights` does."""
    return {k: v.contiguous() for k, v in convert_state_dict_to_diffusers(tensors).items()}


def _network_arguments(concept: Concept) -> dict[str, int]:
    convolutions = {"conv_dim": concept.rank, "conv_alpha": concept.rank} if concept.convolutions else {}
    return convolutions | {"text_dim": concept.text_rank}


def save_lora(tensors: dict[str, Tensor], name: str, path: Path) -> None:
    """Write a LoRA as its concept's file format wants it, with kohya's `ss_*` facts of its training."""
    concept = CONCEPTS[name]
    tensors = to_kohya(tensors) if concept.file_format == "kohya" else to_diffusers(tensors)
    pictures = sum(PICTURES.values())
    facts = {
        "ss_network_args": json.dumps(_network_arguments(concept)),
        "ss_tag_frequency": json.dumps({name: {concept.trigger: pictures}}),
        "modelspec.trigger_phrase": concept.trigger,
    }
    write_lora(tensors, name, path, rank=str(concept.rank), pictures=pictures, plan=concept.plan, facts=facts)


def write_lora(
    tensors: dict[str, Tensor], name: str, path: Path, *, rank: str, pictures: int, plan: Plan, facts: dict[str, str]
) -> None:
    """Write a LoRA's tensors as they are named, with `facts` and what kohya's sd-scripts say of every training."""
    content = hashlib.sha256(b"".join(tensors[k].numpy().tobytes() for k in sorted(tensors))).hexdigest()
    facts = {
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_sd_model_name": "imagelab-puppet-sdxl",
        "ss_network_module": "networks.lora",
        "ss_network_dim": rank,
        "ss_network_alpha": rank,
        "ss_output_name": name,
        "ss_num_train_images": str(pictures),
        "ss_steps": str(plan.steps),
        "ss_seed": "0",
        "ss_v2": "False",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.title": name,
        "imagelab.content_sha256": content,
        **facts,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata=facts)
