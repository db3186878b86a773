"""Reports say what is in the files that they are written from, and nothing else."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from handmade_runs import handmade_plan, run

from imagelab import InvalidValueError, cli
from imagelab.benchmark import read_report
from imagelab.reporting import Measurement, gather, read_measurement, to_markdown, write_measurement, write_summary
from imagelab.reporting.plots import picture_times

ROOT = Path(__file__).parents[2]
PIPE = "\\|"
SPEED = Measurement(
    what="Seconds to do it | a pipe",
    command="python -m imagelab bench",
    machine={"device": "cpu"},
    facts={"times_as_fast": 1.25},
    rows=({"way": "one", "seconds": 2.0}, {"way": "two", "note": "lines\nbroken"}),
)


@pytest.fixture
def committed(tmp_path):
    """The reports that git tracks: on a machine where somebody measures there are more."""
    done = subprocess.run(["git", "ls-files", "reports"], cwd=ROOT, capture_output=True, text=True, check=False)
    tracked = done.stdout.split() or [str(path.relative_to(ROOT)) for path in (ROOT / "reports").rglob("*.json")]
    for name in tracked:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path / "reports"


def test_committed_summary_is_what_the_committed_measurements_say(committed):
    assert (ROOT / "reports/summary.md").read_text(encoding="utf-8") == to_markdown(gather(reports=committed))


def test_every_number_of_the_summary_moves_with_its_file(committed):
    path = committed / "kills.json"
    before, kills = to_markdown(gather(reports=committed)), read_measurement(path)
    write_measurement(replace(kills, facts={**kills.facts, "lost": 1}), path)

    changed = set(to_markdown(gather(reports=committed)).splitlines()) - set(before.splitlines())
    assert changed == {"| lost | 1 |"}


def test_predictions_are_named_as_such(committed):
    (head,) = [
        line for line in to_markdown(gather(reports=committed)).splitlines() if line.startswith("| what | needs |")
    ]

    assert "predicted, not measured" in head


def test_measurement_comes_back_from_its_file_and_from_the_page(tmp_path):
    write_measurement(SPEED, tmp_path / "benchmarks/speed.json")
    text = to_markdown(gather(reports=tmp_path))

    assert read_measurement(tmp_path / "benchmarks/speed.json") == SPEED
    assert "[benchmarks/speed.json](benchmarks/speed.json): device cpu. Again: `python -m imagelab bench`" in text
    assert "| way | seconds | note |\n|---|---|---|\n| one | 2 |  |\n| two |  | lines broken |" in text
    assert "| times as fast | 1.25 |" in text


def test_nothing_leaves_its_line_or_its_cell_or_becomes_html(tmp_path):
    odd = "two\n# lines | <script>alert(1)</script> `x*"
    plain = "two # lines \\| \\<script>alert(1)\\</script> \\`x\\*"
    (tmp_path / "runs/mine").mkdir(parents=True)
    result = {"notebook": "n", "status": "ok", "headline": odd}
    (tmp_path / "runs/mine/result.json").write_text(json.dumps(result))
    measured = replace(
        SPEED, what=odd, command="a | `b`\nc", machine={"cpu": odd}, facts={odd: odd}, rows=({odd: odd},)
    )
    write_measurement(measured, tmp_path / "odd.json")
    unmeasured = {"what": odd, "needs": odd, "command": "a | `b`\nc", "predicted": odd}
    (tmp_path / "unmeasured.json").write_text(json.dumps([unmeasured]))
    code = "`` a | `b` c ``"

    assert to_markdown(gather(["mine"], reports=tmp_path)).splitlines()[8:] == [
        f"## {plain}",
        "",
        f"[odd.json](odd.json): cpu {plain}. Again: {code}",
        "",
        "| fact | value |",
        "|---|---|",
        f"| {plain} | {plain} |",
        "",
        f"| {plain} |",
        "|---|",
        f"| {plain} |",
        "",
        "## Runs",
        "",
        "| run | of | status | result |",
        "|---|---|---|---|",
        f"| mine | n | ok | {plain} |",
        "",
        "## Not measured yet",
        "",
        "| what | needs | predicted, not measured | command |",
        "|---|---|---|---|",
        f"| {plain} | {plain} | {plain} | {code.replace('|', PIPE)} |",
    ]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"what": "x"}', '{"cases": []}', '{"cases": 7, "what": 1}'])
def test_damaged_file_is_named(tmp_path, text):
    (tmp_path / "odd.json").write_text(text)

    with pytest.raises(InvalidValueError, match=r"odd\.json"):
        gather(reports=tmp_path)


@pytest.mark.parametrize("text", ["{", '{"what": "x"}', '[{"what": "x"}]', "7"])
def test_damaged_list_of_the_unmeasured_is_named(tmp_path, text):
    (tmp_path / "unmeasured.json").write_text(text)

    with pytest.raises(InvalidValueError, match=r"unmeasured\.json"):
        gather(reports=tmp_path)


def test_run_of_a_notebook_is_told_by_its_headline(tmp_path):
    folder = tmp_path / "runs/mine"
    folder.mkdir(parents=True)
    result = {"notebook": "22_filter_batches", "status": "ok", "headline": "8 of 8 accepted."}
    (folder / "result.json").write_text(json.dumps(result))

    assert "| mine | 22_filter_batches | ok | 8 of 8 accepted. |" in to_markdown(gather(["mine"], reports=tmp_path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"notebook": "n", "status": "ok", "schema_version": 99}', "schema_version of result .* must be 1.* got 99"),
        ('{"notebook": null, "status": null}', "the notebook's name and its status"),
        ("[]", "must be a mapping"),
        ("{", r"line 1 column 2"),
    ],
)
def test_result_that_cannot_be_read_is_named(tmp_path, text, said):
    (tmp_path / "runs/mine").mkdir(parents=True)
    (tmp_path / "runs/mine/result.json").write_text(text)

    with pytest.raises(InvalidValueError, match=said) as caught:
        gather(["mine"], reports=tmp_path)
    assert "mine/result.json" in str(caught.value)


def test_benchmark_of_another_schema_is_in_no_report(committed):
    (path,) = committed.glob("benchmarks/random-sdxl-*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))

    with pytest.raises(InvalidValueError, match=r"schema_version of benchmark report .*random-sdxl.* got 99"):
        gather(reports=committed)


def test_older_benchmark_is_read_and_said_to_have_counted_changes_of_loras(committed):
    (path,) = committed.glob("benchmarks/random-sdxl-*H200-20261126T060000.json")
    report = read_report(path)
    (base,) = [one for one in report.cases if one.case.name == "standard base batch 1"]
    page = to_markdown(gather(reports=committed))

    assert (report.rounds, report.lora_changes, report.out_of_memory, base.first_seconds) == (None, (), (), None)
    assert str(base.ratio_to_stock).startswith("1.02 [")
    assert "Seconds a picture count the putting in or taking out of LoRAs before it" in page
    assert "| met here; promised for RTX 5080 16 GB |" in page
    assert "rate of matrix products measured on that machine, 755.7 TFLOP/s" in page


def test_single_round_has_no_interval_on_the_page(committed):
    (path,) = committed.glob("benchmarks/random-sdxl-*.json")
    report = read_report(path)
    first = replace(report, samples=tuple(one for one in report.samples if one.round == 0))
    first.write(committed / "alone" / path.name)
    page = to_markdown(gather(reports=committed / "alone"))
    (line,) = [one for one in page.splitlines() if "standard lora batch 1" in one]

    assert "[" not in line
    assert "| too few rounds |" in line


def test_batch_is_told_with_all_its_scores_the_rejected_ones_too(tmp_path):
    result = run(tmp_path / "runs/batch", handmade_plan())
    (told,) = gather(["batch"], reports=tmp_path).runs

    assert (told.kind, told.status) == ("batch", "1 of 5 missing")
    assert told.batches["batch"].consistency_scores == result.consistency_scores
    assert len(result.consistency_scores) > len(result.accepted_scores)
    assert told.headline == f"2 of 5 accepted, mean similarity of all {result.mean_similarity:.3f}."


def test_folder_without_a_run_is_refused_with_what_one_has(tmp_path):
    with pytest.raises(InvalidValueError, match=r"result\.json or plan\.json .*nothing'$"):
        gather(["nothing"], reports=tmp_path)


def test_nothing_is_written_halfway(tmp_path):
    (tmp_path / "summary.md").mkdir()

    with pytest.raises(InvalidValueError, match=r"summary\.md"):
        write_summary(gather(reports=tmp_path), tmp_path / "summary.md")
    assert [path.name for path in tmp_path.iterdir()] == ["summary.md"]


def test_command_writes_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["imagelab", "report", "-o", str(tmp_path / "page.md")])
    with pytest.raises(SystemExit) as left:
        cli.main()

    assert left.value.code == 0
    assert "page.md" in capsys.readouterr().out
    assert (tmp_path / "page.md").read_text(encoding="utf-8").startswith("# What has been measured\n")


def test_figure_has_a_panel_for_each_benchmark_with_a_bar_for_each_case(committed):
    reports = gather(reports=committed).benchmarks
    figure = picture_times(reports)

    labels = [[text.get_text() for text in axis.get_yticklabels()] for axis in figure.axes]
    assert labels == [[case.case.name for case in report.cases] for report in reports.values()]
