"""What benchmarks share: the machine and its other users, and a file for each in reports/benchmarks/."""

import os
from datetime import UTC, datetime
from time import perf_counter

import psutil
import pytest
from turns import cpu_seconds, say

from imagelab.config import project_root
from imagelab.reporting import Measurement, write_measurement
from imagelab.versions import drawing_versions


def pytest_collection_modifyitems(items):
    """Mark what lies here: it is measured for `-m bench` alone, on a machine that does nothing else."""
    for item in items:
        if item.path.parent.name == "bench":
            item.add_marker("bench")


@pytest.fixture
def keep(request):
    """Give what writes a measurement into reports/benchmarks/: its promise is held to afterwards, kept or not."""
    begun = perf_counter(), cpu_seconds(), busy_seconds()
    say(f"\n{request.node.nodeid}")

    def write(name, what, *, facts=None, rows=(), machine=None):
        import torch  # by now the benchmark has loaded what it needs

        from imagelab.environment import read_environment

        on = read_environment(torch.device("cpu"))
        known = {"device": "cpu", "processor": on.processor, "cores": str(os.cpu_count()), "threads": str(on.threads)}
        command = f"OMP_NUM_THREADS=1 .venv/bin/pytest -m bench {request.node.nodeid.partition('::')[0]}"
        known |= {**drawing_versions(), **(machine or {}), "load": load_since(*begun)}
        known["measured"] = datetime.now(UTC).date().isoformat()
        found = Measurement(what=what, command=command, machine=known, facts=facts or {}, rows=tuple(rows))
        return write_measurement(found, project_root() / "reports" / "benchmarks" / name)

    return write


def load_since(clock, own, busy):
    """Say how many cores others have kept busy since then: numbers from a machine that others use are too high."""
    others = max(0.0, (busy_seconds() - busy) - (cpu_seconds() - own))
    return f"others took {others / (perf_counter() - clock):.2f} cores"


def busy_seconds():
    """Return the seconds that all cores together have been busy for."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
