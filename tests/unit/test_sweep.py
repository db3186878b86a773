"""A sweep's file says which pictures there are; LoRAs are swept alone and together, beside the picture without them."""

from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from imagelab import ConfigError, InvalidValueError, UnknownNameError
from imagelab.composition import compose_loras
from imagelab.config import configs_root
from imagelab.config.sweeps import SweepConfig, load_sweep
from imagelab.results import GenerationRequest, LoraUse
from imagelab.runs import RunPlan
from imagelab.sweeps import lora_request, picture_changes, sheet, sweep_request, sweep_sheet

REQUEST = GenerationRequest(character="luca", scene_description="on the beach", quality_preset="draft")
TOWN, LIGHT = "portorosso_town", "warm_summer_lighting"
SHIPPED = sorted((configs_root() / "sweeps").glob("*.yaml"))


@pytest.fixture
def profile(configs):
    return configs.profile("puppet")


@pytest.fixture
def read(configs, tmp_path):
    """Return a function that reads a sweep as a file of that text."""

    def read(text):
        (tmp_path / "sweep.yaml").write_text(text)
        return load_sweep(tmp_path / "sweep.yaml", configs, "puppet")

    return read


def swept(axes, mode="full", **base):
    config = SweepConfig.model_validate({"mode": mode, "base": {"character": "luca", **base}, "axes": axes})
    return sweep_request(config).swept


def points(configs, profile, loras=(TOWN, LIGHT), weights=(0, 0.5), seeds=(7,), picture=REQUEST):
    return lora_request(configs, profile, picture, loras, weights, seeds).swept


def applied(configs, profile, request):
    return {lora.record.name: lora.record.weight for lora in compose_loras(configs, profile, request)}


def planned(request, recipes):
    return RunPlan(request=request, recipes=recipes, judgings=({},) * len(recipes), environment={"device": "cpu"})


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_sweeps_fit_the_configuration_and_their_schema(configs, path):
    assert load_sweep(path, configs).axes.by_name()
    schema = yaml.safe_load((configs_root() / "schemas" / "sweep.schema.json").read_text())
    jsonschema.validate(yaml.safe_load(path.read_text()), schema)
    assert path.read_text().startswith("# yaml-language-server: $schema=../schemas/sweep.schema.json\n")


def test_full_sweep_has_each_value_with_each_of_the_others_and_the_seeds_vary_fastest():
    variants = swept({"steps": [2, 3], "loras": {TOWN: [0.0, 0.5]}, "seeds": [5, 9]})

    assert [tuple(v.settings.values()) for v in variants] == [(2, 0.0), (2, 0.5), (3, 0.0), (3, 0.5)]
    assert {v.seeds for v in variants} == {(5, 9)}
    assert [v.picture.steps for v in variants] == [2, 2, 3, 3]
    assert [v.picture.additional_loras for v in variants][:2] == [
        (LoraUse(name=TOWN, weight=weight),) for weight in (0.0, 0.5)
    ]


def test_paired_sweep_takes_the_first_values_together_then_the_second():
    variants = swept({"scene": ["at home", "at sea"], "guidance_scale": [1.0, 5.0], "seeds": [3, 4]}, mode="paired")

    drawn = [(v.picture.scene_description, v.picture.guidance_scale, v.seeds) for v in variants]
    assert drawn == [("at home", 1.0, (3,)), ("at sea", 5.0, (4,))]


def test_paired_sweep_without_seeds_draws_all_from_the_one_of_the_base():
    assert [v.seeds for v in swept({"steps": [1, 2]}, mode="paired", seed=11)] == [(11,), (11,)]


@pytest.mark.parametrize("mode", ["full", "paired"])
def test_sweep_over_seeds_alone_is_a_batch(mode):
    (variant,) = swept({"seeds": [5, 6, 7]}, mode=mode)

    assert (dict(variant.settings), variant.seeds) == ({}, (5, 6, 7))
    batch = planned(replace(sweep_request(SWEEP_OF_A_STEP), swept=(), num_images=3, picture=variant.picture), ({},))
    sweep = planned(replace(batch.request, swept=(variant,)), ({},))
    assert sweep.jobs == batch.jobs


SWEEP_OF_A_STEP = SweepConfig.model_validate({"base": {"character": "luca"}, "axes": {"steps": [1]}})


