"""The versions of the libraries and of the compiler that a result depends on, imagelab's own among them."""

import os
import shlex
import subprocess
from functools import cache
from pathlib import Path

from imagelab.errors import GenerationError

UNCOMPILED = "or draw without: compiled: false in the profile"
_DRAWING = ("imagelab", "torch", "diffusers", "transformers")


@cache  # it is asked for each picture, and looks through every folder of sys.path
def library_version(name: str) -> str:
    """Return the installed version of a library by its distribution's name, "0+unknown" where it isn't installed."""
    from importlib.metadata import PackageNotFoundError, version  # slow to import, rarely asked for

    try:
        return version(name)
    except PackageNotFoundError:  # imagelab from a source checkout on sys.path
        return "0+unknown"


def drawing_versions(compiled_by: str | None = None) -> dict[str, str]:
    """Return the versions of the libraries that draw; where models are compiled, also the compiler's, as `inductor`."""
    versions = {name: library_version(name) for name in _DRAWING}
    return versions | ({"inductor": compiled_by} if compiled_by else {})


def checkout() -> dict[str, str]:
    """Return the commit that imagelab runs from, as `commit`, and whether its code or configuration was changed since.

    Empty where it doesn't run from a checkout, or git isn't installed.
    """
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():  # one that only lies within somebody's checkout, as in its .venv, is no part of it
        return {}
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        changed = _git(root, "status", "--porcelain", "--", "imagelab", "configs")
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": f"{commit}, changed" if changed else commit}


def _git(root: Path, *words: str) -> str:
    command = ["git", "-C", str(root), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def find_compiler() -> str:
    """Return the first line that the C++ compiler, g++ or what $CXX says, has to say of its version.

    Raises GenerationError where there is none: inductor needs one on every device.
    """
    command = os.environ.get("CXX") or "g++"  # as inductor looks for it
    try:
        said = subprocess.run([*shlex.split(command), "--version"], capture_output=True, text=True, check=True).stdout
        return said.splitlines()[0]
    except (OSError, ValueError, IndexError, subprocess.SubprocessError) as error:
        reason = f"models are to be compiled, and there is no C++ compiler {command!r} that runs"
        raise GenerationError(reason, f"Install g++, name another one in $CXX, {UNCOMPILED}") from error
