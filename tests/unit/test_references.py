import json
import os
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
from handmade_pack import REDS, handmade_configs, handmade_manager, plain, write_pack
from hypothesis import given as drawn
from hypothesis import strategies as st
from PIL import Image

from imagelab.consistency import CharacterConsistencyChecker
from imagelab.errors import (
    ImageFileError,
    InvalidValueError,
    ProfileError,
    ReferenceStoreError,
    UnknownNameError,
)
from imagelab.faces import FaceLimits
from imagelab.models import file_sha256
from imagelab.reference_pictures import embed_references
from imagelab.reference_store import read_references, write_references
from imagelab.references import CharacterReferenceManager
from imagelab.results import Verdict
from imagelab.similarity import METRICS, cosine, unit


def given(folder):
    return sorted((folder / "given").iterdir())


def test_several_references_give_unit_embeddings_and_a_unit_template(manager, folder):
    references = manager.create_character_embedding("luca", given(folder))
    assert references.embeddings.shape == (3, 3)
    assert np.linalg.norm(references.embeddings, axis=1) == pytest.approx(1)
    assert np.linalg.norm(references.template) == pytest.approx(1)
    assert references.similarities(references.embeddings[0])[0] == pytest.approx(1)
    assert references.similarity(references.template) == pytest.approx(1)


def test_what_is_stored_comes_back(manager, folder):
    made = manager.create_character_embedding("luca", given(folder))
    with handmade_manager(folder) as another:
        read = another.references("luca")
    assert read.provenance == made.provenance
    assert np.array_equal(read.embeddings, made.embeddings)
    assert np.array_equal(read.template, made.template)


def test_a_store_says_what_made_it(manager, folder):
    provenance = manager.create_character_embedding("luca", given(folder)).provenance
    assert provenance.encoder == manager.encoder
    assert [picture.name for picture in provenance.pictures] == ["0.png", "1.png", "2.png"]
    assert all(len(picture.sha256) == 64 for picture in provenance.pictures)
    assert {"insightface", "onnxruntime"} <= set(provenance.versions)


def test_references_may_be_a_folder_or_pictures_in_memory(manager, folder):
    from_files = manager.create_character_embedding("luca", folder / "given")
    from_memory = manager.create_character_embedding("luca", [plain(colour) for colour in REDS])
    assert np.array_equal(from_files.embeddings, from_memory.embeddings)
    assert from_memory.provenance.pictures[0].path is None


def test_the_same_references_are_stored_in_the_same_bytes(manager, folder):
    manager.create_character_embedding("luca", given(folder))
    first = manager.store_path("luca").read_bytes()
    manager.create_character_embedding("luca", given(folder))
    assert manager.store_path("luca").read_bytes() == first


def test_a_configured_character_needs_no_store(manager, folder):
    verdict = manager.check_character_consistency("luca", plain("red"))
    assert verdict.is_consistent
    assert verdict.status == "ok"
    assert verdict.encoder == manager.encoder.label
    assert not (folder / "store").exists()


def test_given_references_replace_the_configured_ones(manager):
    manager.create_character_embedding("luca", [plain("blue")])
    assert manager.check_character_consistency("luca", plain("blue")).is_consistent
    assert not manager.check_character_consistency("luca", plain("red")).is_consistent


def test_a_character_that_is_only_stored_can_be_compared(manager):
    manager.create_character_embedding("giulia", [plain("lime")])
    verdict = manager.check_character_consistency("giulia", plain("lime"))
    assert (verdict.is_consistent, verdict.threshold) == (True, 0.65)


def test_the_threshold_is_the_characters_own_unless_given(manager):
    configured = manager.configs.character("luca").thresholds.consistency
    assert manager.check_character_consistency("luca", plain("red")).threshold == configured
    assert manager.check_character_consistency("luca", plain("red"), threshold=1).threshold == 1.0


def test_the_similarity_is_the_cosine_to_the_template(manager):
    references = manager.references("luca")
    verdict = manager.check_character_consistency("luca", plain(REDS[1]), threshold=0.65)
    assert verdict.similarity_score == pytest.approx(references.similarity(references.embeddings[1]), abs=1e-6)


colours = st.tuples(*[st.integers(0, 255)] * 3)


