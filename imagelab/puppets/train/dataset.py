"""Training pictures with captions and SDXL's size conditioning, rendered once into flat files.

Three buckets (square, portrait, landscape) as SDXL has. Some pictures are crops, some were small, some are bad and say
so: what `time_ids` and negative prompts claim to control is then really in the data.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageFilter
from tqdm.auto import tqdm

from imagelab.puppets.render import render
from imagelab.puppets.world import FLAWS, sample_caption, sample_scene

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from imagelab.puppets.render import Render
    from imagelab.puppets.world import Scene

EMPTY_SHARE, CROP_SHARE, SMALL_SHARE, FLAWED_SHARE = 0.04, 0.12, 0.05, 0.04
CROP_MARGIN_PX = 16
FACE_GAIN = 5.0


class Bucket(NamedTuple):
    """One picture size, how many of them to render, and the first of their seeds."""

    width: int
    height: int
    pictures: int
    first_seed: int


BUCKETS = {
    "square": Bucket(128, 128, 14_000, 0),
    "portrait": Bucket(96, 160, 3_000, 1_000_000),
    "landscape": Bucket(160, 96, 3_000, 2_000_000),
}


class Example(NamedTuple):
    """A training picture; `time_ids` are original height, width, crop top, left, target height, width.

    `face_box` is x0, y0, x1, y1 in pixels; without a face it is empty, all zeros.
    """

    image: NDArray[np.uint8]
    caption: str
    time_ids: tuple[int, ...]
    face_box: tuple[float, ...]


def scene_of(seed: int) -> tuple[Scene, np.random.Generator]:
    """Return what a training picture shows, and the generator that goes on from there."""
    rng = np.random.default_rng(seed)
    return sample_scene(rng, figures=0 if rng.random() < EMPTY_SHARE else 1), rng


def build_example(seed: int, *, width: int, height: int) -> Example:
    """Render one training picture with its caption and size conditioning."""
    return draw_example(seed, width=width, height=height)[0]


def draw_example(seed: int, *, width: int, height: int) -> tuple[Example, Render]:
    """Render one training picture as `build_example` does, and return its ground truth too."""
    scene, rng = scene_of(seed)
    caption = sample_caption(scene, rng)
    kind = rng.random()
    if kind < CROP_SHARE:
        left, top = (int(v) for v in rng.integers(0, 2 * CROP_MARGIN_PX + 1, 2))
        shift = (left - CROP_MARGIN_PX, top - CROP_MARGIN_PX)
        drawn = render(scene, width=width, height=height, shift_px=shift)
        whole = (height + 2 * CROP_MARGIN_PX, width + 2 * CROP_MARGIN_PX)
        return Example(drawn.image, caption, (*whole, top, left, height, width), face_box(drawn)), drawn
    drawn = render(scene, width=width, height=height)
    image = drawn.image
    if kind < CROP_SHARE + SMALL_SHARE:
        share = rng.uniform(0.3, 0.7)
        small = (round(width * share), round(height * share))
        picture = Image.fromarray(image).resize(small, Image.Resampling.BOX)
        image = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
        return Example(image, caption, (small[1], small[0], 0, 0, height, width), face_box(drawn)), drawn
    if kind < CROP_SHARE + SMALL_SHARE + FLAWED_SHARE:
        image = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(rng.uniform(1.0, 2.5))))
        words = rng.choice(FLAWS, size=int(rng.integers(1, 3)), replace=False)
        caption = ", ".join([caption, *words])
    return Example(image, caption, (height, width, 0, 0, height, width), face_box(drawn)), drawn


def face_box(drawn: Render) -> tuple[float, ...]:
    """Return the first face's x0, y0, x1, y1 in pixels, zeros where there is none."""
    return tuple(float(v) for v in drawn.figures[0].face_box) if drawn.figures else (0.0,) * 4


def face_weights(boxes: NDArray[np.float32], height: int, width: int, cell_px: int = 1) -> NDArray[np.float32]:
    """Return how much each cell of pictures should count in a loss: (N, height, width) cells, mean 1 a picture.

    A face is a tenth of a picture and nearly all that a person looks at; evenly weighed, its mouth and eyes are the
    last things that a model learns. So weights rise sixfold towards the middle of the face.
    """
    x0, y0, x1, y1 = (v[:, None, None] for v in boxes.T)
    x = (np.arange(width)[None, None, :] + 0.5) * cell_px - (x0 + x1) / 2
    y = (np.arange(height)[None, :, None] + 0.5) * cell_px - (y0 + y1) / 2
    reach = np.maximum(0.3 * (y1 - y0), 1e-3)
    weights = 1 + FACE_GAIN * (y1 > y0) * np.exp(-(x**2 + y**2) / (2 * reach**2))
    return np.asarray(weights / weights.mean((1, 2), keepdims=True), np.float32)


@dataclass(frozen=True, slots=True)
class Split:
    """A rendered bucket on disk, its pictures memory-mapped."""

    images: NDArray[np.uint8]  # (N, H, W, 3)
    captions: list[str]
    time_ids: NDArray[np.int64]  # (N, 6)
    face_boxes: NDArray[np.float32]  # (N, 4)


def render_bucket(name: str, folder: Path, *, workers: int | None = None) -> Split:
    """Render a bucket into `folder`, or open it when it is there whole."""
    bucket = BUCKETS[name]
    pictures, words = folder / f"{name}.npy", folder / f"{name}.json"
    if not words.exists():  # written last
        folder.mkdir(parents=True, exist_ok=True)
        shape = (bucket.pictures, bucket.height, bucket.width, 3)
        out = np.lib.format.open_memmap(pictures, mode="w+", dtype=np.uint8, shape=shape)
        work = partial(build_example, width=bucket.width, height=bucket.height)
        seeds = range(bucket.first_seed, bucket.first_seed + bucket.pictures)
        rows = []
        with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
            examples = pool.map(work, seeds, chunksize=50)
            for k, example in enumerate(tqdm(examples, total=bucket.pictures, desc=f"render {name}", mininterval=5)):
                out[k] = example.image
                rows.append(example[1:])
        out.flush()
        words.write_text(json.dumps(rows))
    rows = json.loads(words.read_text())
    captions, time_ids, boxes = zip(*rows, strict=True)
    return Split(np.load(pictures, mmap_mode="r"), list(captions), np.array(time_ids), np.array(boxes, np.float32))
