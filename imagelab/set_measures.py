"""What a set of pictures is worth beyond identity: adherence to prompts, diversity, copy-paste, sharpness.

Identity alone can be had by copying a reference, so it is read beside the others: `describe_set` measures all of them.
A number that too few pictures can give is NaN, or None in a Record, with the n that it was asked of; never 0.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imagelab.calibration.intervals import spread_interval
from imagelab.checks import check_number, check_whole
from imagelab.encoders.base import IdentityEncoder, Reading, check_pictures
from imagelab.errors import ImageFileError, InvalidValueError
from imagelab.results import Record
from imagelab.rgb import Picture, to_rgb
from imagelab.similarity import centroid

if TYPE_CHECKING:
    from imagelab.encoders.networks import ClipEncoder

COPY_PASTE_TEMPERATURE = 0.01  # ViStoryBench, arXiv 2505.24862

Floats = NDArray[np.float64]


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
    _check_given(given, len(templates))
    found = identity.embed(shown)
    scores = _cosines(_embeddings(found), _template(identity, templates))
    seen = clip.embed(shown)
    views, originals = _embeddings(seen), clip.embed(templates)
    adherence, cut = _adherence(clip, seen, texts)
    return SetDescription(
        name=name,
        pictures=len(shown),
        counts=_counts([reading.status for reading in found]),
        identity=_mean(scores, level),
        adherence=_mean(adherence, level),
        diversity=_measured(len(views), diversity(views)),
        vendi=_measured(len(views), vendi_score(views)),
        copy_paste=_measured(len(views), _copy_paste(views, originals, given)),
        sharpness=_mean(_sharpnesses(shown), level),
        cut_prompts=cut,
        encoder=identity.id.label,
        clip=clip.id.label,
        confidence=level,
    )


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


def diversity(embeddings: ArrayLike) -> float:
    """Return the mean of 1 - cosine over all pairs of embeddings (n, d): 0 for copies; NaN for fewer than two.

    Raises InvalidValueError.

    >>> diversity([[1, 0], [0, 1]]), diversity([[1, 0], [1, 0]])
    (1.0, 0.0)
    """
    rows = _units(embeddings, "embeddings")
    n = len(rows)
    if n < 2:
        return math.nan
    total = rows.sum(axis=0)
    return max(0.0, float(1 - (total @ total - n) / (n * (n - 1))))


def vendi_score(embeddings: ArrayLike) -> float:
    """Return the effective number of unlike pictures among embeddings (n, d): 1 for copies, n for orthogonal ones.

    The exponential of the entropy of the eigenvalues of K/n, where K holds the cosines of all pairs (Friedman and Dieng
    2023, arXiv 2210.02410). It grows with n, so compare sets of one size. NaN for fewer than two. Raises
    InvalidValueError.

    >>> round(vendi_score([[1, 0], [0, 1]]), 6), round(vendi_score([[1, 0], [1, 0]]), 6)
    (2.0, 1.0)
    """
    rows = _units(embeddings, "embeddings")
    if len(rows) < 2:
        return math.nan
    shares = np.linalg.svd(rows, compute_uv=False) ** 2 / len(rows)  # the eigenvalues of K/n that aren't 0
    shares = shares[shares > 1e-12]
    return float(np.exp(-np.sum(shares * np.log(shares))))


def copy_paste_rate(
    embeddings: ArrayLike, references: ArrayLike, given: int = 0, *, temperature: float = COPY_PASTE_TEMPERATURE
) -> float:
    """Return how much nearer embeddings (n, d) are to the reference that was given than to the others (m, d).

    The mean over pictures of softmax([s_given, s_other] / temperature)[0], where s_given is a picture's cosine to the
    given reference and s_other its mean cosine to the others (ViStoryBench, arXiv 2505.24862, with several others).
    0.5: as near to the one as to the others on average, so nothing of it was copied that they don't have too. Towards
    1: nearer to it, 0.73 for a cosine that is larger by 0.01 and 0.993 for 0.05. Below 0.5: farther. References differ
    in how near everything is to them, so hold two sets with the same references and the same `given` against each
    other. NaN for no pictures and for fewer than two references. Raises InvalidValueError.

    >>> copy_paste_rate([[1, 0]], [[1, 0], [0, 1]]), copy_paste_rate([[1, 1]], [[1, 0], [0, 1]])
    (1.0, 0.5)
    """
    check_number(temperature, "temperature", 1e-6, 1e6)
    rows, originals = _units(embeddings, "embeddings"), _units(references, "references")
    if len(originals) < 2 or not len(rows):
        return math.nan
    _check_given(given, len(originals))
    if rows.shape[1] != originals.shape[1]:
        expected = f"of length {rows.shape[1]}, like the embeddings"
        raise InvalidValueError("references", f"of length {originals.shape[1]}", expected)
    from scipy.special import expit

    cosines = rows @ originals.T
    ahead = cosines[:, given] - np.delete(cosines, given, axis=1).mean(axis=1)
    return float(expit(ahead / temperature).mean())


def sharpness(picture: Picture) -> float:
    """Return the variance of the Laplacian of a picture's grey levels over their own variance; 0 for one colour.

    As a face's sharpness is measured, but at the picture's own resolution: compare pictures of one size. Raises
    ImageFileError or InvalidValueError for what is no picture.
    """
    import cv2

    grey = cv2.cvtColor(to_rgb(picture), cv2.COLOR_RGB2GRAY)
    edges = cv2.Laplacian(grey, cv2.CV_64F)
    return float(edges.var() / max(float(grey.var()), 1.0))


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


def pareto_optimal(rows: ArrayLike) -> NDArray[np.bool_]:
    """Say of each row (n, k) whether no other is as good everywhere and better somewhere; higher is better.

    >>> pareto_optimal([[1, 3], [2, 2], [1, 2]]).tolist()
    [True, True, False]
    """
    values = np.asarray(rows, np.float64)
    as_good = (values[:, None] >= values[None]).all(axis=2)
    better = (values[:, None] > values[None]).any(axis=2)
    return np.asarray(~(as_good & better).any(axis=0))


def _units(embeddings: ArrayLike, name: str) -> Floats:
    try:
        rows = np.asarray(embeddings, np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidValueError(name, embeddings, "rows (n, d) of numbers") from error
    if not rows.size and rows.ndim in {1, 2}:
        return rows.reshape(0, rows.shape[1] if rows.ndim == 2 else 0)
    if rows.ndim != 2:
        raise InvalidValueError(name, f"shape {rows.shape}", "rows (n, d)")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or (lengths == 0).any():
        raise InvalidValueError(name, "NaN, infinity or zeros", "rows with a direction: those of status ok")
    return np.asarray(rows / lengths)


def _check_prompts(prompts: Sequence[str] | str | None, pictures: int) -> list[str] | None:
    if prompts is None:
        return None
    texts = [prompts] * pictures if isinstance(prompts, str) else list(prompts)
    if len(texts) != pictures:
        raise InvalidValueError("prompts", len(texts), f"one for all, or as many as pictures, {pictures}")
    return texts


def _check_given(given: object, references: int) -> None:
    if type(given) is not int or not 0 <= given < references:
        raise InvalidValueError("given", given, f"the place of one of the {references} references, counted from 0")


def _embeddings(readings: Sequence[Reading]) -> Floats:
    rows = [reading.embedding for reading in readings if reading.embedding is not None]
    return np.array(rows, np.float64).reshape(len(rows), -1) if rows else np.empty((0, 0))


def _template(identity: IdentityEncoder, references: Sequence[Picture]) -> Floats:
    readings = identity.embed(references)
    rows = _embeddings(readings)
    if not len(rows):
        statuses = _counts([reading.status for reading in readings])
        raise InvalidValueError("references", statuses, "such that at least one can be compared")
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


def _sharpnesses(pictures: Sequence[Picture]) -> Floats:
    values = []
    for picture in pictures:
        try:
            values.append(sharpness(picture))
        except ImageFileError:  # it is a status already
            continue
    return np.array(values, np.float64)


def _mean(values: Floats, confidence: float) -> Measured:
    n = len(values)
    if n < 2:
        return Measured(n=n, value=float(values[0]) if n else None)
    found = spread_interval(float(values.mean()), float(values.var(ddof=1)) / n, n - 1, confidence)
    return Measured(n=n, value=found.value, low=found.low, high=found.high)


def _measured(n: int, value: float) -> Measured:
    return Measured(n=n, value=None if math.isnan(value) else value)


def _counts(statuses: Sequence[str]) -> dict[str, int]:
    return {status: statuses.count(status) for status in dict.fromkeys(statuses)}
