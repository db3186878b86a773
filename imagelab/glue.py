"""What a notebook leaves behind: values that programs read, and lines that come out alike on every CPU.

A scrap is a display output of scrapbook's media type and schema, so that `scrapbook.read_notebook(path).scraps` reads
it as well; scrapbook itself isn't needed. How pictures and scores are rounded: docs/decisions/0005.
"""

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagelab.errors import InvalidValueError, NotebookError

if TYPE_CHECKING:
    from PIL.Image import Image

SCRAP_TYPE = "application/scrapbook.scrap.json+json"
_SCRAP_VERSION = 1

_GRID = 8  # blocks a side
_LEVEL_WIDTH = 32  # grey levels of 255 that share a digit
_SCORE_STEP = 0.05


def glue(name: str, value: object) -> None:
    """Store a value in the output of the running cell, for `read_scraps` and the runner's result.json.

    NaN and infinities become null. Raises InvalidValueError for what JSON has no word for.
    """
    from IPython.display import display

    payload = {"name": name, "data": to_json_types(name, value), "encoder": "json", "version": _SCRAP_VERSION}
    display({SCRAP_TYPE: payload}, raw=True, metadata={"scrapbook": {"name": name, "data": True, "display": False}})


def read_scraps(path: Path) -> dict[str, Any]:
    """Return {name: value} of every scrap in an executed notebook; of equal names the last one counts.

    Raises NotebookError when the file isn't a notebook.
    """
    import nbformat

    try:
        notebook = nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise NotebookError(path.name, f"can't be read: {error}") from error
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", ()))
    payloads = (output["data"][SCRAP_TYPE] for output in outputs if SCRAP_TYPE in output.get("data", {}))
    return {payload["name"]: payload["data"] for payload in payloads}


def to_json_types(name: str, value: object) -> object:
    """Return `value` in JSON's own types; `name` says in errors whose value it is."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(key): to_json_types(f"{name}.{key}", item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # numpy's and torch's scalars and arrays
        value = value.tolist()
    if isinstance(value, list | tuple | set | frozenset):
        ordered = sorted(value) if isinstance(value, set | frozenset) else value
        return [to_json_types(f"{name}[{index}]", item) for index, item in enumerate(ordered)]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Path):
        return value.as_posix()
    raise InvalidValueError(name, value, "made of numbers, text, true, false, null, lists and mappings")


def round_score(score: float | None) -> float | None:
    """Round a similarity to the next 0.05, which absorbs what CPUs disagree about; None and NaN stay unknown."""
    if score is None or math.isnan(score):
        return None
    return round(round(score / _SCORE_STEP) * _SCORE_STEP, 2) + 0.0  # + 0.0: there is no -0.0


def fingerprint(image: "Image") -> str:
    """Describe a picture in 3 × 64 digits: the mean red, green and blue of 8 × 8 blocks, row by row, from 0 to 7.

    Unlike a perceptual hash, whose bits compare values that may be equal, a digit changes only at fixed grey levels,
    and the rounding errors of another CPU are thousands of times smaller than the distance between two of these.
    """
    import numpy as np

    pixels = np.asarray(image.convert("RGB"), dtype=np.float64)
    rows, columns = (min(_GRID, side) for side in pixels.shape[:2])
    bands = [np.array_split(band, columns, axis=1) for band in np.array_split(pixels, rows)]
    digits = np.array([block.mean(axis=(0, 1)) // _LEVEL_WIDTH for band in bands for block in band], dtype=int)
    return " ".join("".join(map(str, channel)) for channel in digits.T)


def picture_line(image: "Image | None", *facts: object) -> str:
    """Put the facts about a picture and its fingerprint on one line of a summary; floats are rounded as scores."""
    shown = [f"{round_score(fact):.2f}" if isinstance(fact, float) else str(fact) for fact in facts]
    return " ".join([*shown, fingerprint(image) if image is not None else "no picture"])


def mean(values: Sequence[float]) -> float:
    """Return the mean, NaN when there are no values."""
    return math.fsum(values) / len(values) if values else math.nan
