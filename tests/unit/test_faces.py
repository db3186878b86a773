import itertools
import math
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagelab.errors import ImageFileError, InvalidValueError
from imagelab.faces import SEVERAL_FACES, Face, FaceLimits, FacesFound, read_faces, read_found

UPRIGHT = np.array([[38, 52], [74, 52], [56, 72], [42, 93], [70, 93]], np.float32)


def face(x=0.0, y=0.0, side=50.0, *, score=0.9, embedding=(1.0, 0.0), landmarks=UPRIGHT, **others):
    vector = None if embedding is None else np.array(embedding, np.float32)
    box = (x, y, x + side, y + side + 10)
    return Face(box=box, landmarks=landmarks, score=score, embedding=vector, **{"visible_fraction": 1.0} | others)


def turned(nose_px):
    """Landmarks of a face whose nose lies that far to the right, as when it turns there."""
    return UPRIGHT + np.array([[0, 0], [0, 0], [nose_px, 0], [0, 0], [0, 0]], np.float32)


SMALL_NEAR_CENTRE = face(60, side=20, off_centre=0.1, embedding=(0.0, 1.0))
LARGE_AT_THE_SIDE = face(0, side=60, off_centre=0.6, embedding=(0.6, 0.8))
ALIKE = face(100, side=40, off_centre=0.5, embedding=(1.0, 0.0))


@pytest.mark.parametrize(
    ("policy", "chosen"),
    [("largest", LARGE_AT_THE_SIDE), ("most_central", SMALL_NEAR_CENTRE), ("best_match", ALIKE)],
)
def test_each_policy_takes_its_own_face_in_whatever_order_they_come(policy, chosen):
    for order in itertools.permutations([SMALL_NEAR_CENTRE, LARGE_AT_THE_SIDE, ALIKE]):
        reading = read_faces(order, FaceLimits(), policy, lambda embedding: float(embedding[0]))
        assert reading.status == "ok"
        assert reading.face is chosen
        assert reading.embedding is chosen.embedding


@pytest.mark.parametrize("policy", SEVERAL_FACES[1:])
def test_of_equal_faces_the_surest_then_the_leftmost_then_the_topmost_is_taken(policy):
    topmost = face(0, 5)
    rest = [face(0, 30), face(9, 0), face(0, 0, score=0.8)]
    for order in itertools.permutations([topmost, *rest]):
        assert read_faces(order, FaceLimits(), policy, lambda _: 0.5).face is topmost


def test_best_match_without_anything_to_match_is_refused():
    with pytest.raises(InvalidValueError, match="nearest to what"):
        read_faces([], FaceLimits(), "best_match")


@pytest.mark.parametrize("limit", [item.name for item in fields(FaceLimits)])
@pytest.mark.parametrize("value", [math.nan, math.inf, -1, "16", True, [16]])
def test_a_limit_that_no_measure_can_have_is_refused_by_name(limit, value):
    with pytest.raises(InvalidValueError, match=f"{limit} must be a number between 0 and"):
        FaceLimits(**{limit: value})


def test_limits_that_may_be_left_out_are_the_ones_that_are_none_by_default():
    assert FaceLimits(min_sharpness=None, max_yaw_degrees=None, max_pitch_degrees=None) == FaceLimits()
    with pytest.raises(InvalidValueError, match="min_face_px"):
        FaceLimits(min_face_px=None)


def test_several_usable_faces_are_counted_in_the_reason():
    reading = read_faces([face(), face(60), face(side=8)], FaceLimits())
    assert (reading.status, reading.embedding, reading.face) == ("several_faces", None, None)
    assert reading.reason.startswith("2 faces")


@pytest.mark.parametrize(
    ("limits", "bad", "reason"),
    [
        (FaceLimits(), face(side=12), "min_face_px 16, measured 12"),
        (FaceLimits(min_score=0.5), face(score=0.25), "min_score 0.5, measured 0.25"),
        (FaceLimits(), face(visible_fraction=0.3), "min_visible_fraction 0.5, measured 0.3"),
        (FaceLimits(min_sharpness=0.02), face(sharpness=0.01), "min_sharpness 0.02, measured 0.01"),
        (FaceLimits(min_sharpness=0.02), face(), "min_sharpness 0.02, measured nothing"),
        (FaceLimits(max_yaw_degrees=30), face(landmarks=turned(12)), "max_yaw_degrees 30, measured"),
        (FaceLimits(max_yaw_degrees=30), face(landmarks=turned(-12)), "max_yaw_degrees 30, measured -"),
        (FaceLimits(max_pitch_degrees=1), face(), "max_pitch_degrees 1, measured -"),
        (FaceLimits(max_yaw_degrees=90), face(landmarks=UPRIGHT * math.nan), "max_yaw_degrees 90, measured nothing"),
        (FaceLimits(), face(embedding=None), "the recogniser gave no embedding"),
    ],
)
def test_a_face_of_low_quality_says_which_limit_refused_it(limits, bad, reason):
    assert not limits.admit(bad)
    reading = read_faces([bad], limits)
    assert reading.status == "low_quality"
    assert reading.reason.startswith(reason)
    assert reading.face is bad
    assert reading.embedding is None


def test_what_is_not_asked_for_is_not_checked():
    assert FaceLimits().admit(face(landmarks=turned(30), sharpness=0.0))


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(2, 80), st.floats(0, 1), st.floats(0, 1)), max_size=5),
    st.sampled_from(SEVERAL_FACES),
)
def test_an_embedding_is_there_if_and_only_if_the_status_is_ok(measures, policy):
    faces = [face(side=side, score=score, visible_fraction=seen) for side, score, seen in measures]
    reading = read_faces(faces, FaceLimits(min_score=0.3), policy, lambda _: 0.5)
    assert (reading.embedding is not None) == (reading.status == "ok")
    assert (reading.status == "no_face") == (not faces)
    assert reading.status != "ok" or FaceLimits(min_score=0.3).admit(reading.face)


def test_a_picture_that_cannot_be_looked_at_says_why(tmp_path):
    reading = read_found(FacesFound(fault=ImageFileError(tmp_path / "a.png", "is damaged")), FaceLimits())
    assert (reading.status, reading.face) == ("decode_error", None)
    assert "a.png: is damaged" in reading.reason


def test_limits_and_quality_are_written_and_read_back():
    limits = FaceLimits(min_sharpness=0.02)
    assert FaceLimits.from_json(limits.to_json()) == limits
    quality = face(landmarks=UPRIGHT * math.nan).quality
    assert type(quality).from_json(quality.to_json()) == quality
