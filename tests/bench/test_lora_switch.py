"""Measure what changing LoRAs costs: seconds of the CPU, and bytes that are copied.

    OMP_NUM_THREADS=1 .venv/bin/python tests/bench/measure_lora_switch.py

Weights are the puppets', or those of one transformer block of SDXL at full size, random, in float16. A copy counts by
what it writes, wherever to: on a GPU those from and to CPU memory are the slow ones.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from diffusers.models.attention import BasicTransformerBlock
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

from imagelab import CharacterGenerator
from imagelab.lora import LoraPatcher
from imagelab.lora.layers import COMPONENTS
from imagelab.results import LoraRecord

RANK, ROUNDS = 32, 3
COPIES = ("aten._to_copy", "aten.copy_", "aten.clone")
PLACE = "mid_block.attentions.0.transformer_blocks.0"


class CopiedBytes(TorchDispatchMode):
    """Adds up what copies write."""

    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Call the function, and count."""
        result = function(*args, **kwargs or {})
        if str(function).startswith(COPIES):
            self.total += result.nbytes
        return result


def full_size_block():
    """Return what looks like a pipeline whose UNet has one transformer block of SDXL."""
    torch.manual_seed(0)
    block = BasicTransformerBlock(1280, 20, 64, cross_attention_dim=2048, activation_fn="geglu").half()
    unet = torch.nn.Module()
    unet.mid_block = torch.nn.Module()
    unet.mid_block.attentions = torch.nn.ModuleList([torch.nn.Module()])
    unet.mid_block.attentions[0].transformer_blocks = torch.nn.ModuleList([block])
    empty = torch.nn.Module()
    return SimpleNamespace(unet=unet.requires_grad_(requires_grad=False), text_encoder=empty, text_encoder_2=empty)


def write_lora(pipe, path, seed):
    """Write a LoRA of rank 32 in float16 for every linear layer; return its bytes."""
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for part in COMPONENTS:
        for name, module in getattr(pipe, part).named_modules():
            if isinstance(module, torch.nn.Linear) and "embed" not in name:
                out, into = module.weight.shape
                for key, shape in (("lora_A", (RANK, into)), ("lora_B", (out, RANK))):
                    tensors[f"{part}.{name}.{key}.weight"] = (torch.randn(shape, generator=generator) * 0.02).half()
    save_file(tensors, path)
    return path.stat().st_size


def measure(what, pipe, folder):
    """Return a row for each kind of switch."""
    record = {name: LoraRecord(name=name, weight=0.8, text_encoder_weight=0.8, sha256="") for name in "ab"}
    paths = {name: folder / f"{name}.safetensors" for name in "ab"}
    sizes = [write_lora(pipe, path, seed) for seed, path in enumerate(paths.values())]
    patcher = LoraPatcher(pipe=pipe)
    rows = []

    def switch(name, *chosen):
        clock = time.process_time()
        with CopiedBytes() as copied:
            patcher.apply([(paths[name], record[name]) for name in chosen])
        return name, time.process_time() - clock, copied.total

    seen = [switch("first LoRA, read from its file", "a")]
    for _ in range(ROUNDS):
        seen.append(switch("base", *()))
        seen.append(switch("a from base", "a"))
        seen.append(switch("b instead of a", "b"))
        seen.append(switch("b and a instead of b", "a", "b"))
        seen.append(switch("a instead of both", "a"))
    for name in dict.fromkeys(name for name, *_ in seen):
        took = [seconds for other, seconds, _ in seen if other == name]
        # the last one: whatever is done once is done by then
        copied = [copied for other, _, copied in seen if other == name][-1]
        rows.append({"switch to": f"{what}: {name}", "cpu_ms": statistics.median(took) * 1e3, "mb": copied / 1e6})
    patcher.clear()
    return rows, sizes[0]


def main():
    """Print the rows as JSON lines."""
    with tempfile.TemporaryDirectory() as name, CharacterGenerator(profile="puppet", device="cpu") as generator:
        for what, pipe in (("puppets", generator.pipeline), ("one full-size block", full_size_block())):
            rows, size = measure(what, pipe, Path(name))
            for row in rows:
                sys.stdout.write(json.dumps(row | {"file_mb": round(size / 1e6, 1)}) + "\n")


if __name__ == "__main__":
    main()
