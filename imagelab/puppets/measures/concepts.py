"""The LoRAs of styles, lights, places and poses: how much of it is there, with against without.

Styles and places are judged by classifiers that learnt on renders with and without the concept and never saw a drawn
picture, light by the pictures' warmth, poses by the joints that the pose annotator finds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm

from imagelab import GenerationRequest
from imagelab.control_maps import JOINT_THRESHOLD
from imagelab.puppets.measures.annotators import find_pose
from imagelab.puppets.measures.pictures import load_oracle
from imagelab.puppets.measures.studio import Row, Studio, held_out_scene
from imagelab.puppets.render import render
from imagelab.puppets.world import POSES, Figure, Scene, full_caption, sample_identity
from imagelab.results import LoraUse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Judge = Callable[[Sequence[NDArray[np.uint8]]], NDArray[np.floating]]  # pictures -> how much of it each shows

PAIRS = 400  # of renders, which a classifier learns from
EFFECT_BAR = 1.5


def texture(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.floating]:
    """Return the (N, 288) means and deviations of the oracle's first filters: style as Gatys et al. measure it."""
    features = []
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        for layer in load_oracle().body[:14]:
            x = layer(x)
            if isinstance(layer, torch.nn.ReLU):
                features += [x.mean((2, 3)), x.std((2, 3))]
    found: NDArray[np.floating] = torch.cat(features, 1).numpy()
    return found


def _classifier(studio: Studio, usual: dict[str, Any], look: dict[str, Any]) -> Judge:
    """Learn to tell renders with a look from the same ones without."""
    scenes = [replace(held_out_scene(90_000 + k), **usual) for k in range(studio.count(PAIRS))]
    renders = [render(replace(scene, **extra)).image for scene in scenes for extra in (usual, look)]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=10, max_iter=5000))
    model.fit(texture(renders), [0, 1] * len(scenes))
    return lambda images: np.asarray(model.decision_function(texture(images)))


def _warmth(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.floating]:
    """Return red against blue as a share of all light."""
    light = np.stack(images).astype(float).sum((1, 2))
    return np.asarray((light[:, 0] - light[:, 2]) / light.sum(1))


def _arms(points: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return elbows and wrists relative to the shoulders, in shoulder widths."""
    shoulders = points[[5, 6], :2]
    width = np.linalg.norm(shoulders[0] - shoulders[1])
    return np.asarray((points[7:11, :2] - shoulders.mean(0)) / width)


def _pose(pose: str) -> Judge:
    """Judge by the distance of the arms from where the pose has them, in shoulder widths; NaN where no one is seen."""
    model = Figure(identity=sample_identity(np.random.default_rng(0)), pose=pose)
    wanted = _arms(render(Scene(figures=(model,))).figures[0].keypoints)

    def judge(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.floating]:
        return np.array([_closeness(find_pose(image), wanted) for image in images])

    return judge


def _closeness(points: NDArray[np.floating], wanted: NDArray[np.floating]) -> float:
    seen = (points[7:11, 2] >= JOINT_THRESHOLD) & (points[5:7, 2] >= JOINT_THRESHOLD).all()
    away = np.linalg.norm(_arms(points) - wanted, axis=1)
    return -float(away[seen].mean()) if seen.any() else float("nan")


# LoRA: what judges it
JUDGES: dict[str, Callable[[Studio], Judge]] = {
    "pixar_3d": lambda studio: _classifier(studio, {}, {"style": "pixar_3d"}),
    "warm_summer_lighting": lambda _: _warmth,
    "portorosso_town": lambda studio: _classifier(studio, {"place": "town"}, {"place": "portorosso"}),
    "beach": lambda studio: _classifier(studio, {"place": "beach"}, {"place": "cove"}),
    "running": lambda _: _pose("sprinting"),
    "dynamic": lambda _: _pose("leaping"),
}
# What the prompts of a LoRA say in any case, as its captions did: then the LoRA alone makes the difference, and no word
# contradicts it.
SAID: dict[str, dict[str, Any]] = {
    "portorosso_town": {"place": "town"}, "beach": {"place": "beach"}, "running": {"pose": "running"},
    "dynamic": {"pose": "leaping"},
}  # fmt: skip


def effect_size(with_it: NDArray[np.floating], without: NDArray[np.floating]) -> float:
    """Return Cohen's d: the difference of the means in pooled standard deviations; NaNs are left out."""
    a, b = with_it[np.isfinite(with_it)], without[np.isfinite(without)]
    pooled = np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)
    return float((a.mean() - b.mean()) / pooled)


def _prompt(name: str, k: int) -> str:
    scene = held_out_scene(70_000 + k)
    said = dict(SAID.get(name, {}))
    figure = scene.figures[0]
    pose = said.pop("pose", tuple(POSES)[k % 2])  # standing and waving, which no pose LoRA draws
    return full_caption(replace(scene, figures=(replace(figure, pose=pose),), **said))


def measure_concepts(studio: Studio) -> list[Row]:
    """Measure the effect of each LoRA but the characters': same prompts and seeds, with it against without."""
    rows = []
    for name, make_judge in JUDGES.items():
        judge = make_judge(studio)
        scores = {}
        for with_lora in (True, False):
            uses = (LoraUse(name=name),) if with_lora else ()
            requests = [
                GenerationRequest(character=None, scene_description=_prompt(name, k), seed=k, additional_loras=uses)
                for k in range(studio.count(32))
            ]
            drawn = [np.asarray(studio.draw(r)) for r in tqdm(requests, desc=f"draw {name}", mininterval=5)]
            scores[with_lora] = judge(drawn)
        effect = effect_size(scores[True], scores[False])
        judged = sum(int(np.isfinite(values).sum()) for values in scores.values())  # arms may be out of sight
        rows.append(Row(f"LoRA {name}, effect size d", effect, EFFECT_BAR, pictures=judged))
    return rows
