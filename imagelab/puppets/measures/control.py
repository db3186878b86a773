"""Whether pictures follow their control maps, and still show the character whose LoRA is on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from imagelab import GenerationRequest
from imagelab.controls import control_uses
from imagelab.puppets.maps import keypoints_inside, true_map
from imagelab.puppets.measures.annotators import AGREEMENTS
from imagelab.puppets.measures.studio import Row, Studio, held_out_scene
from imagelab.puppets.render import Render, render
from imagelab.puppets.world import PLACES

if TYPE_CHECKING:
    from numpy.typing import NDArray

PICTURES = 24
CLOSER_BAR = 2.0
WORDS = "3d animated character"  # nothing of the pose: the map alone shall say it


def _map_of(kind: str, truth: Render) -> NDArray[np.uint8]:
    return true_map(
        kind, image=truth.image, depth=truth.depth, normals=truth.normals, parts=truth.parts,
        keypoints=keypoints_inside(truth),
    )  # fmt: skip


def _request(k: int, character: str | None, control: dict[str, Any] | None) -> GenerationRequest:
    place = PLACES[tuple(PLACES)[k % len(PLACES)]][0]
    controls = control_uses([control] if control else [])
    words = place if character else f"{WORDS}, {place}"
    return GenerationRequest(character=character, scene_description=words, seed=k, controls=controls)


def _draw(studio: Studio, truths: list[Render], kind: str | None, model: str | None = None,
          character: str | None = None) -> list[NDArray[np.uint8]]:  # fmt: skip
    """Draw a picture for each render: the same prompts and seeds whether they follow it or not."""
    pictures = []
    for k, truth in enumerate(tqdm(truths, desc=f"draw {kind or 'free'} {model or ''}", mininterval=5)):
        control = kind and {
            "type": kind, "image": Image.fromarray(_map_of(kind, truth)), "is_map": True, "scale": 1.0,
            "start": 0.0, "end": 1.0, "model": model,
        }  # fmt: skip
        pictures.append(np.asarray(studio.draw(_request(k, character, control or None))))
    return pictures


def measure_control(studio: Studio) -> list[Row]:
    """Measure each ControlNet against no control, with the same prompts and seeds."""
    truths = [render(held_out_scene(85_000 + k)) for k in range(studio.count(PICTURES))]
    free = _draw(studio, truths, None)
    rows = []
    for kind, (number, measure) in AGREEMENTS.items():
        without = float(np.mean([measure(p, t) for p, t in zip(free, truths, strict=True)]))
        rows.append(Row(f"control {kind}, {number} without", without, pictures=len(truths)))
        for model in ("dedicated", "union"):
            pictures = _draw(studio, truths, kind, model)
            found = float(np.mean([measure(p, t) for p, t in zip(pictures, truths, strict=True)]))
            bar = 0.85 if kind == "pose" else None
            rows.append(Row(f"control {kind}, {number} with the {model} one", found, bar, pictures=len(truths)))
            if kind != "pose":
                closer = (1 - without) / max(1 - found, 1e-3)  # a perfect agreement is a thousandth away
                line = f"control {kind}, times closer with the {model} one"
                rows.append(Row(line, closer, CLOSER_BAR, pictures=len(truths)))
    return rows


def measure_controlled_character(studio: Studio) -> list[Row]:
    """Measure a character's LoRA and a pose together: identity kept and pose followed."""
    name = "luca"
    truths = [render(held_out_scene(86_000 + k)) for k in range(studio.count(PICTURES))]
    pictures = _draw(studio, truths, "pose", "dedicated", character=name)
    _, measure = AGREEMENTS["pose"]
    followed = float(np.mean([measure(p, t) for p, t in zip(pictures, truths, strict=True)]))
    verdicts = [studio.references.check_character_consistency(name, Image.fromarray(p)) for p in pictures]
    scores = [v.similarity_score for v in verdicts if v.similarity_score is not None]
    n, mean = len(truths), float(np.mean(scores)) if scores else 0.0
    return [
        Row(f"LoRA {name} with pose control, PCK@0.1", followed, 0.85, pictures=n),
        Row(f"LoRA {name} with pose control, mean similarity", mean, 0.65, pictures=len(scores)),
        Row(f"LoRA {name} with pose control, share with a face", len(scores) / n, 0.97, pictures=n),
    ]
