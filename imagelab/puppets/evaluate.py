"""Measure the puppet studio on identities and seeds that nothing was trained on.

`python -m imagelab.puppets.evaluate [--json] [--write] [--share 0.1] [--processes 2] [LINE ...]` prints the table;
`--write` puts it into `weights/evaluation.json` and the model card. Pictures are drawn by the package's public classes,
as users draw them, and the judges (oracle, face pack, annotators, classifiers) never saw a generated picture.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from typing import TYPE_CHECKING

import torch

from imagelab import CharacterConsistencyChecker, CharacterGenerator, CharacterReferenceManager
from imagelab.models import file_sha256
from imagelab.puppets.card import write_card
from imagelab.puppets.measures.annotators import measure_annotators
from imagelab.puppets.measures.characters import measure_characters
from imagelab.puppets.measures.concepts import measure_concepts
from imagelab.puppets.measures.control import measure_control, measure_controlled_character
from imagelab.puppets.measures.faces import measure_detector, measure_recogniser
from imagelab.puppets.measures.pictures import (
    measure_few_steps,
    measure_previews,
    measure_prompts,
    measure_speed,
    measure_vae,
)
from imagelab.puppets.measures.studio import WEIGHTS, Row, Studio

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LIBRARIES = ("torch", "diffusers", "transformers", "insightface", "onnxruntime")

LINES: dict[str, Callable[[Studio], list[Row]]] = {
    "vae": measure_vae,
    "previews": measure_previews,
    "prompts": measure_prompts,
    "few_steps": measure_few_steps,
    "detector": measure_detector,
    "recogniser": measure_recogniser,
    "characters": measure_characters,
    "concepts": measure_concepts,
    "annotators": measure_annotators,
    "control": measure_control,
    "controlled_character": measure_controlled_character,
    "speed": measure_speed,
}


# Lines that look at the same pictures, the longest first: what a process measures in one go.
JOBS = (
    ("concepts",), ("control",), ("prompts", "detector"), ("characters",), ("controlled_character",),
    ("few_steps",), ("vae", "previews"), ("recogniser",), ("annotators",),
)  # fmt: skip
ALONE = ("speed",)  # with nothing beside it


def evaluate(lines: Sequence[str] = tuple(LINES), share: float = 1.0, processes: int = 1) -> list[Row]:
    """Measure the named lines with a share of the full sample; each of several processes takes one core."""
    jobs = [wanted for job in JOBS if (wanted := tuple(line for line in job if line in lines))]
    found: dict[str, list[Row]] = {}
    if processes == 1 or not jobs:
        found |= _measure(tuple(line for job in jobs for line in job), share)
    else:
        spawn = multiprocessing.get_context("spawn")  # torch's threads don't survive a fork
        with ProcessPoolExecutor(processes, spawn, torch.set_num_threads, (1,)) as pool:
            for rows in pool.map(_measure, jobs, [share] * len(jobs)):
                found |= rows
    found |= _measure(tuple(line for line in ALONE if line in lines), share)
    return [row for line in LINES if line in found for row in found[line]]


def _measure(lines: Sequence[str], share: float) -> dict[str, list[Row]]:
    if not lines:
        return {}
    with (
        CharacterGenerator(profile="puppet", device="cpu") as generator,
        CharacterConsistencyChecker(device="cpu", profile="puppet") as checker,
        CharacterReferenceManager(checker) as references,
    ):
        studio = Studio(generator, checker, references, share)
        return {line: LINES[line](studio) for line in lines}


def as_report(rows: Sequence[Row], share: float) -> dict[str, object]:
    """Return the table with what it was measured on, as plain JSON values."""
    return {
        "rows": [row._asdict() | {"passed": row.passed} for row in rows],
        "share": share,
        "weights_sha256": file_sha256(WEIGHTS / "SHA256SUMS.json"),
        "versions": {name: version(name) for name in LIBRARIES},
        "processor": platform.machine(),
    }


def main() -> None:
    """Print the table, as JSON or as text."""
    parser = argparse.ArgumentParser(prog="python -m imagelab.puppets.evaluate", description=__doc__)
    parser.add_argument("lines", nargs="*", default=[], help=f"of {', '.join(LINES)}; default: all")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--write", action="store_true", help="write weights/evaluation.json and the model card")
    parser.add_argument("--share", type=float, default=1.0, help="share of the full sample, for a quick look")
    parser.add_argument("--processes", type=int, default=1, help="how many lines to measure at a time, one core each")
    arguments = parser.parse_args()
    if unknown := set(arguments.lines) - set(LINES):
        parser.error(f"unknown line {', '.join(sorted(unknown))}; known: {', '.join(LINES)}")
    if arguments.write and (arguments.lines or arguments.share != 1):
        parser.error("--write wants the whole table: no lines, no share")
    rows = evaluate(arguments.lines or tuple(LINES), arguments.share, max(1, arguments.processes))
    report = as_report(rows, arguments.share)
    if arguments.write:
        write_card(WEIGHTS, report)
    if arguments.json:
        print(json.dumps(report, indent=1))  # noqa: T201  a command's output
        return
    for row in rows:
        mark = {True: "ok", False: "NOT REACHED", None: ""}[row.passed]
        bar = "" if row.bar is None else f"{'<=' if row.smaller_is_better else '>='} {row.bar:g}"
        print(f"{row.line:52s} {row.value:8.4f}  {bar:9s} {mark}")  # noqa: T201  a command's output


if __name__ == "__main__":
    main()