def test_all_axes_reach_the_pictures():
    control = {"type": "pose", "image": "pose.png", "scale": 0.9}
    axes = {
        "character": ["alberto"], "scene": ["at sea"], "style": ["pixar"], "quality_preset": ["high"],
        "scheduler": ["euler"], "guidance_scale": [3.0], "guidance_start": [0.25],
        "guidance_stop": [0.75], "steps": [4], "size": [[64, 128]], "loras": {TOWN: [0.3]},
        "controls": {"pose": [0.2]}, "seeds": [1],
    }  # fmt: skip
    (variant,) = swept(axes, controls=[control], loras=[{"name": TOWN, "weight": 1.0, "start": 0.5}])
    picture = variant.picture

    assert (picture.character, picture.scene_description, picture.style) == ("alberto", "at sea", "pixar")
    assert (picture.quality_preset, picture.scheduler, picture.guidance_scale) == ("high", "euler", 3.0)
    assert (picture.guidance_start, picture.guidance_stop) == (0.25, 0.75)
    assert (picture.steps, picture.width, picture.height, picture.seed) == (4, 64, 128, 1)
    assert picture.additional_loras == (LoraUse(name=TOWN, weight=0.3, start=0.5),)
    assert [(use.type, use.image, use.scale) for use in picture.controls] == [("pose", Path("pose.png"), 0.2)]
    assert set(variant.settings) == {*axes, f"lora {TOWN}", "control pose"} - {"loras", "controls", "seeds"}


def test_every_problem_of_a_file_is_told_at_once(read):
    with pytest.raises(ConfigError) as error:
        read(
            "base: {character: lucca, quality_preset: drafft}\n"
            "axes:\n"
            "  loras: {portoroso_town: [0.5]}\n"
            "  controls: {pose: [0.5]}\n"
            "  steps: [2, 2]\n"
            "mode: paired\n"
        )
    told = str(error.value)

    for place, hint in {
        "base.character (line 1)": "'luca'",
        "base.quality_preset": "'draft'",
        "axes.loras.portoroso_town (line 3)": TOWN,
        "axes.controls.pose": "kind of control of the base",
        "axes.steps": "each value once",
        "axes (line 2)": "steps 2, lora portoroso_town 1",
    }.items():
        assert any(place in line and hint in line for line in told.splitlines()), (place, told)


@pytest.mark.parametrize(
    ("axes", "says"),
    [
        ("{}", "must have an axis"),
        ("{steps: []}", "must not be empty"),
        ("{steps: ['2']}", "must be a whole number"),
        ("{stepps: [2]}", "did you mean 'steps'"),
        ("{loras: {portorosso_town: [3.0]}}", "must be ≤ 2"),
        ("{seeds: [-1]}", "must be ≥ 0"),
    ],
)
def test_axes_that_are_none_are_refused(read, axes, says):
    with pytest.raises(ConfigError, match=says):
        read(f"base: {{character: luca}}\naxes: {axes}\n")


def test_a_sweep_of_more_pictures_than_a_run_can_have_is_refused():
    axes = {"guidance_scale": [float(n) for n in range(30)], "steps": list(range(1, 101)), "seeds": [1, 2, 3, 4]}
    with pytest.raises(InvalidValueError, match="number of pictures must be at most 10000"):
        swept(axes)


def test_settings_that_come_to_the_same_picture_are_jobs_of_their_own():
    request = sweep_request(SweepConfig.model_validate({"base": {"character": "luca"}, "axes": {"steps": [1, 2, 3]}}))
    jobs = planned(request, ({"steps": 2}, {"steps": 2}, {"steps": 3})).jobs

    assert len({job.id for job in jobs}) == 3
    assert [(job.index, job.variant, job.seed) for job in jobs] == [(0, 0, 0), (1, 1, 0), (2, 2, 0)]


def test_changed_settings_of_a_sweep_are_named():
    request = sweep_request(SWEEP_OF_A_STEP)
    was, now = (planned(request, ({"steps": steps, "prompt": "luca"},)) for steps in (1, 2))

    assert was.changes(now) == ("swept.0.steps was 1, is 2",)
    assert was.changes(was) == ()


def test_each_lora_alone_and_all_together_at_each_weight_from_each_seed(configs, profile):
    variants = points(configs, profile, weights=(0.5, 0), seeds=(1, 2))
    groups = (TOWN, LIGHT, f"{TOWN} + {LIGHT}")

    assert [tuple(v.settings.values()) for v in variants] == [
        (group, weight) for group in groups for weight in (0.5, 0)
    ]
    assert {v.seeds for v in variants} == {(1, 2)}


def test_weight_zero_is_drawn_even_if_it_is_not_asked_for(configs, profile):
    weights = [v.settings["weight"] for v in points(configs, profile, loras=[TOWN], weights=[1, 1])]

    assert weights == [0, 1]


def test_order_and_repetition_of_the_names_make_no_difference(configs, profile):
    assert points(configs, profile, (LIGHT, TOWN, LIGHT)) == points(configs, profile, (TOWN, LIGHT))


def test_lora_is_added_to_the_characters_own(configs, profile):
    without, with_it = points(configs, profile, loras=[TOWN])

    assert applied(configs, profile, with_it.picture) == {"luca": 1.0, TOWN: 0.5}
    assert applied(configs, profile, without.picture) == {"luca": 1.0}


