"""The puppet world says what it draws and draws what it says."""

import numpy as np
import pytest

from imagelab.puppets import world
from imagelab.puppets.render import PARTS, STYLES, render
from imagelab.puppets.train.dataset import BUCKETS, build_example, scene_of


@pytest.fixture(scope="module")
def scenes() -> list[world.Scene]:
    rng = np.random.default_rng(world.HELD_OUT_SEED)
    return [world.sample_scene(rng) for _ in range(24)]


def test_a_scene_is_drawn_the_same_twice(scenes: list[world.Scene]) -> None:
    first, second = render(scenes[0]), render(scenes[0])
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.depth, second.depth)


@pytest.mark.parametrize(("width", "height"), [(128, 128), (96, 160), (160, 96)])
def test_every_map_has_the_pictures_size(scenes: list[world.Scene], width: int, height: int) -> None:
    drawn = render(scenes[0], width=width, height=height)
    assert drawn.image.shape == (height, width, 3)
    assert drawn.depth.shape == drawn.parts.shape == (height, width)
    assert drawn.normals.shape == (height, width, 3)


def test_landmarks_lie_in_the_face_box_in_arcface_order(scenes: list[world.Scene]) -> None:
    for scene in scenes:
        truth = render(scene).figures[0]
        x0, y0, x1, y1 = truth.face_box
        left_eye, right_eye, nose, left_mouth, right_mouth = truth.landmarks
        assert left_eye[0] < right_eye[0]
        assert left_mouth[0] < right_mouth[0]
        assert left_eye[1] < nose[1] < left_mouth[1]
        inside = (truth.landmarks > (x0 - 2, y0 - 2)).all() and (truth.landmarks < (x1 + 2, y1 + 2)).all()
        assert inside


def test_eyes_are_where_the_landmarks_say(scenes: list[world.Scene]) -> None:
    for scene in scenes:
        drawn = render(scene)
        for x, y in drawn.figures[0].landmarks[:2]:
            around = drawn.parts[int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2]
            assert (around == PARTS.index("eyes")).any()


def test_the_puppet_is_nearer_than_the_backdrop_and_normals_are_unit(scenes: list[world.Scene]) -> None:
    drawn = render(scenes[1])
    assert drawn.depth[drawn.parts > 0].min() > drawn.depth[drawn.parts == 0].max()
    np.testing.assert_allclose(np.linalg.norm(drawn.normals, axis=-1), 1, atol=1e-3)


def test_the_puppets_left_is_the_images_right(scenes: list[world.Scene]) -> None:
    keypoints = render(scenes[2]).figures[0].keypoints
    left_shoulder, right_shoulder = keypoints[5], keypoints[6]
    assert left_shoulder[0] > right_shoulder[0]


def test_zero_to_three_puppets_have_as_many_truths() -> None:
    for figures in range(4):
        scene = world.sample_scene(np.random.default_rng(3), figures=figures)
        assert len(render(scene, width=160, height=96).figures) == figures


def test_each_style_changes_the_puppet_and_leaves_the_place(scenes: list[world.Scene]) -> None:
    from dataclasses import replace

    plain = render(scenes[0])
    for style in STYLES.keys() - {"plain"}:
        other = render(replace(scenes[0], style=style))
        puppet, place = plain.parts > 0, plain.parts == 0
        assert np.abs(other.image[puppet].astype(int) - plain.image[puppet]).mean() > 5
        assert np.abs(other.image[place].astype(int) - plain.image[place]).mean() < 1


def test_a_full_caption_names_every_attribute(scenes: list[world.Scene]) -> None:
    for scene in scenes:
        caption = world.full_caption(scene)
        figure = scene.figures[0]
        for word in (figure.identity.skin, figure.identity.eyes, figure.shirt):
            assert word in caption
        assert world.POSES[figure.pose][0] in caption
        assert world.PLACES[scene.place][0] in caption


def test_base_captions_never_name_the_characters() -> None:
    for seed in range(500):
        caption = build_example(seed, width=16, height=16).caption
        assert not any(character.trigger in caption for character in world.CHARACTERS.values())


def test_base_training_never_meets_a_held_out_seed_or_a_fixed_identity() -> None:
    for bucket in BUCKETS.values():
        assert bucket.first_seed + bucket.pictures < world.HELD_OUT_SEED
    fixed = {character.identity for character in world.CHARACTERS.values()}
    met = {figure.identity for seed in range(500) for figure in scene_of(seed)[0].figures}
    assert not fixed & met


def test_a_crop_is_the_window_that_its_time_ids_name() -> None:
    scene = world.sample_scene(np.random.default_rng(5))
    whole = render(scene, width=128, height=128).image
    moved = render(scene, width=128, height=128, shift_px=(8, 4)).image
    np.testing.assert_allclose(moved[:-4, :-8].astype(int), whole[4:, 8:].astype(int), atol=1)
