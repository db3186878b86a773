"""What the UNet is spared when prompts are asked once, counted on the CPU, and how long that takes.

The puppets' UNet, one picture of 8 steps: torch.profiler counts what is asked of ATen, a linear layer being one matrix
product. SDXL's UNet at full size is counted by its layers.
"""

import torch
from diffusers import UNet2DConditionModel
from torch.profiler import ProfilerActivity, profile
from turns import by_turns

from imagelab.benchmark import paired_ratio
from imagelab.encoded_prompts import EncodedPrompts
from imagelab.pipeline import draw
from imagelab.prompt_attention import asking_prompts_once
from imagelab.prompts import Prompt
from imagelab.random_sdxl import _UNET, FULL

STEPS, SIDE, PAIRS = 8, 128, 10
MOST = 1.05  # times the seconds, at most: on a CPU the spared products are small ones
WAYS = ("asked each time", "asked once")
PRODUCTS = ("aten::addmm", "aten::mm", "aten::bmm")


def counted(call):
    """Return (matrix products, all calls of ATen) of a call."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        call()
    events = [event for event in profiler.key_averages() if event.key.startswith("aten::")]
    return sum(event.count for event in events if event.key in PRODUCTS), sum(event.count for event in events)


def test_prompts_asked_once_spare_products_and_no_bit_changes(generator, keep):
    loaded, scheduler = generator.load(), generator.configs.scheduler("euler")
    kept = EncodedPrompts(pipe=loaded.pipe)
    prompt = Prompt(positive="luca on the beach", negative="")
    text = {way: counted(lambda: kept.encode(prompt, loras=())) for way in WAYS}
    embeddings = kept.encode(prompt, loras=())

    def picture():
        size = {"width": SIDE, "height": SIDE, "steps": STEPS, "guidance_scale": 2.0}
        return draw(loaded, embeddings, scheduler, seeds=[1], **size)[0]

    def picture_asking_once():
        with asking_prompts_once(loaded.pipe.unet):
            return picture()

    ways = dict(zip(WAYS, (picture, picture_asking_once), strict=True))
    unet = {way: counted(call) for way, call in ways.items()}
    same = picture().tobytes() == picture_asking_once().tobytes()
    took = by_turns(ways, PAIRS)
    ratio = paired_ratio(took["asked once"].cpu, took["asked each time"].cpu)
    rows = [
        {"what": what, "way": way, "matrix products": products, "calls of ATen": calls}
        for what, counts in (("one picture, UNet and VAE", unet), ("its prompt", text))
        for way, (products, calls) in counts.items()
    ]
    each, once = (unet[way][0] for way in WAYS)
    facts = {
        "pictures are the same to the bit": same,
        "cpu_seconds_of_a_picture_to_asking_each_time": str(ratio),
        "matrix products spared per step": round((each - once) / STEPS, 2),
        "of matrix products per step": round(each / STEPS, 1),
        **spared_in_sdxl(),
    }
    what = f"Prompts asked once: a puppets' picture of {SIDE} px in {STEPS} steps, guided; SDXL's layers counted"
    keep("spared-work-puppet-cpu.json", f"{what}; {PAIRS} pairs by turns", facts=facts, rows=rows)
    assert same
    assert each > once
    assert text["asked once"][1] == 0
    assert ratio.high <= MOST


def spared_in_sdxl():
    """Count the layers of SDXL's UNet at full size that read the prompt."""
    with torch.device("meta"):
        full = UNet2DConditionModel(**_UNET, **FULL.unet)
    layers = {name: module for name, module in full.named_modules() if name.endswith(("attn2.to_k", "attn2.to_v"))}
    kept_bytes = 2 * 77 * 2 * sum(module.out_features for module in layers.values())
    return {
        "sdxl products spared per later step": len(layers),
        "sdxl weights not read per later step mb": round(sum(m.weight.numel() for m in layers.values()) * 2 / 1e6),
        "sdxl keys and values kept per picture mb": round(kept_bytes / 1e6, 1),
    }
