"""Measure what a preview by the tiny VAE costs and shows, beside the whole VAE and a linear map, and write it as JSON.

    OMP_NUM_THREADS=1 .venv/bin/python tests/bench/measure_preview_vae.py reports/benchmarks/preview-vae-puppet.json

Latents of held-out renders, and those of pictures that are being drawn, each shown in three ways, by turns. The linear
map is fitted to the puppets by least squares, as ComfyUI's is to SDXL; its picture, a pixel a cell, is enlarged by
bicubic interpolation. Seconds are those of the CPU.
"""

import sys
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, median

import numpy as np
import torch
from PIL import Image

from imagelab import CharacterGenerator, GenerationRequest
from imagelab.puppets.measures.studio import held_out_scene
from imagelab.puppets.render import render
from imagelab.puppets.train.dataset import build_example
from imagelab.puppets.world import full_caption
from imagelab.reporting import write_measurement
from imagelab.reporting.measurement import Measurement
from imagelab.versions import drawing_versions

FITTED, RENDERS, DRAWN = 150, 64, 12
STEPS = (8, 13, 19, 25)
SIDE_PX, CELL_PX = 128, 8


def encode(vae, image):
    """Return a picture's latents as the UNet has them."""
    pixels = torch.tensor(image).permute(2, 0, 1)[None].float() / 127.5 - 1
    return vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor


def levels(pixels):
    """Return pixels (1, 3, h, w) in -1..1 as grey levels (h, w, 3)."""
    return (pixels[0].permute(1, 2, 0).clamp(-1, 1).numpy() + 1) * 127.5


def fit_linear(vae):
    """Return (5, 3): the colour of a cell from its four latents and 1."""
    cells, colours = [], []
    for seed in range(FITTED):
        latents = encode(vae, build_example(seed, width=SIDE_PX, height=SIDE_PX).image)
        shown = torch.nn.functional.avg_pool2d(vae.decode(latents / vae.config.scaling_factor).sample, CELL_PX)
        cells.append(latents[0].flatten(1).T.numpy())
        colours.append(shown[0].flatten(1).T.numpy())
    inputs = np.concatenate(cells)
    return np.linalg.lstsq(np.c_[inputs, np.ones(len(inputs))], np.concatenate(colours), rcond=None)[0]


def decoders(generator):
    """Return the three ways to show latents: {name: latents -> grey levels (h, w, 3)}."""
    vae, tiny = generator.pipeline.vae, generator.preview_vae()
    linear = fit_linear(vae)

    def by_linear(latents):
        colours = np.einsum("chw,cr->hwr", latents[0].numpy(), linear[:4]) + linear[4]
        small = Image.fromarray(((np.clip(colours, -1, 1) + 1) * 127.5).round().astype(np.uint8))
        return np.asarray(small.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC), np.float64)

    return {
        "VAE": lambda latents: levels(vae.decode(latents / vae.config.scaling_factor).sample),
        "tiny VAE": lambda latents: levels(tiny.decode(latents).sample),
        "linear map": by_linear,
    }


def all_latents(generator):
    """Return latents by what they are of: held-out renders, and pictures after some of their steps."""
    found = defaultdict(list)
    for number in range(RENDERS):
        found["held-out renders"].append(encode(generator.pipeline.vae, render(held_out_scene(number)).image))
    for number in range(DRAWN):
        caption = full_caption(held_out_scene(50_000 + number))

        def keep(step, steps, latents):
            if step in STEPS:
                found[f"pictures after step {step} of {steps}"].append(latents.clone())

        generator.generate(GenerationRequest(character=None, scene_description=caption, seed=number), on_step=keep)
    return found


@torch.no_grad()
def main(path):
    """Show, compare and write."""
    with CharacterGenerator("puppet", "cpu") as generator:
        ways = decoders(generator)
        rows = [row for what, latents in all_latents(generator).items() for row in compare(what, latents, ways)]
    machine = {"device": "cpu", "threads": str(torch.get_num_threads()), **drawing_versions()}
    machine["measured"] = datetime.now(UTC).date().isoformat()
    what = f"Previews of latents: {RENDERS} held-out renders, and {DRAWN} pictures while they are drawn, 128 px"
    what += ", standard preset; by turns, seconds of the CPU; PSNR and grey levels are those to the VAE's picture"
    command = f"OMP_NUM_THREADS=1 .venv/bin/python tests/bench/measure_preview_vae.py {path}"
    write_measurement(Measurement(what=what, command=command, machine=machine, rows=tuple(rows)), Path(path))


def compare(what, latents, ways):
    """Show latents in all ways, by turns, and yield a row for each."""
    seconds, errors = defaultdict(list), defaultdict(list)
    for each in latents:
        shown = {}
        for name, way in ways.items():
            clock = time.process_time()
            shown[name] = way(each)
            seconds[name].append(time.process_time() - clock)
        for name, picture in shown.items():
            errors[name].append(picture - shown["VAE"])
    for name in ways:
        ratios = [one / other for one, other in zip(seconds[name], seconds["VAE"], strict=True)]
        row = {"latents": what, "shown by": name, "milliseconds": round(1000 * median(seconds[name]), 2)}
        row["time to the VAE's"] = round(median(ratios), 3)
        if name != "VAE":
            row["PSNR in dB"] = round(mean(10 * float(np.log10(255**2 / (e**2).mean())) for e in errors[name]), 2)
            row["grey levels off"] = round(mean(float(abs(e).mean()) for e in errors[name]), 2)
        yield row


if __name__ == "__main__":
    main(sys.argv[1])
