"""How closely pictures follow: formulas on arrays of which the number is known, and the real estimator classes."""

import math

import numpy as np
import pytest
from handmade_controls import save_annotators, with_controls
from PIL import Image
from scipy.stats import spearmanr

from imagelab.adherence import Adherence, Followed, ScaleStudy, control_adherence, follow_scales, joint_agreement
from imagelab.agreement import METRICS, confusion, edge_f1, iou, mean_cosine, mean_iou, pck, spearman
from imagelab.control_maps import ADE20K, normal_map, seg_map
from imagelab.control_plots import adherence_curves
from imagelab.errors import ControlMapError, InvalidValueError, UnknownNameError
from imagelab.results import GenerationRequest

ALL = tuple(METRICS)
JOINTS = np.stack([np.linspace(10, 110, 17), np.linspace(20, 60, 17)], axis=1)  # 100 px wide


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_joints_count_within_a_tenth_of_what_they_span():
    found = JOINTS + np.array([9.9, 0])
    assert pck(found, JOINTS) == 1.0
    found[:4, 1] += 5
    assert pck(found, JOINTS) == pytest.approx(13 / 17)
    assert pck(JOINTS * 3, JOINTS * 3 + 20) == pck(JOINTS, JOINTS + 20 / 3), "the picture's size counts for nothing"
    found[-1] = np.nan
    assert pck(found, JOINTS) == pytest.approx(12 / 17)
    assert math.isnan(pck(np.zeros((0, 2)), np.zeros((0, 2))))


def test_people_are_compared_each_with_the_one_most_like_it():
    other = JOINTS + np.array([0, 60])
    assert joint_agreement([other, JOINTS], [JOINTS, other]) == 1.0
    assert joint_agreement([JOINTS], [JOINTS, other]) == 0.5, "one of two wasn't found"
    assert joint_agreement([], [JOINTS]) == 0.0
    assert math.isnan(joint_agreement([JOINTS], []))


def test_joints_that_are_not_wanted_do_not_count_but_those_that_are_not_found_do():
    part = JOINTS.copy()
    part[5:] = np.nan
    assert joint_agreement([JOINTS], [part]) == 1.0
    assert joint_agreement([part], [JOINTS]) == pytest.approx(5 / 17)


def test_edges_count_within_their_reach_and_not_around_the_rim():
    wanted = np.zeros((20, 30), bool)
    wanted[:, 0] = True
    assert edge_f1(np.roll(wanted, 1, axis=1), wanted) == 1.0
    assert edge_f1(np.roll(wanted, 2, axis=1), wanted) == 0.0
    assert edge_f1(np.roll(wanted, 2, axis=1), wanted, reach_px=2) == 1.0
    assert edge_f1(np.roll(wanted, -1, axis=1), wanted) == 0.0, "the left rim isn't beside the right one"
    assert edge_f1(wanted & False, wanted) == 0.0
    both = wanted | np.roll(wanted, 10, axis=1)
    assert edge_f1(both, wanted) == pytest.approx(2 * 0.5 / 1.5)


def test_depths_agree_by_their_order(random):
    one, other = random.integers(0, 20, (2, 9, 11))  # with ties
    assert spearman(one, other) == pytest.approx(spearmanr(one.ravel(), other.ravel()).statistic)
    assert spearman(np.exp(one / 3), one) == pytest.approx(1.0)
    assert spearman(-one, one) == pytest.approx(-1.0)
    assert math.isnan(spearman(one * 0, one))


def test_labels_are_averaged_over_those_that_are_wanted():
    wanted = np.array([[0, 0, 7], [0, 0, 7]])
    found = np.array([[0, 0, 7], [0, 0, 3]])
    assert mean_iou(found, wanted) == pytest.approx((1 + 0.5) / 2), "3 isn't wanted: it costs 7, not the mean"
    assert mean_iou(wanted, wanted) == 1.0
    assert iou(confusion(found, wanted, 8)) == mean_iou(found, wanted)


def test_normals_agree_by_their_angle():
    up, aside = np.zeros((2, 4, 5, 3))
    up[..., 2], aside[..., 0] = 1, 1
    assert mean_cosine(up, up) == 1.0
    assert mean_cosine(aside, up) == 0.0
    assert mean_cosine(-up, up) == -1.0


@pytest.mark.parametrize("measure", [pck, edge_f1, spearman, mean_iou, mean_cosine])
def test_unlike_shapes_are_refused(measure):
    with pytest.raises(InvalidValueError, match=r"shape \(3, 3\)"):
        measure(np.ones((3, 3)), np.ones((1, 3)))


def test_maps_are_read_back(random):
    from imagelab.adherence import _cosine_of_maps, _iou_of_maps  # what they read has no name outside

    vectors = random.normal(size=(6, 7, 3))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    turned = vectors[..., [1, 2, 0]]
    expected = mean_cosine(vectors, turned)
    assert _cosine_of_maps(normal_map(vectors), normal_map(turned)) == pytest.approx(expected, abs=0.01)
    labels = random.integers(0, 12, (6, 7))
    other = np.where(random.random((6, 7)) < 0.5, labels, 3)
    assert _iou_of_maps(seg_map(other, ADE20K), seg_map(labels, ADE20K)) == mean_iou(other, labels)


