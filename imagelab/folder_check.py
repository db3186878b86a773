"""Which of many pictures show a character: a table with a row a picture, which goes on where it was stopped."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from imagelab.acceptance import configured_limits, configured_threshold
from imagelab.calibration import Calibration
from imagelab.check_table import QUALITY_COLUMNS, CheckParameters, CheckTable, Row, check_table_path
from imagelab.config import pick
from imagelab.consistency import CharacterConsistencyChecker
from imagelab.errors import InvalidValueError
from imagelab.faces import FaceLimits, FacesFound, face_choice, read_found
from imagelab.models import file_sha256
from imagelab.picture_files import PictureFile, PictureList, as_text, list_pictures
from imagelab.reference_calibration import calibration_label
from imagelab.reference_store import CharacterReferences
from imagelab.similarity import Embedding, check_threshold
from imagelab.verdict_summary import VerdictSummary, summarise

if TYPE_CHECKING:
    import pandas as pd

PART_PICTURES = 128  # in a part of the table: what a kill loses at most


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CheckResult:
    """What a check of many pictures gave."""

    table: "pd.DataFrame"  # a row a picture, in the order of the source
    path: Path
    summaries: Mapping[str, VerdictSummary]  # by character
    judged_by: Mapping[str, str]  # {character: its threshold, and whether it is calibrated}
    checked: int  # pictures looked at now
    kept: int  # that an earlier run had looked at
    skipped: int  # files of the folder that aren't named like pictures

    def to_text(self) -> str:
        """Return the summaries, and what was done, in a few lines."""
        blocks = [f"{name}, {self.judged_by[name]}\n{summary.to_text()}" for name, summary in self.summaries.items()]
        done = f"{self.path}: {len(self.table)} pictures, {self.checked} of them looked at now"
        return "\n\n".join([*blocks, f"{done}; {self.skipped} other files skipped"])


def check_folder(
    source: "str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | pd.DataFrame",
    references: CharacterReferences | Sequence[CharacterReferences],
    output: str | os.PathLike[str],
    *,
    checker: CharacterConsistencyChecker,
    threshold: float | None = None,
    calibrations: Mapping[str, Calibration | None] | None = None,
    recursive: bool = False,
    progress: bool | None = None,
) -> CheckResult:
    """Judge every picture of a folder, a list or a DataFrame's column `file` by one or more characters' references.

    The table goes to `output`, a parquet file, in parts of 128 pictures until it is complete. A check that was stopped
    goes on when it is asked for again, and a complete one looks at new pictures, and at those whose size, or time and
    sha256, have changed; rows of files that are gone go. It is refused when anything else that rows depend on has
    changed. `threshold`, a cosine, holds for all characters; None takes that of each one's calibration, where
    `calibrations` (CharacterReferenceManager.calibration) has one, else the configured one. Limits are the checker's,
    else the strictest that are configured for the characters; with best_match the face counts that is nearest to any of
    them. `progress` None shows a bar in a terminal only. Raises InvalidValueError for the source, the references or the
    output, and as the checker when the models load.
    """
    sought = [references] if isinstance(references, CharacterReferences) else list(references)
    calibrated = _calibrated(sought, calibrations or {}, checker)
    thresholds = _thresholds(sought, threshold, calibrated, checker)
    pictures = list_pictures(source, recursive=recursive, leave_out=check_table_path(output))
    parameters = CheckParameters(
        source=pictures.source,
        encoder=checker.encoder,
        providers=checker.providers,
        several=checker.several,
        limits=checker.limits or _strictest([configured_limits(checker.configs, name) for name in thresholds]),
        thresholds=thresholds,
        references={own.character_name: own.references_sha256 for own in sought},
        calibrations={}
        if threshold is not None
        else {name: calibration_label(own) for name, own in calibrated.items()},
    )
    with CheckTable(output, parameters) as table:
        pending = [file for file in pictures.files if not _still_holds(file, table.rows)]
        rows = _rows(pending, sought, checker, parameters)
        bar = tqdm(total=len(pictures.files), initial=len(pictures.files) - len(pending), unit="picture",
                   disable=None if progress is None else not progress)  # fmt: skip
        with bar:
            while part := list(islice(rows, PART_PICTURES)):
                table.append(part)
                bar.update(len(part))
        final = _mark_duplicates([table.rows[file.name] for file in pictures.files])
        table.finish(final)
    return _result(final, table, pictures, checked=len(pending))


def _calibrated(
    sought: Sequence[CharacterReferences],
    given: Mapping[str, Calibration | None],
    checker: CharacterConsistencyChecker,
) -> dict[str, Calibration]:
    """Return the calibrations there are; raises for a character that isn't sought, and for one of other references."""
    by_name = {own.character_name: own for own in sought}
    found = {}
    for name, calibration in given.items():
        references = pick("calibrated character", by_name, name)
        if calibration is None:
            continue
        chosen = face_choice(checker.several, checker.limits or configured_limits(checker.configs, name))
        made_with = (calibration.encoder, calibration.references_sha256, calibration.face_choice)
        if made_with != (checker.encoder.label, references.references_sha256, chosen):
            expected = f"of {checker.encoder.label}, the references in use and {chosen}: calibrate again"
            raise InvalidValueError(f"calibration of {name}", calibration.describe(), expected)
        found[name] = calibration
    return found


