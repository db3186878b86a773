"""The pictures that ControlNets obey look as those that they were trained on."""

import ast
import math
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import cv2
import numpy as np
import pytest

from imagelab.config.options import PaletteName
from imagelab.control_maps import ADE20K, PALETTES, PUPPET, canny_map, depth_map, draw_pose, normal_map, seg_map
from imagelab.errors import InvalidValueError
from imagelab.puppets.figure import PARTS
from imagelab.puppets.render import render
from imagelab.puppets.world import sample_scene

OPENPOSE_OF_COCO = {0: 0, 2: 6, 3: 8, 4: 10, 5: 5, 6: 7, 7: 9, 8: 12, 9: 14, 10: 16, 11: 11, 12: 13, 13: 15, 14: 2}
OPENPOSE_OF_COCO |= {15: 1, 16: 4, 17: 3}


@pytest.fixture(scope="module")
def scene():
    return render(sample_scene(np.random.default_rng(3)))


@pytest.fixture
def person():
    """Seventeen joints all over a picture of 512 px, all sure."""
    xy = np.random.default_rng(0).uniform(20, 490, (17, 2))
    return np.concatenate([xy, np.ones((17, 1))], axis=1)


def controlnet_auxs(function, file):
    """Return one of controlnet_aux's functions; importing the package takes half a minute of one core."""
    (folder,) = find_spec("controlnet_aux").submodule_search_locations
    tree = ast.parse((Path(folder) / file).read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function]
    names = {"np": np, "cv2": cv2, "math": math, "List": list, "Keypoint": SimpleNamespace}
    exec(compile(tree, file, "exec"), names)  # noqa: S102  a dependency's own code
    return names[function]


def test_a_skeleton_at_512_px_is_controlnet_auxs_to_the_pixel(person):
    places = {joint: person[coco, :2] / 512 for joint, coco in OPENPOSE_OF_COCO.items()}
    places[1] = person[5:7, :2].mean(axis=0) / 512
    joints = [SimpleNamespace(x=places[joint][0], y=places[joint][1]) for joint in range(18)]
    theirs = controlnet_auxs("draw_bodypose", "open_pose/util.py")(np.zeros((512, 512, 3), np.uint8), joints)
    assert theirs.any()
    np.testing.assert_array_equal(draw_pose([person], 512, 512), theirs)


def test_the_ade20k_palette_is_controlnet_auxs():
    np.testing.assert_array_equal(ADE20K, controlnet_auxs("ade_palette", "util.py")())


def test_limbs_grow_with_the_picture_and_stay_visible_in_a_small_one(person):
    def covered(side):
        return (draw_pose([person * (side / 512, side / 512, 1)], side, side).any(axis=2)).mean()

    assert covered(1024) == pytest.approx(covered(512), rel=0.1)
    assert covered(96) > covered(512)


RIGHT_WRIST, LOWER_RIGHT_ARM, NECK, RIGHT_SHOULDER = (170, 255, 0), (153, 153, 0), (255, 85, 0), (255, 170, 0)


def colours(picture):
    return {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}


def test_an_unsure_joint_is_left_out_with_its_limbs(person):
    person[10, 2] = 0.2  # the right wrist
    assert {RIGHT_WRIST, LOWER_RIGHT_ARM} <= colours(draw_pose([person], 512, 512, threshold=0.1))
    assert not {RIGHT_WRIST, LOWER_RIGHT_ARM} & colours(draw_pose([person], 512, 512))


def test_a_shoulder_that_is_missing_takes_the_neck_along(person):
    assert {NECK, RIGHT_SHOULDER} <= colours(draw_pose([person], 512, 512))
    person[5] = (np.nan, np.nan, 0)
    assert NECK not in colours(draw_pose([person], 512, 512))
    assert RIGHT_SHOULDER in colours(draw_pose([person], 512, 512))


def test_several_people_are_drawn_into_one_picture(person):
    other = person + np.array([5, 9, 0])
    both = draw_pose([person, other], 512, 512)
    assert both.any(axis=2).sum() > draw_pose([person], 512, 512).any(axis=2).sum()
    assert not draw_pose([], 64, 96).any()
    assert draw_pose([], 64, 96).shape == (96, 64, 3)


def test_a_person_of_another_shape_is_refused():
    with pytest.raises(InvalidValueError, match=r"person must be \(17, 3\).*got 'shape \(18, 2\)'"):
        draw_pose([np.zeros((18, 2))], 64, 64)


def test_edges_are_white_on_black_and_fewer_at_higher_thresholds(scene):
    edges = canny_map(scene.image, 100, 200)
    assert edges.shape == scene.image.shape
    assert set(np.unique(edges)) == {0, 255}
    assert canny_map(scene.image, 400, 800).sum() < edges.sum()


def test_edges_between_colours_of_one_lightness_are_seen():
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:, :16], picture[:, 16:] = (255, 0, 0), (0, 130, 0)  # 76 of 255 both, once they are grey
    assert canny_map(picture, 100, 200).any()


def test_depth_is_grey_and_white_where_it_is_near(scene):
    picture = depth_map(scene.depth)
    assert picture[np.unravel_index(scene.depth.argmax(), scene.depth.shape)].tolist() == [255] * 3
    assert picture[np.unravel_index(scene.depth.argmin(), scene.depth.shape)].tolist() == [0] * 3
    assert not depth_map(np.full((4, 4), 7.0)).any(), "a flat one is black"
    np.testing.assert_array_equal(picture, depth_map(scene.depth * 40 - 3), "the unit doesn't matter")


def test_labels_take_the_colours_of_their_palette(scene):
    picture = seg_map(scene.parts, PUPPET)
    assert len(PUPPET) == len(PARTS)
    assert not picture[scene.parts == PARTS.index("backdrop")].any()
    assert len(np.unique(PUPPET, axis=0)) == len(PARTS)
    np.testing.assert_array_equal(PUPPET[scene.parts], picture)


def test_every_palette_that_a_configuration_may_name_is_there():
    assert tuple(PALETTES) == get_args(PaletteName)


@pytest.mark.parametrize("label", [-1, 7])
def test_a_label_outside_of_the_palette_is_refused(label):
    with pytest.raises(InvalidValueError, match="labels must be between 0 and 6"):
        seg_map(np.array([[0, label]]), PUPPET)


def test_a_normal_to_the_camera_is_light_blue_and_one_to_the_right_is_red():
    toward, right, up = (0, 0, 1), (1, 0, 0), (0, 1, 0)
    assert normal_map([[toward, right, up]])[0].tolist() == [[128, 128, 255], [255, 128, 128], [128, 255, 128]]


@pytest.mark.parametrize("draw", [depth_map, normal_map])
def test_what_is_not_a_number_is_refused(draw):
    with pytest.raises(InvalidValueError, match="finite"):
        draw(np.full((4, 4, 3), np.nan))
