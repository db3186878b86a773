"""Files of parameters, as in configs/runs: one may serve several notebooks."""

from pathlib import Path

from imagelab.errors import ConfigError, InvalidValueError
from imagelab.notebooks.parameters import read_parameters
from imagelab.notebooks.paths import find_notebook, list_notebooks


def read_parameter_file(path: Path, notebook: str) -> tuple[dict[str, object], tuple[str, ...]]:
    """Return the values in a YAML file for a notebook, and the names in it that only other notebooks know.

    A name that no notebook knows stays among the values, for `plan_run` to refuse: it is a slip. Raises
    InvalidValueError where there is no file, ConfigError for what is no mapping, NotebookError and UnknownNameError for
    the notebook.
    """
    from imagelab.config.yaml_file import read_yaml

    if not path.is_file():
        raise InvalidValueError("--params", str(path), "a YAML file of parameters, and there is none")
    document = read_yaml(path, str(path))
    if document.problems or not isinstance(document.data, dict):
        raise ConfigError(tuple(document.problems))
    given, known = dict(document.data), read_parameters(find_notebook(notebook))
    strange = set(given) - set(known)
    others = (
        {name for other in list_notebooks() for name in read_parameters(find_notebook(other))} if strange else set()
    )
    foreign = tuple(name for name in given if name in strange & others)
    return {name: value for name, value in given.items() if name not in foreign}, foreign
