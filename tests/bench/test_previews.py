"""What a preview by the tiny VAE costs and shows, beside the whole VAE and a linear map.

Latents of held-out renders, and those of pictures that are being drawn, each shown in three ways, by turns. The linear
map is fitted to the puppets by least squares, as ComfyUI's is to SDXL; its picture, a pixel a cell, is enlarged by
bicubic interpolation.
"""

import time
from collections import defaultdict
from statistics import mean, median

import numpy as np
import torch
from PIL import Image

from imagelab import GenerationRequest
from imagelab.benchmark import paired_ratio
from imagelab.puppets.measures.studio import held_out_scene
from imagelab.puppets.render import render
from imagelab.puppets.train.dataset import build_example
from imagelab.puppets.world import full_caption

FITTED, RENDERS, DRAWN, PRESET = 150, 64, 12, "standard"
AFTER = (0.3, 0.5, 0.8, 1.0)  # of the preset's steps
SIDE_PX, CELL_PX = 128, 8
TIME, PSNR = "time to the VAE's", "PSNR in dB"
MOST_TIME = 0.5  # of the whole VAE's


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
    steps = generator.profile.preset(PRESET).steps
    shown = {round(fraction * steps): f"pictures after step {round(fraction * steps)} of {steps}" for fraction in AFTER}

    def keep(step, _, latents):
        if step in shown:
            found[shown[step]].append(latents.clone())

    for number in range(DRAWN):
        caption = full_caption(held_out_scene(50_000 + number))
        request = GenerationRequest(character=None, scene_description=caption, quality_preset=PRESET, seed=number)
        generator.generate(request, on_step=keep)
    assert {what: len(found[what]) for what in shown.values()} == dict.fromkeys(shown.values(), DRAWN)
    return found


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
        row = {"latents": what, "shown by": name, "milliseconds": round(1000 * median(seconds[name]), 2)}
        if name != "VAE":
            row[TIME] = paired_ratio(seconds[name], seconds["VAE"])
            row[PSNR] = round(mean(10 * float(np.log10(255**2 / (e**2).mean())) for e in errors[name]), 2)
            row["grey levels off"] = round(mean(float(abs(e).mean()) for e in errors[name]), 2)
        yield row


@torch.no_grad()
def test_tiny_vae_is_quicker_than_the_vae_and_shows_more_than_a_linear_map(generator, keep):
    ways = decoders(generator)
    rows = [row for what, latents in all_latents(generator).items() for row in compare(what, latents, ways)]
    keep(
        "preview-vae-puppet.json",
        f"Previews of latents: {RENDERS} held-out renders, and {DRAWN} pictures while they are drawn, 128 px, {PRESET} "
        "preset; by turns, seconds of the CPU; PSNR and grey levels are those to the VAE's picture",
        facts={"promised_of_the_vaes_time": MOST_TIME},
        rows=[{name: str(value) if name == TIME else value for name, value in row.items()} for row in rows],
    )
    by = {(row["latents"], row["shown by"]): row for row in rows}
    for what in dict.fromkeys(row["latents"] for row in rows):
        assert by[what, "tiny VAE"][TIME].high <= MOST_TIME
        assert by[what, "tiny VAE"][PSNR] > by[what, "linear map"][PSNR]
