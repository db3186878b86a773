"""A VAE that is fit for float16 decodes in float16: no copy of it in float32 is made, and the picture is the same."""

import copy
import json
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from imagelab.config import Source
from imagelab.encoding import encode_prompt
from imagelab.loading import load_pipeline
from imagelab.models import resolve_source
from imagelab.pipeline import draw
from imagelab.prompts import Prompt

MOST_GREY_LEVELS = 2  # of 255, between pictures decoded in float16 and in float32
SIDE = 64


@pytest.fixture
def load_half(configs, tmp_path, monkeypatch):
    """Load the puppets in float16, with a VAE whose configuration says whether it must be decoded in float32."""

    def load(*, force_upcast):
        puppet, folder = configs.profile("puppet"), tmp_path / "vae"
        shutil.copytree(resolve_source(puppet.base) / "vae", folder)
        settings = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(settings | {"force_upcast": force_upcast}))
        monkeypatch.setenv("IMAGELAB_MODELS", str(tmp_path))
        dtype = puppet.dtype.model_copy(update={"cpu": "float16"})
        return load_pipeline(puppet.model_copy(update={"dtype": dtype, "vae": Source(folder="vae")}), "cpu")

    return load


@contextmanager
def decoding(vae):
    """Note the dtypes of a VAE's weights and of what they are given while it decodes, and where its weights lie."""
    seen = []

    def look(_, given):
        dtypes = {weight.dtype for weight in vae.parameters()} | {tensor.dtype for tensor in given}
        seen.append((dtypes, [weight.data_ptr() for weight in vae.parameters()]))

    handle = vae.decoder.register_forward_pre_hook(look)
    try:
        yield seen
    finally:
        handle.remove()


def paint(loaded, configs):
    """Draw a small picture; return it and its latents."""
    latents = []
    embeddings = encode_prompt(loaded.pipe, Prompt(positive="luca on the beach", negative=""))
    given = {"seeds": [1], "width": SIDE, "height": SIDE, "steps": 4, "guidance_scale": 2.0}
    (image,) = draw(
        loaded, embeddings, configs.scheduler("euler"), on_step=lambda *step: latents.append(step[2].clone()), **given
    )
    return np.asarray(image, np.int16), latents[-1]


@torch.no_grad()
def grey_levels(vae, latents):
    """Return the picture that a VAE makes of latents, as `draw` rounds it."""
    pixels = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor).sample
    return ((pixels[0].permute(1, 2, 0) / 2 + 0.5).clamp(0, 1) * 255).round().numpy().astype(np.int16)


def test_a_vae_that_is_fit_for_float16_is_never_copied_to_float32(load_half, configs, record_property):
    loaded = load_half(force_upcast=False)
    vae = loaded.pipe.vae
    assert vae.config.force_upcast is False
    before = [weight.data_ptr() for weight in vae.parameters()]
    with decoding(vae) as seen:
        picture, latents = paint(loaded, configs)
    assert seen == [({torch.float16}, before)]
    assert [weight.data_ptr() for weight in vae.parameters()] == before
    full = grey_levels(copy.deepcopy(vae).float(), latents)
    assert full.std() > 10, "there is something to see"
    off = np.abs(picture - full)
    record_property("counted", f"in float16 the VAE is {off.max()} grey level off at most, {off.mean():.3f} in mean")
    assert off.max() <= MOST_GREY_LEVELS


@pytest.mark.filterwarnings("ignore:.upcast_vae. is deprecated:FutureWarning")  # diffusers calls what it deprecates
def test_one_that_is_not_goes_to_float32_to_decode_and_comes_back(load_half, configs):
    loaded = load_half(force_upcast=True)
    vae = loaded.pipe.vae
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    with decoding(vae) as seen:
        picture, latents = paint(loaded, configs)
    assert [dtypes for dtypes, _ in seen] == [{torch.float32}]
    assert all(value.dtype == torch.float16 for value in vae.state_dict().values())
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    assert np.abs(picture - grey_levels(copy.deepcopy(vae).float(), latents)).max() <= 1
