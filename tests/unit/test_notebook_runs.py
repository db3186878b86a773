"""The runner: what it refuses, what it keeps and what it replaces. The kernels are real, the notebooks tiny."""

import json
import sys

import nbformat
import pytest

from imagelab import cli
from imagelab.errors import InvalidValueError, NotebookError, UnknownNameError
from imagelab.glue import read_scraps
from imagelab.notebooks import execute, output_folder, plan_run
from imagelab.notebooks.html import write_html
from imagelab.notebooks.runner import _replacing

PARAMETERS = 'word: str = "hello"  # to print\nfail: bool = False  # raise\noutput_dir: str | None = None  # pictures'
RUN = """
from pathlib import Path
from imagelab.glue import glue
Path(output_dir).mkdir()
(Path(output_dir) / word).touch()
glue("summary", {"word": word, "missing": float("nan")})
1 / (not fail)
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of its own with two tiny notebooks."""
    monkeypatch.setenv("IMAGELAB_ROOT", str(tmp_path))
    (tmp_path / "notebooks").mkdir()
    for name in ("90_tiny", "91_other"):
        cells = [
            nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell(RUN, metadata={"tags": ["run"]}),
        ]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / f"notebooks/{name}.ipynb")
    return tmp_path


def files_of(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.usefixtures("project")
def test_unknown_notebook_is_refused_with_the_nearest_name():
    with pytest.raises(UnknownNameError, match="did you mean '90_tiny'"):
        plan_run("90_tinny")


def test_planning_writes_nothing(project):
    with pytest.raises(NotebookError):
        plan_run("90_tiny", {"wrod": "x", "fail": 3})
    plan_run("90_tiny", run_id="x")

    assert not (project / "reports").exists()


@pytest.mark.parametrize("run_id", ["", ".", "..", "../x", "a/b", "/x", "-x", "interactive", "x" * 65, "a\n", "c:d"])
@pytest.mark.usefixtures("project")
def test_run_id_that_is_no_plain_name_is_refused(run_id):
    with pytest.raises(InvalidValueError, match="run id"):
        plan_run("90_tiny", run_id=run_id)


def test_run_leaves_notebook_html_pictures_and_result(project):
    done = execute(plan_run("90_tiny", {"word": "hi"}, run_id="x"))
    folder = project / "reports/runs/x"
    result = json.loads(done.result.read_text())

    assert files_of(folder) == ["90_tiny.html", "90_tiny.ipynb", "pictures/hi", "result.json"]
    assert result["status"] == "ok"
    assert result["summary"] == read_scraps(done.notebook)["summary"] == {"word": "hi", "missing": None}
    assert result["parameters"] == {"word": "hi", "output_dir": str(folder / "pictures")}
    assert list(folder.parent.iterdir()) == [folder], "nothing else is left"


def test_page_that_cannot_be_written_whole_leaves_the_earlier_one(tmp_path):
    node = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("half a character: \ud800")])
    (tmp_path / "x.ipynb").write_text(json.dumps(node))
    (tmp_path / "x.html").write_text("earlier")

    with pytest.raises(UnicodeEncodeError):
        write_html(tmp_path / "x.ipynb")
    assert files_of(tmp_path) == ["x.html", "x.ipynb"]
    assert (tmp_path / "x.html").read_text() == "earlier"


def test_failed_run_is_kept_and_its_error_names_notebook_cell_and_exception(project):
    with pytest.raises(NotebookError) as caught:
        execute(plan_run("90_tiny", {"fail": True}, run_id="x"))

    folder = project / "reports/runs/x"
    result = json.loads((folder / "result.json").read_text())
    assert str(caught.value).startswith("notebook 90_tiny: cell [3] (run) raised ZeroDivisionError: division by zero.")
    assert result["status"] == "failed"
    assert "ZeroDivisionError" in result["error"]
    assert "ZeroDivisionError" in (folder / "90_tiny.ipynb").read_text()
    assert "ZeroDivisionError" in (folder / "90_tiny.html").read_text()


