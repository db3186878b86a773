"""The benchmark measures what it says: stages that sum up, arithmetic that is counted, stock diffusers beside us."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from memory_policies import with_memory
from PIL import Image
from scipy.stats import binomtest

from imagelab import CharacterGenerator, GenerationError, InvalidValueError, ProfileError, UnknownNameError
from imagelab.benchmark import Case, plan_cases, plan_lora_changes, read_report, run_benchmark
from imagelab.benchmark.figures import latency_figure, memory_figure, stage_figure
from imagelab.benchmark.limits import count_flop, matmul_flop_per_second
from imagelab.benchmark.measure import Bench, _Clock
from imagelab.benchmark.report import Sample, report_case, said, sum_up
from imagelab.benchmark.resident import peak_resident_gib, reset_peak_resident
from imagelab.benchmark.run import capped, control_image
from imagelab.benchmark.stock import draw_stock
from imagelab.calibration.intervals import geometric_mean
from imagelab.config import MemoryLimit
from imagelab.consistency import CharacterConsistencyChecker
from imagelab.plan import plan_generation
from imagelab.random_sdxl import SMALL, write_random_sdxl
from imagelab.reporting import Gathered, to_markdown
from imagelab.results import GenerationRequest

CPU = torch.device("cpu")
BASE = Case(quality_preset="draft")


@pytest.fixture
def bench(configs, generator, tmp_path):
    image = control_image(generator.profile)
    with CharacterConsistencyChecker("auto", "puppet", configs) as checker:
        yield Bench(generator=generator, checker=checker, control_image=image, folder=tmp_path)


def page_of(report):
    return to_markdown(Gathered(benchmarks={"one.json": report}, measurements={}, unmeasured=(), runs=()))


@pytest.fixture(scope="module")
def report(configs):
    own = with_memory(configs, limit_gib=MemoryLimit(cpu=8))
    cases = plan_cases(own, own.profile("puppet"), presets=["draft"], variants=["base", "both"])
    return run_benchmark(cases, profile="puppet", device="cpu", runs=2, configs=own, progress=False)


def test_every_variant_and_stock_diffusers_are_measured(report):
    names = [case.case.name for case in report.cases]
    assert names == [
        "draft base batch 1",
        "draft base batch 1 diffusers",
        "draft base batch 1 diffusers_again",
        "draft base batch 1 diffusers_fp32_vae",
        "draft both batch 1",
    ]
    assert [sample.round for sample in report.samples] == [0] * 5 + [1] * 5
    assert [sample.case for sample in report.samples] == [*names, *reversed(names)]


def test_the_stages_of_a_picture_sum_up_to_it(report):
    for sample in report.samples:
        stages = [sample.seconds[stage] for stage in ("text", "denoise", "vae")]
        assert sum(stages) == pytest.approx(sample.seconds["picture"])
        assert all(seconds >= 0 for name, seconds in sample.seconds.items() if name != "text")


def test_a_picture_cannot_be_drawn_in_less_time_than_its_arithmetic_takes(report):
    base, *_, both = report.cases
    assert both.flop_per_picture > 1.2 * base.flop_per_picture  # a ControlNet is half a UNet
    for case in report.cases:
        assert 0 < case.fraction_of_limit < 1.2  # the rate itself is measured while neighbours work
    assert both.ratio_to_base.value > 1
    assert base.ratio_to_base is None


def test_stock_diffusers_draws_the_same_latents_whichever_loras_were_in_the_weights_before(configs):
    stock = [dataclasses.replace(BASE, engine=name) for name in ("diffusers", "diffusers_again", "diffusers_fp32_vae")]
    lora = dataclasses.replace(BASE, variant="lora", loras=("luca",))
    cases = [lora, *stock, BASE]
    report = run_benchmark(cases, profile="puppet", device="cpu", runs=1, configs=configs, progress=False)

    assert [one.latents_to_stock for one in report.cases] == [None, None, 0.0, 0.0, 0.0]


def test_a_case_has_its_loras_in_the_weights_before_its_clock_starts(configs, generator, bench):
    lora = dataclasses.replace(BASE, variant="lora", loras=("luca", "beach"))
    changes = plan_lora_changes(configs, generator.profile, [lora])
    changed = [bench.change_loras(change, 0).seconds for change in changes]
    waited = {}
    for case in (BASE, lora, BASE):
        bench.make_ready(case, 1)
        waited[case] = generator.generate(case.request(bench.control_image)).record.seconds["loras"]

    assert len(changed) == 3
    assert max(waited.values()) < min(changed) / 5


def test_controlnets_make_room_for_stock_diffusers_where_memory_is_short(configs, generator, bench):
    (case,) = plan_cases(configs, generator.profile, presets=["draft"], variants=["controlnet"], stock=False)
    kept = {}
    for short in (False, True):
        own = dataclasses.replace(bench, capped=short)
        own.make_ready(case, 1)
        own.make_ready(BASE, 1)
        before = generator._models.nets.folders
        own.measure(dataclasses.replace(BASE, engine="diffusers"), 0)
        kept[short] = before, generator._models.nets.folders

    assert len(kept[False][0]) == 1
    assert kept == {False: (kept[False][0],) * 2, True: (kept[False][0], ())}


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")  # of the picture of them
def test_stock_diffusers_latents_that_are_no_numbers_are_no_measurement(generator, bench):
    bias = generator.pipeline.unet.conv_out.bias.data
    before = bias.clone()
    bias.fill_(float("nan"))
    try:
        with pytest.raises(GenerationError, match="last latents of draft base batch 1 diffusers"):
            bench.measure(dataclasses.replace(BASE, engine="diffusers"), 0)
    finally:
        bias.copy_(before)


def test_stock_diffusers_is_drawn_as_configured_whatever_the_picture_before_it_gave_up(generator, bench):
    models = generator._ready()
    models._apply(models.memory.model_copy(update={"vae_tiling": True}), ("for a larger picture",))
    bench.make_ready(Case(quality_preset="draft", engine="diffusers"), 0)
    assert (models.memory, models.given_up) == (generator.profile.memory, ())
    assert not generator.pipeline.vae.use_tiling


def test_parts_that_ran_out_of_memory_after_their_steps_are_not_counted():
    clock = _Clock(device=torch.device("cpu"), steps=2)
    for mark, pictures in enumerate((8, 4, 2, 2, 4, 2, 2)):  # of 8, then of 4, twice, there was too little memory
        for step in (1, 2):
            clock(step, 2, torch.full((pictures, 4, 1, 1), float(mark)))
    kept = clock.kept((2, 2, 2, 2))
    assert [latents[0, 0, 0, 0].item() for _, latents in kept] == [2, 3, 5, 6]


def test_changes_of_loras_are_measured_by_themselves(report):
    changes = [one.change for one in report.lora_changes]
    names = ["LoRAs: none to 1", "LoRAs: 1 to 1 other", "LoRAs: 1 to none"]

    assert [change.name for change in changes] == names
    assert [(change.before, change.after) for change in changes] == [
        ((), ("luca",)),
        (("luca",), ("alberto",)),
        (("luca",), ()),
    ]
    assert [(sample.change, sample.round) for sample in report.lora_samples] == [
        (name, number) for number in (0, 1) for name in names
    ]
    assert [one.samples for one in report.lora_changes] == [2, 2, 2]
    own = [sample.seconds for sample in report.lora_samples if sample.change == names[0]]
    assert report.lora_changes[0].seconds == geometric_mean(own)
    assert all(name in report.to_text() and name in page_of(report) for name in names)


def test_changes_are_planned_for_each_number_of_loras_and_where_there_are_no_others_there_is_none(configs):
    there = [name for name, lora in configs.lora_registry.loras.items() if "puppet" in lora.files]
    cases = [dataclasses.replace(BASE, loras=loras) for loras in ((), tuple(there[:3]), tuple(there))]
    changes = plan_lora_changes(configs, configs.profile("puppet"), cases)

    assert [change.name for change in changes] == [
        "LoRAs: none to 3",
        "LoRAs: 3 to 3 others",
        "LoRAs: 3 to none",
        f"LoRAs: none to {len(there)}",
        f"LoRAs: {len(there)} to none",
    ]
    assert not set(changes[1].before) & set(changes[1].after)


def test_what_has_too_little_memory_is_a_result_and_the_others_are_measured(configs, tmp_path):
    """The limit is below the models' own weights, to which only imagelab holds itself."""
    own = with_memory(configs, limit_gib=MemoryLimit(cpu=0.001))
    stock = dataclasses.replace(BASE, engine="diffusers")
    report = run_benchmark([BASE, stock], profile="puppet", device="cpu", runs=2, configs=own, progress=False)

    assert [(one.case, one.samples) for one in report.cases] == [(stock, 2)]
    (refused,) = report.out_of_memory
    assert (refused.of, refused.round) == (BASE.name, None)
    assert "0.001 are allowed" in refused.reason
    assert f"| {BASE.name} | 0 | out of memory |" in page_of(report)
    assert report.to_frame().set_index("case")["verdict"][BASE.name] == "out of memory"
    assert refused.reason in report.to_text()
    assert read_report(report.write(tmp_path / "one.json")) == report
    only = run_benchmark([BASE], profile="puppet", device="cpu", runs=1, configs=own, progress=False)
    assert read_report(only.write(tmp_path / "none.json")) == only
    for figure in (latency_figure(only), stage_figure(only), memory_figure(only.cases)):
        assert "no case that the memory was enough for" in [text.get_text() for text in figure.axes[0].texts]


