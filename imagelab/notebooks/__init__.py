"""The notebooks: their parameters, running one, and refreshing the outputs that are committed."""

from imagelab.notebooks.parameter_file import read_parameter_file
from imagelab.notebooks.parameters import Parameter, check_parameters, read_parameters
from imagelab.notebooks.paths import benchmarks_folder, find_notebook, list_notebooks, output_folder, store_folder
from imagelab.notebooks.refresh import refresh
from imagelab.notebooks.runner import Run, RunPlan, execute, plan_run

__all__ = [
    "Parameter",
    "Run",
    "RunPlan",
    "benchmarks_folder",
    "check_parameters",
    "execute",
    "find_notebook",
    "list_notebooks",
    "output_folder",
    "plan_run",
    "read_parameter_file",
    "read_parameters",
    "refresh",
    "store_folder",
]
