"""The tiny VAE shows pictures that are being drawn; without it they are drawn all the same."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from imagelab import CharacterGenerator, GenerationRequest
from imagelab.config import Source
from imagelab.errors import ModelFileError
from imagelab.explorer.preview import preview
from imagelab.models import resolve_source

REQUEST = GenerationRequest(character="luca", scene_description="on the beach", quality_preset="draft", seed=5)


def with_preview_vae(configs, source):
    return configs.with_profile(configs.profile("puppet").model_copy(update={"preview_vae": source}))


@pytest.fixture(scope="module")
def drawn(generator):
    """A picture, and its latents after each step."""
    latents = []
    image = generator.generate(REQUEST, on_step=lambda _, __, given: latents.append(given.clone())).image
    return image, latents


@pytest.fixture
def copied(configs, tmp_path, monkeypatch):
    """The puppet's tiny VAE in a folder of one's own, and a generator that looks for it there."""
    folder = tmp_path / "tiny"
    shutil.copytree(resolve_source(configs.profile("puppet").preview_vae), folder)
    monkeypatch.setenv("IMAGELAB_MODELS", str(tmp_path))
    with CharacterGenerator("puppet", "cpu", with_preview_vae(configs, Source(folder="tiny"))) as generator:
        yield folder, generator


def off(one, other):
    """Return by how many grey levels two pictures differ on average."""
    return np.abs(np.asarray(one, float) - np.asarray(other, float)).mean()


def test_the_last_preview_is_nearly_the_picture(generator, drawn):
    image, latents = drawn
    with torch.no_grad():
        shown = preview(latents[-1], generator.pipeline.vae, generator.preview_vae())
    assert shown.size == image.size
    assert 0 < off(shown, image) < 12
    cells = image.resize((16, 16), Image.Resampling.BOX).resize(image.size, Image.Resampling.BICUBIC)
    assert off(shown, image) < 0.8 * off(cells, image), "a pixel a cell, in its very colour, shows less"


def test_previews_change_no_picture(generator, drawn):
    def show(_, __, latents):
        assert preview(latents, generator.pipeline.vae, generator.preview_vae()).size == (128, 128)

    assert generator.generate(REQUEST, on_step=show).image.tobytes() == drawn[0].tobytes()


def test_large_latents_are_shown_in_the_size_of_the_picture(generator):
    with torch.no_grad():
        assert preview(torch.zeros(1, 4, 64, 40), None, generator.preview_vae()).size == (320, 512)


def test_it_is_loaded_once_and_is_no_part_of_the_pipeline(generator):
    tiny = generator.preview_vae()
    assert generator.preview_vae() is tiny
    assert not tiny.training
    assert not any(parameter.requires_grad for parameter in tiny.parameters())
    assert all(model is not tiny for model in generator.pipeline.components.values())


def test_one_of_ones_own_shows_the_same(copied, generator, drawn):
    _, own = copied
    with torch.no_grad():
        mine, theirs = (preview(drawn[1][-1], None, each.preview_vae()) for each in (own, generator))
    assert mine.tobytes() == theirs.tobytes()


def test_without_its_files_there_is_none_and_the_vae_shows_what_is_small(configs, copied, drawn):
    folder, own = copied
    shutil.rmtree(folder)
    assert own.preview_vae() is None
    with torch.no_grad():
        shown = preview(drawn[1][-1], own.pipeline.vae, own.preview_vae())
    assert off(shown, drawn[0]) < 1
    with CharacterGenerator("puppet", "cpu", with_preview_vae(configs, None)) as other:
        assert other.preview_vae() is None


def test_a_truncated_one_is_refused(copied):
    folder, own = copied
    (weights,) = folder.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelFileError, match="truncated"):
        own.preview_vae()
