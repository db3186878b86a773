"""The usage examples of batches, consistency and references, as the documentation has them."""

import shutil

import pytest

from imagelab import (
    BatchImageGenerator,
    CharacterConsistencyChecker,
    CharacterReferenceManager,
    GenerationRequest,
    ReferenceStoreError,
)
from imagelab.config import configs_root
from imagelab.imagefiles import save_png
from imagelab.models import resolve_source


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """An empty project with the configuration of this one, as working directory."""
    monkeypatch.setenv("IMAGELAB_CONFIGS", str(configs_root()))
    monkeypatch.setenv("IMAGELAB_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def reference_images(configs, tmp_path):
    folder = resolve_source(configs.references_source("luca", "puppet"))
    return [shutil.copy(path, tmp_path / path.name) for path in sorted(folder.glob("*.png"))]


@pytest.fixture
def generated_image(generator, tmp_path):
    generation = generator.generate(
        GenerationRequest(character="luca", scene_description="running on the beach", quality_preset="draft", seed=1)
    )
    return save_png(generation.image, tmp_path / "outputs" / "luca.png", generation.record)


def test_a_batch_with_consistency_filtering(project):
    batch_gen = BatchImageGenerator()

    result = batch_gen.generate_batch(
        character="luca",
        scene_description="running on the beach",
        num_images=3,  # 20 in the documentation
        quality_preset="draft",  # "high" in the documentation
        enable_consistency_check=True,
        consistency_threshold=0.70,
        save_rejected=True,
    )

    print(f"Accepted: {result.total_accepted}/{result.total_generated}")  # noqa: T201
    print(f"Average similarity: {result.mean_similarity:.3f}")  # noqa: T201
    batch_gen.cleanup()

    assert result.total_generated == len(result.items) == 3
    assert len(result.consistency_scores) <= 3
    assert result.output_dir.parent == project / "reports" / "runs"
    assert (result.output_dir / "metadata.json").is_file()


def test_checking_a_picture_against_given_references(project, reference_images, generated_image):
    checker = CharacterConsistencyChecker(device="auto")
    references = CharacterReferenceManager(checker)
    references.create_character_embedding(character_name="luca", reference_images=reference_images)
    verdict = references.check_character_consistency(
        character_name="luca", generated_image=generated_image, threshold=0.65
    )
    checker.cleanup()

    assert verdict.status in {"ok", "no_face", "several_faces", "low_quality"}
    assert verdict.is_consistent == (verdict.status == "ok" and verdict.similarity_score >= 0.65)
    assert (project / "reports" / "references" / "puppet_face" / "luca.npz").is_file()


def test_checking_needs_no_set_up_for_a_configured_character(generated_image):
    with CharacterConsistencyChecker() as checker:
        verdict = CharacterReferenceManager(checker).check_character_consistency("luca", "outputs/luca.png")
    assert verdict.character_name == "luca"
    assert generated_image.is_file()


def test_embeddings_comparisons_and_batches(reference_images, generated_image):
    with CharacterConsistencyChecker() as checker:
        embedding = checker.embed(reference_images[0])
        similarity = checker.compare(reference_images[0], reference_images[1], metric="cosine")
        distance = checker.compare(reference_images[0], reference_images[1], metric="euclidean")
        verdicts = checker.check_batch([*reference_images, generated_image], embedding, threshold=0.65)
    assert distance.value**2 == pytest.approx(2 - 2 * similarity.value, abs=1e-4)
    assert len(verdicts) == len(reference_images) + 1
    assert verdicts[0].similarity_score == pytest.approx(1)


def test_a_store_outlives_its_manager_and_goes_stale_with_its_pictures(reference_images, generated_image):
    with CharacterReferenceManager() as references:
        references.create_character_embedding("luca", reference_images)
    with CharacterReferenceManager() as references:
        first = references.check_character_consistency("luca", generated_image)
        assert first == references.check_character_consistency("luca", generated_image)
        shutil.copy(generated_image, reference_images[0])
        with pytest.raises(ReferenceStoreError, match="has changed"):
            references.check_character_consistency("luca", generated_image)
