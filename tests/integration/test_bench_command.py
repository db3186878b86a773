"""The command that measures: rehearsed on a small model from end to end, killed, and only asked what it would do."""

import os
import signal
import subprocess
import sys
import time

import pytest
from memory_policies import with_memory

from imagelab import cli
from imagelab.benchmark import plan_cases, read_report, rehearse, run_benchmark
from imagelab.config import load_configs
from imagelab.config.sdxl import MemoryLimit
from imagelab.reporting import gather, to_markdown

BENCH = ["bench", "--profile", "puppet", "--device", "cpu", "--preset", "draft"]


@pytest.fixture
def imagelab(monkeypatch, capsys):
    """Call the command line; gives the exit code and what it printed."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["imagelab", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return left.value.code, *capsys.readouterr()

    return call


@pytest.mark.slow
def test_what_a_gpu_shall_measure_is_rehearsed_on_a_small_model(tmp_path, imagelab, monkeypatch):
    monkeypatch.setenv("IMAGELAB_MODELS", str(tmp_path / "models"))
    written = imagelab("random-sdxl", "--small", "--device", "cpu")
    other = imagelab("random-sdxl", "--device", "cpu")
    asked = ["--profile", "random-sdxl", "--device", "cpu", "--preset", "draft", "--variant", "both", "--num-runs", 2]
    said = imagelab("bench", *asked, "--dry-run")
    measured = imagelab("bench", *asked, "--output-dir", tmp_path / "reports/benchmarks")
    (path,) = (tmp_path / "reports/benchmarks").iterdir()
    report = read_report(path)
    page = to_markdown(gather(reports=tmp_path / "reports"))

    assert (written[0], str(tmp_path / "models/random-sdxl") in written[1]) == (0, True)
    assert (other[0], "another size was asked for" in other[2]) == (2, True)
    assert (said[0], said[1].splitlines()[-1]) == (0, "all models are there")
    assert (measured[0], path.name in measured[1]) == (0, True)
    assert [(one.case.name, one.samples) for one in report.cases] == [("draft both batch 1", 2)]
    assert [one.samples for one in report.lora_changes] == [2, 2, 2]
    assert "draft both batch 1 | 2 |" in page
    assert "million weights, float32" in page


@pytest.mark.slow
def test_killed_benchmark_leaves_the_rounds_until_then(tmp_path):
    command = [sys.executable, "-m", "imagelab", *BENCH, "--variant", "lora", "--num-runs", "1000"]
    with subprocess.Popen(
        [*command, "--output-dir", str(tmp_path)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as process:
        while process.poll() is None and not _rounds(tmp_path) >= 2:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    (path,) = tmp_path.glob("*.json")
    report = read_report(path)
    (case,) = report.cases

    assert process.returncode == -signal.SIGKILL
    assert case.samples >= 2
    assert [sample.round for sample in report.samples] == list(range(case.samples))
    assert {one.samples for one in report.lora_changes} == {case.samples}
    assert report.unfinished == f"{case.samples} of 1000 rounds: it was ended early"
    assert report.unfinished in to_markdown(gather(reports=_as_reports(path)))


def _rounds(folder):
    return max((read_report(path).cases[0].samples for path in folder.glob("*.json")), default=0)


def _as_reports(path):
    folder = path.parent / "reports/benchmarks"
    folder.mkdir(parents=True)
    path.rename(folder / path.name)
    return folder.parent


def test_dry_run_says_what_would_be_measured_and_writes_nothing(tmp_path, imagelab):
    code, out, _ = imagelab(*BENCH, "--batch-size", 2, "--dry-run", "--num-runs", 7, "--output-dir", tmp_path)
    cases = plan_cases(load_configs(), load_configs().profile("puppet"), presets=["draft"], batch_sizes=[2])

    assert code == 0
    assert "puppet on cpu: 7 rounds of 7 cases" in out
    assert all(f"{case.name}  " in out for case in cases)
    assert "LoRAs: 1 to 1 other: luca to alberto" in out
    assert out.splitlines()[-1] == "all models are there"
    assert list(tmp_path.iterdir()) == []


def test_dry_run_loads_no_weights(tmp_path, monkeypatch):
    """Where there are none it still says what memory SDXL takes, and which files are missing."""
    for name in ("IMAGELAB_MODELS", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path))
    configs = load_configs()
    cases = plan_cases(configs, configs.profile("sdxl"), variants=["base", "lora"], stock=False)
    lines = rehearse(cases, configs=configs, profile="sdxl", device="cpu").splitlines()
    (base,) = [line.split() for line in lines if line.startswith("standard base batch 1 ")]

    assert 14 < float(base[4]) < 19  # in float32, twice what reports/predicted-memory-16-gb.json has in float16
    assert base[-1] == "missing"
    assert any(line.startswith("missing: base model: nothing at ") for line in lines)
    assert any(line.startswith("missing: LoRA 'luca' of profile sdxl: nothing at ") for line in lines)


@pytest.mark.filterwarnings("ignore::imagelab.errors.DegradedWarning")
@pytest.mark.parametrize(("limit", "way"), [(8.0, "as asked"), (0.065, "at once: "), (0.001, "refused: ")])
def test_dry_run_predicts_what_the_benchmark_does(configs, limit, way):
    own = with_memory(configs, limit_gib=MemoryLimit(cpu=limit))
    (case,) = plan_cases(own, own.profile("puppet"), presets=["draft"], variants=["both"], batch_sizes=[4], stock=False)
    (line,) = [line for line in rehearse([case], configs=own, device="cpu").splitlines() if line.startswith(case.name)]
    report = run_benchmark([case], profile="puppet", device="cpu", runs=1, configs=own, progress=False)

    assert way in line
    if way.startswith("refused"):
        (refused,) = report.out_of_memory
        assert f"{limit} are allowed" in refused.reason
    else:
        said = line.split()[4] if way == "as asked" else line.split(way)[1].split()[0]
        assert float(said) == pytest.approx(report.samples[0].predicted_gib, rel=0.005)