def test_characters_own_lora_is_swept_from_zero(configs, profile):
    without, with_it = points(configs, profile, loras=["luca"])

    assert applied(configs, profile, with_it.picture) == {"luca": 0.5}
    assert applied(configs, profile, without.picture) == {}


def test_other_loras_of_the_request_stay(configs, profile):
    both = GenerationRequest(character="luca", additional_loras=(LoraUse(name=LIGHT, weight=0.3),))
    picture = points(configs, profile, loras=[TOWN], picture=both)[1].picture

    assert applied(configs, profile, picture) == {"luca": 1.0, LIGHT: 0.3, TOWN: 0.5}


@pytest.mark.parametrize("name", ["portoroso_town", "portorosso_evening"])
def test_what_is_no_single_lora_is_refused(configs, profile, name):
    with pytest.raises(UnknownNameError):
        points(configs, profile, loras=[name])


@pytest.mark.parametrize("nothing", [{"loras": ()}, {"seeds": ()}])
def test_a_sweep_of_nothing_is_refused(configs, profile, nothing):
    with pytest.raises(InvalidValueError, match="at least one"):
        points(configs, profile, **nothing)


def grey(folder, name, level, size=(8, 8)):
    Image.fromarray(np.full((*size, 3), level, dtype=np.uint8)).save(folder / name)
    return name


def test_change_is_a_mean_over_all_channels_and_does_not_wrap_around(tmp_path):
    files = [grey(tmp_path, "0.png", 0), grey(tmp_path, "1.png", 255), grey(tmp_path, "2.png", (30, 0, 0)), None]
    table = pd.DataFrame({"weight": [0.0, 0.5, 1.0, 2.0], "seed": 7, "file": files})

    *changes, missing = picture_changes(tmp_path, table, "weight", 0.0, alike=["seed"])
    assert changes == [0, 255, 10]
    assert np.isnan(missing)


def test_change_from_a_picture_that_is_not_there_is_refused(tmp_path):
    table = pd.DataFrame({"weight": [0.0, 1.0], "seed": [1, 2], "file": grey(tmp_path, "0.png", 0)})
    with pytest.raises(InvalidValueError, match=r"weight must be .*'seed': 2"):
        picture_changes(tmp_path, table, "weight", 0.0, alike=["seed"])


def table_of(folder, settings, **columns):
    rows = pd.DataFrame(settings)
    rows["file"] = [grey(folder, f"{place}.png", 10 * place, (64, 64)) for place in range(len(rows))]
    given = {"status": "accepted", "similarity": 0.5, "reason": "", "width": 64, "height": 64}
    return rows.assign(**given | columns)


def test_sheet_has_the_last_axis_from_left_to_right_and_the_others_from_top_to_bottom(tmp_path):
    table = table_of(tmp_path, [{"steps": s, "seed": n} for s in (2, 4, 8) for n in (1, 2)])
    figure = sweep_sheet(tmp_path, table, ["steps", "seed"], title="luca")

    assert [axis.get_title(loc="center") for axis in figure.axes[:2]] == ["seed 1", "seed 2"]
    assert [axis.get_ylabel() for axis in figure.axes[::2]] == ["steps 2", "steps 4", "steps 8"]
    assert {axis.get_xlabel() for axis in figure.axes} == {"0.50"}


def test_sheet_of_pairs_writes_the_settings_under_each_picture(tmp_path):
    table = table_of(tmp_path, [{"steps": s, "seed": n} for s, n in ((2, 1), (4, 2), (8, 3))])
    figure = sweep_sheet(tmp_path, table, ["steps", "seed"], title="luca")

    captions = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert captions[0] == "steps 2\nseed 1\n0.50"
    assert len(captions) == 3


def test_sheet_says_why_a_picture_is_missing(tmp_path):
    failed = table_of(tmp_path, [{"seed": 1}, {"seed": 2}], status="failed", similarity=np.nan, reason="out of memory")
    failed["file"] = None
    figure = sweep_sheet(tmp_path, failed, ["seed"])
    assert {axis.get_xlabel() for axis in figure.axes} == {"out of memory"}


def test_sheet_of_many_pictures_says_that_it_shows_the_first_ones_only(tmp_path, monkeypatch):
    monkeypatch.setattr(sheet, "MAX_PICTURES", 5)
    many = table_of(tmp_path, [{"steps": s, "seed": n} for s in range(4) for n in range(2)])
    assert sweep_sheet(tmp_path, many, ["steps", "seed"], title="luca").get_suptitle() == "luca, the first 4 of 8"
    assert sweep_sheet(tmp_path, many[:7], ["steps", "seed"], title="").get_suptitle() == ", the first 5 of 7"
