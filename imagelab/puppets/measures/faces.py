"""The face pack: detector and recogniser."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.metrics import roc_auc_score, roc_curve
from tqdm.auto import tqdm

from imagelab.puppets.measures.studio import Row, Studio, held_out_scene
from imagelab.puppets.render import render
from imagelab.puppets.world import HELD_OUT_SEED, sample_identity, sample_scene

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


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
