import cv2
import numpy as np
import pytest
from insightface.utils import face_align

from imagelab.face_crops import alignment, crop, sharpness, to_bgr
from imagelab.rgb import to_rgb

RNG = np.random.default_rng(0)
LANDMARKS = face_align.arcface_dst * 1.5 + np.array([20, 30], np.float32)


def picture(side=240):
    """A smooth random pattern with edges in it."""
    coarse = RNG.integers(0, 255, (side // 8, side // 8, 3), np.uint8)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_NEAREST)


def sharp(bgr, landmarks=LANDMARKS):
    matrix = alignment(landmarks, 112)
    return sharpness(crop(bgr, matrix, 112), matrix, (bgr.shape[1], bgr.shape[0]))


@pytest.mark.parametrize("side_px", [112, 128, 224])
def test_the_alignment_is_insightfaces_own_to_the_bit(side_px):
    bgr = picture()
    for _ in range(20):
        landmarks = (LANDMARKS + RNG.normal(0, 6, (5, 2))).astype(np.float32)
        matrix = alignment(landmarks, side_px)
        assert np.array_equal(matrix, face_align.estimate_norm(landmarks, side_px))
        assert np.array_equal(crop(bgr, matrix, side_px), face_align.norm_crop(bgr, landmarks, side_px))


@pytest.mark.parametrize("landmarks", [np.full((5, 2), np.nan), np.full((5, 2), np.inf), np.zeros((5, 2))])
def test_landmarks_that_no_face_has_give_no_crop(landmarks):
    assert alignment(landmarks.astype(np.float32), 112) is None


def test_the_more_a_face_is_blurred_the_less_sharp_it_is():
    bgr = picture()
    values = [sharp(bgr), *(sharp(cv2.GaussianBlur(bgr, (0, 0), sigma)) for sigma in (1, 2, 4, 8))]
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.05 * values[0]


def test_a_dim_picture_is_not_a_blurred_one():
    bgr = picture()
    assert sharp((bgr * 0.4).astype(np.uint8)) == pytest.approx(sharp(bgr), rel=0.1)


def test_the_same_face_in_a_picture_of_twice_the_size_is_as_sharp():
    small = cv2.GaussianBlur(picture(), (0, 0), 3)
    large = cv2.resize(small, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    assert sharp(large, LANDMARKS * 2) == pytest.approx(sharp(small), rel=0.2)


def test_the_border_of_the_picture_makes_no_face_sharp():
    blurred = cv2.GaussianBlur(picture(), (0, 0), 8)
    cut = LANDMARKS - np.array([70, 60], np.float32)  # a third of the crop is outside, and black
    matrix = alignment(cut, 112)
    black = cv2.cvtColor(crop(blurred, matrix, 112), cv2.COLOR_BGR2GRAY)
    assert (black == 0).mean() > 0.2
    with_border = cv2.Laplacian(black, cv2.CV_64F).var() / black.var()
    assert sharp(blurred, cut) < 0.4 * with_border


def test_one_colour_and_a_face_outside_of_the_picture_are_not_sharp_at_all():
    assert sharp(np.full((240, 240, 3), 90, np.uint8)) == 0
    assert sharp(picture(), LANDMARKS + np.float32(1000)) == 0


def test_the_order_of_the_colours_changes_once():
    rgb = to_rgb(np.array([[[1, 2, 3]]], np.uint8))
    assert to_bgr(rgb).tolist() == [[[3, 2, 1]]]
