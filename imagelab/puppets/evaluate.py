"""Measure the puppet studio on identities and seeds that nothing was trained on.

`python -m imagelab.puppets.evaluate [--json] [--write] [--share 0.1] [LINE ...]` prints the table; `--write` puts it
into `weights/evaluation.json` and the model card. Pictures are drawn by the package's public classes, as users draw
them, and the judges (oracle, face pack) never saw a generated picture.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import time
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score, roc_curve
from tqdm.auto import tqdm

from imagelab import CharacterConsistencyChecker, CharacterGenerator, CharacterReferenceManager, GenerationRequest
from imagelab.models import file_sha256
from imagelab.puppets.card import write_card
from imagelab.puppets.oracle import Oracle, labels_of
from imagelab.puppets.render import render
from imagelab.puppets.world import (
    ATTRIBUTES,
    CHARACTERS,
    EXPRESSIONS,
    HELD_OUT_SEED,
    PLACES,
    POSES,
    full_caption,
    sample_identity,
    sample_scene,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from imagelab.puppets.world import Scene

LIBRARIES = ("torch", "diffusers", "transformers", "insightface", "onnxruntime")
WEIGHTS = Path(__file__).parent / "weights"


class Row(NamedTuple):
    """One number of the table; `bar` is what it must reach, None for a number that is only shown."""

    line: str
    value: float
    bar: float | None = None
    smaller_is_better: bool = False
    pictures: int = 0

    @property
    def passed(self) -> bool | None:
        """Say whether the bar is reached."""
        if self.bar is None:
            return None
        return self.value <= self.bar if self.smaller_is_better else self.value >= self.bar


def held_out_scene(k: int, *, figures: int = 1) -> Scene:
    """Return the k-th scene that nothing was trained on."""
    return sample_scene(np.random.default_rng(HELD_OUT_SEED + k), figures=figures)


@dataclass(frozen=True)
class Studio:
    """What is measured and with how much of the full sample, `share` from 0 to 1."""

    generator: CharacterGenerator
    checker: CharacterConsistencyChecker
    references: CharacterReferenceManager
    share: float = 1.0

    def count(self, full: int) -> int:
        """Return how many pictures to take of `full`."""
        return max(4, round(full * self.share))

    @cached_property
    def generated(self) -> list[tuple[Scene, Image.Image]]:
        """Draw a picture from each held-out scene's full caption, standard preset."""
        scenes = [held_out_scene(50_000 + k) for k in range(self.count(256))]
        return [
            (scene, self._draw(GenerationRequest(character=None, scene_description=full_caption(scene), seed=k)))
            for k, scene in enumerate(tqdm(scenes, desc="draw prompts", mininterval=5))
        ]

    def _draw(self, request: GenerationRequest) -> Image.Image:
        return self.generator.generate(dataclasses.replace(request, quality_preset="standard")).image

    def draw_character(self, name: str, *, with_lora: bool) -> list[Image.Image]:
        """Draw a character in changing scenes; the same prompts and seeds with and without its LoRA."""
        out = []
        for k in tqdm(range(self.count(64)), desc=f"draw {name}, LoRA {'on' if with_lora else 'off'}", mininterval=5):
            figure = held_out_scene(60_000 + k).figures[0]
            place = tuple(PLACES)[k % len(PLACES)]
            action, face = f"{POSES[figure.pose][0]} {PLACES[place][0]}", EXPRESSIONS[figure.expression][0]
            words = f"{action}, {face}, {figure.shirt} shirt"
            request = GenerationRequest(character=name, scene_description=words, seed=k, use_character_loras=with_lora)
            out.append(self._draw(request))
        return out


def measure_vae(studio: Studio) -> list[Row]:
    """Measure how much of a render survives encoding and decoding."""
    vae = studio.generator.pipeline.vae
    errors = []
    count = studio.count(128)
    for k in range(count):
        x = torch.from_numpy(render(held_out_scene(k)).image).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.no_grad():
            latents = vae.encode(x.to(vae.device, vae.dtype)).latent_dist.mode()
            y = vae.decode(latents).sample.float().cpu().clamp(-1, 1)
        errors.append(((x - y) / 2).pow(2).mean().item())
    psnr = float(np.mean(-10 * np.log10(errors)))
    return [Row("VAE reconstruction, PSNR in dB", psnr, 28.0, pictures=count)]


def _judge(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.int64]:
    """Return the oracle's (N, attributes) opinion."""
    oracle = Oracle()
    oracle.load_state_dict(load_file(WEIGHTS / "evaluation" / "oracle.safetensors"))
    oracle.eval()
    with torch.no_grad():
        x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
        return torch.stack([logits.argmax(1) for logits in oracle(x)], 1).numpy()


def _accuracy(scenes: Sequence[Scene], images: Sequence[NDArray[np.uint8]]) -> dict[str, float]:
    wanted, found = np.array([labels_of(s) for s in scenes]), _judge(images)
    return {
        name: float((found[:, k] == wanted[:, k])[wanted[:, k] >= 0].mean()) for k, name in enumerate(ATTRIBUTES)
    }  # fmt: skip


def measure_prompts(studio: Studio) -> list[Row]:
    """Measure whether pictures show what their prompts say, and how good the judge is on renders."""
    scenes = [held_out_scene(10_000 + k) for k in range(studio.count(512))]
    own = _accuracy(scenes, [render(s).image for s in scenes])
    drawn = _accuracy([s for s, _ in studio.generated], [np.asarray(i) for _, i in studio.generated])
    n = len(studio.generated)
    return [
        Row("oracle on renders, mean accuracy", float(np.mean(list(own.values()))), 0.98, pictures=len(scenes)),
        *(Row(f"oracle on renders, {k}", v, pictures=len(scenes)) for k, v in own.items()),
        Row("prompt adherence, mean", float(np.mean(list(drawn.values()))), 0.90, pictures=n),
        *(Row(f"prompt adherence, {k}", v, 0.80, pictures=n) for k, v in drawn.items()),
    ]


