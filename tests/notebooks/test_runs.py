"""Each notebook runs headless with configs/runs/smoke.yaml, and leaves the values that reports read."""

import json
import re
from pathlib import Path

import nbformat
import pytest

from imagelab.benchmark import read_report
from imagelab.calibration import read_calibration
from imagelab.config import project_root
from imagelab.errors import NotebookError
from imagelab.glue import SCRAP_TYPE, read_scraps
from imagelab.imagefiles import read_record
from imagelab.notebooks import execute, list_notebooks, plan_run, read_parameter_file
from imagelab.notebooks.refresh import keep_summary

SMOKE = Path(__file__).parents[2] / "configs/runs/smoke.yaml"
# what makes it smaller still, or is asked about below
SMALL = {
    "00_environment": {},
    "10_generate_character": {"device": "cpu", "presets": ["draft"], "seed": 7},
    "11_compose_loras": {"device": "cpu", "loras": ["portorosso_town"], "weights": [0.0, 1.0]},
    "12_guide_with_controlnet": {"device": "cpu", "controls": ["pose", "canny"], "scales": [1.0]},
    "20_build_references": {"device": "cpu", "character": "alberto", "others": ["luca"]},
    "21_analyse_consistency": {"device": "cpu"},
    "22_filter_batches": {"device": "cpu", "seed": 5},
    "23_calibrate_threshold": {"device": "cpu"},
    "24_compare_experiments": {"device": "cpu", "quality_preset_b": "standard", "weight_b": 1.0},
    "25_compare_encoders": {"device": "cpu", "weights": []},
    "30_benchmark_latency": {"device": "cpu", "variants": ["base"], "num_runs": 1},
    "31_benchmark_vram": {"device": "cpu", "variants": ["base"], "batch_sizes": [1]},
    "32_compare_runs": {"device": "cpu", "num_runs": 3},
    "40_explore": {"device": "cpu", "seed": 5},
    "50_integration": {"device": "cpu"},
    "90_report": {},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run a notebook once and remember the run."""
    runs, done = tmp_path_factory.mktemp("runs"), {}

    def run(name):
        if name not in done:
            shared, _ = read_parameter_file(SMOKE, name)
            plan = plan_run(name, shared | SMALL[name], run_id=name, runs_root=runs)
            done[name] = execute(plan)
        return done[name]

    return run


def test_every_notebook_is_run_here():
    assert set(SMALL) == {name for name in list_notebooks() if not name.startswith("80_")}


@pytest.mark.parametrize("name", SMALL)
def test_notebook_runs_and_leaves_its_result(run, name):
    result = json.loads(run(name).result.read_text(encoding="utf-8"))

    assert result["status"] == "ok"
    assert result["summary"]
    assert result["metrics"]
    assert result["headline"]


@pytest.mark.parametrize("name", SMALL)
def test_html_holds_its_pictures_and_needs_no_network(run, name):
    html = run(name).html.read_text(encoding="utf-8")
    tags = re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", html)

    assert [tag[:200] for tag in tags if re.search(r"""(?:src|href)=["']?(?:https?:)?//""", tag)] == []
    assert any("data:image/png;base64" in tag for tag in tags) == (name != "00_environment")