def test_memory_that_runs_out_while_stock_diffusers_draws_ends_neither_the_benchmark_nor_the_next_case():
    command = [sys.executable, Path(__file__).with_name("little_memory_for_stock.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.stdout.splitlines()[-3:] == [
        "draft base batch 64 diffusers: out of memory",
        "draft base batch 1: 1 samples",
        "draft base batch 1 diffusers: 1 samples",
    ], done.stderr


@pytest.mark.filterwarnings("ignore::imagelab.errors.DegradedWarning")
def test_what_is_drawn_in_parts_for_its_memory_says_so(configs):
    """The limit has room for two pictures at once, not for four."""
    batch, pair = (dataclasses.replace(BASE, batch_size=size) for size in (4, 2))
    loose = with_memory(configs, limit_gib=MemoryLimit(cpu=8))
    (free,) = run_benchmark([pair], profile="puppet", device="cpu", runs=1, configs=loose, progress=False).samples
    tight = with_memory(configs, limit_gib=MemoryLimit(cpu=free.predicted_gib * 1.0001))
    report = run_benchmark([batch, BASE], profile="puppet", device="cpu", runs=1, configs=tight, progress=False)
    of_batch, of_base = report.samples

    assert of_batch.degraded == ("more memory predicted than limit_gib allows: not 4 pictures at once",)
    assert of_base.degraded == ()
    stages = [of_batch.seconds[stage] for stage in ("text", "denoise", "vae")]
    assert sum(stages) == pytest.approx(4 * of_batch.seconds["picture"])
    assert all(seconds > 0 for seconds in stages)
    assert of_batch.degraded[0] in report.to_text()
    assert of_batch.degraded[0] in page_of(report)


@pytest.mark.parametrize(("profile", "cap", "limit"), [("sdxl", 10, 10), ("sdxl", 20, 15), ("puppet", 4, 4)])
def test_cap_bounds_what_is_predicted_too(configs, profile, cap, limit):
    assert capped(configs, profile, cap).profile(profile).memory.limit_gib.cuda == limit
    assert capped(configs, profile, None) is configs


def test_memory_that_was_predicted_stands_beside_what_was_measured(report):
    base, stock, *_, both = report.cases
    assert 0 < base.predicted_gib < both.predicted_gib  # a ControlNet more
    assert stock.predicted_gib == 0  # nobody predicts what diffusers takes
    frame = report.to_frame().set_index("case")
    assert frame["predicted"]["draft both batch 1"] == round(both.predicted_gib, 2)
    assert f"| {base.predicted_gib:.2f} |" in page_of(report)


def test_figures_show_every_case_and_each_round(report):
    latency, stages, memory = latency_figure(report), stage_figure(report), memory_figure(report.cases)
    names = [case.case.name for case in report.cases]

    for figure in (latency, stages, memory):
        assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == names
    marks = [line for line in latency.axes[0].lines if line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in marks] == [2] * len(names)
    widths = [bar.get_width() for bar in memory.axes[0].patches]
    assert widths == [case.peak_resident_gib for case in report.cases]  # on a CPU: the process
    ends = {
        round(bar.get_y(), 3): bar.get_x() + bar.get_width() for bar in stages.axes[0].patches
    }  # the last stage of each
    sums = [sum(value.value for name, value in case.seconds.items() if name != "picture") for case in report.cases]
    assert list(ends.values()) == pytest.approx(sums)


def test_the_peak_of_the_process_is_measured_anew_each_time():
    reset_peak_resident()
    before = peak_resident_gib()
    block = np.ones(2**27, np.uint8)
    filled = peak_resident_gib()
    del block
    reset_peak_resident()

    assert filled - before == pytest.approx(1 / 8, rel=0.2)
    assert peak_resident_gib() < filled


def test_memory_is_held_to_its_own_target(configs):
    profile, case = configs.profile("sdxl"), Case(quality_preset="standard", batch_size=4)
    verdicts = {}
    for gib in (0.0, 15.0, 15.9):
        own = {case.name: [sample(case, 0, 1.0, gib)]}
        verdicts[gib] = report_case(case, own, flop=1, rate=1.0, profile=profile).memory_verdict

    assert verdicts == {0.0: "no GPU", 15.0: "met", 15.9: "missed"}


def test_a_report_is_read_as_it_was_written(report, tmp_path):
    assert read_report(report.write(tmp_path / report.file_name)) == report
    assert report.file_name.startswith("puppet-cpu-2")
    text = report.to_text()
    assert "draft both batch 1" in text
    assert "rate of matrix products measured on that machine" in text
    assert "promised for" in text


def test_what_is_no_report_is_refused_with_its_name(tmp_path):
    (tmp_path / "a.json").write_text('{"profile": 1}')
    for name in ("a.json", "none.json"):
        with pytest.raises(InvalidValueError, match=name):
            read_report(tmp_path / name)


def test_stock_diffusers_draws_the_same_picture_on_the_same_models(configs, generator):
    request = GenerationRequest(character=None, scene_description="on the beach", quality_preset="draft", seed=5)
    ours = generator.generate(request)
    plan = plan_generation(configs, generator.profile, request)
    (stock,) = draw_stock(generator.load(), plan, [5], fp32_vae=False)
    assert np.array_equal(np.asarray(stock), np.asarray(ours.image))
    vae = generator.pipeline.vae
    assert (vae.use_tiling, vae.config.force_upcast) == (generator.profile.memory.vae_tiling, True)


@pytest.mark.parametrize("name", ["puppet", "sdxl", "random-sdxl"])
def test_profiles_draw_what_stock_diffusers_draws_one_picture_or_several(configs, name):
    """Not one bit differs, but for the last ones of several pictures where a profile decodes them one by one."""
    request = GenerationRequest(
        character=None, scene_description="on the beach", quality_preset="draft", steps=3, seed=5, width=160, height=128
    )
    memory = configs.profile(name).memory.model_dump(exclude={"limit_gib"})
    with CharacterGenerator("puppet", "cpu", with_memory(configs, **memory)) as own:
        plan = plan_generation(configs, own.profile, request)
        for seeds in ([5], [5, 6, 7]):
            ours = own.generate_together(request, seeds)
            stock = draw_stock(own.load(), plan, seeds, fp32_vae=False)
            assert [each.record.vae_tile_px for each in ours] == [None] * len(seeds)
            one_by_one = len(seeds) > 1 and own.profile.memory.vae_slicing
            for mine, theirs in zip(ours, stock, strict=True):
                difference = np.asarray(mine.image, np.int16) - np.asarray(theirs, np.int16)
                assert np.abs(difference).max() <= one_by_one


def test_arithmetic_is_counted_attention_included():
    one, other = torch.randn(8, 16), torch.randn(16, 32)
    assert count_flop(lambda: one @ other, CPU) == 2 * 8 * 16 * 32
    q = torch.randn(1, 2, 10, 4)
    attention = count_flop(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q), CPU)
    assert attention == 2 * (2 * 2 * 10 * 10 * 4)  # two heads, two products, two operations each
    assert matmul_flop_per_second(CPU, torch.float32) > 1e8


