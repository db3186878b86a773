"""The one error tree: each error names the bad value, where it stands, the known values and the fix."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from itertools import groupby
from pathlib import Path
from typing import Any

_HASH = re.compile(r"\b([0-9a-f]{8})[0-9a-f]{56}\b")
_SHOWN_CHANGES = 5


def nearest_name(name: object, known: Iterable[str]) -> str | None:
    """Return the known name that looks most like `name`, or None when none comes close."""
    by_lower_case = {candidate.lower(): candidate for candidate in known}
    matches = get_close_matches(str(name).lower(), by_lower_case, n=1)
    return by_lower_case[matches[0]] if matches else None


def shorten(value: object, limit: int = 80) -> str:
    """Show a value in a message: its repr, so long at most that a pasted file can't flood the terminal.

    What is left out is in the middle: a path says most at its end.
    """
    text = repr(value)
    half = limit // 2
    return text if len(text) <= limit else f"{text[: limit - half - 1]}…{text[-half:]}"


def _hint(nearest: str | None) -> str:
    return f"; did you mean {nearest!r}?" if nearest else ""


class ImageLabError(Exception):
    """Base of every error that imagelab raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception pickles positional arguments only; a worker's error must reach its parent whole.
        if is_dataclass(self):
            return type(self), tuple(getattr(self, field.name) for field in fields(self))
        return super().__reduce__()  # type: ignore[return-value]  # typeshed: str | tuple; exceptions give a tuple


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One fault in one configuration file."""

    file: str
    path: str  # dotted, "profiles.puppet.sizes.square.0"; empty for the file as a whole
    message: str  # "{value}" in it is where the bad value goes, else it goes behind
    value: str = ""  # the bad value as `shorten` shows it; empty when a key is missing
    nearest: str | None = None
    known: tuple[str, ...] = ()
    line: int | None = None  # 1-based

    def __str__(self) -> str:
        """Say it on one line."""
        place = " ".join(part for part in (self.path, f"(line {self.line})" if self.line else "") if part)
        says = self.message.replace("{value}", self.value)
        value = f", got {self.value}" if self.value and says == self.message else ""
        known = f" Known: {', '.join(self.known)}" if self.known else ""
        return f"{place}{': ' if place else ''}{says}{value}{_hint(self.nearest)}{known}"


@dataclass(eq=False)
class ConfigError(ImageLabError):
    """The configuration has faults; `problems` holds every one of them."""

    problems: tuple[Problem, ...]

    def __post_init__(self) -> None:
        """Accept any iterable of problems."""
        self.problems = tuple(self.problems)

    def __str__(self) -> str:
        """List the problems file by file, in the order of the lines."""
        ordered = sorted(self.problems, key=lambda problem: (problem.file, problem.line or 0, problem.path))
        lines = [f"{len(ordered)} problem{'' if len(ordered) == 1 else 's'} in the configuration"]
        for file, problems in groupby(ordered, key=lambda problem: problem.file):
            lines += [file, *(f"  {problem}" for problem in problems)]
        return "\n".join(lines)


@dataclass(eq=False)
class UnknownNameError(ImageLabError, ValueError):
    """A name isn't in the table where it was looked up: an unknown `kind` ("character", "LoRA", "quality preset")."""

    kind: str
    name: object
    known: tuple[str, ...]

    def __post_init__(self) -> None:
        """Accept any iterable of known names."""
        self.known = tuple(sorted(self.known))

    @property
    def nearest(self) -> str | None:
        """Return the known name that was probably meant."""
        return nearest_name(self.name, self.known)

    def __str__(self) -> str:
        """Say what is unknown, what was probably meant and what exists."""
        hint = _hint(self.nearest) or "."
        return f"unknown {self.kind} {shorten(self.name)}{hint} Known: {', '.join(self.known) or 'none'}"


@dataclass(eq=False)
class InvalidValueError(ImageLabError, ValueError):
    """An argument has a value that it can't have; `expected` reads "a multiple of 8 between 64 and 256"."""

    name: str
    value: object
    expected: str

    def __str__(self) -> str:
        """Say which argument, what it must be and what it was."""
        return f"{self.name} must be {self.expected}, got {shorten(self.value)}"


