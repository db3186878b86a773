"""VAE, prompt adherence and speed."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file

from imagelab import GenerationRequest
from imagelab.puppets.measures.studio import WEIGHTS, Row, Studio, held_out_scene
from imagelab.puppets.oracle import Oracle, labels_of
from imagelab.puppets.render import render
from imagelab.puppets.world import ATTRIBUTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from diffusers import AutoencoderKL
    from numpy.typing import NDArray
    from torch import Tensor

    from imagelab.puppets.world import Scene


@torch.no_grad()
def measure_vae(studio: Studio) -> list[Row]:
    """Measure how much of a render survives encoding and decoding."""
    vae = studio.generator.pipeline.vae
    renders = [_pixels(k) for k in range(studio.count(128))]
    psnr = [_psnr(x, vae.decode(_encode(vae, x), return_dict=False)[0]) for x in renders]
    return [Row("VAE reconstruction, PSNR in dB", float(np.mean(psnr)), 28.0, pictures=len(psnr))]


@torch.no_grad()
def measure_previews(studio: Studio) -> list[Row]:
    """Measure how near the tiny VAE comes to what the VAE makes of renders' latents."""
    vae, tiny = studio.generator.pipeline.vae, studio.generator.preview_vae()
    assert tiny is not None  # noqa: S101  it ships with the VAE
    psnr = []
    for k in range(studio.count(128)):
        latents = _encode(vae, _pixels(k))
        whole, shown = vae.decode(latents).sample, tiny.decode(latents * vae.config.scaling_factor).sample
        psnr.append(_psnr(whole.clamp(-1, 1), shown))
    return [Row("preview by the tiny VAE, PSNR to the VAE in dB", float(np.mean(psnr)), 25.0, pictures=len(psnr))]


def _pixels(k: int) -> Tensor:
    image: Tensor = torch.from_numpy(render(held_out_scene(k)).image)
    return image.permute(2, 0, 1)[None].float() / 127.5 - 1


def _encode(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    latents: Tensor = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mode()
    return latents


def _psnr(wanted: Tensor, found: Tensor) -> float:
    """Return how near a picture in -1..1 comes to another one, in dB."""
    error = (wanted.cpu() - found.float().cpu().clamp(-1, 1)) / 2
    return -10 * math.log10(error.pow(2).mean().item())


def load_oracle() -> Oracle:
    """Return the shipped judge of attributes, ready to look."""
    oracle = Oracle()
    oracle.load_state_dict(load_file(WEIGHTS / "evaluation" / "oracle.safetensors"))
    return oracle.eval()


def _judge(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.int64]:
    """Return the oracle's (N, attributes) opinion."""
    oracle = load_oracle()
    with torch.no_grad():
        x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
        return torch.stack([logits.argmax(1) for logits in oracle(x)], 1).numpy()


def _accuracy(scenes: Sequence[Scene], images: Sequence[NDArray[np.uint8]]) -> dict[str, float]:
    wanted, found = np.array([labels_of(s) for s in scenes]), _judge(images)
    return {
        name: float((found[:, k] == wanted[:, k])[wanted[:, k] >= 0].mean()) for k, name in enumerate(ATTRIBUTES)
    }  # fmt: skip


def measure_prompts(studio: Studio) -> list[Row]:
    """Measure whether pictures show what their prompts say, and how good the judge is on renders."""
    scenes = [held_out_scene(10_000 + k) for k in range(studio.count(512))]
    own = _accuracy(scenes, [render(s).image for s in scenes])
    drawn = _accuracy([s for s, _ in studio.generated], [np.asarray(i) for _, i in studio.generated])
    n = len(studio.generated)
    return [
        Row("oracle on renders, mean accuracy", float(np.mean(list(own.values()))), 0.98, pictures=len(scenes)),
        *(Row(f"oracle on renders, {k}", v, pictures=len(scenes)) for k, v in own.items()),
        Row("prompt adherence, mean", float(np.mean(list(drawn.values()))), 0.90, pictures=n),
        *(Row(f"prompt adherence, {k}", v, 0.80, pictures=n) for k, v in drawn.items()),
    ]


def measure_few_steps(studio: Studio) -> list[Row]:
    """Measure whether pictures in four distilled steps show what their prompts say."""
    drawn = studio.draw_scenes(256, "lcm_4")
    shown = _accuracy([s for s, _ in drawn], [np.asarray(i) for _, i in drawn])
    mean = float(np.mean(list(shown.values())))
    return [Row("prompt adherence in 4 steps (lcm_4), mean", mean, 0.90, pictures=len(drawn))]


def measure_speed(studio: Studio) -> list[Row]:
    """Time one picture on one core: the median of five, after one to warm up."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = []
    try:
        for k in range(6):
            began = time.perf_counter()
            studio.generator.generate(GenerationRequest(character="luca", quality_preset="standard", seed=k))
            seconds.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    median = float(np.median(seconds[1:]))
    return [Row("one 128 x 128 picture, standard, one core, seconds", median, 0.8, smaller_is_better=True, pictures=5)]
