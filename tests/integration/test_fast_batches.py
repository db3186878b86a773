"""Batches that draw several pictures at once: the same pictures within a bound, and the same accounting."""

import numpy as np
import pytest
import torch

from imagelab import BatchImageGenerator, CharacterReferenceManager, InvalidValueError
from imagelab.batch import batch_request
from imagelab.imagefiles import open_image, read_record
from imagelab.results import GenerationRequest
from imagelab.runs import read_batch

ASKED = {"character": "luca", "scene_description": "on the beach", "quality_preset": "draft", "steps": 4, "seed": 3}


@pytest.fixture(scope="module")
def batches(generator, tmp_path_factory):
    store = tmp_path_factory.mktemp("references")
    with CharacterReferenceManager(store=store, profile="puppet", configs=generator.configs, device="cpu") as manager:
        yield BatchImageGenerator(generator, manager)


def draw(batches, folder, **given):
    return batches.generate_batch(**ASKED, num_images=5, output_dir=folder, progress=False, **given)


@pytest.fixture(scope="module")
def strict(batches, tmp_path_factory):
    return draw(batches, tmp_path_factory.mktemp("runs") / "strict")


def pictures(result):
    return [np.asarray(open_image(result.output_dir / item.path), np.int16) for item in result.items]


def test_fast_batches_draw_the_same_pictures_within_a_grey_level(batches, strict, tmp_path):
    fast = draw(batches, tmp_path / "fast", determinism="fast", batch_size=2)
    assert [item.status for item in fast.items] == [item.status for item in strict.items]
    assert fast.consistency_scores == pytest.approx(strict.consistency_scores, abs=0.02)
    for one, other in zip(pictures(fast), pictures(strict), strict=True):
        assert np.abs(one - other).max() <= 1
    records = [read_record(fast.output_dir / item.path) for item in fast.items]
    assert [record.batch_size for record in records] == [2, 2, 2, 2, 1]
    assert fast.counts == read_batch(tmp_path / "fast").counts


def test_any_batch_size_draws_the_same_pictures_to_the_bit_or_within_a_grey_level(batches, tmp_path, record_property):
    """Small pictures of one step, 1 to 8 at once: strict takes no hint, fast keeps its bound."""
    small = {"steps": 1, "width": 64, "height": 64, "enable_consistency_check": False}
    asked = ASKED | small | {"num_images": 8, "progress": False}
    alone = batches.generate_batch(**asked, output_dir=tmp_path / "alone")
    largest = 0
    for size in (3, 8):
        hinted = batches.generate_batch(**asked, batch_size=size, output_dir=tmp_path / f"strict{size}")
        for one, other in zip(hinted.items, alone.items, strict=True):
            assert (hinted.output_dir / one.path).read_bytes() == (alone.output_dir / other.path).read_bytes()
    for size in range(1, 9):
        fast = batches.generate_batch(**asked, determinism="fast", batch_size=size, output_dir=tmp_path / f"fast{size}")
        records = [read_record(fast.output_dir / item.path) for item in fast.items]
        assert max(record.batch_size for record in records) == size
        apart = [np.abs(one - other).max() for one, other in zip(pictures(fast), pictures(alone), strict=True)]
        largest = max(largest, *apart)
    assert largest <= 1
    record_property("counted", f"0 of 64 fast pictures differ by more than a grey level (largest: {largest})")


def test_going_on_in_another_mode_is_refused(batches, strict):
    with pytest.raises(InvalidValueError, match="determinism was 'strict', is 'fast, 4 at once'"):
        draw(batches, strict.output_dir, determinism="fast")


def test_a_group_that_fails_is_drawn_picture_by_picture(batches, strict, tmp_path):
    def break_one(_, inputs):
        if len(inputs[0]) > 2:  # two pictures, each with and without the prompt
            inputs[0][1] = torch.nan

    unet = batches.generator.pipeline.unet
    with unet.register_forward_pre_hook(break_one):
        fast = draw(batches, tmp_path / "fast", determinism="fast", batch_size=2)
    assert fast.counts == strict.counts
    for one, other in zip(pictures(fast), pictures(strict), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("given", "name"),
    [({"determinism": "fats"}, "determinism"), ({"batch_size": 0}, "batch_size"), ({"batch_size": 65}, "batch_size")],
)
def test_what_is_no_mode_is_refused(given, name):
    with pytest.raises(ValueError, match=name):
        batch_request(GenerationRequest(character="luca", seed=1), 2, **given)


def test_workers_draw_strictly_or_not_at_all(batches, tmp_path):
    request = batch_request(GenerationRequest(character="luca", seed=1, quality_preset="draft"), 2, determinism="fast")
    with pytest.raises(InvalidValueError, match="determinism"):
        batches.run(request, tmp_path / "out", workers=2)
    assert not (tmp_path / "out").exists()