def test_command_line_says_where_everything_is(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", ["imagelab", "run", "90_tiny", "-p", "word=hi", "--run-id", "x"])
    with pytest.raises(SystemExit) as caught:
        cli.main()

    out = capsys.readouterr().out
    assert caught.value.code == 0
    for path in ("90_tiny.ipynb", "90_tiny.html", "pictures", "result.json"):
        assert f"reports/runs/x/{path}\n" in out


def test_command_line_ends_with_1_when_the_notebook_fails(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", ["imagelab", "run", "90_tiny", "-p", "fail=true", "--run-id", "x"])
    with pytest.raises(SystemExit) as caught:
        cli.main()

    assert caught.value.code == 1
    assert "error: notebook 90_tiny: cell [3] (run) raised ZeroDivisionError" in capsys.readouterr().err


def test_run_of_the_same_id_replaces_the_earlier_one_and_no_other_notebooks(project):
    execute(plan_run("90_tiny", {"word": "first"}, run_id="x"))
    execute(plan_run("90_tiny", {"word": "second"}, run_id="x"))

    assert (project / "reports/runs/x/pictures/second").exists()
    assert not (project / "reports/runs/x/pictures/first").exists()
    with pytest.raises(InvalidValueError, match="holds 90_tiny"):
        plan_run("91_other", run_id="x")


def test_run_that_fails_leaves_an_earlier_one_that_went_well(project):
    execute(plan_run("90_tiny", {"word": "first"}, run_id="x"))
    for word in ("second", "third"):
        with pytest.raises(NotebookError, match=r"reports/runs/x\.failed/90_tiny\.ipynb"):
            execute(plan_run("90_tiny", {"word": word, "fail": True}, run_id="x"))

    assert (project / "reports/runs/x/pictures/first").exists()
    assert json.loads((project / "reports/runs/x/result.json").read_text())["status"] == "ok"
    assert json.loads((project / "reports/runs/x.failed/result.json").read_text())["status"] == "failed"
    assert files_of(project / "reports/runs/x.failed/pictures") == ["third"]
    assert sorted(path.name for path in (project / "reports/runs").iterdir()) == ["x", "x.failed"]


def test_earlier_run_survives_a_run_that_was_killed_and_one_that_fails_after_it(project):
    folder = execute(plan_run("90_tiny", {"word": "first"}, run_id="x")).notebook.parent
    folder.rename(folder.with_name(".x.previous"))  # where a killed run leaves it
    folder.mkdir()
    (folder / "90_tiny.ipynb").touch()
    with pytest.raises(NotebookError):
        execute(plan_run("90_tiny", {"fail": True}, run_id="x"))

    assert (project / "reports/runs/x/pictures/first").exists()


def test_folder_that_is_no_run_is_never_replaced(project):
    """A batch that was drawn without a notebook lies in reports/runs as well."""
    (project / "reports/runs/mine").mkdir(parents=True)
    (project / "reports/runs/mine/metadata.json").touch()

    with pytest.raises(InvalidValueError, match="something that is no run"):
        plan_run("90_tiny", run_id="mine")


def test_run_that_was_killed_before_its_end_may_be_repeated(project):
    (project / "reports/runs/x").mkdir(parents=True)
    (project / "reports/runs/x/90_tiny.ipynb").touch()

    assert plan_run("90_tiny", run_id="x").run_id == "x"


def test_interrupted_run_gives_the_earlier_one_back(tmp_path):
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "earlier").touch()

    def interrupted_run():
        with _replacing(folder):
            (folder / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_run()
    assert files_of(tmp_path) == ["x/earlier"]


def test_notebook_run_by_hand_gets_an_emptied_folder_of_its_own(project):
    folder = output_folder("90_tiny", None)
    (folder / "old").touch()

    assert output_folder("90_tiny", None) == folder == project / "reports/runs/interactive/90_tiny"
    assert files_of(folder) == []


def test_given_output_folder_keeps_what_is_in_it(project):
    (project / "mine").mkdir()
    (project / "mine/old").touch()

    assert files_of(output_folder("90_tiny", str(project / "mine"))) == ["old"]
