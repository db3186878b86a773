"""Which encoder tells these characters apart best: the same pictures, by several encoders, with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from imagelab.agreement import spearman
from imagelab.calibration import Calibration, Estimate, Scores, calibrate, error_curve
from imagelab.calibration.intervals import spread_interval
from imagelab.calibration.policies import parse_policy
from imagelab.calibration.resampling import SEVERAL, draw_weights, plan_resamples
from imagelab.calibration.spread import spread
from imagelab.encoders.base import EncoderId, IdentityEncoder
from imagelab.encoders.jackknife import jackknife_difference, widen
from imagelab.encoders.scoring import Floats, Read, check_characters, read_pictures
from imagelab.errors import InvalidValueError
from imagelab.records import Record
from imagelab.rgb import Picture
from imagelab.similarity import METRICS

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderResult(Record):
    """How well one encoder tells the characters apart."""

    name: str
    encoder: EncoderId
    counts: Mapping[str, int]  # {status: pictures}; only those that are ok have scores
    calibration: Calibration | None  # None: fewer than two genuine or impostor scores

    @property
    def pictures(self) -> int:
        """Count the pictures that it was shown."""
        return sum(self.counts.values())

    @property
    def detection_rate(self) -> float:
        """Return the share of pictures that it could compare."""
        return self.counts.get("ok", 0) / self.pictures


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderDifference(Record):
    """How two encoders differ on the pictures that both could compare."""

    first: str
    second: str
    pictures: int
    auroc: Estimate | None  # of the first minus of the second; None: too few pictures
    spearman: float | None  # of the scores that both give to the same pictures as their own character's; 1: same order
    different_verdicts: float | None  # share of these that one accepts, at its own threshold, and the other refuses

    @property
    def distinguishable(self) -> bool:
        """Say whether the interval of the difference leaves 0 out."""
        return self.auroc is not None and not self.auroc.low <= 0 <= self.auroc.high


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderComparison(Record):
    """Several encoders side by side, and the one to use for these characters."""

    results: tuple[EncoderResult, ...]
    differences: tuple[EncoderDifference, ...]  # of each pair
    recommended: str
    reason: str
    confidence: float
    policy: str

    def result(self, name: str) -> EncoderResult:
        """Return the result of an encoder."""
        return next(result for result in self.results if result.name == name)

    def difference(self, first: str, second: str) -> EncoderDifference:
        """Return how two encoders differ, in the order in which they were given."""
        return next(item for item in self.differences if (item.first, item.second) == (first, second))

    def to_frame(self) -> "pd.DataFrame":
        """Return a table with a row per encoder."""
        import pandas as pd  # slow to import, and only notebooks want tables

        return pd.DataFrame([_row(result, self.recommended) for result in self.results])

    def differences_to_frame(self) -> "pd.DataFrame":
        """Return a table with a row per pair of encoders; the AUROC is the first's minus the second's."""
        import pandas as pd

        return pd.DataFrame([{item.name: getattr(one, item.name) for item in fields(one)} for one in self.differences])


def compare_encoders(
    encoders: Mapping[str, IdentityEncoder],
    pictures_by_character: Mapping[str, Sequence[Picture]],
    *,
    policy: str = "eer",
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> EncoderComparison:
    """Compare encoders by how well they tell characters apart, and recommend one.

    Each picture is embedded once by each encoder. Genuine scores compare it with the template of the other pictures of
    its character, impostor scores with those of the other characters; a picture whose status isn't ok has none, and
    counts in the detection rate alone. Two encoders are compared on the pictures that both could read, and the interval
    of their difference comes from resamples that are the same for both: it is narrower than their own intervals
    suggest. The templates are made of these same pictures: from five characters on they come and go with theirs, of
    fewer the intervals are the jackknife's (`imagelab.encoders.jackknife`) but for those of d' and the operating
    points. Recommended is the best AUROC; of those that can't be told from the best, the one that could compare more
    pictures, then the first.

    Raises InvalidValueError for no encoders, fewer than two characters or two pictures of one, the same pixels given
    twice, when no encoder can compare enough pictures, and as `calibrate`; else as IdentityEncoder.embed.
    """
    if not isinstance(encoders, Mapping) or not encoders:
        raise InvalidValueError("encoders", encoders, "{name: encoder}, at least one")
    pictures = check_characters(pictures_by_character)
    parse_policy(policy)  # before anything is embedded
    read = {name: read_pictures(encoder, pictures) for name, encoder in encoders.items()}
    given = {"policy": policy, "confidence": confidence, "resamples": resamples, "seed": seed}
    results = tuple(_result(name, encoders[name].id, seen, given) for name, seen in read.items())
    if all(result.calibration is None for result in results):
        statuses = {result.name: dict(result.counts) for result in results}
        raise InvalidValueError("pictures", statuses, "such that an encoder can compare two or more of a character")
    pairs = combinations(results, 2)
    differences = tuple(_difference(one, two, read, confidence, resamples, seed) for one, two in pairs)
    recommended, reason = _recommend(results, differences)
    if encoders[recommended].id.kind != "arcface":
        reason += "; to judge and to calibrate, imagelab has the face pack only"
    return EncoderComparison(
        results=results,
        differences=differences,
        recommended=recommended,
        reason=reason,
        confidence=confidence,
        policy=policy,
    )


def _result(name: str, encoder: EncoderId, read: Read, given: Mapping[str, object]) -> EncoderResult:
    scores = read.score(read.ok)
    calibration = None
    if scores is not None and min(map(len, scores)) >= 2:
        limits = METRICS["cosine"].limits
        calibration = calibrate(*scores, score_range=limits, encoder=encoder.label, **given)  # type: ignore[arg-type]
        if _few_characters(scores):
            calibration = widen(calibration, *read.rows(read.ok))
    return EncoderResult(name=name, encoder=encoder, counts=read.counts(), calibration=calibration)


def _few_characters(scores: tuple[Scores, Scores]) -> bool:
    """Say whether pictures are resampled, with templates that stay what they are."""
    return len(np.unique(scores[0].characters)) < SEVERAL


def _difference(
    first: EncoderResult,
    second: EncoderResult,
    read: Mapping[str, Read],
    confidence: float,
    resamples: int,
    seed: int,
) -> EncoderDifference:
    both = read[first.name].ok & read[second.name].ok
    scores = [found for result in (first, second) if (found := read[result.name].score(both)) is not None]
    if (
        len(scores) < 2
        or not _of_the_same(scores)
        or min(map(len, scores[0])) < 2
        or first.calibration is None
        or second.calibration is None
    ):
        return _unknown(first.name, second.name, int(both.sum()))
    (genuine, _), (other, _) = scores
    if _few_characters(scores[0]):
        auroc = jackknife_difference(read[first.name].rows(both), read[second.name].rows(both), confidence)
    else:
        auroc = _auroc_difference(scores, confidence, resamples, seed)
    accepted = [
        own.values >= result.calibration.threshold.value
        for (own, _), result in zip(scores, (first, second), strict=True)
        if result.calibration is not None
    ]
    order = spearman(genuine.values, other.values)
    return EncoderDifference(
        first=first.name,
        second=second.name,
        pictures=int(both.sum()),
        auroc=auroc,
        spearman=None if np.isnan(order) else order,
        different_verdicts=float(np.mean(accepted[0] != accepted[1])),
    )


def _of_the_same(scores: Sequence[tuple[Scores, Scores]]) -> bool:
    """Say whether both score the same pictures in the same order: no template cancelled out for one of them."""
    return all(
        np.array_equal(one.pictures, two.pictures) and np.array_equal(one.characters, two.characters)
        for one, two in zip(*scores, strict=True)
    )


def _unknown(first: str, second: str, pictures: int) -> EncoderDifference:
    return EncoderDifference(
        first=first, second=second, pictures=pictures, auroc=None, spearman=None, different_verdicts=None
    )


def _auroc_difference(
    scores: Sequence[tuple[Scores, Scores]], confidence: float, resamples: int, seed: int
) -> Estimate:
    plan = plan_resamples(*scores[0])  # of the same pictures: it is the plan of both
    # The same seed draws the same pictures for both.
    found = [_auroc(own, others, draw_weights(plan, resamples, seed)) for own, others in scores]
    value = found[0][0] - found[1][0]
    variance = float(np.nanvar(found[0][1] - found[1][1]))
    return spread_interval(value, variance, plan.freedom(plan.genuine), confidence)


def _auroc(genuine: Scores, impostor: Scores, weights: object) -> tuple[float, Floats]:
    """Return the AUROC of all scores, and of each resample."""
    from imagelab.calibration.curves import auroc

    curve = error_curve(genuine.values, impostor.values)
    resampled = spread(
        genuine.values,
        impostor.values,
        weights,  # type: ignore[arg-type]
        curve.thresholds,
        parse_policy("eer"),
        0,
        (),  # of its results none but the AUROC is used
    )
    return float(auroc(curve)), resampled.auroc


def _recommend(results: Sequence[EncoderResult], differences: Sequence[EncoderDifference]) -> tuple[str, str]:
    able = [result for result in results if result.calibration is not None]
    best = max(able, key=_auroc_of)
    if len(able) == 1:
        return best.name, f"{best.name} is the only one that could compare enough pictures"
    apart = {
        name for item in differences if item.distinguishable for name in (item.first, item.second)
        if best.name in {item.first, item.second}
    }  # fmt: skip
    level = [result for result in able if result is best or result.name not in apart]
    if len(level) == 1:
        return best.name, f"{best.name} has the best AUROC, and all differences to it leave 0 out"
    chosen = max(level, key=lambda result: result.detection_rate)  # the first of several
    names = ", ".join(result.name for result in level)
    rates = {result.detection_rate for result in level}
    why = "is named first" if len(rates) == 1 else f"could compare more pictures, {chosen.detection_rate:.1%}"
    return chosen.name, f"{names} are not distinguishable by AUROC on these pictures; of them {chosen.name} {why}"


def _auroc_of(result: EncoderResult) -> float:
    return -1.0 if result.calibration is None else result.calibration.auroc.value


def _row(result: EncoderResult, recommended: str) -> dict[str, object]:
    row: dict[str, object] = {
        "encoder": result.name,
        "label": result.encoder.label,
        "pictures": result.pictures,
        "ok": result.counts.get("ok", 0),
        "detection_rate": result.detection_rate,
        "recommended": result.name == recommended,
    }
    for measure in ("auroc", "eer", "threshold"):
        found = None if result.calibration is None else getattr(result.calibration, measure)
        row |= {measure: None if found is None else found.value}
        row |= {f"{measure}_{end}": None if found is None else getattr(found, end) for end in ("low", "high")}
    return row