@drawn(colours, st.floats(-1, 1), st.floats(-1, 1))
def test_raising_the_threshold_accepts_no_more_and_a_score_at_it_is_accepted(colour, one, other):
    """Colours from red to its opposite, cyan: cosines from 1 to -1."""
    low, high = sorted((one, other))
    embedding = unit(np.array(colour) - 127.4)
    score = cosine(unit([1, -1, -1]), embedding)

    def accepts(threshold, metric):
        limit = METRICS[metric].from_cosine(threshold)
        value = METRICS[metric].from_cosine(score)
        verdict = Verdict(
            character_name="luca", status="ok", similarity_score=value, threshold=limit, metric=metric, encoder=""
        )
        return verdict.is_consistent

    for metric in METRICS:
        assert accepts(low, metric) or not accepts(high, metric)
        assert accepts(score, metric)


@pytest.mark.parametrize("bad", [5, float("nan"), "0.7", None])
def test_references_at_hand_are_not_judged_by_what_is_no_cosine(manager, bad):
    with pytest.raises(InvalidValueError, match="threshold"):
        manager.judge(manager.references("luca"), plain("red"), bad)


@pytest.mark.parametrize("bad", [2, float("nan"), "0.7"])
def test_a_threshold_out_of_range_is_refused_before_anything_loads(folder, bad):
    shutil.rmtree(folder / "face")
    with handmade_manager(folder) as manager, pytest.raises(InvalidValueError, match="threshold"):
        manager.check_character_consistency("luca", plain("red"), threshold=bad)


def test_an_unknown_character_is_refused_with_the_nearest_name(manager):
    manager.create_character_embedding("giulia", [plain("lime")])
    with pytest.raises(UnknownNameError, match="did you mean 'luca'") as caught:
        manager.check_character_consistency("lucca", plain("red"))
    assert caught.value.known == ("alberto", "giulia", "luca")


def test_a_character_without_reference_pictures_is_refused(manager):
    with pytest.raises(ProfileError, match="alberto"):
        manager.references("alberto")


@pytest.mark.parametrize("name", ["../luca", "a/b", "", ".hidden", "a\\b", "x" * 65, "luca\n", None, "/luca", "~"])
def test_a_name_that_would_leave_the_store_is_refused(manager, folder, name):
    before = sorted(folder.rglob("*"))
    with pytest.raises(InvalidValueError, match="character_name"):
        manager.create_character_embedding(name, [plain("red")])
    with pytest.raises(InvalidValueError, match="character_name"):
        manager.check_character_consistency(name, plain("red"))
    assert sorted(folder.rglob("*")) == before


def test_every_picture_that_cannot_be_used_is_listed(manager, folder):
    (folder / "notes.png").write_text("not a picture")
    pictures = [*given(folder), folder / "notes.png", folder / "gone.png", given(folder)[0]]
    with pytest.raises(
        ReferenceStoreError, match=r"3 of 6 .*notes\.png: isn't .*gone\.png: .*0\.png: the same as 0\.png"
    ):
        manager.create_character_embedding("luca", pictures)
    assert not (folder / "store").exists()


def test_a_reference_that_was_only_saved_again_is_listed(manager, folder):
    plain(REDS[0]).save(folder / "again.webp", lossless=True)
    plain(REDS[0], (64, 64)).save(folder / "small.png")
    with pytest.raises(ReferenceStoreError, match=r"1 of 5 .*again\.webp: the same as 0\.png"):
        manager.create_character_embedding("luca", [*given(folder), folder / "small.png", folder / "again.webp"])
    with pytest.raises(ReferenceStoreError, match=r"1 of 4 .*picture 3: the same as 1\.png"):
        manager.create_character_embedding("luca", [*given(folder), plain(REDS[1])])


@pytest.mark.parametrize(
    ("faces", "status"),
    [
        ((), "no_face"),
        ((((8, 8, 56, 56), 0.9), ((72, 72, 120, 120), 0.9)), "several_faces"),
        ((((60, 60, 66, 66), 0.9),), "low_quality"),
    ],
)
def test_a_picture_without_one_clear_face_is_no_reference(folder, faces, status):
    write_pack(folder / "face", faces)
    with handmade_manager(folder) as manager:
        with pytest.raises(ReferenceStoreError, match=status):
            manager.create_character_embedding("luca", given(folder))
        assert not (folder / "store").exists()


