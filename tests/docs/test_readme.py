"""What the README shows runs, and what it points to is there."""

import json
import re
from itertools import product
from pathlib import Path

import pytest

import imagelab
from imagelab.notebooks import list_notebooks

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


def numbers_in(value):
    """Every number somewhere in JSON."""
    if isinstance(value, dict | list):
        parts = value.values() if isinstance(value, dict) else value
        return [number for part in parts for number in numbers_in(part)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def test_measured_numbers_in_the_text_are_those_of_the_reports():
    """Seconds, times, GiB and percent under "How fast is it?"; a percentage is a fraction in JSON."""
    (text,) = re.findall(r"^## How fast is it\?\n(.*?)^## ", README, re.DOTALL | re.MULTILINE)
    told = re.findall(r"(\d+(?:\.\d+)?) (s|GiB|times|%)(?![a-z])", text)
    reports = [*(ROOT / "reports").glob("*.json"), *(ROOT / "reports/benchmarks").glob("*.json")]
    known = {number for path in reports for number in numbers_in(json.loads(path.read_text(encoding="utf-8")))}
    said = {
        (f"{number * (100 if unit == '%' else 1):.{places}f}", unit)
        for number, places, unit in product(known, range(3), ("s", "GiB", "times", "%"))
    }

    assert told
    assert [one for one in told if one not in said] == []
