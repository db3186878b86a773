"""A head's pose is read off its five landmarks."""

from dataclasses import replace

import numpy as np
import pytest

from imagelab.errors import InvalidValueError
from imagelab.head_pose import head_pose
from imagelab.puppets import world
from imagelab.puppets.render import render

FRONTAL = np.array([(-20.0, -20.0), (20.0, -20.0), (0.0, 0.0), (-16.0, 20.0), (16.0, 20.0)])


@pytest.fixture(scope="module")
def read_and_true():
    """Poses of held-out puppets, (n, 3) in degrees: as read off their renders' landmarks, and as they were drawn."""
    rng = np.random.default_rng(world.HELD_OUT_SEED + 7)
    read, true = [], []
    for _ in range(60):
        scene = world.sample_scene(rng)
        figure = replace(scene.figures[0], roll=rng.uniform(-0.4, 0.4), pitch=rng.uniform(-0.3, 0.3))
        drawn = render(replace(scene, figures=(figure,)), width=64, height=64, supersample=1)
        read.append(head_pose(drawn.figures[0].landmarks))
        true.append(np.degrees([figure.yaw, -figure.pitch, -figure.roll]))  # the world's y points up
    return np.array(read), np.array(true)


@pytest.mark.parametrize(("axis", "typical", "correlation"), [(0, 4, 0.97), (1, 5, 0.88), (2, 1, 0.99)])
def test_yaw_pitch_and_roll_of_a_render_are_read_off_its_landmarks(read_and_true, axis, typical, correlation):
    read, true = read_and_true
    error = np.abs(read - true)[:, axis]
    assert np.median(error) < typical
    assert np.corrcoef(read[:, axis], true[:, axis])[0, 1] > correlation


def test_a_head_that_turns_further_is_read_so():
    figure = world.sample_figure(np.random.default_rng(world.HELD_OUT_SEED))
    angles = np.linspace(-1.2, 1.2, 9)
    turned = [replace(figure, yaw=float(yaw), pitch=0.0, roll=0.0) for yaw in angles]
    yaws = [
        head_pose(render(world.Scene(figures=(f,)), width=64, height=64, supersample=1).figures[0].landmarks)[0]
        for f in turned
    ]
    assert (np.diff(yaws) > 0).all()
    assert yaws[4] == pytest.approx(0, abs=1)
    assert yaws[-1] > 50


def test_the_pose_depends_neither_on_size_nor_on_place():
    assert head_pose(FRONTAL * 3 + 100) == pytest.approx(head_pose(FRONTAL))


def test_a_mirrored_face_looks_the_other_way():
    turned = FRONTAL.copy()
    turned[2, 0] += 6
    mirrored = (turned * [-1, 1])[[1, 0, 2, 4, 3]]
    yaw, pitch, roll = head_pose(turned)
    assert yaw > 10
    assert head_pose(mirrored) == pytest.approx((-yaw, pitch, -roll))


@pytest.mark.parametrize("bad", [np.zeros((4, 2)), np.zeros(10), np.full((5, 2), np.nan), []])
def test_what_is_no_five_landmarks_is_refused(bad):
    with pytest.raises(InvalidValueError, match="landmarks"):
        head_pose(bad)
