"""Which of many pictures show a character: a table with a row a picture, which goes on where it was stopped."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from imagelab.acceptance import configured_limits, configured_threshold
from imagelab.arcface import CHUNK
from imagelab.assignment import read_characters
from imagelab.calibration import Calibration
from imagelab.check_table import (
    QUALITY_COLUMNS,
    CheckParameters,
    CheckTable,
    FileState,
    Row,
    check_table_path,
    score_column,
)
from imagelab.config import Configs, pick
from imagelab.consistency import CharacterConsistencyChecker
from imagelab.errors import InvalidValueError
from imagelab.faces import FaceLimits, FaceReading, FacesFound, face_choice
from imagelab.models import file_sha256
from imagelab.picture_files import PictureFile, PictureList, PictureReading, as_text, list_pictures
from imagelab.reference_calibration import calibration_label
from imagelab.reference_store import CharacterReferences
from imagelab.results import FaceStatus
from imagelab.second_encoders import Own, SecondEncoder, embed_references_by, score_by
from imagelab.similarity import check_threshold
from imagelab.verdict_summary import VerdictSummary, said_mean, summarise

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

PART_PICTURES = 128  # in a part of the table: what a kill loses at most
SHOWN_AT_ONCE = 16  # pictures to an encoder beside ArcFace
PIXEL_CHUNK = 8  # pictures that a thread looks at before they are shown to one: at 1024 px, 24 MiB of pixels


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CheckResult:
    """What a check of many pictures gave."""

    table: "pd.DataFrame"  # a row a picture, in the order of the source
    path: Path
    summaries: Mapping[str, VerdictSummary]  # by character, without the copies of its references
    copies: Mapping[str, int]  # {character: pictures of the same bytes as one of its references}
    judged_by: Mapping[str, str]  # {character: its threshold, and whether it is calibrated}
    encoders: tuple[str, ...]  # that only added scores
    checked: int  # pictures looked at now
    kept: int  # that an earlier run had looked at
    gone: int  # rows of an earlier run that went, because their pictures aren't listed any more
    skipped: int  # files of the folder that aren't named like pictures

    def to_text(self) -> str:
        """Return the summaries, and what was done, in a few lines."""
        blocks = ["\n".join([f"{name}, {self.judged_by[name]}", *self._lines(name)]) for name in self.summaries]
        done = f"{self.path}: {len(self.table)} pictures, {self.checked} of them looked at now"
        went = f"; {self.gone} rows went, whose pictures aren't there any more" if self.gone else ""
        return "\n\n".join([*blocks, f"{done}; {self.skipped} other files skipped{went}"])

    def _lines(self, character: str) -> Iterator[str]:
        yield self.summaries[character].to_text()
        judged = self.table[self.table[f"copy_of_reference_{character}"].isna()]
        for encoder in self.encoders:
            scores = judged[score_column(character, encoder)]
            yield f"{encoder:<14}{said_mean(scores.mean(), scores.count())}, no verdict"
        if copies := self.copies[character]:
            yield f"{'copies':<14}{copies} pictures are references themselves, and left out of these numbers"


def check_folder(
    source: "str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | pd.DataFrame",
    references: CharacterReferences | Sequence[CharacterReferences],
    output: str | os.PathLike[str],
    *,
    checker: CharacterConsistencyChecker,
    threshold: float | None = None,
    calibrations: Mapping[str, Calibration | None] | None = None,
    encoders: Sequence[str] = (),
    recursive: bool = False,
    progress: bool | None = None,
) -> CheckResult:
    """Judge every picture of a folder, a list or a DataFrame's column `file` by one or more characters' references.

    The table goes to `output`, a parquet file, in parts of 128 pictures until it is complete. A check that was stopped
    goes on when it is asked for again, and a complete one looks at new pictures, and at those whose size, or time and
    sha256, have changed; rows of files that are gone go. It is refused when anything else that rows depend on has
    changed, and for a list that has none of the table's files. `threshold`, a cosine, holds for all characters; None
    takes that of each one's calibration, where `calibrations` (CharacterReferenceManager.calibration) has one, else the
    configured one. Limits are the checker's, else the strictest that are configured for the characters. With best_match
    each of several characters is judged by a face of its own (assignment.read_characters), and has no score where none
    is left for it.

    `encoders`, names in the profile's `encoders` beside arcface, add columns of scores: each is shown the face that
    ArcFace chose, or the picture around it, and its template is made of the reference pictures, whose files have to be
    there. Threshold, verdict and status stay ArcFace's.

    Columns: `file`, relative to the folder or as given, in that order; `size_bytes`, `mtime_ns` and `sha256` of it;
    `duplicate_of`, the first file of the same bytes; `status`, and `reason` where it isn't ok; `faces`, how many were
    found; of the face that counts (of several, the first character's that is there; of low quality, the largest)
    `detector_score`, `face_px`, `visible_fraction`, `sharpness`, `yaw_degrees`, `pitch_degrees` and `roll_degrees`, as
    FaceQuality has them; `encoder`, ArcFace's label; for each character `score_luca` (cosine), `threshold_luca`,
    `consistent_luca`, `calibrated_luca`, `copy_of_reference_luca`, the name of the reference picture of the same bytes,
    and `score_clip_luca` for each encoder. Scores and verdicts are null unless the status is ok and the character has a
    face. The summaries leave copies of references out. The file's metadata `imagelab_check` is CheckParameters as JSON:
    `check_table.read_check_table` returns both.

    `progress` None shows a bar in a terminal only; it counts the pictures looked at, of which the last up to 127 aren't
    on disk yet. Raises InvalidValueError for the source, the references, the output or an encoder, UnknownNameError for
    an encoder's name, ReferenceStoreError for reference pictures that are gone, and as the checker and the encoders
    when the models load.
    """
    sought = [references] if isinstance(references, CharacterReferences) else list(references)
    with ExitStack() as stack:
        seconds = _open_encoders(encoders, checker, stack)
        limits = checker.limits or _strictest(checker.configs, sought)
        calibrated = _calibrated(sought, calibrations or {}, checker, limits)
        thresholds = _thresholds(sought, threshold, calibrated, checker)
        pictures = list_pictures(source, recursive=recursive, leave_out=check_table_path(output))
        parameters = CheckParameters(
            source=pictures.source,
            encoder=checker.encoder,
            providers=checker.providers,
            several=checker.several,
            limits=limits,
            thresholds=thresholds,
            references={own.character_name: own.references_sha256 for own in sought},
            calibrations={}
            if threshold is not None
            else {name: calibration_label(own) for name, own in calibrated.items()},
            encoders={name: second.id for name, second in seconds.items()},
            recursive=pictures.recursive,
        )
        table = stack.enter_context(CheckTable(output, parameters))
        gone = _gone(table, pictures)
        pending = [file for file in pictures.files if not _still_holds(file, table.known)]
        rows = _rows(pending, sought, checker, parameters, seconds)
        bar = tqdm(rows, total=len(pictures.files), initial=len(pictures.files) - len(pending), unit="picture",
                   disable=None if progress is None else not progress)  # fmt: skip
        with bar:
            seen = iter(bar)
            while part := list(islice(seen, PART_PICTURES)):
                table.append(part)
        final = table.finish({file.name: file.mtime_ns for file in pictures.files})
    return _result(final, table, pictures, checked=len(pending), gone=gone)


def _open_encoders(
    names: Sequence[str], checker: CharacterConsistencyChecker, stack: ExitStack
) -> dict[str, SecondEncoder]:
    if isinstance(names, str):
        raise InvalidValueError("encoders", names, "a list of names of the profile's encoders")
    opened = {name: SecondEncoder(name, checker.profile, checker.device) for name in names}
    return {name: stack.enter_context(second) for name, second in opened.items()}


def _calibrated(
    sought: Sequence[CharacterReferences],
    given: Mapping[str, Calibration | None],
    checker: CharacterConsistencyChecker,
    limits: FaceLimits,
) -> dict[str, Calibration]:
    """Return the calibrations there are; raises for a character that isn't sought, and for one of other references."""
    by_name = {own.character_name: own for own in sought}
    chosen = face_choice(checker.several, limits)
    found = {}
    for name, calibration in given.items():
        references = pick("calibrated character", by_name, name)
        if calibration is None:
            continue
        made_with = (calibration.encoder, calibration.references_sha256, calibration.face_choice)
        if made_with != (checker.encoder.label, references.references_sha256, chosen):
            expected = f"of {checker.encoder.label}, the references in use and {chosen}: calibrate again"
            if chosen != face_choice(checker.several, checker.limits or configured_limits(checker.configs, name)):
                expected += ", or check the characters apart: these limits are the strictest of all of them"
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


def _strictest(configs: Configs, sought: Sequence[CharacterReferences]) -> FaceLimits:
    """Return what only those faces keep that keep the limits of all characters."""
    limits = [configured_limits(configs, own.character_name) for own in sought]
    strictest: dict[str, float] = {}
    for name in (item.name for item in fields(FaceLimits)):
        given = [value for own in limits if (value := getattr(own, name)) is not None]
        if given:
            strictest[name] = min(given) if name.startswith("max_") else max(given)
    return FaceLimits(**strictest)


def _gone(table: CheckTable, pictures: PictureList) -> int:
    """Return how many rows are of other pictures; raises for a list that has none of them: it is another check."""
    listed = {file.name for file in pictures.files}
    gone = sum(name not in listed for name in table.known)
    if gone and gone == len(table.known) and not pictures.is_folder:
        expected = f"another file: it has {gone} pictures, and none of these {len(listed)}"
        raise InvalidValueError("output", str(table.path), expected)
    return gone


def _still_holds(file: PictureFile, known: Mapping[str, FileState]) -> bool:
    """Say whether a file is the one that its row is about; a copy with another time is."""
    was = known.get(file.name)
    if was is None or file.size_bytes is None or file.size_bytes != was.size_bytes:
        return False
    if was.sha256 is None:  # it couldn't be read, and perhaps now it can
        return False
    return file.mtime_ns == was.mtime_ns or _file_sha256(file.path) == was.sha256


def _rows(
    files: Sequence[PictureFile],
    sought: Sequence[CharacterReferences],
    checker: CharacterConsistencyChecker,
    parameters: CheckParameters,
    encoders: Mapping[str, SecondEncoder],
) -> Iterator[Row]:
    by_name = {references.character_name: references for references in sought}
    own = embed_references_by(encoders, sought, checker.faces)
    looks = _look_at(files, checker, keep_pixels=bool(encoders))
    while part := list(islice(looks, SHOWN_AT_ONCE)):
        readings = [read_characters(found, parameters.limits, checker.several, by_name) for _, found in part]
        further = _further_scores([picture for picture, _ in part], readings, sought, own, encoders)
        for (picture, found), of_each, scores in zip(part, readings, further, strict=True):
            row = _picture_columns(picture, found) | _face_columns(_counting(of_each), parameters.encoder.label)
            for references in sought:
                row |= _verdict_columns(checker, of_each[references.character_name], references, parameters)
                row |= _copy_columns(picture, references)
            yield row | scores


def _counting(of_each: Mapping[str, FaceReading]) -> FaceReading:
    """Return what a row says of a picture's faces: the first character's that is there, else why none is."""
    readings = list(of_each.values())
    return next((reading for reading in readings if reading.status == "ok"), readings[0])


def _further_scores(
    pictures: Sequence[PictureReading],
    readings: Sequence[Mapping[str, FaceReading]],
    sought: Sequence[CharacterReferences],
    own: Own,
    encoders: Mapping[str, SecondEncoder],
) -> list[Row]:
    """Return each picture's scores by other encoders; each character's are of the face that ArcFace chose for it."""
    shown = {  # a face that counts for all characters is shown once
        reading.face: picture.pixels
        for picture, of_each in zip(pictures, readings, strict=True)
        for reading in of_each.values()
        if picture.pixels is not None and reading.face is not None and reading.status == "ok"
    }
    by_face = score_by(encoders, sought, own, [(rgb, face) for face, rgb in shown.items()])
    scores = dict(zip(shown, by_face, strict=True))
    return [
        {
            score_column(name, encoder): scores[face][encoder, name]
            for encoder, name in own
            if (face := of_each[name].face) in scores
        }
        for of_each in readings
    ]


def _look_at(
    files: Iterable[PictureFile], checker: CharacterConsistencyChecker, *, keep_pixels: bool
) -> Iterator[tuple[PictureReading, FacesFound]]:
    """Yield each picture with its faces, in order; few are in memory, and fewer of those whose pixels are kept."""
    taken: deque[PictureReading] = deque()

    def take() -> Iterator[PictureReading]:
        for file in files:
            taken.append(PictureReading(file, keep_pixels=keep_pixels))
            yield taken[-1]

    chunk = PIXEL_CHUNK if keep_pixels else CHUNK
    for found in checker.faces_in(take(), chunk=chunk, read=PictureReading.decode):
        yield taken.popleft(), found


def _picture_columns(picture: PictureReading, found: FacesFound) -> Row:
    return {
        "file": picture.file.name,
        "size_bytes": picture.file.size_bytes,
        "mtime_ns": picture.file.mtime_ns,
        "sha256": picture.sha256,
        "faces": len(found.faces),
    }


def _face_columns(reading: FaceReading, encoder: str) -> Row:
    quality = () if reading.face is None else zip(QUALITY_COLUMNS, astuple(reading.face.quality), strict=True)
    return {"status": reading.status, "reason": as_text(reading.reason), "encoder": encoder, **dict(quality)}


def _verdict_columns(
    checker: CharacterConsistencyChecker,
    reading: FaceReading,
    references: CharacterReferences,
    parameters: CheckParameters,
) -> Row:
    name = references.character_name
    verdict = checker.verdict(reading, references, parameters.thresholds[name])
    return {
        score_column(name): verdict.similarity_score,
        f"threshold_{name}": verdict.threshold,
        f"consistent_{name}": None if verdict.similarity_score is None else verdict.is_consistent,
        f"calibrated_{name}": name in parameters.calibrations,
    }


def _copy_columns(picture: PictureReading, references: CharacterReferences) -> Row:
    originals = {own.sha256: own.name for own in references.provenance.pictures}
    found = None if picture.sha256 is None else originals.get(picture.sha256)
    return {f"copy_of_reference_{references.character_name}": found}


def _result(rows: "pa.Table", table: CheckTable, pictures: PictureList, *, checked: int, gone: int) -> CheckResult:
    names = tuple(table.parameters.thresholds)
    return CheckResult(
        table=rows.to_pandas(),
        path=table.path,
        summaries={name: _summary(rows, name) for name in names},
        copies={name: len(rows) - rows[f"copy_of_reference_{name}"].null_count for name in names},
        judged_by={name: _judged_by(name, table.parameters) for name in names},
        encoders=tuple(table.parameters.encoders),
        checked=checked,
        kept=len(rows) - checked,
        gone=gone,
        skipped=pictures.skipped,
    )


def _summary(rows: "pa.Table", name: str) -> VerdictSummary:
    """Summarise what is said of a character, whose own references would be no news."""
    rows = rows.filter(rows[f"copy_of_reference_{name}"].is_null())
    scores = rows[score_column(name)].to_pylist()
    # A picture in which the faces are others' shows none of this character.
    statuses: list[FaceStatus] = [
        "no_face" if status == "ok" and score is None else status
        for status, score in zip(rows["status"].to_pylist(), scores, strict=True)
    ]
    return summarise(statuses, scores, rows[f"consistent_{name}"].to_pylist())


def _judged_by(name: str, parameters: CheckParameters) -> str:
    calibration = parameters.calibrations.get(name)
    how = f"calibrated: {calibration}" if calibration else "not calibrated"
    return f"from {parameters.thresholds[name]:.3f} on ({how})"


def _file_sha256(path: Path) -> str | None:
    try:
        return file_sha256(path)
    except OSError:
        return None  # gone, or not to be read: then its status says so