@pytest.mark.parametrize("name", SMALL)
def test_nothing_is_written_to_stderr(run, name):
    """But for progress bars: a warning in a notebook is a fault of ours."""
    cells = nbformat.read(run(name).notebook, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", ()) if output.get("name") == "stderr"]

    assert [output.text for output in outputs if "%|" not in output.text] == []


def test_two_given_runs_are_compared_and_nothing_is_drawn(run, tmp_path):
    drawn = run("32_compare_runs")
    given = {"a": str(drawn.pictures / "a"), "b": str(drawn.pictures / "b"), "device": "cpu"}
    done = execute(plan_run("32_compare_runs", given, run_id="given", runs_root=tmp_path))

    assert read_scraps(done.notebook)["summary"]["B"] == read_scraps(drawn.notebook)["summary"]["B"]
    assert list(done.pictures.iterdir()) == []


def test_pictures_carry_their_records(run):
    (picture,) = run("10_generate_character").pictures.glob("*.png")
    record = read_record(picture)

    assert (record.character, record.quality_preset, record.seed) == ("luca", "draft", 7)


def test_lora_at_weight_zero_changes_nothing_and_at_one_it_does(run):
    metrics = read_scraps(run("11_compose_loras").notebook)["metrics"]

    assert metrics["weight"] == [0, 1]
    assert metrics["change"][0] == 0 < metrics["change"][1]


def test_control_at_scale_zero_is_no_control_and_every_scale_has_its_score(run):
    metrics = read_scraps(run("12_guide_with_controlnet").notebook)["metrics"]
    pictures = run("12_guide_with_controlnet").pictures

    assert metrics["scales"] == [0, 1]
    assert {kind: len(scores) for kind, scores in metrics["scores"].items()} == {"pose": 2, "canny": 2}
    assert (pictures / "pose/0.png").read_bytes() != (pictures / "pose/1.png").read_bytes()
    assert read_record(pictures / "pose/1.png").controls[0].type == "pose"


def test_two_presets_are_compared_by_parameters_alone(run):
    done = run("24_compare_experiments")
    presets = {key: read_record(done.pictures / key / "0.png").quality_preset for key in ("A", "B")}

    assert presets == {"A": "draft", "B": "standard"}
    assert done.scraps["metrics"]["detection"]["seeds"] == 2


def test_every_picture_of_both_batches_is_accounted_for(run):
    done = run("22_filter_batches")
    metrics = read_scraps(done.notebook)["metrics"]

    assert set(metrics) == {"with LoRA", "without LoRA"}
    for name, folder in (("with LoRA", "with_lora"), ("without LoRA", "without_lora")):
        accepted = list((done.pictures / folder / "accepted").glob("*.png"))
        assert metrics[name]["total_generated"] == 2
        assert metrics[name]["total_accepted"] == len(accepted)


def test_baseline_can_be_left_out(tmp_path):
    wanted = {"num_images": 1, "baseline": False, "device": "cpu"}
    done = execute(plan_run("22_filter_batches", wanted, run_id="x", runs_root=tmp_path))

    assert list(done.scraps["metrics"]) == ["with LoRA"]


def test_references_are_stored_where_they_are_asked_for(run):
    stored = run("20_build_references").pictures / "references/puppet_face/alberto.npz"

    assert stored.is_file()


def test_calibration_is_stored_beside_the_references_with_what_it_stands_on(run):
    done = run("23_calibrate_threshold")
    stored = read_calibration(done.pictures / "references/puppet_face/luca.calibration.json")
    metrics = read_scraps(done.notebook)["metrics"]

    assert (stored.genuine.scores, stored.impostor.scores) == (2, 6)
    assert metrics["run"]["calibration"]["threshold"]["value"] == stored.threshold.value
    assert [promise["rate"] for promise in metrics["promises"]] == ["FMR", "FNMR"]


def test_benchmarks_are_kept_in_the_run_and_not_among_the_committed_ones(run):
    for name, count in (("30_benchmark_latency", 1), ("31_benchmark_vram", 1)):
        done = run(name)
        written = list(done.pictures.glob("*.json"))

        assert len(written) == count
        assert {one.case.quality_preset for one in read_report(written[0]).cases} >= {"draft"}
        assert not list((project_root() / "reports/benchmarks").glob(written[0].name))


def test_a_batch_against_itself_is_the_noise_floor_of_a_comparison(run):
    metrics = run("32_compare_runs").scraps["metrics"]

    assert run("32_compare_runs").scraps["summary"]["identical"] == 2
    assert metrics["B"]["differs"]
    assert [one["of"] for one in metrics["A again, benchmark"]["changes"]] == ["draft base batch 1"]


def test_every_genuine_picture_counts_once_in_each_respect(run):
    conditions = read_scraps(run("21_analyse_consistency").notebook)["metrics"]["conditions"]

    for aspect in ("pose", "expression", "scene"):
        assert sum(one["total"] for one in conditions if one["aspect"] == aspect) == 2


def test_other_seed_changes_every_line_about_a_picture(run, tmp_path):
    """What nbval compares would notice any other picture."""
    other = plan_run(
        "10_generate_character", {**SMALL["10_generate_character"], "seed": 8}, run_id="x", runs_root=tmp_path
    )
    lines = [scraps["summary"]["pictures"] for scraps in (run("10_generate_character").scraps, execute(other).scraps)]

    assert set(lines[0]).isdisjoint(lines[1])


def test_failing_notebook_is_kept_with_its_error(tmp_path):
    plan = plan_run("10_generate_character", {"character": "lucca"}, run_id="x", runs_root=tmp_path)

    with pytest.raises(NotebookError, match=r"10_generate_character: cell \[\d\] \(run\) raised UnknownNameError"):
        execute(plan)
    assert "UnknownNameError" in (tmp_path / "x/10_generate_character.html").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "x/result.json").read_text(encoding="utf-8"))["status"] == "failed"


def test_refreshing_keeps_the_summary_and_nothing_of_the_machine(run):
    notebook = keep_summary(nbformat.read(run("22_filter_batches").notebook, as_version=4))
    text = nbformat.writes(notebook)

    assert SCRAP_TYPE not in text
    assert "image/png" not in text
    assert "papermill" not in text
    assert "accepted" in text