def _overlap(a: Sequence[float], b: NDArray[np.floating]) -> float:
    x = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    y = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - x * y
    return float(x * y / union)


def measure_detector(studio: Studio) -> list[Row]:
    """Measure the face detector on renders with one to three faces, on empty ones, and on generated pictures."""
    found = faces = 0
    for k in range(studio.count(400)):
        several = (k % 4 == 3) + (k % 8 == 7)
        width, height = (160, 96) if several else (128, 128)  # a square would cut the outer faces of three
        drawn = render(held_out_scene(20_000 + k, figures=1 + several), width=width, height=height)
        boxes = [face.box for face in studio.checker.faces(drawn.image)]
        faces += len(drawn.figures)
        found += sum(any(_overlap(box, truth.face_box) >= 0.5 for box in boxes) for truth in drawn.figures)
    empty = studio.count(200)
    scenes = (held_out_scene(30_000 + k, figures=0) for k in range(empty))
    false = sum(len(studio.checker.faces(render(scene).image)) for scene in scenes)
    single = [len(studio.checker.faces(image)) == 1 for _, image in studio.generated]
    return [
        Row("detector recall at IoU 0.5, renders", found / faces, 0.99, pictures=studio.count(400)),
        Row("false faces per empty scene", false / empty, 0.01, smaller_is_better=True, pictures=empty),
        Row("generated pictures with exactly one face", float(np.mean(single)), 0.97, pictures=len(single)),
    ]


def measure_recogniser(studio: Studio) -> list[Row]:
    """Measure ArcFace on held-out identities, cut out by the shipped detector."""
    embeddings, who = [], []
    people, views = studio.count(150), 6
    for person in tqdm(range(people), desc="identities", mininterval=5):
        rng = np.random.default_rng(HELD_OUT_SEED + 40_000 + person)
        identity = sample_identity(rng)
        for _ in range(views):
            reading = studio.checker.read(render(sample_scene(rng, identity=identity)).image)
            if reading.embedding is not None:
                embeddings.append(reading.embedding)
                who.append(person)
    scores = np.stack(embeddings) @ np.stack(embeddings).T
    upper = np.triu_indices(len(who), 1)
    same = (np.array(who)[:, None] == np.array(who)[None])[upper]
    far, tar, _ = roc_curve(same, scores[upper])
    n = people * views
    return [
        Row("ArcFace on renders, AUROC", float(roc_auc_score(same, scores[upper])), 0.999, pictures=n),
        Row("ArcFace on renders, TAR at FAR 1e-3", float(tar[far <= 1e-3].max()), 0.97, pictures=n),
    ]


def measure_characters(studio: Studio) -> list[Row]:
    """Measure what each character's LoRA does to the similarity to that character's references."""
    rows = []
    for name in CHARACTERS:
        scores = {}
        for with_lora in (True, False):
            verdicts = [
                studio.references.check_character_consistency(name, image)
                for image in studio.draw_character(name, with_lora=with_lora)
            ]
            scores[with_lora] = [v.similarity_score for v in verdicts if v.similarity_score is not None]
        labels = [1] * len(scores[True]) + [0] * len(scores[False])
        threshold = studio.generator.configs.character(name).thresholds.batch
        n = studio.count(64)
        auroc = float(roc_auc_score(labels, scores[True] + scores[False]))
        mean = {on: float(np.mean(values)) for on, values in scores.items()}
        accepted = {on: sum(s >= threshold for s in values) / n for on, values in scores.items()}
        rows += [
            Row(f"LoRA {name}, AUROC with against without", auroc, 0.95, pictures=2 * n),
            Row(f"LoRA {name}, mean similarity with", mean[True], 0.65, pictures=len(scores[True])),
            Row(f"LoRA {name}, mean similarity without", mean[False], pictures=len(scores[False])),
            Row(f"LoRA {name}, share accepted with", accepted[True], 0.80, pictures=n),
            Row(f"LoRA {name}, share accepted without", accepted[False], 0.20, smaller_is_better=True, pictures=n),
        ]
    return rows


def measure_speed(studio: Studio) -> list[Row]:
    """Time one picture on one core: the median of five, after one to warm up."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = []
    try:
        for k in range(6):
            began = time.perf_counter()
            studio.generator.generate(GenerationRequest(character="luca", quality_preset="standard", seed=k))
            seconds.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    median = float(np.median(seconds[1:]))
    return [Row("one 128 x 128 picture, standard, one core, seconds", median, 1.5, smaller_is_better=True, pictures=5)]


LINES: dict[str, Callable[[Studio], list[Row]]] = {
    "vae": measure_vae,
    "prompts": measure_prompts,
    "detector": measure_detector,
    "recogniser": measure_recogniser,
    "characters": measure_characters,
    "speed": measure_speed,
}


def evaluate(lines: Sequence[str] = tuple(LINES), share: float = 1.0) -> list[Row]:
    """Measure the named lines with a share of the full sample."""
    with (
        CharacterGenerator(profile="puppet", device="cpu") as generator,
        CharacterConsistencyChecker(device="cpu", profile="puppet") as checker,
        CharacterReferenceManager(checker) as references,
    ):
        studio = Studio(generator, checker, references, share)
        return [row for line in lines for row in LINES[line](studio)]


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
    arguments = parser.parse_args()
    if unknown := set(arguments.lines) - set(LINES):
        parser.error(f"unknown line {', '.join(sorted(unknown))}; known: {', '.join(LINES)}")
    rows = evaluate(arguments.lines or tuple(LINES), arguments.share)
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
