"""How fast a profile draws and in how much memory, as a fraction of what the machine could do."""

from imagelab.benchmark.cases import VARIANTS, Case, plan_cases
from imagelab.benchmark.report import BenchmarkReport, CaseReport, Sample, read_report
from imagelab.benchmark.run import run_benchmark

__all__ = ["VARIANTS", "BenchmarkReport", "Case", "CaseReport", "Sample", "plan_cases", "read_report", "run_benchmark"]
