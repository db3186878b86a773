"""Count what the UNet is spared when prompts are asked once, on the CPU, and write it as JSON.

    OMP_NUM_THREADS=1 .venv/bin/python tests/bench/measure_spared_work.py reports/benchmarks/spared-work-puppet-cpu.json

The puppets' UNet, one picture of 8 steps: torch.profiler counts what is asked of ATen, a linear layer being one matrix
product. SDXL's UNet at full size is counted by its layers.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch.profiler import ProfilerActivity, profile

from imagelab import CharacterGenerator
from imagelab.encoded_prompts import EncodedPrompts
from imagelab.pipeline import draw
from imagelab.prompt_attention import asking_prompts_once
from imagelab.prompts import Prompt
from imagelab.random_sdxl import _UNET, FULL
from imagelab.reporting import write_measurement
from imagelab.reporting.measurement import Measurement
from imagelab.versions import drawing_versions

STEPS, SIDE = 8, 128
PRODUCTS = ("aten::addmm", "aten::mm", "aten::bmm")


def counted(call):
    """Return (matrix products, all calls of ATen, seconds of the CPU in them) of a call."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        call()
    events = [event for event in profiler.key_averages() if event.key.startswith("aten::")]
    products = sum(event.count for event in events if event.key in PRODUCTS)
    return products, sum(event.count for event in events), sum(event.self_cpu_time_total for event in events) / 1e6


def main(path):
    """Draw both ways, count and write."""
    with CharacterGenerator("puppet", "cpu") as generator:
        loaded, scheduler = generator.load(), generator.configs.scheduler("euler")
        kept = EncodedPrompts(pipe=loaded.pipe)
        prompt = Prompt(positive="luca on the beach", negative="")
        text = {way: counted(lambda: kept.encode(prompt, loras=())) for way in ("asked each time", "asked once")}
        embeddings = kept.encode(prompt, loras=())

        def picture():
            size = {"width": SIDE, "height": SIDE, "steps": STEPS, "guidance_scale": 2.0}
            return draw(loaded, embeddings, scheduler, seeds=[1], **size)[0]

        plain = picture()
        unet = {"asked each time": counted(picture)}
        with asking_prompts_once(loaded.pipe.unet):
            unet["asked once"] = counted(picture)
        with asking_prompts_once(loaded.pipe.unet):
            same = picture().tobytes() == plain.tobytes()
    rows = [
        {
            "what": what,
            "way": way,
            "matrix products": products,
            "calls of ATen": calls,
            "cpu seconds": round(seconds, 3),
        }
        for what, ways in (("one picture, UNet and VAE", unet), ("its prompt", text))
        for way, (products, calls, seconds) in ways.items()
    ]
    with torch.device("meta"):
        full = UNet2DConditionModel(**_UNET, **FULL.unet)
    layers = {name: module for name, module in full.named_modules() if name.endswith(("attn2.to_k", "attn2.to_v"))}
    each, once = (unet[way][0] for way in ("asked each time", "asked once"))
    kept_bytes = 2 * 77 * 2 * sum(module.out_features for module in layers.values())
    facts = {
        "pictures are the same to the bit": same,
        "matrix products spared per step": round((each - once) / STEPS, 2),
        "of matrix products per step": round(each / STEPS, 1),
        "sdxl products spared per later step": len(layers),
        "sdxl weights not read per later step mb": round(sum(m.weight.numel() for m in layers.values()) * 2 / 1e6),
        "sdxl keys and values kept per picture mb": round(kept_bytes / 1e6, 1),
    }
    machine = {"device": "cpu", "threads": str(torch.get_num_threads()), **drawing_versions()}
    machine["measured"] = datetime.now(UTC).date().isoformat()
    what = f"Prompts asked once: a puppets' picture of {SIDE} px in {STEPS} steps, guided; SDXL's layers counted"
    command = f"OMP_NUM_THREADS=1 .venv/bin/python tests/bench/measure_spared_work.py {path}"
    write_measurement(
        Measurement(what=what, command=command, machine=machine, facts=facts, rows=tuple(rows)), Path(path)
    )


if __name__ == "__main__":
    main(sys.argv[1])