def test_a_picture_without_one_clear_face_is_a_status_and_has_no_score(manager, folder):
    references = manager.references("luca")
    write_pack(folder / "face", ())
    with handmade_manager(folder) as blind:
        verdict = blind.judge(references, plain("red"), 0.5)
    assert (verdict.status, verdict.similarity_score, verdict.is_consistent) == ("no_face", None, False)


def test_a_text_file_named_png_cannot_be_checked(manager, folder):
    (folder / "notes.png").write_text("not a picture")
    with pytest.raises(ImageFileError, match=r"notes\.png"):
        manager.check_character_consistency("luca", folder / "notes.png")


@pytest.mark.parametrize("bad", [5, b"store", "a\0b", "x" * 300])
def test_a_store_that_no_folder_can_be_is_refused(bad):
    with pytest.raises(InvalidValueError, match="store must be a path"):
        CharacterReferenceManager(store=bad, profile="puppet", configs=handmade_configs(), device="cpu")


@pytest.mark.parametrize("bad", [[], (), "missing_folder", 3, "x" * 300, "a\0b", plain("red")])
def test_no_references_at_all_are_refused(manager, bad):
    with pytest.raises(InvalidValueError, match="reference_images"):
        manager.create_character_embedding("luca", bad)


def test_an_empty_folder_of_references_is_refused(manager, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReferenceStoreError, match="no pictures"):
        manager.create_character_embedding("luca", tmp_path / "empty")


def test_a_store_survives_a_rebuild_that_fails(manager, folder):
    manager.create_character_embedding("luca", given(folder))
    before = manager.store_path("luca").read_bytes()
    with pytest.raises(ReferenceStoreError):
        manager.create_character_embedding("luca", [folder / "gone.png"])
    assert manager.store_path("luca").read_bytes() == before
    assert sorted(path.name for path in manager.store_path("luca").parent.iterdir()) == [".luca.lock", "luca.npz"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("recogniser_sha256", "0" * 64),
        ("detector_sha256", "0" * 64),
        ("detector_size_px", (640, 640)),
        ("detection_threshold", 0.4),
        ("insightface", "0.7.3"),
        ("pack", "buffalo_l"),
    ],
)
def test_a_store_of_another_encoder_is_stale(manager, folder, field, value):
    references = manager.create_character_embedding("luca", given(folder))
    made_elsewhere = replace(references.provenance.encoder, **{field: value})
    provenance = replace(references.provenance, encoder=made_elsewhere)
    write_references(manager.store_path("luca"), replace(references, provenance=provenance))
    with pytest.raises(ReferenceStoreError, match=f"stale: {field} was .*create_character_embedding again"):
        manager.references("luca")


def test_a_store_made_by_the_pack_before_it_was_trained_again_is_stale(manager, folder):
    manager.create_character_embedding("luca", given(folder))
    write_pack(folder / "face", (((30, 30, 90, 90), 0.8),))
    with handmade_manager(folder) as another, pytest.raises(ReferenceStoreError, match="detector_sha256"):
        another.references("luca")


def test_a_reference_that_has_changed_makes_the_store_stale(manager, folder):
    manager.create_character_embedding("luca", given(folder))
    plain("blue").save(given(folder)[1])
    with pytest.raises(ReferenceStoreError, match=r"1\.png has changed"):
        manager.references("luca")


def test_the_hash_of_a_reference_is_that_of_the_bytes_that_were_embedded(folder):
    """Another program may write the file while it is looked at."""
    path = folder / "changing.png"
    plain("red").save(path)
    seen = file_sha256(path)
    with CharacterConsistencyChecker("cpu", "puppet", handmade_configs()) as checker:

        def look_while_it_is_written(picture):
            plain("blue").save(path)
            return checker.faces(picture)

        ((made,), _) = embed_references([path], look_while_it_is_written, FaceLimits(), folder)
    assert made.sha256 == seen != file_sha256(path)


def test_a_reference_that_is_gone_does_no_harm(manager, folder):
    made = manager.create_character_embedding("luca", given(folder))
    shutil.rmtree(folder / "given")
    assert np.array_equal(manager.references("luca").embeddings, made.embeddings)


