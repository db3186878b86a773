"""A sweep draws what its points say, compares each picture with the one without, and loses no missing face."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from imagelab import UnknownNameError
from imagelab.composition import compose_loras
from imagelab.results import GenerationRequest, LoraUse, Verdict
from imagelab.sweep import SweepPoint, draw_sweep, lora_points, mean_difference

REQUEST = GenerationRequest(character="luca", scene_description="on the beach", quality_preset="draft")
TOWN, LIGHT = "portorosso_town", "warm_summer_lighting"


@pytest.fixture
def profile(configs):
    return configs.profile("puppet")


def points(configs, profile, loras=(TOWN, LIGHT), weights=(0, 0.5), seeds=(7,), request=REQUEST):
    return lora_points(configs, profile, request, loras, weights, seeds)


def applied(configs, profile, request):
    return {lora.record.name: lora.record.weight for lora in compose_loras(configs, profile, request)}


def grey(level):
    return Image.new("RGB", (8, 8), (level, level, level))


def drawing(requests):
    """Return a generator's stand-in: grey pictures, brighter by 100 for each added weight of 1."""

    def draw(request):
        requests.append(request)
        added = sum(use.weight for use in request.additional_loras if use.name != "luca")
        return SimpleNamespace(image=grey(round(100 * added)), record=None)

    return draw


def verdict(status="ok", score=0.8):
    score = score if status == "ok" else None
    return Verdict(
        character_name="luca", status=status, similarity_score=score, threshold=0.65, metric="cosine", encoder="puppet"
    )


def test_each_lora_alone_and_all_together_at_each_weight_from_each_seed(configs, profile):
    settings = [tuple(p.settings.values()) for p in points(configs, profile, weights=(0.5, 1), seeds=(1, 2))]
    groups = (TOWN, LIGHT, f"{TOWN} + {LIGHT}")

    assert settings == [(group, weight, seed) for group in groups for weight in (0.5, 1.0) for seed in (1, 2)]


def test_one_lora_is_not_drawn_a_second_time_as_all_together(configs, profile):
    assert [p.settings["loras"] for p in points(configs, profile, loras=[TOWN], weights=[1])] == [TOWN]


def test_order_and_repetition_of_the_names_make_no_difference(configs, profile):
    assert points(configs, profile, (LIGHT, TOWN, LIGHT)) == points(configs, profile, (TOWN, LIGHT))


def test_points_of_a_sweep_have_names_of_their_own(configs, profile):
    names = [p.name for p in points(configs, profile, weights=(0, 0.5, -0.5), seeds=(1, 2))]

    assert len(set(names)) == len(names) == 18
    assert names[2] == f"{TOWN}-0.5-1"


def test_point_adds_the_lora_to_the_characters_own(configs, profile):
    point = points(configs, profile)[1]

    assert applied(configs, profile, point.request) == {"luca": 1.0, TOWN: 0.5}
    assert applied(configs, profile, point.baseline) == {"luca": 1.0}


def test_characters_own_lora_is_missing_from_its_baseline(configs, profile):
    point = points(configs, profile, loras=["luca"])[1]

    assert applied(configs, profile, point.request) == {"luca": 0.5}
    assert applied(configs, profile, point.baseline) == {}


def test_other_loras_of_the_request_stay(configs, profile):
    both = GenerationRequest(character=None, additional_loras=(LoraUse(name=LIGHT, weight=0.3),))
    point = points(configs, profile, loras=[TOWN], request=both)[1]

    assert applied(configs, profile, point.request) == {LIGHT: 0.3, TOWN: 0.5}


@pytest.mark.parametrize("name", ["portoroso_town", "portorosso_evening"])
def test_what_is_no_single_lora_is_refused(configs, profile, name):
    with pytest.raises(UnknownNameError):
        points(configs, profile, loras=[name])


def test_each_baseline_is_drawn_once(configs, profile):
    requests = []
    draw_sweep(drawing(requests), points(configs, profile, weights=(0, 1), seeds=(1, 2)))

    assert len(requests) == 3 * 2 * 2 + 2


def test_change_is_zero_at_weight_zero_and_measured_in_grey_levels(configs, profile):
    sweep = draw_sweep(drawing([]), points(configs, profile, weights=(0, 0.5, 1)))

    assert [item.change for item in sweep.items] == [0, 50, 100, 0, 50, 100, 0, 100, 200]


def test_face_that_was_not_found_has_a_status_and_no_score(configs, profile):
    verdicts = iter([verdict(), verdict("no_face")])
    sweep = draw_sweep(drawing([]), points(configs, profile, loras=[TOWN]), lambda _: next(verdicts))
    frame = sweep.to_frame()

    assert list(frame.columns) == ["loras", "weight", "seed", "change", "status", "similarity"]
    assert frame["status"].tolist() == ["ok", "no_face"]
    assert frame["similarity"][0] == 0.8
    assert math.isnan(frame["similarity"][1])


def test_sweep_without_a_judge_has_no_scores(configs, profile):
    frame = draw_sweep(drawing([]), points(configs, profile)).to_frame()

    assert frame["status"].isna().all()
    assert frame["similarity"].isna().all()


def test_empty_sweep_is_an_empty_table():
    assert draw_sweep(drawing([]), []).to_frame().empty


def test_point_names_whole_numbers_without_a_fraction():
    point = SweepPoint(settings={"loras": "a", "weight": 1.0, "seed": 7}, request=REQUEST, baseline=REQUEST)

    assert point.name == "a-1-7"


def test_difference_does_not_wrap_around():
    assert mean_difference(grey(0), grey(255)) == mean_difference(grey(255), grey(0)) == 255


def test_difference_is_a_mean_over_all_channels():
    red = Image.fromarray(np.full((8, 8, 3), (30, 0, 0), dtype=np.uint8))

    assert mean_difference(red, grey(0)) == 10
