"""Reports: what has been measured and what has been run, gathered from the JSON that measuring and running leave."""

from imagelab.reporting.gathering import Gathered, gather
from imagelab.reporting.markdown import to_markdown, write_summary
from imagelab.reporting.measurement import Measurement, Unmeasured, read_measurement, write_measurement
from imagelab.reporting.runs import RunResult, read_result

__all__ = [
    "Gathered",
    "Measurement",
    "RunResult",
    "Unmeasured",
    "gather",
    "read_measurement",
    "read_result",
    "to_markdown",
    "write_measurement",
    "write_summary",
]
