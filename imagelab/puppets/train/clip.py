"""Train the puppet CLIP: transformers' `CLIPModel`, for prompt adherence and picture similarity."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from imagelab.puppets.train.dataset import render_bucket
from imagelab.puppets.train.loop import Plan, mixed_precision, train
from imagelab.puppets.train.text import CONTEXT, token_ids

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor
    from transformers import CLIPTokenizer

SIDE_PX, PATCH_PX, WIDTH, PROJECTION, BATCH = 128, 16, 96, 96, 96
MEAN, STD = [0.5] * 3, [0.5] * 3
PLAN = Plan(steps=700, rate=1.5e-3, warmup=100, betas=(0.9, 0.98), weight_decay=0.05, average=0.995)


def build_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Return the untrained model, about 1.1 M parameters."""
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=3,
        num_attention_heads=4, max_position_embeddings=CONTEXT, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=4, num_attention_heads=4,
        image_size=SIDE_PX, patch_size=PATCH_PX,
    )  # fmt: skip
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=PROJECTION)
    return CLIPModel(config)


def build_processor() -> CLIPImageProcessor:
    """Return the preprocessing that the model was trained with."""
    return CLIPImageProcessor(
        size={"shortest_edge": SIDE_PX}, crop_size={"height": SIDE_PX, "width": SIDE_PX}, image_mean=MEAN, image_std=STD
    )


def train_clip(tokenizer: CLIPTokenizer, folder: Path, *, plan: Plan = PLAN) -> CLIPModel:
    """Train on the square bucket's pictures and captions with CLIP's own contrastive loss."""
    split = render_bucket("square", folder / "data")
    ids = token_ids(tokenizer, split.captions)
    torch.manual_seed(0)
    model = build_clip(tokenizer)

    def loss(_: int, generator: torch.Generator) -> Tensor:
        pick = torch.randint(len(ids), (BATCH,), generator=generator)
        pictures = np.ascontiguousarray(split.images[pick.numpy()])
        x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
        x = x * (0.9 + 0.2 * torch.rand(BATCH, 1, 1, 1, generator=generator))
        with sdpa_kernel(SDPBackend.MATH), mixed_precision():
            found: Tensor = model(input_ids=ids[pick], pixel_values=x, return_loss=True).loss
        return found.float()

    return train({"clip": model}, loss, plan, folder / "clip.pt")["clip"].eval()
