"""Ground truth of training pictures: what annotators learn to find and ControlNets learn to obey."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from tqdm.auto import tqdm

from imagelab.puppets.maps import keypoints_inside
from imagelab.puppets.train.dataset import BUCKETS, draw_example

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


PICTURES = {"square": 5000, "portrait": 900, "landscape": 900}  # the first of each bucket


@dataclass(frozen=True, slots=True)
class Truth:
    """What is known of the first pictures of a bucket."""

    depth: NDArray[np.float16]  # (N, H, W), 0 far to 1 near
    normals: NDArray[np.int8]  # (N, H, W, 3), camera space, 127 to a unit
    parts: NDArray[np.uint8]  # (N, H, W), index into PARTS
    keypoints: NDArray[np.float32]  # (N, 17, 3): x and y in pixels, 1 where the point is inside the picture

    def __len__(self) -> int:
        return len(self.depth)


def _truth_of(seed: int, *, width: int, height: int) -> tuple[NDArray[np.generic], ...]:
    _, drawn = draw_example(seed, width=width, height=height)
    return (
        drawn.depth.astype(np.float16), np.rint(drawn.normals * 127).astype(np.int8), drawn.parts,
        keypoints_inside(drawn),
    )  # fmt: skip


def render_truth(name: str, folder: Path, *, workers: int | None = None) -> Truth:
    """Render the ground truth of a bucket's first pictures into `folder`, or open it when it is there."""
    path = folder / f"{name}.truth.npz"
    if not path.exists():
        bucket, count = BUCKETS[name], PICTURES[name]
        work = partial(_truth_of, width=bucket.width, height=bucket.height)
        seeds = range(bucket.first_seed, bucket.first_seed + count)
        with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
            found = pool.map(work, seeds, chunksize=50)
            rows = list(tqdm(found, total=count, desc=f"truth of {name}", mininterval=5))
        part = path.with_suffix(".part.npz")
        depth, normals, parts, keypoints = (np.stack(column) for column in zip(*rows, strict=True))
        np.savez(part, depth=depth, normals=normals, parts=parts, keypoints=keypoints)
        part.replace(path)
    with np.load(path) as stored:
        return Truth(*(stored[k] for k in Truth.__slots__))
