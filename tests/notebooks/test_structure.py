"""Every notebook that git tracks has the one form that docs and tools rely on."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

from imagelab.notebooks import read_parameters

ROOT = Path(__file__).parents[2]
ORDER = re.compile(r"title parameters setup load run( text look){1,5} check summary glue")
MAX_CODE_CELLS, MAX_LINES = 12, 15


def tracked_notebooks():
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.ipynb"]
    done = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=False)
    paths = [ROOT / line for line in done.stdout.splitlines()] or sorted((ROOT / "notebooks").glob("*.ipynb"))
    return [path for path in paths if path.is_file()]


@pytest.fixture(params=tracked_notebooks(), ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


@pytest.fixture
def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def role(cell, index):
    if cell.cell_type == "markdown":
        return "text" if index else "title"
    return cell.metadata.tags[0]


def with_role(cells, wanted):
    return [cell for cell in cells if cell.metadata.tags[0] == wanted]


def test_the_notebooks_of_the_main_job_are_there():
    names = {
        "00_environment",
        "10_generate_character",
        "11_compose_loras",
        "12_guide_with_controlnet",
        "20_build_references",
        "21_analyse_consistency",
        "22_filter_batches",
        "23_calibrate_threshold",
        "90_report",
    }

    assert names <= {path.stem for path in tracked_notebooks()}


def test_notebook_is_valid(notebook):
    nbformat.validate(notebook)


def test_cells_have_the_order(notebook):
    assert ORDER.fullmatch(" ".join(role(cell, index) for index, cell in enumerate(notebook.cells)))


def test_title_is_a_question(notebook):
    title = notebook.cells[0].source.splitlines()[0]

    assert title.startswith("# ")
    assert title.endswith("?")


def test_cells_are_few_and_short(code_cells):
    assert len(code_cells) <= MAX_CODE_CELLS
    assert [len(cell.source.splitlines()) for cell in code_cells if len(cell.source.splitlines()) > MAX_LINES] == []


def test_cells_define_nothing(code_cells):
    definitions = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
    found = [node for cell in code_cells for node in ast.walk(ast.parse(cell.source)) if isinstance(node, definitions)]

    assert found == []


def test_only_the_setup_imports(code_cells):
    others = [cell for cell in code_cells if cell.metadata.tags[0] != "setup"]
    imports = [
        node
        for cell in others
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]

    assert imports == []


def test_no_path_is_absolute(code_cells):
    texts = [
        node.value
        for cell in code_cells
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]

    assert [text for text in texts if re.match(r"/.|~|[A-Za-z]:[\\/]", text)] == []


def test_parameters_are_annotated_commented_and_default_to_the_puppets(path):
    parameters = read_parameters(path)

    assert [parameter.name for parameter in parameters.values() if not parameter.help] == []
    assert parameters["profile"].default == "puppet"


def test_every_parameter_is_used(path, code_cells):
    rest = "\n".join(cell.source for cell in code_cells if cell.metadata.tags[0] != "parameters")
    names = {node.id for node in ast.walk(ast.parse(rest)) if isinstance(node, ast.Name)}

    assert set(read_parameters(path)) <= names


def test_check_asserts(code_cells):
    (check,) = with_role(code_cells, "check")

    assert any(isinstance(node, ast.Assert) for node in ast.parse(check.source).body)


def test_only_the_summary_is_compared(code_cells):
    wanted = [
        [role, *(["nbval-check-output", "keep_output"] if role == "summary" else ["nbval-ignore-output"])]
        for role in roles_of(code_cells)
    ]

    assert [cell.metadata.tags for cell in code_cells] == wanted


def roles_of(cells):
    return [cell.metadata.tags[0] for cell in cells]


def test_only_the_summary_keeps_its_output_and_it_is_sorted_json(code_cells):
    (summary,) = with_role(code_cells, "summary")
    (output,) = summary.outputs
    data = json.loads(output.text)

    assert [cell.metadata.tags[0] for cell in code_cells if cell.outputs] == ["summary"]
    assert output.output_type == "stream"
    assert output.name == "stdout"
    assert list(data) == sorted(data)


def test_cells_were_run_from_the_first_to_the_last(code_cells):
    """A cell without a count is run by nbval but never compared."""
    assert [cell.execution_count for cell in code_cells] == list(range(1, len(code_cells) + 1))


def test_notebook_says_nothing_about_the_machine_that_ran_it(notebook):
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}

    assert notebook.metadata == {"kernelspec": kernel, "language_info": {"name": "python"}}
    assert {key for cell in notebook.cells for key in cell.metadata} <= {"tags"}


def test_pre_commit_has_nothing_to_strip(path, tmp_path):
    """The hook's own command: outputs go, but those of cells tagged keep_output; counts stay, nbval wants them."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    (command,) = [hook["entry"].split() for hook in hooks if hook["id"] == "nbstripout"]
    copy = shutil.copy(path, tmp_path)
    subprocess.run([Path(sys.executable).with_name("nbstripout"), *command[1:], copy], check=True)

    assert Path(copy).read_text(encoding="utf-8") == path.read_text(encoding="utf-8")
