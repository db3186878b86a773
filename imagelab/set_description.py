"""A set of pictures by every measure at once, for identity alone can be had by copying a reference.

A number that too few pictures can give is None, with the n that it was asked of; never 0.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imagelab.calibration.intervals import spread_interval
from imagelab.checks import check_number, check_whole
from imagelab.encoders.base import IdentityEncoder, Reading, check_pictures
from imagelab.errors import ImageFileError, InvalidValueError
from imagelab.records import Record
from imagelab.rgb import Picture, to_rgb
from imagelab.set_measures import Floats, check_given, copy_paste_rate, diversity, sharpness, vendi_score
from imagelab.similarity import centroid

if TYPE_CHECKING:
    from imagelab.encoders.networks import ClipEncoder

_BATCH = 64  # pictures in memory at a time: as many as two threads look at for faces


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured(Record):
    """A number and what it was measured on; None where that is too little."""

    n: int  # pictures that it is of
    value: float | None = None
    low: float | None = None  # of its confidence interval, where it has one
    high: float | None = None

    def __float__(self) -> float:
        return math.nan if self.value is None else self.value


@dataclass(frozen=True, kw_only=True, slots=True)
class SetDescription(Record):
    """One set of pictures by every measure."""

    name: str
    pictures: int
    counts: Mapping[str, int]  # {status: pictures} of the identity encoder
    identity: Measured  # mean cosine to the template of the references, over pictures whose status is ok
    adherence: Measured  # CLIP-T: mean cosine of picture and prompt; papers print it times 100
    diversity: Measured  # mean 1 - cosine of pairs, by CLIP-I
    vendi: Measured  # how many unlike pictures the set is worth, by CLIP-I; 1 to n
    copy_paste: Measured  # 0.5: no nearer to the given reference than to the others, by CLIP-I
    sharpness: Measured  # mean over pictures
    cut_prompts: int  # prompts that CLIP couldn't read to their end
    encoder: str  # label of the identity encoder
    clip: str
    confidence: float


def describe_set(
    pictures: Sequence[Picture],
    references: Sequence[Picture],
    *,
    identity: IdentityEncoder,
    clip: "ClipEncoder",
    prompts: Sequence[str] | str | None = None,
    given: int = 0,
    name: str = "set",
    confidence: float = 0.95,
) -> SetDescription:
    """Measure a set of pictures of one character by everything at once.

    `prompts`: one for each picture or one for all; `given`: which of `references` the generator was shown, for the
    copy-paste rate. That and the diversity are measured by CLIP's view of the whole picture: an identity encoder is
    made to be blind to most of what a copy copies. Intervals are Student's, over pictures. A picture that can't be read
    is a status, and counts nowhere else.

    Raises InvalidValueError for lists that don't fit, for a `given` that isn't there, and when no reference can be
    compared; else as the encoders.
    """
    shown, templates = check_pictures(pictures), check_pictures(references)
    level = check_number(confidence, "confidence", 0.5, 0.9999)
    texts = _check_prompts(prompts, len(shown))
    check_given(given, len(templates))
    originals, seen = _look(templates, identity, clip), _look(shown, identity, clip)
    scores = _cosines(_embeddings(seen.faces), _template(originals.faces))
    views = _embeddings(seen.views)
    adherence, cut = _adherence(clip, seen.views, texts)
    return SetDescription(
        name=name,
        pictures=len(shown),
        counts=_counts(seen.faces),
        identity=_mean(scores, level),
        adherence=_mean(adherence, level),
        diversity=_measured(len(views), diversity(views)),
        vendi=_measured(len(views), vendi_score(views)),
        copy_paste=_measured(len(views), _copy_paste(views, originals.views, given)),
        sharpness=_mean(np.array(seen.sharpness, np.float64), level),
        cut_prompts=cut,
        encoder=identity.id.label,
        clip=clip.id.label,
        confidence=level,
    )


def near_copies(picture: Picture, count: int, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Return (h, w, 3) RGB copies of a picture: cut by up to a twentieth on each side, a little darker or brighter.

    What a generator makes that pastes its reference; a set to hold others against. Raises ImageFileError or
    InvalidValueError.

    >>> [copy.shape for copy in near_copies(np.full((40, 60, 3), 9, np.uint8), 2)]
    [(40, 60, 3), (40, 60, 3)]
    """
    import cv2

    rgb, rng = to_rgb(picture), np.random.default_rng(seed)
    height, width = rgb.shape[:2]
    copies = []
    for _ in range(check_whole(count, "count", 0, 1_000_000)):
        left, right = (round(cut) for cut in rng.uniform(0, width / 20, 2))
        top, bottom = (round(cut) for cut in rng.uniform(0, height / 20, 2))
        cut = cv2.resize(rgb[top : height - bottom, left : width - right], (width, height))
        copies.append(np.clip(cut * rng.uniform(0.9, 1.1), 0, 255).astype(np.uint8))
    return copies


