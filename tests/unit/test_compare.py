"""Is B worse than A? Verdicts on planted truth, the false alarms that are promised, and what can't be compared."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from handmade_runs import handmade_plan, paint, run
from scipy.stats import binomtest

from imagelab import InvalidValueError, RunFolderError, UnknownNameError, cli
from imagelab.benchmark import BenchmarkReport, Case, CaseReport, LoraChange, Sample
from imagelab.benchmark.report import LoraSample, OutOfMemory, report_lora_changes
from imagelab.calibration import Estimate
from imagelab.compare import Comparison, compare_benchmarks, compare_runs, open_run
from imagelab.compare.changes import make_change
from imagelab.compare.figures import change_figure, distribution_figure, picture_figure
from imagelab.compare.shifts import Shift, log_shift, mean_shift, share_shift

SIMULATIONS = 300
CASES = tuple(Case(quality_preset="draft", variant=kind) for kind in ("base", "lora", "controlnet", "both"))
MACHINE = {"device": "cpu", "processor": "a", "threads": "1", "torch": "2"}


def benchmark(seconds, gib=0.0, **machine):
    """A report of cases that took so many seconds in each round: {case: seconds}."""
    samples = [
        Sample(
            case=case.name,
            round=number,
            seconds={"picture": float(one)},
            iterations_per_second=1.0,
            peak_allocated_gib=gib,
            peak_reserved_gib=gib,
        )
        for case, rounds in seconds.items()
        for number, one in enumerate(rounds)
    ]
    unit = Estimate(value=1.0, low=1.0, high=1.0)
    cases = [
        CaseReport(
            case=case,
            samples=len(rounds),
            seconds={},
            iterations_per_second=unit,
            flop_per_picture=1,
            fraction_of_limit=1.0,
            ratio_to_base=None,
            peak_allocated_gib=gib,
            peak_reserved_gib=gib,
        )
        for case, rounds in seconds.items()
    ]
    return BenchmarkReport(
        profile="puppet",
        measured_at="2026-01-01T00:00:00+00:00",
        machine=MACHINE | machine,
        flop_per_second=1.0,
        cases=tuple(cases),
        samples=tuple(samples),
        targets_for="one CPU core",
    )


def noisy(rng, rounds, kind="even", slower=1.0):
    """Seconds of a case: even noise of 5 %, or hiccups, as a neighbour makes them."""
    if kind == "even":
        return slower * np.exp(rng.normal(0, 0.05, rounds))
    return slower * np.exp(rng.normal(0, 0.02, rounds) + (rng.random(rounds) < 0.1) * rng.exponential(0.3, rounds))


@pytest.mark.parametrize(("rounds", "kind"), [(3, "even"), (5, "hiccups"), (10, "even")])
def test_equal_benchmarks_are_called_worse_no_oftener_than_promised(rounds, kind, record_property):
    """In 2.5 % of comparisons of four cases, without any allowance: the hardest there is."""
    rng = np.random.default_rng(11)
    alarms = 0
    for _ in range(SIMULATIONS):
        a, b = (benchmark({case: noisy(rng, rounds, kind) for case in CASES}) for _ in range(2))
        alarms += not compare_benchmarks(a, b, fail_over=0).passed

    record_property("counted", f"{alarms} of {SIMULATIONS} equal benchmarks of {rounds} rounds, {kind}, called worse")
    assert binomtest(alarms, SIMULATIONS, 0.025, alternative="greater").pvalue > 0.001


@pytest.mark.parametrize("paired", [True, False])
def test_equal_batches_are_called_worse_no_oftener_than_promised(paired, record_property):
    rng = np.random.default_rng(12)
    alarms = {"similarity": 0, "share": 0}
    for _ in range(SIMULATIONS):
        shared = rng.normal(0.7, 0.1, 12)
        a, b = (shared * paired + rng.normal(0.7 * (not paired), 0.05, 12) for _ in range(2))
        alarms["similarity"] += mean_shift(a, b, 0.95, paired=paired).found.high < 0
        alarms["share"] += share_shift(a > 0.7, b > 0.7, 0.95, paired=paired).found.high < 0

    record_property("counted", f"{alarms} of {SIMULATIONS} equal batches of 12 called worse, paired: {paired}")
    for count in alarms.values():
        assert binomtest(count, SIMULATIONS, 0.025, alternative="greater").pvalue > 0.001


def test_a_loss_of_the_size_that_is_said_to_show_is_found_four_times_in_five():
    rng = np.random.default_rng(13)
    sizes = [
        log_shift(noisy(rng, 8), noisy(rng, 8), 0.95).smallest(0.1, worse_if_more=True) for _ in range(SIMULATIONS)
    ]
    slower = 1 + float(np.median(sizes))
    found = sum(
        log_shift(noisy(rng, 8), noisy(rng, 8, slower=slower), 0.95).change.low > 0.1 for _ in range(SIMULATIONS)
    )

    assert 0.72 < found / SIMULATIONS < 0.88


def test_a_case_that_is_slower_by_far_fails_and_the_others_do_not():
    rng = np.random.default_rng(1)
    a = benchmark({case: noisy(rng, 5) for case in CASES})
    slower = {"lora": 1.5}
    b = benchmark({case: noisy(rng, 5, slower=slower.get(case.variant, 1)) for case in CASES}, torch="3")
    found = compare_benchmarks(a, b, fail_over=0.1)

    assert [one.of for one in found.worse] == ["draft lora batch 1"]
    assert found.worse[0].change.low < 0.5 < found.worse[0].change.high
    assert found.differs == ("torch was '2', is '3'",)
    assert "worse by more than 10 %: draft lora batch 1, seconds a picture" in found.to_text()
    assert [one.verdict() for one in compare_benchmarks(b, a).changes][1] == "better"


def test_nothing_fails_without_a_limit_and_a_loss_within_it_passes():
    rng = np.random.default_rng(2)
    a, b = (benchmark({CASES[0]: noisy(rng, 20, slower=slower)}) for slower in (1, 1.2))

    assert compare_benchmarks(a, b).passed
    assert not compare_benchmarks(a, b, fail_over=0.05).passed
    within = compare_benchmarks(a, b, fail_over=0.4)
    assert within.passed
    assert within.changes[0].verdict(0.4) == "no worse"


def test_more_memory_fails_and_stock_diffusers_is_only_a_control():
    stock = replace(CASES[0], engine="diffusers")
    a = benchmark({CASES[0]: [1.0, 1.1, 1.0], stock: [1.0, 1.1, 1.0]}, gib=8.0)
    b = benchmark({CASES[0]: [1.0, 1.1, 1.0], stock: [9.0, 9.1, 9.0]}, gib=10.0)
    found = compare_benchmarks(a, b, fail_over=0.1)

    assert [(one.of, one.measure) for one in found.worse] == [("draft base batch 1", "peak GiB")]
    assert found.worse[0].change.value == pytest.approx(0.25)
    assert {one.gates for one in found.changes if "diffusers" in one.of} == {False}


def test_a_busy_machine_cancels_where_stock_diffusers_is_the_measure():
    """Everything takes twice as long in B; against diffusers nothing has changed."""
    rng = np.random.default_rng(4)
    stock = replace(CASES[0], engine="diffusers")
    quiet, busy = ({case: noisy(rng, 6, slower=slower) for case in (CASES[0], stock)} for slower in (1, 2))
    a, b = benchmark(quiet), benchmark(busy)

    assert not compare_runs(a, b, fail_over=0.2).passed
    assert compare_runs(a, b, fail_over=0.2, relative=True).passed
    slower = benchmark(busy | {CASES[0]: busy[CASES[0]] * 2})
    assert not compare_runs(a, slower, fail_over=0.2, relative=True).passed
    alone = benchmark({CASES[0]: [1, 2, 3]})
    with pytest.raises(InvalidValueError, match="stock diffusers beside each case"):
        compare_runs(alone, alone, relative=True)


@pytest.mark.parametrize(
    ("machine", "across", "named"),
    [({"device": "cuda (X)"}, "device", "device"), ({"threads": "8"}, "threads", "threads")],
)
def test_other_machines_are_compared_only_when_that_is_said(machine, across, named):
    a, b = (benchmark({CASES[0]: [1, 1.1, 1.2]}, **one) for one in ({}, machine))
    with pytest.raises(InvalidValueError, match=f"the {named} of B must be that of A.*--across {across}"):
        compare_benchmarks(a, b)

    assert compare_benchmarks(a, b, across=[across]).differs[0].startswith(f"{named} was")
    with pytest.raises(UnknownNameError, match="unknown condition 'devise'; did you mean 'device'"):
        compare_benchmarks(a, b, across=["devise"])


def test_too_few_rounds_and_no_common_case_are_refused():
    one = benchmark({CASES[0]: [1, 2]})
    with pytest.raises(
        InvalidValueError, match=r"rounds of draft base batch 1 must be 3 or more \(--num-runs\), got 2"
    ):
        compare_benchmarks(one, one)
    with pytest.raises(InvalidValueError, match="a case that A has"):
        compare_benchmarks(benchmark({CASES[1]: [1, 2, 3]}), one)


def worse_paint(job):
    """As `paint`, but every score a tenth lower."""
    item, made = paint(job)
    if item.similarity_score is not None:
        item = replace(item, similarity_score=item.similarity_score - 0.1)
    return item, made


def with_changes(report, seconds):
    """The report, with a change of LoRAs that took so many seconds in each round."""
    change = LoraChange(before=(), after=("luca",))
    samples = tuple(LoraSample(change=change.name, round=number, seconds=one) for number, one in enumerate(seconds))
    return replace(report, lora_changes=report_lora_changes([change], samples), lora_samples=samples)


def test_slower_changes_of_loras_are_worse_and_those_that_one_lacks_are_left_out(tmp_path):
    bare = benchmark({CASES[0]: [1.0, 1.01, 1.02]})
    seconds = noisy(np.random.default_rng(8), 8)
    a, b = with_changes(bare, seconds), with_changes(bare, 2 * seconds)
    found = compare_benchmarks(open_run(a.write(tmp_path / "a.json")), b, fail_over=0.1)

    assert [(one.of, one.measure) for one in found.worse] == [("LoRAs: none to 1", "seconds")]
    assert found.worse[0].change.value == pytest.approx(1)
    assert compare_benchmarks(a, a, fail_over=0.1).passed
    assert [one.of for one in compare_benchmarks(a, bare, fail_over=0.1).changes] == [CASES[0].name]


def test_case_that_memory_has_become_too_small_for_is_worse(compare, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    both = benchmark({case: [1.0, 1.1, 1.2] for case in CASES[:2]})
    reason = OutOfMemory(of=CASES[1].name, reason="out of GPU memory")
    less = replace(benchmark({CASES[0]: [1.0, 1.1, 1.2]}), out_of_memory=(reason,))
    both.write(tmp_path / "a.json")
    less.write(tmp_path / "b.json")
    code, out, _ = compare("a.json", "b.json", "--fail-over", "10%")

    assert (code, f"worse: B has too little memory for {CASES[1].name}" in out) == (1, True)
    assert compare("b.json", "a.json", "--fail-over", "10%")[0] == 0
    assert compare("a.json", "b.json")[0] == 0


def test_older_seconds_that_count_changes_of_loras_are_refused_unless_named():
    older = benchmark({CASES[1]: [1.0, 1.1, 1.2]})
    cases = tuple(replace(one, case=replace(one.case, loras=("luca",))) for one in older.cases)
    older = replace(older, cases=cases)
    newer = replace(older, rounds=3)

    with pytest.raises(InvalidValueError, match="clock"):
        compare_benchmarks(older, newer)
    assert len(compare_benchmarks(older, newer, across=("clock",)).differs) == 1
    assert compare_benchmarks(older, older).differs == ()


def test_a_batch_against_itself_is_the_same_and_one_that_lost_is_worse(tmp_path):
    run(tmp_path / "a", handmade_plan(40))
    run(tmp_path / "again", handmade_plan(40))
    run(tmp_path / "b", handmade_plan(40, guidance_scale=1.0), draw=worse_paint)
    same = compare_runs(tmp_path / "a", tmp_path / "again", fail_over=0.1)
    lost = compare_runs(tmp_path / "a", tmp_path / "b", fail_over=0.1)

    assert (same.identical, same.paired, same.passed) == (32, True, True)
    assert {one.change.value for one in same.changes} == {0}
    assert [one.measure for one in lost.worse] == ["similarity"]
    scores = [
        one.similarity_score for one in open_run(tmp_path / "a").items.values() if one.similarity_score is not None
    ]
    assert lost.worse[0].change.value == pytest.approx(-0.1 / np.mean(scores))
    assert lost.differs == ("guidance_scale was None, is 1.0",)
    assert Comparison.from_json(lost.to_json()) == lost


def test_batches_of_other_seeds_are_compared_as_a_whole(tmp_path):
    plan = handmade_plan(20)
    picture = replace(plan.request.picture, seed=100)
    run(tmp_path / "a", plan)
    run(tmp_path / "b", replace(plan, request=replace(plan.request, picture=picture)))
    found = compare_runs(tmp_path / "a", tmp_path / "b", fail_over=0.5)

    assert (found.paired, found.identical, found.passed) == (False, None, True)
    assert all(one.change.low < 0 < one.change.high for one in found.changes)


def test_a_changed_threshold_has_to_be_named(tmp_path):
    plan = handmade_plan(10)
    run(tmp_path / "a", plan)
    run(tmp_path / "b", replace(plan, judgings=({**plan.judging, "threshold": 0.6},)))
    with pytest.raises(InvalidValueError, match=r"the threshold of B must be that of A, '0\.5'"):
        compare_runs(tmp_path / "a", tmp_path / "b")

    assert compare_runs(tmp_path / "a", tmp_path / "b", across=["threshold"]).differs


def test_figures_show_both_of_either_kind(tmp_path):
    run(tmp_path / "a", handmade_plan(6))
    batch = open_run(tmp_path / "a")
    report = benchmark({case: [1, 2, 3] for case in CASES})
    figures = [distribution_figure(one, one) for one in (batch, report)]

    assert [len(figure.axes[0].get_legend_handles_labels()[1]) for figure in figures] == [2, 2]
    assert len(picture_figure(batch, batch).axes) == 2 * 5  # of six, one has failed and left no picture
    assert change_figure(compare_runs(report, report, fail_over=0.1)).axes[0].get_yticklabels()[3].get_text() == (
        "draft both batch 1: seconds a picture"
    )
    with pytest.raises(InvalidValueError, match="of A's kind, Batch"):
        distribution_figure(batch, report)


@pytest.fixture
def compare(monkeypatch, capsys):
    """Call `imagelab compare`; returns (exit code, stdout, stderr)."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["imagelab", "compare", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return caught.value.code, *capsys.readouterr()

    return call


