"""Runs that survive being killed: a plan, a ledger, and pictures that are there complete or not at all."""

from imagelab.runs.folder import RunFolder, pending_jobs
from imagelab.runs.ledger import Ledger, read_ledger
from imagelab.runs.lines import FOLDERS, picture_path
from imagelab.runs.places import SHEET_FILE, TABLE_FILE, check_room, claimed_folder, free_folder
from imagelab.runs.plan import MAX_IMAGES, BatchRequest, Job, RunPlan, Variant
from imagelab.runs.progress import read_batch, read_run
from imagelab.runs.summary import batch_text, plan_text

__all__ = [
    "FOLDERS",
    "MAX_IMAGES",
    "SHEET_FILE",
    "TABLE_FILE",
    "BatchRequest",
    "Job",
    "Ledger",
    "RunFolder",
    "RunPlan",
    "Variant",
    "batch_text",
    "check_room",
    "claimed_folder",
    "free_folder",
    "pending_jobs",
    "picture_path",
    "plan_text",
    "read_batch",
    "read_ledger",
    "read_run",
]
