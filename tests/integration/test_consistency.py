"""Faces of the puppets, found and compared by the pack that ships; the renderer knows the truth."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from imagelab.consistency import CharacterConsistencyChecker
from imagelab.errors import ImageFileError, InvalidValueError, ReferenceStoreError, UnknownNameError
from imagelab.puppets.render import render
from imagelab.puppets.world import CHARACTERS, HELD_OUT_SEED, sample_identity, sample_scene
from imagelab.references import CharacterReferenceManager

PICTURES = 40


@pytest.fixture(scope="module")
def checker(configs):
    with CharacterConsistencyChecker(device="cpu", profile="puppet", configs=configs) as checker:
        yield checker


@pytest.fixture(scope="module")
def references(checker, tmp_path_factory):
    return CharacterReferenceManager(checker, store=tmp_path_factory.mktemp("store"))


def draw(number, *, figures=1, identity=None, width=128, height=128):
    """Render a scene that no model was trained on; return the picture and the truth about its figures."""
    rng = np.random.default_rng(HELD_OUT_SEED + number)
    result = render(sample_scene(rng, figures=figures, identity=identity), width=width, height=height)
    return Image.fromarray(result.image), result.figures


def luca(number):
    return draw(number, identity=CHARACTERS["luca"].identity)[0]


def overlap(box, other):
    """Return the intersection over the union of two boxes."""
    x0, y0 = np.maximum(box[:2], other[:2])
    x1, y1 = np.minimum(box[2:], other[2:])
    both = max(0, x1 - x0) * max(0, y1 - y0)
    areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other))
    return both / (areas - both)


def test_the_face_of_a_puppet_is_found_where_it_is(checker):
    hits = 0
    for number in range(PICTURES):
        picture, (truth,) = draw(number)
        faces = checker.faces(picture)
        hits += len(faces) == 1 and overlap(np.array(faces[0].box), truth.face_box) >= 0.5
    assert hits >= 0.95 * PICTURES


def test_landmarks_lie_on_the_eyes_the_nose_and_the_mouth(checker):
    errors = []
    for number in range(10):
        picture, (truth,) = draw(number)
        errors += [np.abs(face.landmarks - truth.landmarks).mean() for face in checker.faces(picture)]
    assert np.mean(errors) < 3  # px, of 128


def test_an_empty_scene_has_no_face(checker):
    statuses = [checker.read(draw(number, figures=0)[0]).status for number in range(PICTURES)]
    assert statuses.count("no_face") >= 0.95 * PICTURES


def test_two_puppets_are_not_compared_unless_the_largest_is_asked_for(checker, configs, tmp_path):
    pictures = [draw(number, figures=2)[0] for number in range(10)]
    statuses = [checker.read(picture).status for picture in pictures]
    assert statuses.count("several_faces") >= 8
    with CharacterConsistencyChecker("cpu", "puppet", configs, several="largest") as largest:
        assert [largest.read(picture).status for picture in pictures].count("ok") >= 8
        manager = CharacterReferenceManager(largest, store=tmp_path)
        verdicts = [manager.check_character_consistency("luca", picture) for picture in pictures]
        assert [verdict.status for verdict in verdicts].count("ok") >= 8


@pytest.mark.parametrize("size", [(96, 160), (160, 96), (192, 192)])
def test_faces_are_found_in_pictures_of_other_shapes(checker, size):
    found = 0
    for number in range(10):
        picture, (truth,) = draw(number, width=size[0], height=size[1])
        found += any(overlap(np.array(face.box), truth.face_box) >= 0.5 for face in checker.faces(picture))
    assert found >= 9


def test_a_picture_of_eight_times_the_size_gives_the_same_face(checker):
    small = luca(1)
    assert checker.compare(small, small.resize((1024, 1024), Image.Resampling.BICUBIC)).cosine > 0.9


def test_one_puppet_is_nearer_to_itself_than_to_others(checker):
    identities = [sample_identity(np.random.default_rng(HELD_OUT_SEED + 500 + k)) for k in range(12)]
    shots = [
        [checker.read(draw(100 * k + shot, identity=who)[0]).embedding for shot in range(3)]
        for k, who in enumerate(identities)
    ]
    table = [[embedding for embedding in row if embedding is not None] for row in shots]
    genuine = [float(a @ b) for row in table for i, a in enumerate(row) for b in row[i + 1 :]]
    impostor = [float(a @ b) for i, row in enumerate(table) for other in table[i + 1 :] for a in row for b in other]
    assert len(genuine) >= 30
    assert np.mean(genuine) > 0.8
    assert np.mean(impostor) < 0.2
    assert np.mean(np.array(genuine)[:, None] > np.array(impostor)) > 0.99  # the AUROC


def test_embeddings_have_norm_one(checker):
    embedding = checker.embed(luca(0))
    assert embedding.dtype == np.float32
    assert np.linalg.norm(embedding) == pytest.approx(1)


def test_the_same_picture_gives_the_same_embedding_to_the_bit(checker, configs):
    with CharacterConsistencyChecker("cpu", "puppet", configs) as another:
        assert np.array_equal(checker.embed(luca(0)), another.embed(luca(0)))


def test_a_file_a_pil_picture_and_an_array_are_one(checker, tmp_path):
    picture = luca(0)
    picture.save(tmp_path / "luca.png")
    expected = checker.embed(picture)
    assert np.array_equal(checker.embed(np.asarray(picture)), expected)
    assert np.array_equal(checker.embed(tmp_path / "luca.png"), expected)
    assert np.array_equal(checker.embed(str(tmp_path / "luca.png")), expected)


def test_red_and_blue_are_not_swapped(checker):
    picture = luca(0)
    swapped = Image.fromarray(np.asarray(picture)[:, :, ::-1])
    own, other = checker.read(picture), checker.read(swapped)
    assert own.status == "ok"
    assert other.embedding is None or own.embedding @ other.embedding < 0.9


def test_compare_takes_pictures_and_embeddings_and_both_metrics_agree(checker):
    a, b = luca(0), luca(1)
    near = checker.compare(a, b)
    far = checker.compare(a, checker.embed(b), "euclidean")
    assert near.value == near.cosine == pytest.approx(far.cosine, abs=1e-5)
    assert far.value**2 == pytest.approx(2 - 2 * near.value, abs=1e-5)
    assert near.higher_is_nearer
    assert not far.higher_is_nearer


def test_configured_references_tell_the_characters_apart(references):
    for name, character in CHARACTERS.items():
        other = next(key for key in CHARACTERS if key != name)
        own = [draw(k, identity=character.identity)[0] for k in range(10)]
        verdicts = [references.check_character_consistency(name, picture) for picture in own]
        assert sum(verdict.is_consistent for verdict in verdicts) >= 9
        assert not any(references.check_character_consistency(other, picture).is_consistent for picture in own)


def test_references_agree_with_each_other(references):
    for name in CHARACTERS:
        own = references.references(name)
        assert min(own.similarity(row) for row in own.embeddings) > 0.65


def test_own_references_are_stored_and_used(checker, tmp_path):
    manager = CharacterReferenceManager(checker, store=tmp_path)
    who = sample_identity(np.random.default_rng(HELD_OUT_SEED + 900))
    manager.create_character_embedding("stranger", [draw(k, identity=who)[0] for k in range(3)])
    assert manager.check_character_consistency("stranger", draw(9, identity=who)[0]).is_consistent
    assert not manager.check_character_consistency("stranger", luca(0)).is_consistent


def test_a_batch_gives_each_picture_its_status(checker, references, tmp_path):
    (tmp_path / "notes.png").write_text("not a picture")
    luca(1).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:4000])
    empty = Image.new("RGB", (128, 128), "green")
    two = next(
        picture
        for picture in (draw(number, figures=2)[0] for number in range(20))
        if checker.read(picture).status == "several_faces"
    )
    images = [luca(1), tmp_path / "notes.png", tmp_path / "half.png", tmp_path / "gone.png", empty, two]
    verdicts = checker.check_batch(images, references.references("luca"), threshold=0.65)
    expected = ["ok", "decode_error", "decode_error", "decode_error", "no_face", "several_faces"]
    assert [verdict.status for verdict in verdicts] == expected
    assert [verdict.similarity_score is None for verdict in verdicts] == [False] + [True] * 5
    assert [verdict.is_consistent for verdict in verdicts] == [True] + [False] * 5
    for verdict, said in zip(verdicts, ("", "isn't a PNG", "damaged", "doesn't exist", "", "2 faces"), strict=True):
        assert said in verdict.reason
        assert said or not verdict.reason
    assert {verdict.character_name for verdict in verdicts} == {"luca"}
    assert {verdict.encoder for verdict in verdicts} == {checker.encoder.label}


def test_a_batch_can_be_compared_with_one_picture_or_embedding(checker):
    images = [luca(1), draw(3)[0]]
    by_picture = checker.check_batch(images, luca(0), threshold=0.65)
    by_embedding = checker.check_batch(images, checker.embed(luca(0)), threshold=0.65)
    assert by_picture == by_embedding
    assert [verdict.is_consistent for verdict in by_picture] == [True, False]


def test_both_metrics_accept_the_same_pictures(checker):
    images = [luca(1), luca(2), draw(3)[0], draw(4)[0]]
    cosine = checker.check_batch(images, luca(0), threshold=0.65)
    euclidean = checker.check_batch(images, luca(0), threshold=(2 - 2 * 0.65) ** 0.5, metric="euclidean")
    assert [verdict.is_consistent for verdict in cosine] == [verdict.is_consistent for verdict in euclidean]


def test_an_empty_batch_is_no_error(checker):
    assert checker.check_batch([], luca(0), threshold=0.65) == []


def test_a_text_file_named_png_is_no_reference(checker, tmp_path):
    (tmp_path / "notes.png").write_text("not a picture")
    with pytest.raises(ImageFileError, match=r"notes\.png"):
        checker.check_batch([luca(0)], tmp_path / "notes.png", threshold=0.65)
    with pytest.raises(ReferenceStoreError, match=r"notes\.png"):
        CharacterReferenceManager(checker, store=tmp_path / "store").create_character_embedding(
            "luca", [tmp_path / "notes.png"]
        )
    assert not (tmp_path / "store").exists()


def test_a_picture_without_a_face_cannot_be_embedded(checker):
    with pytest.raises(InvalidValueError, match="no_face"):
        checker.embed(Image.new("RGB", (128, 128), "green"))


def test_references_of_another_encoder_are_refused(checker, references):
    own = references.references("luca")
    encoder = replace(own.provenance.encoder, recogniser_sha256="0" * 64)
    foreign = replace(own, provenance=replace(own.provenance, encoder=encoder))
    with pytest.raises(InvalidValueError, match="encoder in use"):
        checker.check_batch([luca(0)], foreign, threshold=0.65)


def test_bad_values_are_refused_before_the_models_load(configs):
    with CharacterConsistencyChecker("cpu", "puppet", configs) as fresh:
        with pytest.raises(InvalidValueError, match="threshold"):
            fresh.check_batch([], luca(0), threshold=2)
        with pytest.raises(InvalidValueError, match="images"):
            fresh.check_batch("luca.png", luca(0), threshold=0.5)
        with pytest.raises(UnknownNameError, match="cosine, euclidean"):
            fresh.compare(luca(0), luca(0), metric="foo")
        with pytest.raises(UnknownNameError, match="cosine, euclidean"):
            fresh.check_batch([], luca(0), threshold=0.5, metric="foo")
        assert not fresh._encoder.is_loaded


def test_an_unknown_profile_device_or_policy_is_refused(configs):
    with pytest.raises(UnknownNameError, match="puppet, random-sdxl, sdxl"):
        CharacterConsistencyChecker(profile="pupet", configs=configs)
    with pytest.raises(InvalidValueError, match="auto, cpu, cuda"):
        CharacterConsistencyChecker(device="gpu", configs=configs)
    with pytest.raises(UnknownNameError, match="largest, most_central, require_one"):
        CharacterConsistencyChecker(several="biggest", configs=configs)


def test_cleanup_is_harmless_twice_and_final(configs):
    checker = CharacterConsistencyChecker("cpu", "puppet", configs)
    checker.faces(luca(0))
    checker.cleanup()
    checker.cleanup()
    with pytest.raises(InvalidValueError, match="closed"):
        checker.faces(luca(0))
