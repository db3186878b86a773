"""What the README shows runs, and what it points to is there."""

import re
from pathlib import Path

import pytest

import imagelab
from imagelab.benchmark import read_report
from imagelab.notebooks import list_notebooks
from imagelab.reporting import read_measurement

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = {
    f"line {README[: match.start()].count(chr(10)) + 2}": match[1]
    for match in re.finditer(r"```python\n(.*?)```", README, re.DOTALL)
}


@pytest.mark.parametrize("snippet", SNIPPETS.values(), ids=SNIPPETS)
def test_snippet_runs(snippet, tmp_path, monkeypatch):
    """Each on its own, in an empty folder; what it writes goes there."""
    monkeypatch.setenv("IMAGELAB_ROOT", str(tmp_path))
    monkeypatch.setenv("IMAGELAB_CONFIGS", str(ROOT / "configs"))
    monkeypatch.chdir(tmp_path)

    exec(compile(snippet, "README.md", "exec"), {"__name__": "readme"})  # noqa: S102  our own text


def test_links_and_pictures_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)", README)

    assert [target for target in targets if "://" not in target and not (ROOT / target).exists()] == []


def test_every_notebook_is_in_the_table():
    assert [name for name in list_notebooks() if f"[{name}](notebooks/{name}.ipynb)" not in README] == []


def test_every_public_class_of_the_services_is_shown():
    services = [
        name
        for name in imagelab.__all__
        if name.startswith(("Character", "Batch")) and name not in {"BatchItem", "BatchResult"}
    ]

    assert [name for name in services if name not in README] == []


def test_licence_of_buffalo_l_is_said():
    assert re.search(r"buffalo_l[^.]*non-commercial", README)


def test_the_two_commands_are_there():
    assert "make demo" in README
    assert "make test" in README


def prose():
    """The README without its code, on one line."""
    return " ".join(re.sub(r"^```.*?^```", "", README, flags=re.DOTALL | re.MULTILINE).split())


def h200(case):
    """What a case of the committed benchmark of an H200 came to."""
    report = read_report(ROOT / "reports/benchmarks/random-sdxl-cuda-NVIDIA-H200-20261126T060000.json")
    return next(one for one in report.cases if one.case.name == case)


def faces(way):
    """How many times as fast as a way of looking at faces imagelab's is, with its interval."""
    found = read_measurement(ROOT / "reports/benchmarks/faces-in-many-2-cores-20261126.json")
    return next(row["check_batch_is_times_as_fast"] for row in found.rows if row["way"] == way)


def compiled():
    """How long a picture of compiled models took, that of others being 1, with its interval."""
    found = read_measurement(ROOT / "reports/benchmarks/compiled-puppet-cpu.json")
    return found.facts["cpu_seconds_to_eager"]


# How each measured number is written, of its place in the reports.
MEASURED = (
    lambda: f"{h200('standard base batch 1').seconds['picture'].value:.2f} s bare",
    lambda: f"{h200('standard base batch 1').fraction_of_limit:.0%} of the limit".replace("%", " %"),
    lambda: f"{h200('standard base batch 4').seconds['picture'].value:.2f} s in a batch of four",
    lambda: f"alone {h200('standard base batch 1').ratio_to_stock.value:.2f} times as long",
    lambda: f"float32 took {h200('standard base batch 1 diffusers_fp32_vae').ratio_to_stock.value:.2f} times",
    lambda: f"{float(faces('FaceAnalysis with its defaults').split()[0]):.1f} times as fast as a loop",
    lambda: f"in {float(compiled().split()[0]):.1f} times the CPU's seconds",
)
# a card's memory, what sdxl is held to of it, an example's limit, a promise of the method
CHOSEN = {"16 GB", "15 GiB", "10 %", "2.5 %"}
QUANTITY = r"\d+(?:\.\d+)? (?:s|ms|seconds|minutes|MB|MiB|GB|GiB|times|%)(?!\w)"


@pytest.mark.parametrize("write", MEASURED)
def test_measured_number_is_that_of_its_place_in_the_reports(write):
    assert write() in prose()


def test_every_quantity_in_the_text_is_measured_or_chosen():
    known = CHOSEN.union(*(re.findall(QUANTITY, write()) for write in MEASURED))

    assert set(re.findall(QUANTITY, prose())) == known


@pytest.mark.parametrize("case", ["standard base batch 1", "standard base batch 1 diffusers_fp32_vae"])
def test_stock_diffusers_is_as_fast_within_the_intervals_as_the_text_says(case):
    assert h200(case).ratio_to_stock.low < 1 < h200(case).ratio_to_stock.high
