"""LoRAs of random numbers, for the puppets and for one transformer block of SDXL at full size."""

from types import SimpleNamespace

import torch
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention import BasicTransformerBlock
from safetensors.torch import save_file

from imagelab.lora.layers import COMPONENTS

RANK = 32


class Unet(torch.nn.Module, PeftAdapterMixin):
    """What diffusers' UNets are to peft."""


def full_size_block():
    """Return what looks like a pipeline whose UNet has one transformer block of SDXL, in float16."""
    torch.manual_seed(0)
    block = BasicTransformerBlock(1280, 20, 64, cross_attention_dim=2048, activation_fn="geglu").half()
    unet = Unet()
    unet.mid_block = torch.nn.Module()
    unet.mid_block.attentions = torch.nn.ModuleList([torch.nn.Module()])
    unet.mid_block.attentions[0].transformer_blocks = torch.nn.ModuleList([block])
    empty = torch.nn.Module()
    return SimpleNamespace(unet=unet.requires_grad_(requires_grad=False), text_encoder=empty, text_encoder_2=empty)


def write_lora(pipe, path, seed):
    """Write a LoRA of random numbers in float16 for every linear layer; return its bytes."""
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for part in COMPONENTS:
        for name, module in getattr(pipe, part).named_modules():
            if isinstance(module, torch.nn.Linear) and "embed" not in name:
                out, into = module.weight.shape
                for key, shape in (("lora_A", (RANK, into)), ("lora_B", (out, RANK))):
                    tensors[f"{part}.{name}.{key}.weight"] = (torch.randn(shape, generator=generator) * 0.02).half()
    save_file(tensors, path)
    return path.stat().st_size
