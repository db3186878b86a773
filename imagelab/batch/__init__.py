"""Many pictures of one character, of which only those that show the character are kept."""

from imagelab.batch.crews import BatchSetup
from imagelab.batch.generator import BatchImageGenerator
from imagelab.batch.judging import FaceJudge, is_blank
from imagelab.batch.request import batch_request
from imagelab.runs import MAX_IMAGES

__all__ = [
    "MAX_IMAGES",
    "BatchImageGenerator",
    "BatchSetup",
    "FaceJudge",
    "batch_request",
    "is_blank",
]
