"""What the doctor says: checks, each with what to do, and the report that they make."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

Status = Literal["ok", "note", "warning", "problem"]  # a profile with a problem can't run

MARKS: Mapping[Status, str] = {"ok": "✓", "note": "·", "warning": "!", "problem": "✗"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    status: Status
    found: str
    fix: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)  # {file: sha256}


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What the doctor found, for one profile."""

    profile: str
    checks: tuple[Check, ...]

    @property
    def can_run(self) -> bool:
        """Say whether the profile can run on this machine."""
        return not self.problems

    @property
    def problems(self) -> tuple[Check, ...]:
        """Return what stands in the way."""
        return tuple(check for check in self.checks if check.status == "problem")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        checks = [asdict(check) for check in self.checks]
        return {"profile": self.profile, "can_run": self.can_run, "checks": checks}

    def to_text(self) -> str:
        """Return a line for each check, its fix below it, and the verdict."""
        width = max(len(check.name) for check in self.checks)
        lines = [f"{MARKS[check.status]} {check.name:<{width}}  {_with_fix(check, width + 4)}" for check in self.checks]
        count = len(self.problems)
        verdict = "can run" if self.can_run else f"can't run: {count} problem{'' if count == 1 else 's'}"
        return "\n".join([*lines, "", f"Profile {self.profile!r} {verdict}."])

    def to_frame(self) -> "pd.DataFrame":
        """Return a table with a row per check."""
        import pandas as pd

        rows = [(MARKS[check.status], check.name, check.found, check.fix) for check in self.checks]
        return pd.DataFrame(rows, columns=["", "check", "found", "what to do"])


def _with_fix(check: Check, indent: int) -> str:
    found = check.found.replace("\n", "\n" + " " * indent)
    return found + (f"\n{' ' * indent}→ {check.fix}" if check.fix else "")


def first_line(error: Exception) -> str:
    """Return what an error says, without its details."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
