"""The commands of the reports can be given as they stand: they exist, as do their options and files."""

import json
import shlex

import pytest
from typer.main import get_command

from imagelab.cli import app
from imagelab.config import project_root

REPORTS = project_root() / "reports"
UNMEASURED = json.loads((REPORTS / "unmeasured.json").read_text())
MEASURED = [json.loads(path.read_text()) for path in (*REPORTS.glob("*.json"), *REPORTS.glob("benchmarks/*.json"))]
COMMANDS = sorted({one["command"] for one in (*UNMEASURED, *(m for m in MEASURED if "command" in m))})


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_reports_can_be_given(command):
    words = [word for word in shlex.split(command) if "=" not in word.split("/", maxsplit=1)[0]]
    if words[:3] == ["python", "-m", "imagelab"]:
        name, *arguments = words[3:]
        with get_command(app).commands[name].make_context(name, arguments):
            pass
    else:
        assert words[0] == ".venv/bin/pytest"
        assert (project_root() / words[-1]).exists()


def test_what_only_a_gpu_can_tell_says_that_it_needs_one():
    on_random = [one for one in UNMEASURED if "random-sdxl" in one["command"]]
    assert on_random
    assert all("random-sdxl" in one["needs"] for one in on_random)
