"""SDXL at its full size, with random weights: speed and memory can be measured on it where the real one isn't at hand.

The files are what the loaders read of any model, so nothing knows that these ones draw only noise.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    ControlNetUnionModel,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
)
from diffusers import UNet2DConditionModel as UNet
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from imagelab.config import load_configs, models_root
from imagelab.devices import resolve_device
from imagelab.errors import InvalidValueError
from imagelab.model_loading import quietly
from imagelab.models import resolve_source
from imagelab.whole_file import read_json

FOLDER = "random-sdxl"  # under the model root; the profile of this name reads it
LORA_RANK = 32
# What SDXL's published config.json files say; the rest are the classes' defaults.
_UNET = {
    "sample_size": 128,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
_TEXT = {"hidden_size": 768, "num_attention_heads": 12, "hidden_act": "quick_gelu", "projection_dim": 768}
_TEXT_2 = {"hidden_size": 1280, "num_attention_heads": 20, "hidden_act": "gelu", "projection_dim": 1280}
_VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "scaling_factor": 0.13025,
    "sample_size": 1024,
    "force_upcast": False,  # these weights don't overflow in float16
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """How wide and deep the models are."""

    unet: Mapping[str, Any] = field(default_factory=dict)
    vae: Mapping[str, Any] = field(default_factory=dict)
    text: Mapping[str, Any] = field(default_factory=dict)
    text_2: Mapping[str, Any] = field(default_factory=dict)
    control_maps: tuple[int, ...] = (16, 32, 96, 256)  # channels of what reads them: each halves a map once more


FULL = Shape(
    unet={
        "block_out_channels": (320, 640, 1280),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
    },
    vae={"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2},
    text={"num_hidden_layers": 12, "intermediate_size": 3072, "vocab_size": 49408},
    text_2={"num_hidden_layers": 32, "intermediate_size": 5120, "vocab_size": 49408},
)
# As SDXL is joined up, and small, to rehearse on a CPU what a GPU shall measure; with a VAE that makes a latent pixel
# of 32 x 32 instead of 8 x 8, so that a picture of 1024 px takes seconds and not minutes.
SMALL = Shape(
    unet={
        "block_out_channels": (32, 32, 32),
        "transformer_layers_per_block": (1, 1, 1),
        "attention_head_dim": (2, 2, 2),
        "norm_num_groups": 16,
    },
    vae={
        "down_block_types": ("DownEncoderBlock2D",) * 6,
        "up_block_types": ("UpDecoderBlock2D",) * 6,
        "block_out_channels": (8, 8, 16, 16, 16, 16),
        "layers_per_block": 1,
        "norm_num_groups": 8,
    },
    text={"num_hidden_layers": 2, "intermediate_size": 64, "vocab_size": 2048},
    text_2={"num_hidden_layers": 2, "intermediate_size": 64, "vocab_size": 2048},
    control_maps=(1, 2, 4, 8, 8, 8),
)


def write_random_sdxl(*, shape: Shape = FULL, device: str = "auto", seed: int = 0, root: Path | None = None) -> Path:
    """Write a base model, a ControlNet and a LoRA for each of the registry's, and return their folder.

    At full size 11 GB in float16, under $IMAGELAB_MODELS; weights are drawn on `device`. A folder that is there already
    is left as it is. Raises InvalidValueError where it can't be written, and for one of another shape.
    """
    folder = (models_root() if root is None else root) / FOLDER
    if folder.is_dir():
        _check_shape(folder, shape)
        return folder
    scratch = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir(parents=True)
        torch.manual_seed(seed)
        with quietly():
            _write(scratch, shape, resolve_device(device))
        scratch.rename(folder)
    except OSError as error:
        raise InvalidValueError("$IMAGELAB_MODELS", str(folder.parent), f"a folder to write to ({error})") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def sdxl_on_meta() -> tuple[StableDiffusionXLPipeline, ControlNetModel]:
    """Return SDXL's models and a ControlNet at full size on the meta device: shapes in float16, and no numbers."""
    meta = torch.device("meta")
    pipe = _random_pipeline(FULL, meta)
    with meta:
        return pipe, ControlNetModel.from_unet(pipe.unet, load_weights_from_unet=False).half()


