"""How closely a picture follows its control map: the same preprocessor looks at it, and what it sees is compared.

Nothing else has to be known of the picture, so the number means the same with every profile, as far as the profile's
own preprocessors can be trusted.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from imagelab.agreement import METRICS, edge_f1, mean_cosine, mean_iou, pck, spearman
from imagelab.character import CharacterGenerator
from imagelab.config import Configs, load_configs
from imagelab.control_maps import JOINT_THRESHOLD
from imagelab.controls import PlannedPreprocessor, control_use, plan_preprocessor
from imagelab.errors import ControlMapError
from imagelab.imagefiles import upright_rgb
from imagelab.preprocess import MapMaker, make_control_map, map_maker
from imagelab.preprocess.fit import fit_picture
from imagelab.results import Generation, GenerationRequest

if TYPE_CHECKING:
    from PIL.Image import Image

AdherenceStatus = Literal["ok", "nothing_found"]

_EDGE_LEVEL = 127  # an edge that came from another resolution has a soft rim

People = list[NDArray[np.float64]]  # each (17, 2): x and y in px, NaN where a joint isn't known


@dataclass(frozen=True, kw_only=True, slots=True)
class Adherence:
    """How closely a picture follows a control map, in the number that suits its kind; 1 is full agreement."""

    type: str
    metric: str
    score: float | None  # None where the picture shows nothing to compare, which is no score of 0
    status: AdherenceStatus = "ok"
    reason: str = ""  # why there is no score

    def __str__(self) -> str:
        """Say it as a caption does."""
        return f"nothing found, no {self.metric}" if self.score is None else f"{self.metric} {self.score:.2f}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Followed:
    """A picture drawn under one control at one scale, and how closely it follows."""

    type: str
    scale: float
    generation: Generation
    adherence: Adherence


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaleStudy:
    """One request drawn without control, and under each kind of control at each scale, 0 among them."""

    plain: Generation
    followed: tuple[Followed, ...]  # kind by kind, scale by scale

    def of(self, control_type: str) -> tuple[Followed, ...]:
        """Return the pictures of one kind of control."""
        return tuple(item for item in self.followed if item.type == control_type)

    @property
    def scales(self) -> tuple[float, ...]:
        """Return the scales, rising from 0."""
        return tuple(dict.fromkeys(item.scale for item in self.followed))

    def scores(self) -> dict[str, list[float | None]]:
        """Return {kind: its score at each scale}."""
        kinds = dict.fromkeys(item.type for item in self.followed)
        return {kind: [item.adherence.score for item in self.of(kind)] for kind in kinds}

    def gains(self) -> dict[str, float | None]:
        """Return {kind: its score at the largest scale minus that without control}, None where one is missing."""
        ends = {kind: (values[0], values[-1]) for kind, values in self.scores().items()}
        return {kind: _difference(*pair) for kind, pair in ends.items()}


def _difference(without: float | None, with_it: float | None) -> float | None:
    return None if without is None or with_it is None else with_it - without


def follow_scales(
    generator: CharacterGenerator,
    request: GenerationRequest,
    source: "Image",
    control_types: Iterable[str],
    scales: Iterable[float],
    model: str | None = None,
) -> ScaleStudy:
    """Draw a request without control, then following a picture in each respect at each scale, and compare.

    All from one seed. Scale 0 is always among them: it says how much a picture has in common with the source by chance.
    `model`: dedicated or union, as in ControlUse. Raises what `generate` raises, and ControlMapError for a source that
    shows nothing to follow.
    """
    plain = generator.generate(request)
    request = replace(request, seed=plain.record.seed)
    scales = sorted({0.0, *scales})
    maker = map_maker(generator.configs, generator.device)  # looks at the source once for each kind
    followed = [
        _follow(generator, request, source, control_type, scale, model, maker)
        for control_type in control_types
        for scale in scales
    ]
    return ScaleStudy(plain=plain, followed=tuple(followed))


def _follow(
    generator: CharacterGenerator,
    request: GenerationRequest,
    source: "Image",
    control_type: str,
    scale: float,
    model: str | None,
    maker: MapMaker,
) -> Followed:
    use = control_use(image=source, place="source", type=control_type, scale=scale, model=model)
    generation = generator.generate(replace(request, controls=(*request.controls, use)))
    given: dict[str, Any] = {"device": generator.device, "configs": generator.configs, "maker": maker}
    adherence = control_adherence(control_type, generation.image, source, generator.profile.name, **given)
    return Followed(type=control_type, scale=scale, generation=generation, adherence=adherence)


def control_adherence(
    control_type: str,
    picture: "Image",
    source: "Image",
    profile: str | None = None,
    *,
    device: str = "auto",
    configs: Configs | None = None,
    maker: MapMaker | None = None,
) -> Adherence:
    """Compare what a profile's preprocessor sees in a picture with what it sees in the one that it was to follow.

    By kind: pose, PCK@0.1 of the joints; canny, F1 of the edges, 1 px apart or nearer; depth, Spearman's correlation;
    seg, mean intersection over union; normal, mean cosine. `source` is the picture that the map was made of, not the
    map; it is cropped to the size of `picture`, as a control is unless it says otherwise. A `maker` of one's own keeps
    the maps of several calls.

    Raises UnknownNameError, InvalidValueError, ProfileError, ModelNotFoundError, ModelFileError, and ControlMapError
    when nothing is found in the source.
    """
    configs = load_configs() if configs is None else configs
    preprocessor = plan_preprocessor(configs, configs.profile(profile), configs.control(control_type))
    maker = map_maker(configs, device) if maker is None else maker
    look = _Look(type=control_type, profile=profile, preprocessor=preprocessor, configs=configs, maker=maker)
    picture, source = upright_rgb(picture), upright_rgb(source)
    fitted = fit_picture(source, picture.size, "crop", control_type=control_type, is_map=False)
    wanted = look.at(fitted.content)
    metric = METRICS[control_type]
    try:
        found = look.at(picture)
    except ControlMapError as error:
        return Adherence(type=control_type, metric=metric, score=None, status="nothing_found", reason=error.reason)
    return Adherence(type=control_type, metric=metric, score=_COMPARE[control_type](found, wanted))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Look:
    """How pictures are looked at."""

    type: str
    profile: str | None
    preprocessor: PlannedPreprocessor
    configs: Configs
    maker: MapMaker

    def at(self, picture: "Image") -> Any:
        """Return what can be compared; raises ControlMapError when nothing is found."""
        made = make_control_map(self.type, picture, self.profile, configs=self.configs, maker=self.maker)
        # Joints can't be read off a skeleton, whose limbs cover them; the other maps hold all that was seen.
        return self._people(picture) if self.type == "pose" else np.asarray(made.image)

    def _people(self, picture: "Image") -> People:
        from imagelab.annotators import estimate_people

        model, params = self.preprocessor.model, self.preprocessor.params
        assert model is not None  # noqa: S101  config.cross_checks: all but canny have one
        people = estimate_people(model, self.preprocessor.detector, picture, params, self.maker.device)
        threshold = params.get("threshold", JOINT_THRESHOLD)  # below it, the preprocessor draws no joint either
        sure = [np.where(person[:, 2:] >= threshold, person[:, :2], np.nan) for person in people]
        return [person for person in sure if np.isfinite(person).any()]


def joint_agreement(found: People, wanted: People) -> float:
    """Return the PCK of people (n, 2), mean over those wanted, each compared with the found one that is most like it.

    NaN marks joints that aren't known: wanted ones don't count, found ones are not found. Nobody is compared twice, so
    one who wasn't found at all counts as 0. NaN when nobody is wanted.
    """
    from scipy.optimize import linear_sum_assignment

    if not wanted:
        return float("nan")
    scores = np.array([[_pck_of_known(one, target) for one in found] for target in wanted]).reshape(len(wanted), -1)
    rows, columns = linear_sum_assignment(scores, maximize=True)
    return float(scores[rows, columns].sum() / len(wanted))


def _pck_of_known(found: NDArray[np.float64], wanted: NDArray[np.float64]) -> float:
    known = np.isfinite(wanted).all(axis=1)
    return pck(found[known], wanted[known])


def _f1_of_maps(found: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> float:
    return edge_f1(found[..., 0] > _EDGE_LEVEL, wanted[..., 0] > _EDGE_LEVEL)


def _spearman_of_maps(found: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> float:
    return spearman(found[..., 0], wanted[..., 0])


def _iou_of_maps(found: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> float:
    return mean_iou(_numbered(found), _numbered(wanted))


def _numbered(colours: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return a number for each colour, (h, w) of (h, w, 3): labels, whatever the palette."""
    numbers: NDArray[np.int64] = colours.astype(np.int64).dot([1 << 16, 1 << 8, 1])
    return numbers


def _cosine_of_maps(found: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> float:
    return mean_cosine(_normals(found), _normals(wanted))


def _normals(colours: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Read a map of normals (h, w, 3) back; no colour stands for the null vector, for 127.5 isn't a level."""
    vectors = colours / 127.5 - 1
    lengths: NDArray[np.float64] = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / lengths


_COMPARE: Mapping[str, Callable[[Any, Any], float]] = {
    "pose": joint_agreement,
    "canny": _f1_of_maps,
    "depth": _spearman_of_maps,
    "seg": _iou_of_maps,
    "normal": _cosine_of_maps,
}