def sample(case, number, seconds, gib=0.0):
    return Sample(
        case=case.name,
        round=number,
        seconds={"picture": seconds},
        iterations_per_second=1.0,
        peak_allocated_gib=gib,
        peak_reserved_gib=gib,
    )


def test_ratios_are_of_pairs_so_that_drift_cancels(configs):
    """Every round is twice as slow as the one before; the ratio within a round is 1.5 all the same."""
    base, lora = Case(quality_preset="standard"), Case(quality_preset="standard", variant="lora")
    slow = [2.0**number for number in range(6)]
    report = report_case(
        lora,
        {
            lora.name: [sample(lora, number, 1.5 * seconds) for number, seconds in enumerate(slow)],
            base.name: [sample(base, number, seconds) for number, seconds in enumerate(slow)],
        },
        flop=10,
        rate=10.0,
        profile=configs.profile("sdxl"),
    )
    ratio = report.ratio_to_base
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((1.5, 1.5, 1.5))
    assert report.seconds["picture"].value == pytest.approx(1.5 * 2**2.5)  # midway, as the ratios are
    assert report.fraction_of_limit == pytest.approx(1 / (1.5 * 2**2.5))


def test_bare_pictures_are_held_against_stock_diffusers_and_that_against_itself_once_more(configs):
    stock, again = (dataclasses.replace(BASE, engine=name) for name in ("diffusers", "diffusers_again"))
    times = {BASE: 0.5, stock: 1.0, again: 1.1}
    samples = {
        case.name: [sample(case, number, seconds * 2**number) for number in range(4)] for case, seconds in times.items()
    }
    found = [report_case(case, samples, flop=1, rate=1.0, profile=configs.profile("sdxl")) for case in times]

    assert [one.ratio_to_stock and one.ratio_to_stock.value for one in found] == [0.5, None, pytest.approx(1.1)]
    assert [one.ratio_to_base for one in found] == [None] * 3


