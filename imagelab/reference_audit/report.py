"""The audit as a whole: what is there to know about a character's references before they judge anything."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from imagelab.errors import InvalidValueError
from imagelab.records import Record
from imagelab.reference_audit.confusable import Confusion, measure_confusion
from imagelab.reference_audit.coverage import Coverage, measure_coverage
from imagelab.reference_audit.duplicates import Duplicate, find_duplicates
from imagelab.reference_audit.outliers import MIN_REFERENCES, Outliers, find_outliers
from imagelab.reference_store import CharacterReferences
from imagelab.reference_template import TemplateChoice, leave_one_out_scores

_SURE_FROM = 5  # references: with fewer, one stranger is a quarter of the set or more


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditedReference(Record):
    """What the audit says of one reference."""

    name: str
    leave_one_out: float | None  # cosine to the template of the others; None for the only one
    person_cosine: (
        float | None
    )  # to the mean of those that show the person, itself left out; None with fewer than three
    is_outlier: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceAudit(Record):
    """What is to know about a character's references before they judge anything."""

    character_name: str
    encoder: str
    references_sha256: str
    template: TemplateChoice
    pictures: tuple[AuditedReference, ...]
    outlier_limit: float | None  # of person_cosine; None when there are too few to say
    duplicates: tuple[Duplicate, ...]
    coverage: Coverage
    confusion: Confusion | None  # None without other characters
    notes: tuple[str, ...] = ()  # what the audit couldn't look at

    @property
    def outliers(self) -> tuple[str, ...]:
        """Return the references that seem to show somebody else."""
        return tuple(picture.name for picture in self.pictures if picture.is_outlier)

    @property
    def findings(self) -> tuple[str, ...]:
        """Return what there is to do something about, a sentence each, the gravest first."""
        said = [f"{name} seems to show somebody else" for name in self.outliers]
        said += [f"{pair.first} and {pair.second}: {pair.kind}" for pair in self.duplicates]
        if self.confusion:
            said += [
                f"{pair.first} and {pair.second} look alike: {pair.nearer:.0%} of their references are nearer the other"
                for pair in self.confusion.pairs
                if pair.nearer
            ]
        if self.coverage.missing:
            said.append(f"no reference: {', '.join(self.coverage.missing)}")
        return (*said, *self.notes)


def audit_references(references: CharacterReferences, others: Sequence[CharacterReferences] = ()) -> ReferenceAudit:
    """Audit a character's references: leave-one-out scores, outliers, near-duplicates, coverage, confusable characters.

    `others` are references of other characters by the same encoder; they also say how alike two people usually are,
    which the outlier test otherwise takes as a cosine of 0. Opens no picture. Raises InvalidValueError for references
    of another encoder, and for a character twice.
    """
    _refuse_others(references, others)
    rows = references.embeddings
    single = len(rows) < 2
    scores = None if single else leave_one_out_scores(references.provenance.template.kind, rows)[0]
    test = find_outliers(rows, _usual_stranger(references, others))
    return ReferenceAudit(
        character_name=references.character_name,
        encoder=references.provenance.encoder.label,
        references_sha256=references.references_sha256,
        template=references.provenance.template,
        pictures=tuple(
            AuditedReference(
                name=name,
                leave_one_out=None if scores is None else round(float(scores[index]), 6),
                person_cosine=None if test is None else round(float(test.scores[index]), 6),
                is_outlier=test is not None and bool(test.flags[index]),
            )
            for index, name in enumerate(references.names)
        ),
        outlier_limit=None if test is None else round(test.limit, 6),
        duplicates=find_duplicates(references),
        coverage=measure_coverage(references),
        confusion=measure_confusion([references, *others]) if others else None,
        notes=_notes(references, test, with_others=bool(others)),
    )


def _refuse_others(references: CharacterReferences, others: Sequence[CharacterReferences]) -> None:
    encoder = references.provenance.encoder
    names = [references.character_name]
    for other in others:
        if other.provenance.encoder != encoder:
            found = f"{other.character_name} by {other.provenance.encoder.label}"
            raise InvalidValueError("others", found, f"by the encoder of the references, {encoder.label}")
        if other.character_name in names:
            raise InvalidValueError("others", other.character_name, "other characters, each once")
        names.append(other.character_name)


def _usual_stranger(references: CharacterReferences, others: Sequence[CharacterReferences]) -> float:
    """Return the median cosine between references of different characters; unrelated directions have 0."""
    if not others:
        return 0.0
    rows = np.concatenate([other.embeddings for other in others])
    return float(np.median(references.embeddings @ rows.T))


def _notes(references: CharacterReferences, test: Outliers | None, *, with_others: bool) -> tuple[str, ...]:
    count = len(references.embeddings)
    notes = []
    if count == 1:
        notes.append("a single reference: nothing says whether it shows the character; give five or more")
    elif test is None:
        notes.append(f"{count} references: of fewer than {MIN_REFERENCES}, no outlier can be told")
    elif count < _SURE_FROM:
        notes.append(f"{count} references: one outlier can be told, two can't; give five or more")
    if not with_others:
        notes.append("no other characters given: confusable ones weren't looked for")
    return tuple(notes)