@dataclass(eq=False)
class OtherRunError(InvalidValueError):
    """A folder holds a run that another call has begun; `changes` names all that is another now, and what it was."""

    changes: tuple[str, ...] = ()
    fix: str = ""

    def __str__(self) -> str:
        """Say what has changed, the first of it line by line, and what to do."""
        shown = [_HASH.sub(r"\1…", change) for change in self.changes[:_SHOWN_CHANGES]]
        rest = len(self.changes) - len(shown)
        lines = [f"  {change}" for change in shown] + ([f"  and {rest} more"] if rest else [])
        return "\n".join([f"{super().__str__()}; its run and this call differ:", *lines, self.fix])


def _say(what: object, reason: str, fix: str) -> str:
    return f"{what}: {reason}" + (f". {fix}" if fix else "")


@dataclass(eq=False)
class ModelNotFoundError(ImageLabError):
    """A model isn't on this machine; `fix` says what to put where."""

    what: str
    path: Path
    fix: str = ""

    def __str__(self) -> str:
        """Say which model, where it was looked for and how to get it."""
        return _say(self.what, f"nothing at {self.path}", self.fix)


@dataclass(eq=False)
class ModelFileError(ImageLabError):
    """A model's file is there but can't be trusted: truncated, corrupt, of another format, of another sha256."""

    path: Path
    reason: str
    fix: str = ""

    def __str__(self) -> str:
        """Say which file, what is wrong with it and what to do."""
        return _say(self.path, self.reason, self.fix)


@dataclass(eq=False)
class ImageFileError(ImageLabError):
    """An image can't be read: missing, not an image, truncated, too large."""

    path: Path
    reason: str
    fix: str = ""

    def __str__(self) -> str:
        """Say which file, what is wrong with it and what to do."""
        return _say(self.path, self.reason, self.fix)


@dataclass(eq=False)
class ControlMapError(ImageLabError):
    """No control map can be made of a picture: it shows nobody, or the estimator finds nothing in it."""

    picture: str
    reason: str
    fix: str = ""

    def __str__(self) -> str:
        """Say which picture, what isn't found in it and what to do."""
        return _say(self.picture, self.reason, self.fix)


@dataclass(eq=False)
class ReferenceStoreError(ImageLabError):
    """A character's stored reference embeddings are missing, damaged or made by another face pack."""

    path: Path
    reason: str
    fix: str = ""

    def __str__(self) -> str:
        """Say which store, what is wrong with it and what to do."""
        return _say(self.path, self.reason, self.fix)


@dataclass(eq=False)
class CalibrationFileError(ImageLabError):
    """A stored calibration is missing, damaged or made for other references or another encoder."""

    path: Path
    reason: str
    fix: str = ""

    def __str__(self) -> str:
        """Say which file, what is wrong with it and what to do."""
        return _say(self.path, self.reason, self.fix)


@dataclass(eq=False)
class RunFolderError(ImageLabError):
    """A run's folder is damaged; what lies in it stays."""

    path: Path
    reason: str
    fix: str = ""

    def __str__(self) -> str:
        """Say which file or folder, what is wrong with it and what to do."""
        return _say(self.path, self.reason, self.fix)


class RunStoppedError(RunFolderError):
    """A run's folder can't be written to any more; what lies in it stays, and the same call goes on."""


@dataclass(eq=False)
class GenerationError(ImageLabError):
    """Drawing went wrong on valid input: NaN latents, out of memory, a cleaned-up generator."""

    reason: str
    fix: str = ""

    def __str__(self) -> str:
        """Say what went wrong and what to do."""
        return _say("generation failed", self.reason, self.fix)


class OutOfMemoryError(GenerationError):
    """The memory, the GPU's or the machine's, is too small for what is asked."""


class DegradedWarning(UserWarning):
    """What was asked for is done in a slower way, or with other last bits, which records say too."""


@dataclass(eq=False)
class NotebookError(ImageLabError):
    """A notebook can't be run, or ran and failed."""

    notebook: str
    reason: str
    fix: str = ""

    def __str__(self) -> str:
        """Say which notebook, what went wrong and what to do."""
        return _say(f"notebook {self.notebook}", self.reason, self.fix)


@dataclass(eq=False)
class ProfileError(ImageLabError):
    """A profile can't do what was asked: no such model yet, no such device."""

    profile: str
    reason: str
    fix: str = ""

    def __str__(self) -> str:
        """Say which profile, what it lacks and what to do."""
        return _say(f"profile {self.profile}", self.reason, self.fix)
