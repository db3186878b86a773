"""Sweeps: one picture for each setting, each compared with the picture that lacks what the setting brings.

A sweep is a list of points, and a point is two requests. Which points there are is one function's matter, `lora_points`
here; drawing and comparing them is the same for all.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from imagelab.composition import compose_loras
from imagelab.config import Configs, Profile
from imagelab.results import Generation, GenerationRequest, LoraUse, Verdict

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

_TOGETHER = " + "
_MEASURES = ("change", "status", "similarity")


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepPoint:
    """One picture to draw."""

    settings: Mapping[str, str | float]  # what sets it apart from the sweep's others: {axis: value}
    request: GenerationRequest
    baseline: GenerationRequest  # of the picture that it is compared with

    @property
    def name(self) -> str:
        """Return a file name's stem that no other point of the sweep has."""
        return "-".join(f"{value:g}" if isinstance(value, float) else str(value) for value in self.settings.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepItem:
    """A point, drawn and compared."""

    point: SweepPoint
    generation: Generation
    baseline: Generation
    verdict: Verdict | None  # None: nobody judged

    @property
    def change(self) -> float:
        """Return how far the picture lies from its baseline: mean absolute difference in grey levels, 0 to 255.

        0 means that they are the same to the bit.
        """
        return mean_difference(self.generation.image, self.baseline.image)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """All pictures of a sweep, in the order of its points."""

    items: tuple[SweepItem, ...]

    def to_frame(self) -> "pd.DataFrame":
        """Return a row per picture: its settings, change, status of its face and similarity.

        A face that can't be compared has no similarity: NaN, and the status says why. Status None: nobody judged.
        """
        import pandas as pd  # slow to import, and only notebooks want tables

        axes = list(self.items[0].point.settings) if self.items else []
        rows = [[*item.point.settings.values(), *_measures(item)] for item in self.items]
        return pd.DataFrame(rows, columns=[*axes, *_MEASURES]).astype({"change": float, "similarity": float})


def _measures(item: SweepItem) -> tuple[float, str | None, float | None]:
    if item.verdict is None:
        return item.change, None, None
    return item.change, item.verdict.status, item.verdict.similarity_score


def draw_sweep(
    draw: Callable[[GenerationRequest], Generation],
    points: Iterable[SweepPoint],
    judge: "Callable[[Image], Verdict] | None" = None,
) -> Sweep:
    """Draw each point, each different baseline once, and let `judge` compare the faces.

    `draw` is a generator's `generate`; what it and `judge` raise goes through.
    """
    baselines: dict[GenerationRequest, Generation] = {}
    items = []
    for point in points:
        if point.baseline not in baselines:
            baselines[point.baseline] = draw(point.baseline)
        drawn = draw(point.request)
        verdict = judge(drawn.image) if judge else None
        items.append(SweepItem(point=point, generation=drawn, baseline=baselines[point.baseline], verdict=verdict))
    return Sweep(items=tuple(items))


def lora_points(
    configs: Configs,
    profile: Profile,
    request: GenerationRequest,
    loras: Iterable[str],
    weights: Sequence[float],
    seeds: Sequence[int],
) -> tuple[SweepPoint, ...]:
    """Plan each LoRA alone, then all of them together, at each weight from each seed.

    The baseline is the request without them; of its other LoRAs, the character's own included, all stay as they are.
    The LoRAs come in the order of their names, each once, however they are given. Settings are loras, weight and seed.

    Raises UnknownNameError for what isn't the name of one LoRA; what `compose_loras` raises.
    """
    names = sorted({*loras})
    for name in names:
        configs.lora(name)
    groups = [(name,) for name in names] + ([tuple(names)] if len(names) > 1 else [])
    return tuple(
        _lora_point(_without(configs, profile, replace(request, seed=seed), group), group, float(weight), seed)
        for group in groups
        for weight in weights
        for seed in seeds
    )


def _without(configs: Configs, profile: Profile, request: GenerationRequest, group: Sequence[str]) -> GenerationRequest:
    """Return the request with all LoRAs but those of the group, each named."""
    records = (lora.record for lora in compose_loras(configs, profile, request))
    others = tuple(record.to_use() for record in records if record.name not in group)
    return replace(request, additional_loras=others, use_character_loras=False)


def _lora_point(baseline: GenerationRequest, group: Sequence[str], weight: float, seed: int) -> SweepPoint:
    added = tuple(LoraUse(name=name, weight=weight) for name in group)
    return SweepPoint(
        settings={"loras": _TOGETHER.join(group), "weight": weight, "seed": seed},
        request=replace(baseline, additional_loras=(*baseline.additional_loras, *added)),
        baseline=baseline,
    )


def mean_difference(one: "Image", other: "Image") -> float:
    """Return the mean absolute difference of two pictures of one size, in grey levels from 0 to 255."""
    import numpy as np

    first, second = (np.asarray(image.convert("RGB"), dtype=np.int16) for image in (one, other))
    return float(np.abs(first - second).mean())