def _thresholds(
    sought: Sequence[CharacterReferences],
    given: float | None,
    calibrated: Mapping[str, Calibration],
    checker: CharacterConsistencyChecker,
) -> dict[str, float]:
    names = [own.character_name for own in sought]
    if not names or len(set(names)) < len(names):
        raise InvalidValueError("references", names, "those of one character at least, each character's once")
    if given is not None:
        return dict.fromkeys(names, check_threshold(given))
    return {
        name: calibrated[name].threshold.value if name in calibrated else configured_threshold(checker.configs, name)
        for name in names
    }


def _strictest(limits: Sequence[FaceLimits]) -> FaceLimits:
    return FaceLimits(
        min_face_px=max(own.min_face_px for own in limits),
        min_score=max(own.min_score for own in limits),
        min_visible_fraction=max(own.min_visible_fraction for own in limits),
    )


def _still_holds(file: PictureFile, rows: dict[str, Row]) -> bool:
    """Say whether a file is the one that its row is about; a copy with another time is."""
    row = rows.get(file.name)
    if row is None or file.size_bytes is None or file.size_bytes != row["size_bytes"]:
        return False
    if row["sha256"] is None:  # it couldn't be read, and perhaps now it can
        return False
    if file.mtime_ns != row["mtime_ns"]:
        if _file_sha256(file.path) != row["sha256"]:
            return False
        rows[file.name] = row | {"mtime_ns": file.mtime_ns}
    return True


def _rows(
    files: Sequence[PictureFile],
    sought: Sequence[CharacterReferences],
    checker: CharacterConsistencyChecker,
    parameters: CheckParameters,
) -> Iterator[Row]:
    def nearest(embedding: Embedding) -> float:
        return max(own.similarity(embedding) for own in sought)

    for file, found in zip(files, checker.faces_in(file.path for file in files), strict=True):
        reading = read_found(found, parameters.limits, checker.several, nearest)
        row = _picture_columns(file, found) | {"status": reading.status, "reason": as_text(reading.reason)}
        row |= {"encoder": parameters.encoder.label}
        if reading.face is not None:
            row |= dict(zip(QUALITY_COLUMNS, astuple(reading.face.quality), strict=True))
        for own in sought:
            verdict = checker.verdict(reading, own, parameters.thresholds[own.character_name])
            columns = {
                "score": verdict.similarity_score,
                "threshold": verdict.threshold,
                "consistent": verdict.is_consistent,
                "calibrated": own.character_name in parameters.calibrations,
            }
            row |= {f"{column}_{own.character_name}": value for column, value in columns.items()}
        yield row


def _picture_columns(file: PictureFile, found: FacesFound) -> Row:
    return {
        "file": file.name,
        "size_bytes": file.size_bytes,
        "mtime_ns": file.mtime_ns,
        "sha256": _file_sha256(file.path),
        "duplicate_of": None,
        "faces": len(found.faces),
    }


def _mark_duplicates(rows: Sequence[Row]) -> list[Row]:
    """Name the first file of the same bytes in each row of a later one."""
    first: dict[str, str] = {}
    for row in rows:
        if row["sha256"] is not None:
            first.setdefault(row["sha256"], row["file"])
    originals = [first.get(row["sha256"], row["file"]) for row in rows]
    return [
        row | {"duplicate_of": original if original != row["file"] else None}
        for row, original in zip(rows, originals, strict=True)
    ]


def _result(rows: Sequence[Row], table: CheckTable, pictures: PictureList, *, checked: int) -> CheckResult:
    import pandas as pd

    def column(name: str) -> list[Any]:
        return [row[name] for row in rows]

    summaries = {
        name: summarise(column("status"), column(f"score_{name}"), column(f"consistent_{name}"))
        for name in table.parameters.thresholds
    }
    return CheckResult(
        table=pd.read_parquet(table.path),
        path=table.path,
        summaries=summaries,
        judged_by={name: _judged_by(name, table.parameters) for name in summaries},
        checked=checked,
        kept=len(rows) - checked,
        skipped=pictures.skipped,
    )


def _judged_by(name: str, parameters: CheckParameters) -> str:
    calibration = parameters.calibrations.get(name)
    how = f"calibrated: {calibration}" if calibration else "not calibrated"
    return f"from {parameters.thresholds[name]:.3f} on ({how})"


def _file_sha256(path: Path) -> str | None:
    try:
        return file_sha256(path)
    except OSError:
        return None  # gone, or not to be read: then its status says so