def test_a_store_under_another_characters_name_is_refused(manager, folder):
    manager.create_character_embedding("luca", given(folder))
    shutil.copy(manager.store_path("luca"), manager.store_path("alberto"))
    with pytest.raises(ReferenceStoreError, match="character_name was luca"):
        manager.references("alberto")


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_a_truncated_store_is_refused(manager, folder, keep):
    manager.create_character_embedding("luca", given(folder))
    path = manager.store_path("luca")
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(ReferenceStoreError, match="damaged"):
        manager.references("luca")


class Canary:
    def __reduce__(self):
        return os.mkdir, ("canary",)


def test_a_pickle_in_the_place_of_a_store_is_not_run(manager, folder, monkeypatch):
    monkeypatch.chdir(folder)
    path = manager.store_path("luca")
    path.parent.mkdir(parents=True)
    for write in (
        lambda: path.write_bytes(pickle.dumps(Canary())),
        lambda: np.savez(path, embeddings=np.array([Canary()], object), provenance=np.array("{}")),
    ):
        write()
        with pytest.raises(ReferenceStoreError, match="damaged"):
            manager.references("luca")
    assert not (folder / "canary").exists()


@pytest.mark.parametrize(
    "embeddings",
    [
        np.zeros((3, 3), np.float32),
        np.full((3, 3), np.nan, np.float32),
        np.eye(3),
        np.eye(3, dtype=np.float32)[:2],
        np.ones((3, 3), np.float32),
        np.float32(1),
    ],
)
def test_embeddings_that_cannot_be_right_are_refused(manager, folder, embeddings):
    references = manager.create_character_embedding("luca", given(folder))
    write_references(manager.store_path("luca"), replace(references, embeddings=embeddings))
    with pytest.raises(ReferenceStoreError, match="damaged"):
        manager.references("luca")


def test_a_store_with_an_unknown_field_is_refused(manager, folder):
    references = manager.create_character_embedding("luca", given(folder))
    path = manager.store_path("luca")
    text = json.dumps({**references.provenance.to_dict(), "surprise": 1})
    np.savez(path, embeddings=references.embeddings, provenance=np.array(text))
    with pytest.raises(ReferenceStoreError, match="surprise"):
        manager.references("luca")


def test_a_store_that_cannot_be_written_is_one_error(manager, folder):
    (folder / "store").write_text("a file where the folder should be")
    with pytest.raises(ReferenceStoreError, match="can't be written"):
        manager.create_character_embedding("luca", given(folder))


def test_a_store_reads_back_from_any_folder(manager, folder):
    made = manager.create_character_embedding("luca", given(folder))
    assert read_references(manager.store_path("luca")).provenance == made.provenance


def test_cleanup_is_harmless_twice(folder):
    manager = handmade_manager(folder)
    manager.references("luca")
    manager.cleanup()
    manager.cleanup()


# --- what is configured for a character, in batches


def with_thresholds(configs, **changes):
    """Return a configuration in which luca's thresholds are others."""
    presets = configs.character_presets
    luca = presets.characters["luca"]
    luca = luca.model_copy(update={"thresholds": luca.thresholds.model_copy(update=changes)})
    characters = {**presets.characters, "luca": luca}
    return replace(configs, character_presets=presets.model_copy(update={"characters": characters}))


def batch_statuses(checker, *args, **given):
    return [verdict.status for verdict in checker.check_batch([plain("red")], *args, **given)]


def test_a_batch_is_judged_by_the_characters_threshold_unless_given(folder):
    configs = with_thresholds(handmade_configs({"luca": "luca"}), consistency=0.9)
    with CharacterConsistencyChecker("cpu", "puppet", configs) as checker:
        luca = CharacterReferenceManager(checker, folder / "store").references("luca")

        def threshold(reference, **given):
            (verdict,) = checker.check_batch([plain("red")], reference, **given)
            return verdict.threshold

        assert threshold(luca) == threshold(luca.template, character_name="luca") == 0.9
        assert threshold(luca, metric="euclidean") == pytest.approx(0.2**0.5)
        assert threshold(luca, threshold=0.3) == 0.3
        assert threshold(luca.template) == 0.65
        assert threshold(luca.template, metric="euclidean") == pytest.approx(0.7**0.5)