def test_the_command_ends_with_1_for_what_is_worse_and_writes_it(tmp_path, compare):
    rng = np.random.default_rng(3)
    paths = [
        benchmark({CASES[0]: noisy(rng, 5, slower=slower)}).write(tmp_path / f"{slower}.json") for slower in (1, 2)
    ]
    code, out, _ = compare(*paths, "--fail-over", "10%", "--output-dir", tmp_path / "out")

    assert code == 1
    assert "worse by more than 10 %" in out
    assert json.loads((tmp_path / "out/comparison.json").read_text())["fail_over"] == 0.1
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["changes.png", "distributions.png"]
    assert compare(paths[0], paths[0], "--fail-over", "0.1")[0] == 0
    assert compare(*paths)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a.json", "batch"], "a benchmark, as A is, and no batch"),
        (["a.json", "none.json"], "and there is nothing"),
        (["batch", "empty"], "plan.json"),
        (["a.json", "a.json", "--fail-over", "10"], "a loss as 10%, or as 0.1"),
        (["a.json", "a.json", "--fail-over", "ten%"], "such as 0.8"),
    ],
)
def test_what_cannot_be_compared_ends_with_2(tmp_path, compare, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    benchmark({CASES[0]: [1, 2, 3]}).write(tmp_path / "a.json")
    run(tmp_path / "batch", handmade_plan(3))
    (tmp_path / "empty").mkdir()
    code, out, err = compare(*arguments)

    assert (code, out) == (2, "")
    assert said in err


def test_a_folder_without_a_plan_is_no_run_and_the_batches_in_it_are_named(tmp_path):
    with pytest.raises(RunFolderError, match=r"no batch's folder\. It has no plan\.json$"):
        open_run(tmp_path)
    run(tmp_path / "pictures/luca", handmade_plan(3))
    with pytest.raises(RunFolderError, match=r"the run's batches: .*pictures/luca$"):
        open_run(tmp_path)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (
            ["schema_version"],
            99,
            "schema_version of benchmark report b.json must be 1, all that this imagelab reads, got 99",
        ),
        (
            ["samples", 0, "seconds", "picture"],
            -1.0,
            "seconds of picture of draft base batch 1 in b.json must be a number",
        ),
        (["samples", 0, "seconds", "picture"], 0.0, "got 0.0"),
        (["samples", 0, "seconds"], {}, "seconds of draft base batch 1 in b.json must be of picture, got []"),
        (["samples", 1, "seconds"], {"picture": 1, "vae": 1}, "must be of picture, got ['picture', 'vae']"),
        (["samples", 0, "peak_allocated_gib"], -1.0, "peak memory of draft base batch 1"),
        (["samples", 0, "iterations_per_second"], 0.0, "iterations_per_second of"),
        (["samples", 0, "seconds", "picture"], "x", "b.json, BenchmarkReport.samples[0].seconds.picture must be"),
        (["samples"], [], "samples of draft base batch 1 in b.json must be at least one, got []"),
        (["flop_per_second"], 0.0, "flop_per_second in b.json"),
        (["machine"], {}, "machine in b.json must be one with a device, got {}"),
        (["cases"], [], "cases in b.json must be at least one, got []"),
    ],
)
def test_benchmark_that_no_machine_measured_ends_with_2(tmp_path, compare, monkeypatch, place, value, said):
    monkeypatch.chdir(tmp_path)
    plain = json.loads(benchmark({CASES[0]: [1, 2, 3]}).write(tmp_path / "a.json").read_text())
    inner = plain
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    (tmp_path / "b.json").write_text(json.dumps(plain))
    code, out, err = compare("a.json", "b.json", "--fail-over", "10%")

    assert (code, out) == (2, "")
    assert said in err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"profile": ', "Expecting value: line 1 column 13"),
        ('{"profile": NaN}', "NaN is no number"),
        ("", "Expecting value: line 1 column 1"),
        ("[]", "must be a mapping, got []"),
    ],
)
def test_damaged_benchmark_is_named_with_the_place_and_shown_once(tmp_path, text, said):
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(InvalidValueError) as caught:
        open_run(tmp_path / "b.json")

    assert said in str(caught.value)
    assert str(caught.value).count("b.json") == str(caught.value).count("got") == 1