@pytest.fixture(scope="module")
def own(configs, tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    save_annotators(root / "annotators")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMAGELAB_MODELS", str(root))
        yield with_controls(configs, params={"pose": {"threshold": 0.0}})


@pytest.fixture(scope="module")
def picture():
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[10:40, 20:70] = (200, 60, 30)
    pixels[30:55, 60:95] = (30, 90, 220)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("control_type", ALL)
def test_a_picture_follows_itself(own, picture, control_type):
    found = control_adherence(control_type, picture, picture, "puppet", device="cpu", configs=own)
    assert found.score == pytest.approx(1.0)
    assert (found.type, found.metric, found.status, found.reason) == (control_type, METRICS[control_type], "ok", "")


@pytest.mark.parametrize("control_type", ["canny", "seg"])  # untrained, the others see the same in everything
def test_another_picture_follows_less(own, picture, control_type):
    other = picture.transpose(Image.Transpose.ROTATE_180)
    found = control_adherence(control_type, other, picture, "puppet", device="cpu", configs=own)
    assert found.score < 0.99


def test_the_source_is_cropped_as_a_control_is(own, picture):
    middle = picture.crop((16, 0, 80, 64))
    assert control_adherence("canny", middle, picture, "puppet", configs=own).score == 1.0


def test_nothing_to_compare_is_no_score_of_0(own, picture):
    blank = Image.new("RGB", picture.size, "grey")
    found = control_adherence("canny", blank, picture, "puppet", configs=own)
    assert (found.score, found.status) == (None, "nothing_found")
    assert "one colour" in found.reason


@pytest.mark.usefixtures("own")
def test_a_source_that_shows_nobody_is_refused(configs, picture):
    sure = with_controls(configs, params={"pose": {"threshold": 2.0}})
    with pytest.raises(ControlMapError, match="nobody"):
        control_adherence("pose", picture, picture, "puppet", device="cpu", configs=sure)


def test_an_unknown_kind_is_refused(own, picture):
    with pytest.raises(UnknownNameError, match="canny"):
        control_adherence("cany", picture, picture, "puppet", configs=own)


class Copier:
    """Draws the source whenever there is a control, and something else otherwise."""

    device = "cpu"

    def __init__(self, configs, picture):
        self.configs, self.profile, self.picture = configs, configs.profile("puppet"), picture
        self.requests = []

    def generate(self, request):
        self.requests.append(request)
        image = request.controls[-1].picture if request.controls else Image.new("RGB", self.picture.size)
        return type("Drawn", (), {"image": image, "record": type("Record", (), {"seed": 11})})


def test_each_kind_is_drawn_at_each_scale_from_one_seed(own, picture):
    copier = Copier(own, picture)
    request = GenerationRequest(character=None, scene_description="a beach")
    study = follow_scales(copier, request, picture, ["canny", "seg"], [1.0], "union")
    assert study.scores() == {"canny": [1.0, 1.0], "seg": [1.0, 1.0]}
    assert study.gains() == {"canny": 0.0, "seg": 0.0}
    assert study.scales == (0.0, 1.0)
    assert [(item.type, item.scale) for item in study.of("seg")] == [("seg", 0.0), ("seg", 1.0)]
    assert [each.seed for each in copier.requests] == [None, 11, 11, 11, 11]
    assert [(use.type, use.scale, use.model) for each in copier.requests for use in each.controls] == [
        ("canny", 0.0, "union"), ("canny", 1.0, "union"), ("seg", 0.0, "union"), ("seg", 1.0, "union"),
    ]  # fmt: skip


def test_curves_show_every_kind_and_leave_gaps_where_nothing_was_found():
    scores = {"pose": [0.2, None, 0.9], "depth": [-0.3, 0.5, 0.9], "seg": [None, None, None]}
    (axis,) = adherence_curves([0.0, 0.5, 1.0], scores, METRICS, title="t").axes
    assert [text.get_text() for text in axis.texts] == ["pose, PCK@0.1", "depth, Spearman", "seg, mIoU"]
    assert axis.get_ylim()[0] < -0.3
    heights = [text.xy[1] for text in axis.texts]
    assert min(np.diff(sorted(heights))) > 0.04, "names don't cover each other"
    assert np.isnan(axis.lines[0].get_ydata()[1])


def test_a_study_keeps_the_order_in_which_it_was_drawn():
    score = Adherence(type="pose", metric="PCK@0.1", score=None, status="nothing_found", reason="shows nobody")
    items = tuple(Followed(type="pose", scale=scale, generation=None, adherence=score) for scale in (1.0, 0.0))
    study = ScaleStudy(plain=None, followed=items)
    assert study.of("pose") == items
    assert study.scores() == {"pose": [None, None]}
    assert study.gains() == {"pose": None}
    assert str(score) == "nothing found, no PCK@0.1"