@pytest.mark.usefixtures("folder")
def test_without_a_threshold_both_metrics_accept_the_same_pictures():
    pictures = [plain((255, green, 0)) for green in range(0, 256, 15)]
    with CharacterConsistencyChecker("cpu", "puppet", handmade_configs()) as checker:
        accepted = [
            [verdict.is_consistent for verdict in checker.check_batch(pictures, plain("red"), metric=metric)]
            for metric in ("cosine", "euclidean")
        ]
    assert accepted[0] == accepted[1]
    assert set(accepted[0]) == {True, False}


def test_the_characters_limits_hold_for_single_pictures_and_for_batches(folder):
    usual = handmade_configs({"luca": "luca"})
    with CharacterConsistencyChecker("cpu", "puppet", usual) as checker:
        luca = CharacterReferenceManager(checker, folder / "store").references("luca")
        assert batch_statuses(checker, luca) == ["ok"]
    for limit in ({"min_face_px": 65}, {"detection": 0.95}):  # the handmade face has 64 px and a score of 0.9
        with CharacterConsistencyChecker("cpu", "puppet", with_thresholds(usual, **limit)) as checker:
            judged = CharacterReferenceManager(checker, folder / "store").judge(luca, plain("red"), 0.5)
            assert judged.status == "low_quality"
            assert judged.reason.startswith(("min_face_px 65", "min_score 0.95"))
            assert batch_statuses(checker, luca) == ["low_quality"]
            assert batch_statuses(checker, luca.template) == ["ok"]  # nobody's in particular


def test_a_checkers_own_limits_come_before_the_characters(folder):
    strict_about_luca = with_thresholds(handmade_configs({"luca": "luca"}), min_face_px=65)
    lax = FaceLimits(min_face_px=10)
    with CharacterConsistencyChecker("cpu", "puppet", strict_about_luca, limits=lax) as checker:
        manager = CharacterReferenceManager(checker, folder / "store")
        luca = manager.references("luca")
        assert manager.judge(luca, plain("red"), 0.5).status == "ok"
        assert batch_statuses(checker, luca) == ["ok"]
    with CharacterConsistencyChecker("cpu", "puppet", handmade_configs(), limits=FaceLimits(min_face_px=65)) as checker:
        manager = CharacterReferenceManager(checker, folder / "store")
        assert manager.judge(luca, plain("red"), 0.5).status == "low_quality"
        with pytest.raises(ReferenceStoreError, match="low_quality"):
            manager.create_character_embedding("luca", given(folder))


def test_a_picture_that_cannot_be_looked_at_ends_no_batch(folder):
    pictures = [plain("red"), folder / ("x" * 300), "a\0b.png", plain("red", (1, 1000)), plain("red")]
    with CharacterConsistencyChecker("cpu", "puppet", handmade_configs()) as checker:
        statuses = [verdict.status for verdict in checker.check_batch(pictures, plain("red"))]
    assert statuses == ["ok", "decode_error", "decode_error", "no_face", "ok"]


@pytest.mark.parametrize("bad", [3, None, np.zeros((4, 4)), Image.new("F", (4, 4))])
def test_what_is_no_picture_at_all_ends_a_batch(folder, bad):
    with (
        CharacterConsistencyChecker("cpu", "puppet", handmade_configs()) as checker,
        pytest.raises(InvalidValueError, match="picture must be"),
    ):
        checker.check_batch([plain("red"), folder / "gone.png", bad], plain("red"))


@pytest.mark.parametrize("bad", [{"min_face_px": 16}, 16, FaceLimits])
def test_limits_of_another_type_are_refused_at_once(bad):
    with pytest.raises(InvalidValueError, match="limits must be a FaceLimits"):
        CharacterConsistencyChecker("cpu", "puppet", handmade_configs(), limits=bad)


@pytest.mark.parametrize("bad", [plain("red"), "luca.png", 5, None])
def test_what_is_no_list_of_pictures_is_no_batch(bad):
    with CharacterConsistencyChecker("cpu", "puppet", handmade_configs()) as checker:
        with pytest.raises(InvalidValueError, match="images must be a list of pictures"):
            checker.check_batch(bad, plain("red"))
        assert not checker._encoder.is_loaded
