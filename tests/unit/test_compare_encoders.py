from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest

from imagelab.calibration import calibrate
from imagelab.calibration.resampling import FIXED, SEVERAL, draw_weights, plan_resamples
from imagelab.encoders import EncoderComparison, EncoderId, Reading, compare_encoders, open_encoders
from imagelab.encoders.jackknife import (
    MOST_BLOCKS,
    jackknife_difference,
    jackknife_variance,
    leave_pictures_out,
    widen,
)
from imagelab.encoders.scoring import compare_with_templates, score_embeddings
from imagelab.errors import InvalidValueError, UnknownNameError
from imagelab.puppets.render import render
from imagelab.puppets.world import HELD_OUT_SEED, sample_identity, sample_scene
from imagelab.set_plots import encoder_intervals
from imagelab.similarity import centroid, cosine, unit


class PlantedEncoder:
    """An encoder whose truth is planted: pictures are a pixel, and each embeds as its character plus noise of its own.

    It implements the protocol without models; `missing` pictures have no face to it.
    """

    def __init__(self, label, noise, missing=(), seed=0):
        self.label, self.noise, self.missing, self.seed = label, noise, set(missing), seed
        self.shown = []

    @property
    def id(self):
        given = {"kind": "clip", "region": "picture", "weights_sha256": "0" * 64, "preprocessing_sha256": "0" * 64}
        return EncoderId(label=self.label, **given)

    def embed(self, pictures):
        numbers = [number(picture) for picture in pictures]
        self.shown += numbers
        return [self._read(one) for one in numbers]

    def _read(self, picture):
        if picture in self.missing:
            return Reading(status="no_face")
        own = np.zeros(16)
        own[picture // 100] = 1
        noise = np.random.default_rng([self.seed, picture]).normal(0, self.noise, 16)
        return Reading(status="ok", embedding=unit(own + noise))

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def pixel(number):
    """Return the picture of a number: its character's, then its own."""
    return np.array([[[number // 100, number % 100, 0]]], np.uint8)


def number(picture):
    return 100 * int(picture[0, 0, 0]) + int(picture[0, 0, 1])


def planted(characters=6, pictures=8):
    return {f"c{c}": [pixel(100 * c + k) for k in range(pictures)] for c in range(characters)}


def test_scores_are_cosines_to_the_template_of_the_others():
    rng = np.random.default_rng(0)
    rows = np.stack([unit(rng.normal(size=4)) for _ in range(9)]).astype(np.float64)
    whose = np.array(list("aabbbcccd"))
    genuine, impostor = score_embeddings(rows, whose, np.arange(9))
    own = {int(picture): value for (picture, *_), value in zip(genuine.pictures, genuine.values, strict=True)}
    assert set(own) == set(range(8))  # the only picture of d has no others
    for place, value in own.items():
        others = [k for k in range(9) if whose[k] == whose[place] and k != place]
        assert value == pytest.approx(cosine(rows[place], centroid(rows[others])), abs=1e-6)
    wanted = [cosine(rows[k], centroid(rows[whose == name])) for name in "abcd" for k in range(9) if whose[k] != name]
    assert impostor.values == pytest.approx(wanted, abs=1e-6)


def of_characters(sizes):
    """Return scores of so many pictures of each of some characters, and what is resampled for them."""
    whose = np.repeat([f"c{k}" for k in range(len(sizes))], sizes)
    rows = np.stack([unit(np.random.default_rng(k).normal(size=4)) for k in range(len(whose))]).astype(np.float64)
    scores = score_embeddings(rows, whose, np.arange(len(whose)))
    return *scores, plan_resamples(*scores)


@pytest.mark.parametrize("sizes", [[4] * SEVERAL, [4] * (SEVERAL - 1), [4, 4]])
def test_a_template_is_no_picture(sizes):
    genuine, impostor, _ = of_characters(sizes)
    assert genuine.picture_count == impostor.picture_count == sum(sizes)
    found = calibrate(genuine, impostor, resamples=100)
    assert found.impostor.pictures == found.impostor.independent == sum(sizes)
    assert found.impostor.characters == len(sizes)


def test_of_few_characters_pictures_are_drawn_and_templates_stay_what_they_are():
    genuine, impostor, plan = of_characters([5] * (SEVERAL - 1))
    assert plan.groups == (5 * (SEVERAL - 1),)  # one unit a picture
    own, others = next(draw_weights(plan, 50, 0))
    drawn = dict(zip(genuine.pictures[:, 0], own.T, strict=True))
    for picture, weights in zip(impostor.pictures[:, 0], others.T, strict=True):
        assert np.array_equal(weights, drawn[picture])


def test_of_many_characters_each_is_drawn_with_its_pictures_and_its_template():
    genuine, impostor, plan = of_characters([4] * SEVERAL)
    assert plan.groups == (SEVERAL,)
    own, others = next(draw_weights(plan, 50, 0))
    drawn = dict(zip(genuine.characters[:, 0], own.T, strict=True))
    for (of, against), weights in zip(impostor.characters, others.T, strict=True):
        assert np.array_equal(weights, drawn[of] * drawn[against])


def test_a_character_of_a_single_picture_brings_no_pseudo_picture_into_the_resamples():
    """It has no genuine score, so that pictures of the other four are drawn, and its own by itself."""
    *_, plan = of_characters([4] * (SEVERAL - 1) + [1])
    assert plan.groups == (4 * (SEVERAL - 1), 1)
    assert (plan.impostor[:, 1] == FIXED).all()


def test_the_encoder_with_less_noise_is_recommended_and_the_interval_of_the_difference_says_why():
    encoders = {"noisy": PlantedEncoder("noisy/0", 0.6), "clear": PlantedEncoder("clear/0", 0.2, seed=1)}
    found = compare_encoders(encoders, planted(), resamples=400)
    assert found.recommended == "clear"
    assert found.difference("noisy", "clear").distinguishable
    assert found.difference("noisy", "clear").auroc.high < 0
    assert found.result("clear").calibration.auroc.value > found.result("noisy").calibration.auroc.value
    assert "best AUROC" in found.reason
    assert "to judge and to calibrate, imagelab has the face pack only" in found.reason


def test_each_picture_is_embedded_once_by_each_encoder():
    encoders = {"a": PlantedEncoder("a/0", 0.5), "b": PlantedEncoder("b/0", 0.5, seed=1)}
    compare_encoders(encoders, planted(), resamples=100)
    for encoder in encoders.values():
        assert sorted(encoder.shown) == sorted(number(picture) for row in planted().values() for picture in row)


def test_an_encoder_differs_from_itself_in_nothing_and_the_first_is_recommended():
    encoders = {name: PlantedEncoder(f"{name}/0", 0.5) for name in ("one", "two")}
    found = compare_encoders(encoders, planted(), resamples=200)
    (difference,) = found.differences
    assert (difference.auroc.value, difference.auroc.low, difference.auroc.high) == (0, 0, 0)
    assert difference.spearman == pytest.approx(1)
    assert difference.different_verdicts == 0
    assert found.recommended == "one"
    assert "not distinguishable" in found.reason


def test_of_encoders_that_cannot_be_told_apart_the_one_that_can_compare_more_is_recommended():
    missing = [100 * c for c in range(6)]
    encoders = {"misses": PlantedEncoder("a/0", 0.5, missing), "sees": PlantedEncoder("b/0", 0.5)}
    found = compare_encoders(encoders, planted(), resamples=200)
    assert found.recommended == "sees"
    assert "not distinguishable" in found.reason
    assert found.result("misses").counts == {"no_face": 6, "ok": 42}
    assert found.result("misses").detection_rate == 42 / 48
    assert found.differences[0].pictures == 42


def test_a_picture_that_an_encoder_cannot_read_enters_none_of_its_scores():
    missing = [101, 203, 305]
    with_gaps = PlantedEncoder("a/0", 0.5, missing)
    without = {name: [k for k in row if number(k) not in missing] for name, row in planted().items()}
    gaps = compare_encoders({"a": with_gaps}, planted(), resamples=200).result("a").calibration
    clean = compare_encoders({"a": PlantedEncoder("a/0", 0.5)}, without, resamples=200).result("a").calibration
    assert gaps.auroc.value == clean.auroc.value
    assert gaps.genuine.scores == clean.genuine.scores == 45


def test_resamples_that_are_shared_make_the_difference_of_like_encoders_surer():
    """Two encoders that err on the same pictures differ less than their own intervals suggest."""
    noisy = PlantedEncoder("a/0", 0.8)
    alike = PlantedEncoder("b/0", 0.8001)
    found = compare_encoders({"a": noisy, "b": alike}, planted(), resamples=400)
    own = found.result("a").calibration.auroc
    difference = found.differences[0].auroc
    assert difference.high - difference.low < 0.2 * (own.high - own.low)


def test_the_interval_of_a_difference_covers_the_truth_as_often_as_it_says():
    """Two encoders of equal noise: the truth is 0. Of 60 sets, 95 % intervals miss more than 8 with p < 0.01."""
    misses = 0
    for k in range(60):
        encoders = {"a": PlantedEncoder("a/0", 0.7, seed=2 * k), "b": PlantedEncoder("b/0", 0.7, seed=2 * k + 1)}
        misses += compare_encoders(encoders, planted(6, 5), resamples=100).differences[0].distinguishable
    assert misses <= 8


SETS = 100


def drawn_sets(characters, pictures, noises, sets):
    """Yield unit embeddings of the same characters by encoders of these noises, and whose pictures they are."""
    rng = np.random.default_rng(characters)
    centres = np.stack([unit(row) for row in rng.normal(size=(characters, 16))]).repeat(pictures, axis=0)
    whose = np.repeat([f"c{k}" for k in range(characters)], pictures)
    for _ in range(sets):
        rows = [centres + noise * rng.normal(size=centres.shape) for noise in noises]
        yield [row / np.linalg.norm(row, axis=1, keepdims=True) for row in rows], whose


def auroc_of(rows, whose):
    found = compare_with_templates(rows, whose)
    return (found.genuine[:, None] > found.impostor).mean()


@pytest.mark.slow
@pytest.mark.parametrize(("characters", "pictures"), [(2, 6), (4, 5)])
def test_intervals_of_few_characters_cover_the_truth_as_often_as_they_say(characters, pictures):
    """The truth is what other pictures of the same characters give, templates and all; 90 to 99.5 % of sets hold it."""
    noises = (0.4, 0.5)
    aurocs = [[auroc_of(rows, whose) for rows in both] for both, whose in drawn_sets(characters, pictures, noises, 400)]
    truth = np.mean(aurocs, axis=0)
    own = apart = 0
    for (first, second), whose in drawn_sets(characters, pictures, noises, SETS):
        scores = score_embeddings(first, whose, np.arange(len(whose)))
        auroc = widen(calibrate(*scores, resamples=100), first, whose).auroc
        difference = jackknife_difference((first, whose), (second, whose), 0.95)
        own += auroc.low <= truth[0] <= auroc.high
        apart += difference.low <= truth[0] - truth[1] <= difference.high
    assert 0.9 <= own / SETS <= 0.995
    assert 0.9 <= apart / SETS <= 0.995


def test_few_characters_have_the_wider_intervals_of_the_jackknife_and_many_those_of_resamples():
    for characters, widened in ((SEVERAL - 1, True), (SEVERAL, False)):
        encoder, pictures = PlantedEncoder("a/0", 0.6), planted(characters, 5)
        found = compare_encoders({"a": encoder}, pictures, resamples=200).result("a").calibration
        rows = np.array([reading.embedding for row in pictures.values() for reading in encoder.embed(row)], np.float64)
        whose = np.repeat(list(pictures), 5)
        scores = score_embeddings(rows, whose, np.arange(len(whose)))
        plain = calibrate(*scores, resamples=200, score_range=(-1, 1), encoder="a/0")
        assert found == (widen(plain, rows, whose) if widened else plain)
        assert (found.auroc.high - found.auroc.low > plain.auroc.high - plain.auroc.low) == widened


def test_leaving_one_picture_out_at_a_time_gives_the_variance_of_a_mean():
    rng = np.random.default_rng(0)
    values = rng.normal(size=12)
    left = np.array([np.delete(values, k).mean() for k in range(12)])
    assert jackknife_variance(left, np.full(12, "a")) == pytest.approx(values.var(ddof=1) / 12)


def test_of_many_pictures_of_a_character_several_are_left_out_at_a_time():
    rows = np.stack([unit(row) for row in np.random.default_rng(0).normal(size=(130, 8))]).astype(np.float64)
    whose = np.repeat(["a", "b"], [127, 3])
    left = leave_pictures_out(rows, whose, lambda found: [len(found.genuine)])
    assert [left.characters.tolist().count(name) for name in "ab"] == [MOST_BLOCKS, 3]
    assert (130 - left.values).sum() == 130  # each once


def test_an_encoder_that_can_compare_nothing_is_shown_and_never_recommended():
    everything = [number(picture) for row in planted().values() for picture in row]
    blind = PlantedEncoder("blind/0", 0.1, everything)
    found = compare_encoders({"blind": blind, "sees": PlantedEncoder("b/0", 0.9)}, planted(), resamples=200)
    assert found.result("blind").calibration is None
    assert found.recommended == "sees"
    assert found.differences[0].auroc is None
    assert EncoderComparison.from_json(found.to_json()) == found
    with pytest.raises(InvalidValueError, match="an encoder can compare two or more"):
        compare_encoders({"blind": blind}, planted())


def test_a_comparison_goes_through_json_and_into_a_table():
    encoders = {"a": PlantedEncoder("a/0", 0.5), "b": PlantedEncoder("b/0", 0.3)}
    found = compare_encoders(encoders, planted(), resamples=200)
    assert EncoderComparison.from_json(found.to_json()) == found
    table = found.to_frame()
    assert table["encoder"].tolist() == ["a", "b"]
    assert (table["auroc_low"] <= table["auroc"]).all()
    assert table["recommended"].sum() == 1


def test_the_same_seed_gives_the_same_comparison():
    encoders = {"a": PlantedEncoder("a/0", 0.5), "b": PlantedEncoder("b/0", 0.3)}
    one, two = (compare_encoders(encoders, planted(), resamples=200, seed=3) for _ in range(2))
    assert one == two


@pytest.mark.parametrize(
    ("encoders", "pictures", "says"),
    [
        ({}, planted(), "encoders must be"),
        ([PlantedEncoder("a/0", 0.5)], planted(), "encoders must be"),
        (None, {"only": [0, 1]}, "at least two characters"),
        (None, [[0, 1], [100, 101]], "at least two characters"),
        (None, {"a": [0, 1], "b": [100]}, "pictures of 'b' must be at least two"),
        (None, {"a": [0, 1], "b": "files"}, "pictures must be a list"),
        (
            None,
            {"a": [pixel(0), pixel(1)], "b": [pixel(100), pixel(0)]},
            "of b, the same pixels as picture 0 of a",
        ),
        (
            None,
            {"a": [pixel(0), pixel(0)], "b": [pixel(100), pixel(1)]},
            "of a, the same pixels as picture 0 of a",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(encoders, pictures, says):
    with pytest.raises(InvalidValueError, match=says):
        compare_encoders({"a": PlantedEncoder("a/0", 0.5)} if encoders is None else encoders, pictures)


def test_an_unknown_policy_is_refused_before_anything_is_embedded():
    encoder = PlantedEncoder("a/0", 0.5)
    with pytest.raises((UnknownNameError, InvalidValueError)):
        compare_encoders({"a": encoder}, planted(), policy="best")
    assert encoder.shown == []


def test_the_figure_shows_each_encoder_with_its_interval_and_fills_the_recommended_one():
    encoders = {"a": PlantedEncoder("a/0", 0.9), "b": PlantedEncoder("b/0", 0.2)}
    found = compare_encoders(encoders, planted(), resamples=200)
    (axis,) = encoder_intervals(found).axes
    markers = [line for line in axis.lines if line.get_marker() == "o"]
    assert [marker.get_markerfacecolor() == "white" for marker in markers] == [True, False]
    whiskers = [line for line in axis.lines if line.get_marker() != "o"]
    for line, result in zip(whiskers, found.results, strict=True):
        assert list(line.get_xdata()) == [result.calibration.auroc.low, result.calibration.auroc.high]
    assert found.differences_to_frame()[["first", "second", "auroc"]].to_numpy().tolist() == [
        ["a", "b", found.difference("a", "b").auroc]
    ]
    (empty,) = encoder_intervals(replace(found, results=())).axes
    assert "no encoder" in empty.texts[0].get_text()


@pytest.fixture(scope="module")
def puppets():
    """Held-out puppets by person, four pictures each."""
    people = {}
    for person in range(24):
        rng = np.random.default_rng(HELD_OUT_SEED + 90_000 + person)
        identity = sample_identity(rng)
        people[f"person {person}"] = [render(sample_scene(rng, identity=identity)).image for _ in range(4)]
    return people


def test_arcface_tells_held_out_puppets_apart_better_than_clip_does(puppets):
    with ExitStack() as stack:
        names = ("clip", "arcface", "clip_face")  # not first: that alone would be a reason to recommend it
        encoders = open_encoders("puppet", names, device="cpu", stack=stack)
        found = compare_encoders(encoders, puppets, resamples=500)
    assert found.recommended == "arcface"
    assert found.difference("clip", "arcface").auroc.high < 0
    aurocs = {result.name: result.calibration.auroc.value for result in found.results}
    assert aurocs["arcface"] > max(aurocs["clip"], aurocs["clip_face"])
    assert aurocs["arcface"] > 0.97
    assert 0 < found.difference("clip", "arcface").different_verdicts < 1