def prompt_adherence(clip: "ClipEncoder", pictures: Sequence[Picture], prompts: Sequence[str] | str) -> Floats:
    """Return CLIP-T of each picture (n,): the cosine of its CLIP embedding and its prompt's; NaN for one unread.

    Nothing but a convention, papers print 100 times it ("CLIP-T 28"); CLIPScore (Hessel et al. 2021, arXiv 2104.08718)
    is 2.5 times it, negatives cut off. Values of two CLIPs can't be compared. Words beyond CLIP's 77 tokens count
    nowhere: `describe_set` says how many prompts have such. Raises as `describe_set`.
    """
    shown = check_pictures(pictures)
    readings = clip.embed(shown)
    values = np.full(len(shown), np.nan)
    values[[reading.embedding is not None for reading in readings]] = _adherence(
        clip, readings, _check_prompts(prompts, len(shown))
    )[0]
    return values


def _check_prompts(prompts: Sequence[str] | str | None, pictures: int) -> list[str] | None:
    if prompts is None:
        return None
    texts = [prompts] * pictures if isinstance(prompts, str) else list(prompts)
    if len(texts) != pictures:
        raise InvalidValueError("prompts", len(texts), f"one for all, or as many as pictures, {pictures}")
    return texts


class _Seen(NamedTuple):
    """What there is to see of some pictures."""

    faces: list[Reading]  # by the identity encoder
    views: list[Reading]  # by CLIP
    sharpness: list[float]  # of those that can be read


def _look(pictures: Sequence[Picture], identity: IdentityEncoder, clip: "ClipEncoder") -> _Seen:
    """Open each picture once, for all that look at it."""
    seen = _Seen([], [], [])
    for start in range(0, len(pictures), _BATCH):
        batch = [_open(picture) for picture in pictures[start : start + _BATCH]]
        seen.faces.extend(identity.embed(batch))
        seen.views.extend(clip.embed(batch))
        seen.sharpness.extend(sharpness(picture) for picture in batch if isinstance(picture, np.ndarray))
    return seen


def _open(picture: Picture) -> Picture:
    """Return a picture as RGB; a file that can't be read as it is, for the encoders to give it a status."""
    try:
        return to_rgb(picture)
    except ImageFileError:
        return picture


def _embeddings(readings: Sequence[Reading]) -> Floats:
    rows = [reading.embedding for reading in readings if reading.embedding is not None]
    return np.array(rows, np.float64).reshape(len(rows), -1) if rows else np.empty((0, 0))


def _template(readings: Sequence[Reading]) -> Floats:
    rows = _embeddings(readings)
    if not len(rows):
        raise InvalidValueError("references", _counts(readings), "such that at least one can be compared")
    return centroid(rows).astype(np.float64)


def _cosines(rows: Floats, template: Floats) -> Floats:
    return rows @ template if len(rows) else np.empty(0)


def _adherence(clip: "ClipEncoder", readings: Sequence[Reading], texts: list[str] | None) -> tuple[Floats, int]:
    """Return CLIP-T of the pictures that could be read, and how many prompts CLIP had to cut."""
    if not texts:
        return np.empty(0), 0
    unlike = list(dict.fromkeys(texts))
    embedded, beyond = clip.embed_texts(unlike)
    of = dict(zip(unlike, embedded, strict=True))
    read = [
        float(reading.embedding @ of[text])
        for reading, text in zip(readings, texts, strict=True)
        if reading.embedding is not None
    ]
    cut = {text for text, count in zip(unlike, beyond, strict=True) if count}
    return np.array(read, np.float64), sum(text in cut for text in texts)


def _copy_paste(views: Floats, originals: Sequence[Reading], given: int) -> float:
    if any(reading.embedding is None for reading in originals):
        places = [place for place, reading in enumerate(originals) if reading.embedding is None]
        raise InvalidValueError("references", f"unreadable at {places}", "pictures that can all be read")
    return copy_paste_rate(views, _embeddings(originals), given)


def _mean(values: Floats, confidence: float) -> Measured:
    n = len(values)
    if n < 2:
        return Measured(n=n, value=float(values[0]) if n else None)
    found = spread_interval(float(values.mean()), float(values.var(ddof=1)) / n, n - 1, confidence)
    return Measured(n=n, value=found.value, low=found.low, high=found.high)


def _measured(n: int, value: float) -> Measured:
    return Measured(n=n, value=None if math.isnan(value) else value)


def _counts(readings: Sequence[Reading]) -> dict[str, int]:
    statuses = [reading.status for reading in readings]
    return {status: statuses.count(status) for status in dict.fromkeys(statuses)}
