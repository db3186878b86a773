"""The file beside a character's references that keeps its calibration: one JSON object."""

from pathlib import Path

from imagelab.calibration.values import SCHEMA_VERSION, Calibration
from imagelab.errors import CalibrationFileError, InvalidValueError, shorten
from imagelab.whole_file import whole_file

_MAX_BYTES = 2**20  # one is 3 KiB
_REDO = "Calibrate again with these references and this encoder, or call remove_calibration of the reference manager"


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write a calibration under its final name only when it is complete; raises CalibrationFileError."""
    try:
        with whole_file(path) as stream:
            stream.write(f"{calibration.to_json(indent=2)}\n".encode())
    except OSError as error:
        raise CalibrationFileError(
            path, f"can't be written: {error.strerror or error}", "Choose another path"
        ) from error


def read_calibration(
    path: Path,
    *,
    encoder: str | None = None,
    character_name: str | None = None,
    references_sha256: str | None = None,
    face_choice: str | None = None,
) -> Calibration:
    """Read a calibration, and see that it was made for what is given: a threshold holds for nothing else.

    Raises CalibrationFileError for bytes that aren't one, and for one of another encoder, character, references or
    choice of a picture's face.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise CalibrationFileError(path, "is too large to be a calibration", _REDO)
        found = Calibration.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CalibrationFileError(path, f"can't be read: {error.strerror or error}", _REDO) from error
    except (InvalidValueError, UnicodeDecodeError) as error:
        reason = f"is damaged or no calibration ({shorten(str(error), 300)})"
        raise CalibrationFileError(path, reason, _REDO) from error
    wanted = {
        "encoder": encoder, "character_name": character_name, "references_sha256": references_sha256,
        "face_choice": face_choice,
    }  # fmt: skip
    changed = [
        f"{name} was {_short(name, getattr(found, name))}, is {_short(name, now)}"
        for name, now in wanted.items()
        if now is not None and now != getattr(found, name)
    ]
    if found.schema_version != SCHEMA_VERSION:
        changed.append(f"schema_version was {found.schema_version}, is {SCHEMA_VERSION}")
    if changed:
        raise CalibrationFileError(path, f"is stale: {'; '.join(changed)}", _REDO)
    return found


def _short(name: str, value: str | None) -> str | None:
    return value[:8] if value and name.endswith("sha256") else value