def test_percentiles_are_told_as_far_as_rounds_allow(configs):
    told = {}
    for rounds in (2, 9, 10, 100):
        own = {BASE.name: [sample(BASE, number, 1.0 + number) for number in range(rounds)]}
        told[rounds] = report_case(BASE, own, flop=1, rate=1.0, profile=configs.profile("sdxl")).percentiles

    assert told == {
        2: {},
        9: {"p50": 5.0},
        10: {"p50": 5.5, "p90": pytest.approx(9.1)},
        100: {"p50": 50.5, "p90": pytest.approx(90.1), "p99": pytest.approx(99.01)},
    }


def test_first_picture_has_what_it_waited_for_in_its_seconds(report):
    base, *_ = report.cases

    assert report.load_seconds > 0
    assert all(one.first_seconds > 0 for one in report.cases)
    assert base.first_seconds > min(s.seconds["picture"] for s in report.samples if s.case == base.case.name)


def test_machine_and_code_are_named(report):
    there = {"device", "processor", "cores", "threads", "unet", "imagelab", "torch"}

    assert there <= report.machine.keys()
    assert report.machine["unet"].endswith("million weights, float32")
    assert ("commit" in report.machine) == (Path(__file__).parents[2] / ".git").exists()


@pytest.mark.parametrize("rounds", [2, 3, 5])
def test_intervals_of_few_rounds_hold_the_truth_as_often_as_promised(rounds):
    rng = np.random.default_rng(rounds)
    found = [geometric_mean(np.exp(rng.normal(0, 0.05, rounds))) for _ in range(600)]
    held = sum(one.low <= 1 <= one.high for one in found)

    assert binomtest(held, len(found), 0.95).pvalue > 0.001


