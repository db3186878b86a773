"""The benchmark measures what it says: stages that sum up, arithmetic that is counted, stock diffusers beside us."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from imagelab import CharacterGenerator, InvalidValueError, ProfileError, UnknownNameError
from imagelab.benchmark import Case, plan_cases, read_report, run_benchmark
from imagelab.benchmark.figures import latency_figure, memory_figure, stage_figure
from imagelab.benchmark.limits import count_flop, matmul_flop_per_second
from imagelab.benchmark.report import Sample, median, report_case
from imagelab.benchmark.resident import peak_resident_gib, reset_peak_resident
from imagelab.benchmark.stock import draw_stock
from imagelab.plan import plan_generation
from imagelab.random_sdxl import SMALL, write_random_sdxl
from imagelab.results import GenerationRequest

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def report(configs):
    cases = plan_cases(configs, configs.profile("puppet"), presets=["draft"], variants=["base", "both"])
    return run_benchmark(cases, profile="puppet", device="cpu", runs=2, configs=configs, progress=False)


def test_every_variant_and_stock_diffusers_are_measured(report):
    names = [case.case.name for case in report.cases]
    assert names == [
        "draft base batch 1",
        "draft base batch 1 diffusers",
        "draft base batch 1 diffusers_fp32_vae",
        "draft both batch 1",
    ]
    assert [sample.round for sample in report.samples] == [0] * 4 + [1] * 4
    assert [sample.case for sample in report.samples] == [*names, *reversed(names)]


def test_the_stages_of_a_picture_sum_up_to_it(report):
    for sample in report.samples:
        stages = [sample.seconds[stage] for stage in ("loras", "text", "denoise", "vae")]
        assert sum(stages) == pytest.approx(sample.seconds["picture"])
        assert all(seconds >= 0 for name, seconds in sample.seconds.items() if name != "text")


def test_a_picture_cannot_be_drawn_in_less_time_than_its_arithmetic_takes(report):
    base, _, _, both = report.cases
    assert both.flop_per_picture > 1.2 * base.flop_per_picture  # a ControlNet is half a UNet
    for case in report.cases:
        assert 0 < case.fraction_of_limit < 1.2  # the rate itself is measured while neighbours work
    assert both.ratio_to_base.value > 1
    assert base.ratio_to_base is None


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
        own = [sample(case, 0, 1.0, gib)]
        verdicts[gib] = report_case(case, own, own, flop=1, rate=1.0, profile=profile).memory_verdict

    assert verdicts == {0.0: "no GPU", 15.0: "met", 15.9: "missed"}


def test_a_report_is_read_as_it_was_written(report, tmp_path):
    assert read_report(report.write(tmp_path / report.file_name)) == report
    assert report.file_name.startswith("puppet-cpu-2")
    text = report.to_text()
    assert "draft both batch 1" in text
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
        [sample(lora, number, 1.5 * seconds) for number, seconds in enumerate(slow)],
        [sample(base, number, seconds) for number, seconds in enumerate(slow)],
        flop=10,
        rate=10.0,
        profile=configs.profile("sdxl"),
    )
    ratio = report.ratio_to_base
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((1.5, 1.5, 1.5))
    assert report.seconds["picture"].value == median([1.5 * seconds for seconds in slow]).value == 1.5 * 6
    assert report.fraction_of_limit == pytest.approx(1 / 9)


@pytest.mark.parametrize(
    ("seconds", "gib", "verdict"), [(10.0, 10.0, "met"), (16.0, 10.0, "missed"), (10.0, 11.5, "missed")]
)
def test_a_target_is_met_by_time_and_memory_both(configs, seconds, gib, verdict):
    case = Case(quality_preset="standard")
    own = [sample(case, number, seconds, gib) for number in range(3)]
    report = report_case(case, own, own, flop=1, rate=1.0, profile=configs.profile("sdxl"))
    assert report.verdict == verdict
    other = dataclasses.replace(case, batch_size=4)
    own = [sample(other, 0, seconds, gib)]
    assert report_case(other, own, own, flop=1, rate=1.0, profile=configs.profile("sdxl")).verdict == "no target"


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"presets": ["hihg"]}, UnknownNameError, "high"),
        ({"variants": ["loras"]}, UnknownNameError, "lora"),
        ({"batch_sizes": [0]}, InvalidValueError, "batch_sizes"),
        ({"lora_count": 16}, ProfileError, "of the 16 LoRAs"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_drawn(configs, given, error, words):
    with pytest.raises(error, match=words):
        plan_cases(configs, configs.profile("puppet"), **given)


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