@pytest.mark.parametrize("seconds", [[1, 2, 0], [1, 2, -3], [1, 2, float("nan")], [1, 2, float("inf")]])
def test_seconds_that_are_none_pass_no_gate(seconds):
    with pytest.raises(InvalidValueError, match="a measured number must be"):
        compare_benchmarks(benchmark({CASES[0]: [1, 2, 3]}), benchmark({CASES[0]: seconds}), fail_over=0.1)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("scores", [[0.0] * 4, [0.1, -0.1, 0.1, -0.1], [0.01, -0.02, 0.015, 0.0]])
def test_nothing_is_a_share_of_a_mean_that_is_as_good_as_0(scores, paired):
    with pytest.raises(InvalidValueError, match="mean of A must be farther from 0"):
        mean_shift(np.array(scores), np.array([0.2, 0.3, 0.2, 0.3]), 0.95, paired=paired)


def test_change_that_is_no_number_passes_no_gate():
    nothing = Shift(found=Estimate(value=np.nan, low=np.nan, high=np.nan), error=1.0, freedom=2.0)
    with pytest.raises(InvalidValueError, match=r"change of pictures, similarity must be a finite number"):
        make_change("pictures", "similarity", nothing, (1.0, 1.0), (3, 3), limit=0.1, worse_if_more=False)


def test_benchmarks_are_compared_without_the_model_libraries():
    """So that the command answers in seconds."""
    code = "import sys, imagelab.compare; sys.exit(bool({'torch', 'diffusers', 'matplotlib'} & set(sys.modules)))"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    report = benchmark({CASES[0]: [1, 2, 3]})
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidValueError, match="a file that can be written"):
        compare_runs(report, report).write(tmp_path / "file/comparison.json")