def union_on_meta(unet: UNet) -> ControlNetUnionModel:
    """Return a union ControlNet for a UNet on the meta device, of the kinds of control that xinsir's knows."""
    with torch.device("meta"):
        return ControlNetUnionModel.from_unet(unet, load_weights_from_unet=False).half()


def _check_shape(folder: Path, shape: Shape) -> None:
    """Refuse a folder of another shape: what is measured on a small model would pass for SDXL's size."""
    there = read_json("configuration", folder / "base" / "unet" / "config.json").get("block_out_channels")
    wanted = list(shape.unet["block_out_channels"])
    if there != wanted:
        raise InvalidValueError(
            "block_out_channels of the UNet",
            there,
            f"{wanted}: another size was asked for than that of {folder}, which you may delete, or name another folder "
            "in $IMAGELAB_MODELS",
        )


def _write(folder: Path, shape: Shape, device: torch.device) -> None:
    pipe = _random_pipeline(shape, device)
    pipe.save_pretrained(folder / "base", variant="fp16")
    net = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=shape.control_maps)
    _open_zero_layers(net)
    net.half().save_pretrained(folder / "controlnet", variant="fp16")
    del net
    (folder / "loras").mkdir()
    for name in (name for name, lora in load_configs().lora_registry.loras.items() if FOLDER in lora.files):
        save_file(_random_lora(pipe.unet), folder / "loras" / f"{name}.safetensors", {"format": "pt"})


def _random_pipeline(shape: Shape, device: torch.device) -> StableDiffusionXLPipeline:
    # Only a vocabulary is needed, and the puppets ship with one; its ids are within SDXL's range.
    tokens = resolve_source(load_configs().profile("puppet").base)
    tokenizers = [AutoTokenizer.from_pretrained(tokens / name, local_files_only=True) for name in _TOKENIZERS]
    ends = [{"bos_token_id": each.bos_token_id, "eos_token_id": each.eos_token_id, "pad_token_id": each.pad_token_id}
            for each in tokenizers]  # fmt: skip
    with device:  # drawn there: billions of numbers take a CPU a minute
        text = CLIPTextModel(CLIPTextConfig(**_TEXT, **shape.text, **ends[0])).half()
        text_2 = CLIPTextModelWithProjection(CLIPTextConfig(**_TEXT_2, **shape.text_2, **ends[1])).half()
        unet = UNet(**_UNET, **shape.unet).half()
        vae = AutoencoderKL(**{**_VAE, **shape.vae}).half()
    scheduler = EulerDiscreteScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, timestep_spacing="leading"
    )
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=text,
        text_encoder_2=text_2,
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        unet=unet,
        scheduler=scheduler,
        add_watermarker=False,
    )


_TOKENIZERS = ("tokenizer", "tokenizer_2")


def _open_zero_layers(net: ControlNetModel) -> None:
    """Let something through the layers that begin at zero: a ControlNet that adds nothing costs other time."""
    for module in (*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out):
        nn.init.normal_(module.weight, std=0.02)


def _random_lora(unet: UNet) -> dict[str, Tensor]:
    """Return a LoRA of each linear layer in the UNet's transformers, as diffusers' files name them."""
    tensors: dict[str, Tensor] = {}
    for name, module in unet.named_modules():
        if isinstance(module, nn.Linear) and ".transformer_blocks." in name:
            down = torch.randn(LORA_RANK, module.in_features, device=unet.device) / module.in_features**0.5
            up = torch.randn(module.out_features, LORA_RANK, device=unet.device) * 1e-3
            tensors |= {f"unet.{name}.lora_A.weight": down.half(), f"unet.{name}.lora_B.weight": up.half()}
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
