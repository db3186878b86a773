"""Batches drawn by the puppet models and judged by the puppet faces."""

import json

import numpy as np
import pytest

from imagelab.batch import BatchImageGenerator
from imagelab.imagefiles import open_image, read_record
from imagelab.references import CharacterReferenceManager
from imagelab.results import GenerationRequest
from imagelab.runs import read_batch

SCENE = "running on the beach, excited expression"  # what the demo draws
NUM_IMAGES = 10


@pytest.fixture(scope="module")
def batches(generator, tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    with CharacterReferenceManager(store=store, profile="puppet", configs=generator.configs, device="cpu") as manager:
        yield BatchImageGenerator(generator, manager)


@pytest.fixture(scope="module")
def with_lora(batches, tmp_path_factory):
    return draw(batches, tmp_path_factory.mktemp("runs") / "with")


@pytest.fixture(scope="module")
def without_lora(batches, tmp_path_factory):
    return draw(batches, tmp_path_factory.mktemp("runs") / "without", use_character_loras=False)


def draw(batches, folder, **options):
    options = {"num_images": NUM_IMAGES, "quality_preset": "draft", "progress": False, **options}
    return batches.generate_batch("luca", SCENE, output_dir=folder, **options)


def test_most_pictures_drawn_with_the_characters_lora_are_accepted(with_lora):
    assert with_lora.acceptance_rate >= 0.8
    assert with_lora.mean_similarity >= 0.65


def test_hardly_any_picture_drawn_without_it_is_accepted(without_lora, with_lora):
    assert without_lora.acceptance_rate <= 0.2
    assert without_lora.mean_similarity < with_lora.mean_similarity


def test_the_lora_is_in_the_record_of_each_picture_that_it_drew(with_lora, without_lora):
    for result, names in ((with_lora, ["luca"]), (without_lora, [])):
        paths = [result.output_dir / item.path for item in result.items if item.path]
        assert paths
        for path in paths:
            assert [lora.name for lora in read_record(path).loras] == names


def test_every_picture_is_accounted_for(with_lora):
    assert sum(with_lora.counts.values()) == len(with_lora.items) == NUM_IMAGES
    accepted = sorted(path.name for path in (with_lora.output_dir / "accepted").iterdir())
    assert accepted == [item.path.name for item in with_lora.items if item.status == "accepted"]


def test_the_metadata_tell_the_whole_distribution(with_lora):
    metadata = json.loads((with_lora.output_dir / "metadata.json").read_text())
    assert metadata["complete"] is True
    assert tuple(metadata["summary"]["consistency_scores"]) == with_lora.consistency_scores
    assert len(metadata["references"]["pictures"]) == 6
    assert read_batch(with_lora.output_dir) == with_lora


def test_the_frame_has_a_row_for_each_picture(with_lora):
    frame = with_lora.to_frame()
    assert len(frame) == NUM_IMAGES
    assert {"seed", "status", "similarity_score", "perceptual_hash"} <= set(frame.columns)


def test_a_picture_of_a_batch_is_the_one_that_its_seed_draws_alone(generator, with_lora):
    item = next(item for item in with_lora.items if item.path and item.index)
    request = GenerationRequest(character="luca", scene_description=SCENE, quality_preset="draft", seed=item.seed)
    alone = generator.generate(request).image
    assert np.array_equal(np.asarray(open_image(with_lora.output_dir / item.path)), np.asarray(alone))


def test_the_same_batch_gives_the_same_pictures_scores_and_verdicts(batches, with_lora, tmp_path):
    again = draw(batches, tmp_path / "again", num_images=2)
    for before, after in zip(with_lora.items, again.items, strict=False):
        assert (after.perceptual_hash, after.similarity_score, after.status) == (
            before.perceptual_hash,
            before.similarity_score,
            before.status,
        )


def test_an_impossible_threshold_rejects_every_picture_and_is_no_error(batches, tmp_path):
    result = draw(batches, tmp_path / "out", num_images=2, consistency_threshold=1.0, save_rejected=False)
    assert result.total_accepted == 0
    assert list((tmp_path / "out").glob("*/*.png")) == []
