"""The typed parameters of a notebook: read without running it, and everything that is wrong with them said at once.

papermill's own reader overlooks annotations with `|` in them and takes a `#` in a string for a comment (2.7.0), only
warns about an unknown name and checks no types. So the cell is read with Python's parser.
"""

import ast
import io
import tokenize
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args

from imagelab.errors import NotebookError, UnknownNameError, shorten

_TYPES = {"int": int, "float": float, "str": str, "bool": bool, "None": None, "list": list}
_IN_WORDS = {int: "a whole number", float: "a finite number", str: "text", bool: "true or false", NoneType: "null"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """One line of the cell tagged `parameters`: `seed: int | None = None  # the noise to start from`."""

    name: str
    kind: Any  # a type: int, list[str], float | None
    annotation: str  # as it is written
    default: object
    help: str


def read_parameters(path: Path) -> dict[str, Parameter]:
    """Return {name: parameter} in the order of the cell; empty when the notebook has no such cell.

    Raises NotebookError for a file that isn't a notebook and for a line that isn't `name: type = value`.
    """
    import nbformat

    try:
        notebook = nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise NotebookError(path.stem, f"can't be read: {error}") from error
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    if not cells:
        return {}
    try:
        return _parse(cells[0].source)
    except (SyntaxError, ValueError, TypeError) as error:
        fix = "Write one `name: type = value  # comment` a line; types: int, float, str, bool, list[...], ... | None"
        raise NotebookError(path.stem, f"its parameters can't be read: {error}", fix) from error


def _parse(source: str) -> dict[str, Parameter]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}
    parameters = {}
    for node in ast.parse(source).body:
        match node:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=ast.expr() as value):
                text = comments.get(node.end_lineno or 0, "").removeprefix("#").strip()
                kind, default = _type_of(annotation), ast.literal_eval(value)
                written = ast.unparse(annotation)
                parameters[name] = Parameter(name=name, kind=kind, annotation=written, default=default, help=text)
            case _:
                raise ValueError(f"line {node.lineno} is {shorten(ast.unparse(node))}")
    return parameters


def _type_of(node: ast.expr) -> Any:
    """Build the type that an annotation names; nothing in it is evaluated."""
    match node:
        case ast.Name(id=name) if name in _TYPES:
            return _TYPES[name]
        case ast.Constant(value=None):
            return None
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _type_of(left) | _type_of(right)
        case ast.Subscript(value=ast.Name(id="list"), slice=item):
            return list[_type_of(item)]  # type: ignore[misc]  # a type that is only known now
    raise ValueError(f"type {ast.unparse(node)!r} is unknown")


def check_parameters(notebook: str, parameters: Mapping[str, Parameter], given: Mapping[str, object]) -> dict[str, Any]:
    """Return the given values, each of its parameter's type.

    Text from the command line must have gone through `read_text` before. Raises NotebookError with every unknown name
    and every ill-typed value.
    """
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    checked, problems = {}, []
    for name, value in given.items():
        if name not in parameters:
            problems.append(str(UnknownNameError("parameter", name, tuple(parameters))))
            continue
        adapter = TypeAdapter(parameters[name].kind, config=ConfigDict(strict=True, allow_inf_nan=False))
        try:
            checked[name] = adapter.validate_python(value)
        except ValidationError:
            problems.append(f"{name} must be {in_words(parameters[name].kind)}, got {shorten(value)}")
    if problems:
        raise NotebookError(notebook, "\n  ".join(["can't be run with these parameters", *problems]))
    return checked


def in_words(kind: Any) -> str:
    """Name a type as an error message does: "a whole number or null"."""
    if isinstance(kind, UnionType):
        return " or ".join(in_words(choice) for choice in get_args(kind))
    if get_args(kind):
        return f"a list, each item {in_words(get_args(kind)[0])}"
    return _IN_WORDS.get(kind, str(kind))


def read_text(parameter: Parameter, text: str) -> object:
    """Read a value as it is typed on a command line: `20`, `null`, `[draft, high]` or `draft,high`.

    Text that doesn't read as the parameter's type is returned as it is, for `check_parameters` to refuse.
    """
    kinds = get_args(parameter.kind) if isinstance(parameter.kind, UnionType) else (parameter.kind,)
    if NoneType in kinds and text.lower() in {"", "null", "none"}:
        return None
    if str in kinds:
        return text
    if item := next((get_args(kind)[0] for kind in kinds if get_args(kind)), None):
        items = text.removeprefix("[").removesuffix("]").split(",")
        return [_read(item, part.strip().strip("\"'")) for part in items if part.strip()]
    values = [_read(kind, text) for kind in kinds if kind is not NoneType]
    return next((value for value in values if value is not text), text)


def _read(kind: type, text: str) -> object:
    readers: dict[type, Callable[[str], object]] = {int: int, float: float, str: str, bool: _read_bool}
    try:
        return readers[kind](text)
    except ValueError:
        return text


def _read_bool(text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise ValueError(text)
    return text.lower() == "true"
