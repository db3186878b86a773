"""What the repository asks for: declared once, locked plainly, and never the forbidden packages."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
FORBIDDEN = ["xformers", "mediapipe"]
SLOW = {"lark", "rfc3987-syntax"}  # which jsonschema imports where it finds them, and does without
LOCKS = sorted(ROOT.glob("requirements*.lock"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENT_FILES = [ROOT / "pyproject.toml", ROOT / "environment.yml", *LOCKS]


def locked_lines(lock):
    return [line for line in lock.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]


def locked_names(lock):
    return {line.split("==")[0] for line in locked_lines(lock)}


def required_names(extra):
    declared = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"][extra]]
    return {canonicalize_name(Requirement(line).name) for line in declared}


def imported_modules(path):
    """The top-level names that a file imports anywhere, by a statement or by name in a call."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                yield from (alias.name.partition(".")[0] for alias in names)
            case ast.ImportFrom(module=str(module)):
                yield module.partition(".")[0]
            case ast.Call(func=ast.Name(id="import_module" | "__import__"), args=[ast.Constant(value=str(name)), *_]):
                yield name.partition(".")[0]
            case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]):
                yield name.partition(".")[0]


@pytest.mark.parametrize("name", FORBIDDEN)
@pytest.mark.parametrize("path", REQUIREMENT_FILES, ids=lambda path: path.name)
def test_forbidden_package_is_in_no_requirement(path, name):
    assert name not in path.read_text(encoding="utf-8").lower()


@pytest.mark.parametrize("name", FORBIDDEN)
def test_forbidden_package_is_imported_by_no_file_of_the_package(name):
    importers = [path for path in (ROOT / "imagelab").rglob("*.py") if name in imported_modules(path)]

    assert importers == []


def test_forbidden_packages_stay_unloaded_where_they_could_be_imported(tmp_path):
    for name in FORBIDDEN:
        (tmp_path / f"{name}.py").touch()
    code = "import imagelab, imagelab.loading, sys; [getattr(imagelab, name) for name in imagelab.__all__]"
    command = [sys.executable, "-c", code + "; print(*sys.modules)"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT, env=environment)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}

    assert loaded.isdisjoint(FORBIDDEN)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_lock_holds_plain_names_and_versions_only(lock):
    odd = [line for line in locked_lines(lock) if not re.fullmatch(r"[a-z0-9-]+==[0-9][a-z0-9.]*", line)]

    assert odd == []


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_lock_holds_each_package_once(lock):
    assert len(locked_lines(lock)) == len(locked_names(lock))


@pytest.mark.parametrize(("lock", "extra"), [("requirements.lock", "cpu"), ("requirements-gpu.lock", "gpu")])
def test_lock_holds_everything_that_is_declared(lock, extra):
    names = locked_names(ROOT / lock)

    assert set().union(*map(required_names, [extra, "notebook", "dev", "ray"])) <= names


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_lock_holds_one_onnxruntime_and_one_opencv(lock):
    names = locked_names(lock)

    assert len({name for name in names if name.startswith("onnxruntime")}) == 1
    assert {name for name in names if name.startswith("opencv")} == {"opencv-python-headless"}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_lock_holds_nothing_that_only_makes_notebooks_start_slowly(lock):
    assert locked_names(lock).isdisjoint(SLOW)


def test_the_two_locks_differ_in_onnxruntime_alone():
    cpu, gpu = (set(locked_lines(ROOT / name)) for name in ("requirements.lock", "requirements-gpu.lock"))

    assert {line.split("==")[0] for line in cpu ^ gpu} == {"onnxruntime", "onnxruntime-gpu"}


@pytest.mark.parametrize("name", ["pyproject.toml", "environment.yml", "requirements.lock", "requirements-gpu.lock"])
def test_no_address_of_a_package_index_is_written_down(name):
    text = (ROOT / name).read_text(encoding="utf-8")

    assert not re.search(r"://|index-url|find-links|trusted-host", text)


def test_conda_environment_installs_the_lock_and_this_package_and_nothing_else():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = environment["dependencies"]
    python = next(line.partition("=")[2] for line in conda if line.startswith("python="))

    assert [line.partition("=")[0] for line in conda] == ["python", "pip", "make"]
    assert pip == {"pip": ["-r requirements.lock", "-e ."]}
    assert SpecifierSet(PROJECT["requires-python"]).contains(python)


@pytest.mark.parametrize("user", ["0", "1000"], ids=["root", "by sudo"])
@pytest.mark.parametrize("installs", [True, False], ids=["chromium installs", "chromium doesn't install"])
def test_ci_runs_make_test_whether_or_not_a_browser_could_be_installed(tmp_path, installs, user):
    """With commands that say what they were called with, in place of the real ones."""
    said = tmp_path / "said"
    sudo = f'[ "$1" = -n ] && shift && PATH={tmp_path} exec "$@"'
    apt = f'echo "apt-get $@" >> {said}; {"true" if installs else "exit 100"}'
    for name, does in {"make": f'echo "make $@" >> {said}', "apt-get": apt, "id": f"echo {user}", "sudo": sudo}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{does}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    for name in ("bash", "dirname", "env", "timeout"):
        (tmp_path / name).symlink_to(shutil.which(name))
    subprocess.run([shutil.which("bash"), ROOT / ".ci/run"], check=True, env={"PATH": str(tmp_path)})
    first, *others = said.read_text(encoding="utf-8").splitlines()

    assert first.startswith("apt-get update")
    assert others[-1] == "make test"
    assert [line.split()[-1] for line in others[:-1]] == (["chromium"] if installs else [])


def test_ci_runs_make_test_where_sudo_asks_for_a_password(tmp_path):
    for name, does in {
        "make": f'echo "make $@" > {tmp_path}/said',
        "id": "echo 1000",
        "sudo": "exit 1",
        "apt-get": "",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{does}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    for name in ("bash", "dirname"):
        (tmp_path / name).symlink_to(shutil.which(name))
    subprocess.run([shutil.which("bash"), ROOT / ".ci/run"], check=True, env={"PATH": str(tmp_path)})

    assert (tmp_path / "said").read_text(encoding="utf-8") == "make test\n"


def test_tests_of_one_module_stay_in_one_process():
    """They share what their module set up, a server and a browser say, which two processes would start twice."""
    assert "--dist loadscope" in (ROOT / "Makefile").read_text(encoding="utf-8")
