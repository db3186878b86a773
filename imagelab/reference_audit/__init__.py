"""What is to know about references before they judge: outliers, duplicates, coverage, confusable characters."""

from imagelab.reference_audit.confusable import ConfusedPair, Confusion, measure_confusion
from imagelab.reference_audit.coverage import ASPECTS, Coverage, measure_coverage
from imagelab.reference_audit.duplicates import Duplicate, DuplicateKind, copy_kind, find_duplicates
from imagelab.reference_audit.outliers import Outliers, find_outliers
from imagelab.reference_audit.report import AuditedReference, ReferenceAudit, audit_references
from imagelab.reference_audit.templates import template_table

__all__ = [
    "ASPECTS",
    "AuditedReference",
    "ConfusedPair",
    "Confusion",
    "Coverage",
    "Duplicate",
    "DuplicateKind",
    "Outliers",
    "ReferenceAudit",
    "audit_references",
    "copy_kind",
    "find_duplicates",
    "find_outliers",
    "measure_confusion",
    "measure_coverage",
    "template_table",
]
