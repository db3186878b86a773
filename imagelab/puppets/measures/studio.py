"""What is measured, with how much of the full sample, and the pictures that several measures look at."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tqdm.auto import tqdm

from imagelab import CharacterConsistencyChecker, CharacterGenerator, CharacterReferenceManager, GenerationRequest
from imagelab.puppets.world import EXPRESSIONS, HELD_OUT_SEED, PLACES, POSES, full_caption, sample_scene

if TYPE_CHECKING:
    from PIL import Image

    from imagelab.puppets.world import Scene

WEIGHTS = Path(__file__).parents[1] / "weights"


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
        return self.draw_scenes(256)

    def draw_scenes(self, full: int, preset: str = "standard") -> list[tuple[Scene, Image.Image]]:
        """Draw a picture from each of so many held-out scenes' full captions."""
        scenes = [held_out_scene(50_000 + k) for k in range(self.count(full))]
        return [
            (scene, self.draw(GenerationRequest(character=None, scene_description=full_caption(scene), seed=k), preset))
            for k, scene in enumerate(tqdm(scenes, desc=f"draw prompts, {preset}", mininterval=5))
        ]

    def draw(self, request: GenerationRequest, preset: str = "standard") -> Image.Image:
        """Draw a request at a quality preset."""
        return self.generator.generate(dataclasses.replace(request, quality_preset=preset)).image

    def draw_character(self, name: str, *, with_lora: bool) -> list[Image.Image]:
        """Draw a character in changing scenes; the same prompts and seeds with and without its LoRA."""
        out = []
        for k in tqdm(range(self.count(64)), desc=f"draw {name}, LoRA {'on' if with_lora else 'off'}", mininterval=5):
            figure = held_out_scene(60_000 + k).figures[0]
            place = tuple(PLACES)[k % len(PLACES)]
            action, face = f"{POSES[figure.pose][0]} {PLACES[place][0]}", EXPRESSIONS[figure.expression][0]
            words = f"{action}, {face}, {figure.shirt} shirt"
            request = GenerationRequest(character=name, scene_description=words, seed=k, use_character_loras=with_lora)
            out.append(self.draw(request))
        return out
