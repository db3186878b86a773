"""Two batches of real puppets, compared from the shell's side: with the character's LoRA, and without it."""

import pytest

from imagelab import BatchImageGenerator, CharacterReferenceManager
from imagelab.compare import compare_runs, open_run
from imagelab.compare.batches import paired_items


@pytest.fixture(scope="module")
def batches(generator, checker, tmp_path_factory):
    """The folders of three batches of one plan, of which the last goes without the LoRA."""
    folder = tmp_path_factory.mktemp("batches")
    drawing = BatchImageGenerator(generator, CharacterReferenceManager(checker, store="nowhere"))
    wanted = {"character": "luca", "scene_description": "on the beach", "num_images": 8, "quality_preset": "draft"}
    for name, with_lora in (("a", True), ("again", True), ("plain", False)):
        drawing.generate_batch(
            **wanted,
            consistency_threshold=0.5,
            save_rejected=True,
            output_dir=folder / name,
            use_character_loras=with_lora,
        )
    return folder


def test_the_same_batch_again_is_the_same_to_the_bit(batches):
    found = compare_runs(batches / "a", batches / "again", fail_over=0)

    assert found.passed
    assert found.identical == 8
    assert found.differs == ()


def test_a_batch_without_the_lora_is_worse_and_what_was_changed_is_named(batches):
    found = compare_runs(batches / "a", batches / "plain", fail_over=0.1)
    similarity = next(one for one in found.changes if one.measure == "similarity")

    assert similarity in found.worse
    assert (similarity.samples_a, similarity.samples_b, found.identical) == (8, 8, 0)
    assert similarity.b < similarity.a
    assert any(one.startswith("loras") for one in found.differs)
    assert compare_runs(batches / "plain", batches / "a", fail_over=0.1).passed


def test_pairs_are_of_one_seed_the_largest_loss_first(batches):
    pairs = paired_items(open_run(batches / "a"), open_run(batches / "plain"))
    losses = [one.similarity_score - other.similarity_score for one, other in pairs]

    assert all(one.seed == other.seed for one, other in pairs)
    assert losses == sorted(losses, reverse=True)