def test_ratio_is_of_the_rounds_that_both_have(configs):
    base, lora = Case(quality_preset="standard"), Case(quality_preset="standard", variant="lora")
    samples = {
        lora.name: [sample(lora, number, 3.0) for number in (0, 1)],
        base.name: [sample(base, number, number) for number in (1, 2)],
    }
    report = report_case(lora, samples, flop=1, rate=1.0, profile=configs.profile("sdxl"))

    assert report.ratio_to_base.value == pytest.approx(3)


@pytest.mark.parametrize(
    ("seconds", "gib", "verdict"),
    [
        ([10.0], 10.0, "too few rounds"),
        ([10.0, 10.1], 10.0, "too few rounds"),
        ([10.0], 11.5, "missed"),
        ([10.0, 10.1, 10.2], 10.0, "met"),
        ([13.0, 14.0, 16.0], 10.0, "undecided"),
        ([18.0, 18.1, 18.2], 10.0, "missed"),
    ],
)
def test_few_rounds_decide_nothing_and_an_interval_across_the_target_neither(configs, seconds, gib, verdict):
    case = Case(quality_preset="standard")
    own = {case.name: [sample(case, number, one, gib) for number, one in enumerate(seconds)]}

    assert report_case(case, own, flop=1, rate=1.0, profile=configs.profile("sdxl")).verdict == verdict


def test_single_round_is_told_without_an_interval(report):
    alone = dataclasses.replace(
        report,
        samples=tuple(one for one in report.samples if one.round == 0),
        lora_samples=tuple(one for one in report.lora_samples if one.round == 0),
    )
    (base, *_, both) = sum_up(alone).cases

    assert both.seconds["picture"].low == both.seconds["picture"].high
    assert said(both.ratio_to_base, both.samples) == f"{both.ratio_to_base.value:.3g}"
    assert "[" not in sum_up(alone).to_text()
    assert (base.samples, said(base.ratio_to_base, 1)) == (1, "")
    legends = [latency_figure(one).legends[0].get_texts()[0].get_text() for one in (report, sum_up(alone))]
    assert legends == ["geometric mean and 95 % interval", "one round, no interval"]


