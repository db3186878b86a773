"""What a threshold is chosen by."""

import re
from dataclasses import dataclass
from typing import Literal

from imagelab.checks import check_number
from imagelab.errors import UnknownNameError

KNOWN = ("eer", "fmr<=0.01", "fnmr<=0.05")
_RATE = re.compile(r"(fmr|fnmr)\s*(?:<=|≤)\s*([-+.\w]+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """Equal error rates, or the least of one error that keeps the other within a limit."""

    kind: Literal["eer", "fmr", "fnmr"]
    limit: float | None = None  # of the rate that `kind` names; None for eer

    def __str__(self) -> str:
        """Write it as `parse_policy` reads it."""
        return self.kind if self.limit is None else f"{self.kind}<={self.limit:g}"


def parse_policy(text: str) -> Policy:
    """Read a policy: "eer", "fmr<=0.01" or "fnmr<=0.05", with any limit between 0 and 1.

    Raises UnknownNameError for another word, InvalidValueError for another limit.

    >>> parse_policy("fmr <= 0.01").limit
    0.01
    """
    if not isinstance(text, str):
        raise UnknownNameError("policy", text, KNOWN)
    word = text.strip().lower()
    if word == "eer":
        return Policy(kind="eer")
    found = _RATE.fullmatch(word)
    try:
        limit = float(found[2]) if found else None
    except ValueError:
        limit = None
    if found is None or limit is None:
        raise UnknownNameError("policy", text, KNOWN)
    check_number(limit, f"the limit of policy {text!r}", 1e-12, 1 - 1e-12)
    return Policy(kind="fmr" if found[1] == "fmr" else "fnmr", limit=limit)
