"""A calibration lies beside the references that it was made with, and holds for no others."""

from threading import current_thread, main_thread

import pytest
from handmade_pack import framed, handmade_configs, plain, write_pack
from PIL import Image, ImageOps

from imagelab.calibration import calibrate
from imagelab.consistency import CharacterConsistencyChecker
from imagelab.errors import CalibrationFileError, InvalidValueError
from imagelab.reference_calibration import CalibrationRun, Probe, ThresholdInForce, calibration_label
from imagelab.references import CharacterReferenceManager

REFERENCES = [framed("red", 100), framed((245, 0, 25), 101)]
GENUINE = [framed((250 - 4 * shade, 20 + 6 * shade, 10), shade) for shade in range(8)]
IMPOSTORS = {
    "giulia": [framed((10, 250 - 4 * shade, 20), 10 + shade) for shade in range(6)],
    "alberto": [framed((20, 10, 250 - 4 * shade), 20 + shade) for shade in range(6)],
}


@pytest.fixture
def manager(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGELAB_MODELS", str(tmp_path))
    write_pack(tmp_path / "face")
    with CharacterReferenceManager(
        store=tmp_path / "store", profile="puppet", configs=handmade_configs(), device="cpu"
    ) as manager:
        manager.create_character_embedding("luca", REFERENCES)
        yield manager


def test_without_a_calibration_the_configured_threshold_holds_and_the_verdict_says_so(manager):
    verdict = manager.check_character_consistency("luca", plain("red"))
    assert verdict.threshold == manager.configs.character("luca").thresholds.consistency
    assert (verdict.calibrated, verdict.calibration) == (False, None)
    assert manager.calibration("luca") is None


def test_a_verdict_is_made_with_the_stored_calibration_unless_a_threshold_is_given(manager):
    run = manager.calibrate("luca", GENUINE, IMPOSTORS, resamples=100)
    verdict = manager.check_character_consistency("luca", GENUINE[0])
    assert verdict.threshold == run.calibration.threshold.value
    assert verdict.calibrated
    assert verdict.calibration.startswith("eer at ")
    assert verdict.is_consistent
    assert not manager.check_character_consistency("luca", IMPOSTORS["giulia"][0]).is_consistent
    given = manager.check_character_consistency("luca", GENUINE[0], threshold=0.5)
    assert (given.threshold, given.calibrated, given.calibration) == (0.5, False, None)
    assert manager.calibration("luca") == run.calibration


def test_the_threshold_in_force_is_the_given_one_else_the_calibrated_one_else_the_configured_one(manager):
    configured = manager.configs.character("luca").thresholds
    assert configured.consistency != configured.batch
    assert manager.threshold("luca") == ThresholdInForce(value=configured.consistency)
    assert manager.threshold("luca", batch=True) == ThresholdInForce(value=configured.batch)
    calibration = manager.calibrate("luca", GENUINE, IMPOSTORS, resamples=100).calibration
    for batch in (False, True):
        in_force = manager.threshold("luca", batch=batch)
        assert in_force == ThresholdInForce(value=calibration.threshold.value, calibration=calibration)
        assert in_force.label.startswith("eer at ")
    assert manager.threshold("luca", 0.5) == ThresholdInForce(value=0.5)
    with pytest.raises(InvalidValueError, match="threshold"):
        manager.threshold("luca", 2)


def test_pictures_judged_one_by_one_and_in_a_batch_name_the_same_calibration(manager):
    manager.calibrate("luca", GENUINE, IMPOSTORS, resamples=100)
    references, in_force = manager.references("luca"), manager.threshold("luca")
    with CharacterConsistencyChecker("cpu", "puppet", manager.configs) as checker:
        (batched,) = checker.check_batch(GENUINE[:1], references, in_force)
        (distance,) = checker.check_batch(GENUINE[:1], references, in_force, metric="euclidean")
        (uncalibrated,) = checker.check_batch(GENUINE[:1], references)
    assert batched == manager.judge(references, GENUINE[0], in_force)
    assert batched == manager.check_character_consistency("luca", GENUINE[0])
    assert (distance.calibrated, distance.calibration) == (True, in_force.label)
    assert distance.threshold == pytest.approx((2 - 2 * in_force.value) ** 0.5)
    assert not uncalibrated.calibrated


def test_pictures_without_a_score_are_counted_and_calibrate_nothing(manager, tmp_path):
    (tmp_path / "notes.png").write_text("not a picture")
    run = manager.calibrate("luca", [*GENUINE, tmp_path / "notes.png"], IMPOSTORS, resamples=100)
    assert run.genuine == {"ok": 8, "decode_error": 1}
    assert run.impostor == {"ok": 12}
    assert (run.calibration.genuine.scores, run.calibration.impostor.characters) == (8, 2)


def test_a_calibration_of_other_references_is_refused_with_the_fix(manager):
    manager.calibrate("luca", GENUINE, IMPOSTORS, resamples=100)
    manager.add_reference_images("luca", [plain((250, 10, 10))])
    with pytest.raises(CalibrationFileError, match=r"references_sha256.*Calibrate again"):
        manager.check_character_consistency("luca", GENUINE[0])
    assert not manager.check_character_consistency("luca", GENUINE[0], threshold=0.5).calibrated
    manager.calibrate("luca", GENUINE, IMPOSTORS, resamples=100)
    assert manager.check_character_consistency("luca", GENUINE[0]).calibrated


def test_the_same_pixels_given_twice_are_one_picture(manager, tmp_path):
    GENUINE[0].save(tmp_path / "again.png")
    run = manager.calibrate("luca", [*GENUINE, tmp_path / "again.png", GENUINE[0]], IMPOSTORS, resamples=100)
    assert run.genuine == {"ok": len(GENUINE) + 2}
    assert (run.calibration.genuine.scores, run.calibration.genuine.pictures) == (len(GENUINE) + 2, len(GENUINE))


def test_pictures_are_decoded_by_the_threads_that_look_for_faces(manager, monkeypatch):
    threads, decode = [], Probe.decode
    monkeypatch.setattr(Probe, "decode", lambda probe: threads.append(current_thread()) or decode(probe))
    manager.calibrate("luca", GENUINE, IMPOSTORS, resamples=100)
    assert len(threads) == len(GENUINE) + sum(map(len, IMPOSTORS.values()))
    assert main_thread() not in threads


def test_what_is_no_picture_at_all_is_no_status(manager):
    with pytest.raises(InvalidValueError, match="picture must be"):
        manager.calibrate("luca", [*GENUINE, 5], IMPOSTORS, resamples=100)


def test_genuine_and_impostor_pictures_that_were_swapped_come_into_no_force(manager):
    with pytest.raises(InvalidValueError, match="are the two swapped"):
        manager.calibrate("luca", IMPOSTORS["giulia"], {"luca again": GENUINE}, resamples=100)
    assert manager.calibration("luca") is None


def test_a_calibration_that_may_tell_nothing_apart_says_so():
    apart, unsure = [0.8, 0.9, 0.7, 0.85] * 5, [0.4, 0.55, 0.6, 0.5]
    sure = calibrate(apart, [0.1, 0.2, 0.3] * 5, resamples=100)
    doubtful = calibrate(unsure, [0.42, 0.53, 0.5], resamples=100)
    assert sure.tells_apart
    assert not doubtful.tells_apart
    assert doubtful.auroc.value > 0.5
    for calibration, says in ((sure, False), (doubtful, True)):
        assert ("doesn't tell them apart for sure" in calibration.describe()) == says
        assert ("not surely apart" in calibration_label(calibration)) == says


def test_a_reference_is_no_picture_to_calibrate_with(manager):
    with pytest.raises(InvalidValueError, match="reference picture 0"):
        manager.calibrate("luca", [*GENUINE, REFERENCES[0]], IMPOSTORS)
    assert not manager.calibration_path("luca").exists()


def test_what_looks_like_a_copy_of_a_reference_calibrates_nothing_and_is_named(manager, tmp_path):
    REFERENCES[0].save(tmp_path / "again.jpg", quality=80)
    REFERENCES[1].resize((160, 160), Image.Resampling.LANCZOS).save(tmp_path / "larger.png")
    ImageOps.mirror(REFERENCES[1]).save(tmp_path / "mirrored.webp")
    copies = [tmp_path / name for name in ("again.jpg", "larger.png", "mirrored.webp")]
    run = manager.calibrate("luca", [*copies, *GENUINE], IMPOSTORS, resamples=100)
    assert run.genuine == {"ok": 8}
    kinds = ("near copy of picture 0", "near copy of picture 1", "mirrored of picture 1")
    assert run.left_out == {str(path): kind for path, kind in zip(copies, kinds, strict=True)}
    clean = manager.calibrate("luca", GENUINE, IMPOSTORS, resamples=100)
    assert clean.left_out == {}
    assert clean.calibration.genuine == run.calibration.genuine
    assert clean.calibration.threshold.value == run.calibration.threshold.value
    assert CalibrationRun.from_json(run.to_json()) == run
    with pytest.raises(InvalidValueError, match="3 copies of references"):
        manager.calibrate("luca", copies, IMPOSTORS)


def test_no_interval_of_a_threshold_reaches_beyond_what_a_cosine_can_be(manager):
    """Three pictures say so little that the interval would: it is Student's, of two degrees of freedom."""
    scores = [0.99, 0.9, 0.97], [0.2, 0.5, 0.7]
    assert calibrate(*scores, resamples=100).threshold.high > 1
    calibration = manager.calibrate("luca", GENUINE[:3], {"giulia": IMPOSTORS["giulia"][:3]}, resamples=100).calibration
    for found in (calibration.threshold, calibrate(*scores, score_range=(-1, 1), resamples=100).threshold):
        assert -1 <= found.low <= found.value <= found.high <= 1
    for wrong in ((1, -1), 1, (0, 0.9)):
        with pytest.raises(InvalidValueError, match="score"):
            calibrate(*scores, score_range=wrong, resamples=100)


def test_a_stale_calibration_can_be_removed_as_its_error_says(manager):
    manager.calibrate("luca", GENUINE, IMPOSTORS, resamples=100)
    old = manager.references("luca").references_sha256
    manager.add_reference_images("luca", [plain((250, 10, 10))])
    with pytest.raises(CalibrationFileError, match="remove_calibration") as caught:
        manager.check_character_consistency("luca", GENUINE[0])
    assert old[:8] in str(caught.value)
    assert old[:9] not in str(caught.value)
    assert manager.remove_calibration("luca")
    assert not manager.check_character_consistency("luca", GENUINE[0]).calibrated
    assert not manager.remove_calibration("luca")


@pytest.mark.parametrize("bad", [{}, [], {"luca": GENUINE}, {"giulia": []}])
def test_a_calibration_wants_pictures_of_others(manager, bad):
    with pytest.raises(InvalidValueError, match="impostor_pictures"):
        manager.calibrate("luca", GENUINE, bad)
