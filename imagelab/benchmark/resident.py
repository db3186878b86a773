"""The process's own memory: what there is to measure where no GPU draws."""

from contextlib import suppress
from pathlib import Path

_KIB_IN_GIB = 2**20


def reset_peak_resident() -> None:
    """Let the peak of the resident memory start anew, where Linux allows that; else it stays that of the whole run."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_resident_gib() -> float:
    """Return the most memory that was resident since the reset, libraries and models included; 0 where unknown."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:  # another system than Linux
        return 0.0
    return next((int(line.split()[1]) / _KIB_IN_GIB for line in lines if line.startswith("VmHWM:")), 0.0)
