"""Who a character is, to the face encoder: whether a picture shows them, by references and a threshold."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from imagelab.acceptance import configured_threshold
from imagelab.calibration import Calibration, calibrate, read_calibration, write_calibration
from imagelab.errors import InvalidValueError
from imagelab.faces import FaceReading, face_choice, read_faces, read_found
from imagelab.reference_calibration import (
    CalibrationRun,
    Probe,
    ThresholdInForce,
    as_threshold,
    score_pictures,
)
from imagelab.reference_pictures import gather_pictures
from imagelab.reference_store import CharacterReferences
from imagelab.results import Verdict
from imagelab.rgb import Picture
from imagelab.similarity import METRICS, check_threshold
from imagelab.stored_references import StoredReferences


class CharacterReferenceManager(StoredReferences):
    """Keeps the references of characters and compares pictures with them.

    `checker` finds and embeds the faces, and its limits and its policy for several of them in a picture hold; without
    one, an own encoder for `profile` (None: the default one) loads when it is first needed. `store` is a folder, by
    default reports/references of the project. A context manager; `cleanup` closes only an encoder of its own and may be
    called twice.
    """

    def check_character_consistency(
        self, character_name: str, generated_image: Picture, threshold: float | None = None
    ) -> Verdict:
        """Judge whether the face in a picture is the character's, by its cosine to the references' template.

        `threshold` None takes that of the character's calibration, or where there is none the configured one, and then
        the verdict isn't calibrated. A picture without a face that can be compared is no error but a status. Raises as
        `references`; CalibrationFileError for a calibration made for other references or another encoder;
        InvalidValueError for the threshold; ImageFileError for the file.
        """
        given = None if threshold is None else as_threshold(threshold)  # a bad one is refused before anything loads
        references = self.references(character_name)
        return self.judge(references, generated_image, given or self._threshold(references))

    def threshold(self, character_name: str, given: float | None = None, *, batch: bool = False) -> ThresholdInForce:
        """Return the threshold that a character's pictures are judged by, a cosine.

        That is `given`; where it is None that of the character's calibration; where there is none the configured one,
        with `batch` that for batches. Raises InvalidValueError for `given`; else as `calibration`.
        """
        if given is not None:
            return as_threshold(given)
        return self._threshold(self.references(character_name), batch=batch)

    def calibrate(
        self,
        character_name: str,
        genuine_pictures: Sequence[Picture] | str | os.PathLike[str],
        impostor_pictures: Mapping[str, Sequence[Picture] | str | os.PathLike[str]],
        policy: str = "eer",
        *,
        confidence: float = 0.95,
        resamples: int = 2000,
        seed: int = 0,
    ) -> CalibrationRun:
        """Fit the threshold to pictures of the character and of others, and store it beside the references.

        `impostor_pictures` are {character: pictures}, each a list or a folder; none may be a reference, and what looks
        like a copy of one is left out and named. Only pictures with one clear face are scored, the others are counted
        by status. From then on `threshold` gives this one, until the references or the encoder change. Raises as
        `references` and `calibration.calibrate`; InvalidValueError where the character's own pictures score no higher
        than the others'; CalibrationFileError when it can't be written.
        """
        path = self.calibration_path(character_name)
        own = {character_name: gather_pictures(genuine_pictures, "genuine_pictures")}
        if not isinstance(impostor_pictures, Mapping) or not impostor_pictures or character_name in impostor_pictures:
            raise InvalidValueError(
                "impostor_pictures", impostor_pictures, "{character: pictures} of others, not empty"
            )
        others = {name: gather_pictures(given, "impostor_pictures") for name, given in impostor_pictures.items()}
        references = self.references(character_name)
        genuine, impostor = (
            score_pictures(references, each, partial(self._readings, references)) for each in (own, others)
        )
        calibration = calibrate(
            genuine.scores,
            impostor.scores,
            policy=policy,
            confidence=confidence,
            resamples=resamples,
            seed=seed,
            score_range=METRICS["cosine"].limits,
            encoder=references.provenance.encoder.label,
            character_name=character_name,
            references_sha256=references.references_sha256,
            face_choice=self.face_choice(character_name),
        )
        if calibration.auroc.value <= 0.5:
            expected = "above 0.5, where genuine pictures score higher than impostors: are the two swapped?"
            raise InvalidValueError("the AUROC of the pictures", calibration.auroc.value, expected)
        check_threshold(calibration.threshold.value)
        write_calibration(path, calibration)
        return CalibrationRun(
            calibration=calibration,
            genuine=genuine.statuses,
            impostor=impostor.statuses,
            left_out={**genuine.left_out, **impostor.left_out},
        )

    def face_choice(self, character_name: str) -> str:
        """Say in a line which face of a picture counts as a character's."""
        return face_choice(self._several, self._limits(character_name))

    def calibration_path(self, character_name: str) -> Path:
        """Return where a character's calibration is, or would be; raises as `store_path`."""
        path = self.store_path(character_name)
        return path.with_name(f"{path.stem}.calibration.json")

    def calibration(self, character_name: str) -> Calibration | None:
        """Return a character's calibration, None where there is none.

        Raises as `references`; CalibrationFileError for one made for other references or another encoder.
        """
        return self._calibration_of(self.references(character_name))

    def remove_calibration(self, character_name: str) -> bool:
        """Remove a character's calibration, a stale one too, and say whether there was one; raises as `store_path`.

        From then on the configured threshold holds.
        """
        path = self.calibration_path(character_name)
        there = path.is_file()
        path.unlink(missing_ok=True)
        return there

    def judge(self, references: CharacterReferences, image: Picture, threshold: float | ThresholdInForce) -> Verdict:
        """Compare one picture with references at hand; `threshold` is a cosine, or what `threshold` returns.

        Raises InvalidValueError for the threshold; ImageFileError or InvalidValueError for the picture.
        """
        in_force = as_threshold(threshold)
        limits = self._limits(references.character_name)
        reading = read_faces(self._reader.faces(image), limits, self._several, references.similarity)
        return Verdict(
            character_name=references.character_name,
            status=reading.status,
            similarity_score=None if reading.embedding is None else references.similarity(reading.embedding),
            threshold=in_force.value,
            metric="cosine",
            encoder=references.provenance.encoder.label,
            calibrated=in_force.calibration is not None,
            calibration=in_force.label,
            reason=reading.reason,
        )

    def _readings(self, references: CharacterReferences, probes: Iterable[Probe]) -> Iterator[FaceReading]:
        limits = self._limits(references.character_name)
        for found in self._reader.faces_in(probes, read=Probe.decode):
            yield read_found(found, limits, self._several, references.similarity)

    def _threshold(self, references: CharacterReferences, *, batch: bool = False) -> ThresholdInForce:
        if calibration := self._calibration_of(references):
            return ThresholdInForce(value=calibration.threshold.value, calibration=calibration)
        return ThresholdInForce(value=configured_threshold(self.configs, references.character_name, batch=batch))

    def _calibration_of(self, references: CharacterReferences) -> Calibration | None:
        path = self.calibration_path(references.character_name)
        if not path.is_file():
            return None
        return read_calibration(
            path,
            encoder=references.provenance.encoder.label,
            character_name=references.character_name,
            references_sha256=references.references_sha256,
            face_choice=self.face_choice(references.character_name),
        )
