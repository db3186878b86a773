"""Sweeps: runs whose pictures differ in more than their seeds; drawn, resumed and counted as batches are."""

from imagelab.sweeps.cost import Cost, estimate_cost
from imagelab.sweeps.run import run_sweep, write_sweep
from imagelab.sweeps.sheet import sweep_sheet
from imagelab.sweeps.table import picture_changes, sweep_table
from imagelab.sweeps.variants import lora_request, sweep_request

__all__ = [
    "Cost",
    "estimate_cost",
    "lora_request",
    "picture_changes",
    "run_sweep",
    "sweep_request",
    "sweep_sheet",
    "sweep_table",
    "write_sweep",
]
