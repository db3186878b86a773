"""What becomes of a picture that was drawn: whether it shows anything, and whether that is the character."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imagelab.character import CharacterGenerator
from imagelab.imagefiles import perceptual_hash
from imagelab.reference_calibration import ThresholdInForce
from imagelab.reference_store import CharacterReferences
from imagelab.references import CharacterReferenceManager
from imagelab.results import BatchItem, Generation, Verdict
from imagelab.runs import BatchRequest, Job, picture_path

if TYPE_CHECKING:
    from PIL.Image import Image

BLANK_STD = 3.0  # grey levels of 255: below it in every channel, a picture shows nothing
Judge = Callable[["Image"], Verdict]


def references_for(generator: CharacterGenerator, store: Path | None = None) -> CharacterReferenceManager:
    """Return who keeps the references of the characters that a generator draws."""
    # Not the generator's "cuda": the faces may well be compared on the CPU where onnxruntime has no other.
    device = "cpu" if generator.device == "cpu" else "auto"
    return CharacterReferenceManager(
        profile=generator.profile.name, configs=generator.configs, store=store, device=device
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class FaceJudge:
    """A character's references and the threshold that pictures are judged by."""

    manager: CharacterReferenceManager
    references: CharacterReferences
    threshold: ThresholdInForce

    def __call__(self, image: "Image") -> Verdict:
        """Compare the face in a picture, which isn't shown as one of Pillow's.

        Turning those upright sets warning filters, which are every thread's: of a drawing's, too, that goes on
        meanwhile.
        """
        return self.manager.judge(self.references, np.asarray(image.convert("RGB")), self.threshold)

    def to_plan(self) -> dict[str, Any]:
        """Return what determines its verdicts, in plain JSON types."""
        encoder = self.references.provenance.encoder
        return {
            "character": self.references.character_name,
            "references_sha256": self.references.references_sha256,
            "encoder": encoder.label,
            "encoder_id": encoder.to_dict(),
            "providers": list(self.manager.providers),
            "face_choice": self.manager.face_choice(self.references.character_name),
            "threshold": self.threshold.value,
            "calibration": self.threshold.label,
        }


Judges = Mapping[str, FaceJudge]  # {character: its judge}; empty where no faces are compared


def face_judges(references: CharacterReferenceManager, request: BatchRequest) -> Judges:
    """Return who judges the pictures of a request; raises what the manager's `references` and `threshold` raise."""
    if not request.enable_consistency_check:
        return {}
    names = dict.fromkeys(str(variant.picture.character) for variant in request.variants)
    return {
        name: FaceJudge(
            manager=references,
            references=references.references(name),
            threshold=references.threshold(name, request.threshold, batch=True),
        )
        for name in names
    }


def judge_picture(
    request: BatchRequest, job: Job, made: Generation | str, judge: Judge | None
) -> tuple[BatchItem, Generation | None]:
    """Say what has become of a job, and return its picture unless it has failed.

    `made` is that picture, or in words why there is none.
    """
    item = BatchItem(index=job.index, seed=job.seed, status="failed")
    if isinstance(made, str):
        return replace(item, reason=made), None
    if is_blank(made.image):
        return replace(item, reason="blank: the picture shows nothing"), None
    item = replace(item, perceptual_hash=perceptual_hash(made.image), degraded=made.record.degraded)
    item = _judged(item, judge(made.image)) if judge else replace(item, status="accepted")
    if request.keeps(item.status):
        item = replace(item, path=picture_path(job, item.status))
    return item, made


def _judged(item: BatchItem, verdict: Verdict) -> BatchItem:
    item = replace(item, verdict=verdict, similarity_score=verdict.similarity_score)
    if verdict.status != "ok":
        return replace(item, status="unscorable", reason=verdict.status)
    if not verdict.is_consistent:
        return replace(item, status="rejected", reason="below the threshold")
    return replace(item, status="accepted")


def is_blank(image: "Image") -> bool:
    """Say whether a picture is as good as one colour."""
    return float(np.asarray(image.convert("RGB")).std(axis=(0, 1)).max()) < BLANK_STD
