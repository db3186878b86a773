"""Memory that runs out in a batch: pictures drawn in a slower way that is told everywhere, or failed ones."""

import json
import warnings
from dataclasses import dataclass, replace

import pytest
import torch

from imagelab import BatchImageGenerator, CharacterGenerator
from imagelab.batch import BatchSetup, batch_request
from imagelab.errors import DegradedWarning
from imagelab.imagefiles import read_record
from imagelab.results import GenerationRequest
from imagelab.runs import batch_text, read_batch

ASKED = {
    "character": "luca", "scene_description": "on the beach", "num_images": 2, "quality_preset": "draft", "steps": 1,
    "width": 64, "height": 64, "enable_consistency_check": False, "progress": False,
}  # fmt: skip
SPELLINGS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError(),
]


@pytest.fixture(scope="module")
def batches(configs):
    """With a generator of its own, whose memory runs out."""
    with BatchImageGenerator(CharacterGenerator("puppet", "cpu", configs)) as batches, batches.generator:
        yield batches


@pytest.fixture(scope="module")
def undisturbed(generator, tmp_path_factory):
    with BatchImageGenerator(generator) as batches:
        return pictures(batches.generate_batch(**ASKED, output_dir=tmp_path_factory.mktemp("runs") / "whole"))


def pictures(result):
    return [(result.output_dir / item.path).read_bytes() for item in result.items]


def draw(batches, folder, error, times):
    """Draw a batch, of which the decoder runs out of memory so many times."""
    left = [times]

    def run_out(*_):
        left[0] -= 1
        if left[0] >= 0:
            raise error

    with batches.generator.pipeline.vae.decoder.register_forward_pre_hook(run_out), warnings.catch_warnings():
        warnings.simplefilter("ignore", DegradedWarning)
        return batches.generate_batch(**ASKED, output_dir=folder)


@pytest.mark.parametrize("error", SPELLINGS, ids=lambda error: f"{type(error).__name__} {error}"[:40])
def test_memory_that_runs_out_once_changes_that_picture_alone_and_is_told_of_it(batches, undisturbed, tmp_path, error):
    result = draw(batches, tmp_path / "run", error, 1)
    assert result.counts["accepted"] == 2
    where = "memory" if isinstance(error, MemoryError) else "GPU memory"
    said = f"out of {where}: the VAE decodes in tiles"
    assert [item.degraded for item in read_batch(tmp_path / "run").items] == [(said,), ()]
    assert [read_record(tmp_path / "run" / item.path).degraded for item in result.items] == [(said,), ()]
    assert pictures(result)[1] == undisturbed[1], "a picture doesn't depend on what was drawn before it"
    metadata = json.loads((tmp_path / "run" / "metadata.json").read_text())
    assert [item["degraded"] for item in metadata["result"]["items"]] == [[said], []]
    assert (tmp_path / "run" / "index.html").read_text().count(said) == 1
    assert f"1 not drawn as configured: {said}" in batch_text(result).splitlines()

    after = batches.generate_batch(**ASKED, output_dir=tmp_path / "after")
    assert pictures(after) == undisturbed, "a picture doesn't depend on what was drawn before its run"
    assert "as configured" not in batch_text(after)


@pytest.mark.parametrize("error", SPELLINGS, ids=lambda error: f"{type(error).__name__} {error}"[:40])
def test_memory_that_runs_out_always_fails_each_picture_and_ends_no_batch(batches, undisturbed, tmp_path, error):
    result = draw(batches, tmp_path / "run", error, 1000)
    assert result.counts["failed"] == 2
    assert all("memory. Draw a smaller picture" in item.reason for item in result.items)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DegradedWarning)
        again = batches.generate_batch(**ASKED, output_dir=tmp_path / "run", retry_failed=True)
    assert pictures(again) == undisturbed


def cramp(generator, seed, stop=None):
    """Let a generator run out of memory whenever the picture of a seed is decoded whole, and be stopped at another."""
    drawn, vae, generate = [], generator.pipeline.vae, generator.generate

    def draw(request, on_step=None):
        if request.seed == stop:
            raise KeyboardInterrupt
        drawn[:] = [request.seed]
        return generate(request, on_step)

    def run_out(*_):
        if drawn == [seed] and not vae.use_tiling:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    generator.generate = draw
    return vae.decoder.register_forward_pre_hook(run_out)


@dataclass(frozen=True)
class CrampedSetup:
    """A setup whose generators can't decode the picture of seed 8 whole."""

    setup: BatchSetup

    def __call__(self):
        batches = self.setup()
        cramp(batches.generator, 8)
        return batches


class Cramped(BatchImageGenerator):
    """Draws with workers that can't decode the picture of seed 8 whole."""

    def setup(self, device):
        return CrampedSetup(super().setup(device))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::imagelab.errors.DegradedWarning")
def test_memory_that_runs_out_leaves_the_same_pictures_uninterrupted_resumed_and_drawn_by_workers(batches, tmp_path):
    """F1: with one process for all, a rung that is kept would draw the pictures after it otherwise."""
    picture = GenerationRequest(character="luca", scene_description="on the beach", quality_preset="draft", steps=1)
    request = batch_request(replace(picture, seed=7), 4, enable_consistency_check=False)

    def run(name, stop=None, **options):
        hook = cramp(batches.generator, 8, stop)
        try:
            return Cramped(batches.generator).run(request, tmp_path / name, progress=False, **options)
        finally:
            hook.remove()
            del batches.generator.generate

    alone = run("alone")
    assert [bool(item.degraded) for item in alone.items] == [False, True, False, False]
    with pytest.raises(KeyboardInterrupt):
        run("resumed", stop=9)
    for other in (run("resumed"), run("shared", workers=2)):
        assert [item.degraded for item in other.items] == [item.degraded for item in alone.items]
        assert pictures(other) == pictures(alone)
    roomy = BatchImageGenerator(batches.generator).run(request, tmp_path / "roomy", progress=False)
    same = [one == other for one, other in zip(pictures(roomy), pictures(alone), strict=True)]
    assert same == [True, False, True, True], "what was given up has changed one picture, and that one alone"
