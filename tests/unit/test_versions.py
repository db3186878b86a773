"""Which code ran is named by its commit, where there is one."""

import subprocess

import pytest

from imagelab import versions


def git(folder, *words):
    own = ("-c", "user.name=Nobody", "-c", "user.email=nobody@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", "-C", folder, *own, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A checkout whose imagelab/versions.py asks which it is."""
    code = tmp_path / "imagelab/versions.py"
    code.parent.mkdir()
    code.write_text("old")
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    monkeypatch.setattr(versions, "__file__", str(code))
    return tmp_path


def test_commit_is_named_and_whether_code_or_configuration_was_changed_since(repository):
    commit = git(repository, "rev-parse", "HEAD")[:12]
    (repository / "notes.md").write_text("no code")
    clean = versions.checkout()
    (repository / "imagelab/versions.py").write_text("new")

    assert clean == {"commit": commit}
    assert versions.checkout() == {"commit": f"{commit}, changed"}


def test_what_runs_from_no_checkout_or_without_git_names_none(repository, monkeypatch):
    monkeypatch.setenv("PATH", str(repository / "nothing"))
    without_git = versions.checkout()
    monkeypatch.undo()
    monkeypatch.setattr(versions, "__file__", str(repository / "lib/imagelab/versions.py"))

    assert (without_git, versions.checkout()) == ({}, {})