def test_cases_come_to_what_their_samples_say_whatever_the_file_says(report, tmp_path):
    wrong = dataclasses.replace(report.cases[0], samples=9, fraction_of_limit=0.5, seconds={})
    older = dataclasses.replace(report, cases=(wrong, *report.cases[1:]))

    assert read_report(older.write(tmp_path / "older.json")) == report


@pytest.mark.parametrize(
    ("seconds", "gib", "verdict"), [(10.0, 10.0, "met"), (16.0, 10.0, "missed"), (10.0, 11.5, "missed")]
)
def test_a_target_is_met_by_time_and_memory_both(configs, seconds, gib, verdict):
    case = Case(quality_preset="standard")
    own = {case.name: [sample(case, number, seconds, gib) for number in range(3)]}
    report = report_case(case, own, flop=1, rate=1.0, profile=configs.profile("sdxl"))
    assert report.verdict == verdict
    other = dataclasses.replace(case, batch_size=4)
    own = {other.name: [sample(other, 0, seconds, gib)]}
    assert report_case(other, own, flop=1, rate=1.0, profile=configs.profile("sdxl")).verdict == "no target"


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"presets": ["hihg"]}, UnknownNameError, "high"),
        ({"variants": ["loras"]}, UnknownNameError, "lora"),
        ({"batch_sizes": [0]}, InvalidValueError, "batch_sizes"),
        ({"variants": []}, InvalidValueError, r"variants must be at least one, got \[\]"),
        ({"batch_sizes": []}, InvalidValueError, r"batch_sizes must be at least one, got \[\]"),
        ({"presets": []}, InvalidValueError, r"presets must be at least one, got \[\]"),
        ({"lora_count": 16}, ProfileError, "of the 16 LoRAs"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_drawn(configs, given, error, words):
    with pytest.raises(error, match=words):
        plan_cases(configs, configs.profile("puppet"), **given)


def test_case_that_is_asked_for_twice_is_measured_once(configs):
    twice = {"presets": ["draft"] * 2, "variants": ["base"] * 2, "batch_sizes": [1, 1]}
    cases = plan_cases(configs, configs.profile("puppet"), **twice, stock=False)

    assert [case.name for case in cases] == ["draft base batch 1"]


def test_preset_of_one_step_is_refused_as_its_stages_cannot_be_told_apart(configs):
    puppet = configs.profile("puppet")
    one_step = puppet.preset("draft").model_copy(update={"steps": 1})
    puppet = puppet.model_copy(update={"quality_presets": {**puppet.quality_presets, "draft": one_step}})

    with pytest.raises(InvalidValueError, match="steps of quality preset draft must be a whole number between 2"):
        plan_cases(configs, puppet, presets=["draft"])


def test_no_runs_no_cases_and_a_cap_without_a_gpu_are_refused(configs):
    case = Case(quality_preset="draft")
    for cases, given in (([case], {"runs": 0}), ([], {}), ([case], {"vram_cap_gib": 8.0})):
        with pytest.raises(InvalidValueError):
            run_benchmark(cases, profile="puppet", device="cpu", configs=configs, **given)


def test_random_sdxl_draws_with_a_lora_and_a_control(tmp_path, configs, monkeypatch):
    monkeypatch.setenv("IMAGELAB_MODELS", str(tmp_path))
    folder = write_random_sdxl(shape=SMALL, device="cpu")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert write_random_sdxl(shape=SMALL, device="cpu") == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    (case,) = plan_cases(configs, configs.profile("random-sdxl"), variants=["both"])
    with CharacterGenerator("random-sdxl", "cpu", configs) as generator:
        lines = Image.effect_noise((512, 512), 80).convert("RGB")
        request = dataclasses.replace(case.request(lines), steps=2, width=512, height=512)
        drawn = generator.generate(request)
        plain = generator.generate(dataclasses.replace(request, controls=(), additional_loras=()))
    assert np.asarray(drawn.image).std() > 1
    assert not np.array_equal(np.asarray(drawn.image), np.asarray(plain.image))
    assert [lora.name for lora in drawn.record.loras] == list(case.loras)


def test_a_place_that_cannot_be_written_is_one_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidValueError, match="file"):
        write_random_sdxl(shape=SMALL, device="cpu", root=tmp_path / "file")
