"""Is run B worse than run A? Two benchmarks, or two batches, compared with intervals that keep what they promise.

comparison = compare_runs("before.json", "after.json", fail_over=0.1)
comparison.to_text(), comparison.passed, comparison.changes[0].change
"""

from imagelab.compare.batches import Batch, compare_batches, read_compared_batch
from imagelab.compare.benchmarks import compare_benchmarks
from imagelab.compare.changes import Change
from imagelab.compare.opening import compare_runs, open_run
from imagelab.compare.values import Comparison

__all__ = [
    "Batch",
    "Change",
    "Comparison",
    "compare_batches",
    "compare_benchmarks",
    "compare_runs",
    "open_run",
    "read_compared_batch",
]
