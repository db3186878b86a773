import math
import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from imagelab.encoders import open_clip, open_encoder
from imagelab.errors import ImageFileError, InvalidValueError
from imagelab.puppets.render import render
from imagelab.puppets.world import HELD_OUT_SEED, full_caption, sample_identity, sample_scene
from imagelab.set_description import Measured, SetDescription, describe_set, near_copies, prompt_adherence
from imagelab.set_measures import copy_paste_rate, diversity, pareto_optimal, sharpness, vendi_score
from imagelab.set_plots import frontier

SEEDS = pytest.mark.parametrize("seed", range(5))


def directions(seed, n=5, d=3):
    rows = np.random.default_rng(seed).normal(size=(n, d))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@SEEDS
def test_diversity_is_the_mean_over_pairs_however_long_the_embeddings_are(seed):
    rows = directions(seed)
    pairs = [1 - rows[i] @ rows[j] for i in range(5) for j in range(i)]
    assert diversity(rows * [[1], [2], [3], [0.1], [9]]) == pytest.approx(np.mean(pairs), abs=1e-9)


@SEEDS
def test_the_vendi_score_is_the_exponential_of_the_entropy_of_the_kernels_eigenvalues(seed):
    rows = directions(seed)
    shares = np.clip(np.linalg.eigvalsh(rows @ rows.T / 5), 1e-300, None)
    assert vendi_score(rows) == pytest.approx(np.exp(-np.sum(shares * np.log(shares))), rel=1e-6)
    assert 1 < vendi_score(rows) <= 5


@pytest.mark.parametrize("n", [2, 3, 7])
def test_the_vendi_score_counts_unlike_pictures(n):
    assert vendi_score(np.eye(n)) == pytest.approx(n)
    assert vendi_score(np.repeat(np.eye(n), 4, axis=0)) == pytest.approx(n)
    assert vendi_score(np.ones((n, 3))) == pytest.approx(1)


@SEEDS
@pytest.mark.parametrize("chosen", [0, 3])
def test_the_copy_paste_rate_is_the_softmax_of_the_formula(seed, chosen):
    rows = directions(seed)
    originals = directions(seed + 100, n=4)
    cosines = rows @ originals.T
    logits = np.stack([cosines[:, chosen], np.delete(cosines, chosen, 1).mean(1)]) / 0.5
    softmax = np.exp(logits) / np.exp(logits).sum(0)
    assert copy_paste_rate(rows, originals, chosen, temperature=0.5) == pytest.approx(softmax[0].mean(), abs=1e-9)


def test_a_copy_paste_rate_of_a_half_says_that_nothing_speaks_for_the_given_reference():
    assert copy_paste_rate([[1.0, 1.0]], np.eye(2)) == 0.5
    assert copy_paste_rate([[1.0, 0.0]], np.eye(2)) > 0.99
    assert copy_paste_rate([[1.0, 0.0]], np.eye(2), given=1) < 0.01


@pytest.mark.parametrize("rows", [[], np.empty((0, 4)), [[1.0, 0.0]]])
def test_too_few_pictures_have_no_diversity_which_is_none_of_0(rows):
    assert math.isnan(diversity(rows))
    assert math.isnan(vendi_score(rows))


def test_a_copy_paste_rate_needs_a_picture_and_two_references():
    assert math.isnan(copy_paste_rate(np.empty((0, 2)), np.eye(2)))
    assert math.isnan(copy_paste_rate(np.eye(2), np.eye(2)[:1]))


@pytest.mark.parametrize(
    "rows", [[[math.nan, 1.0]], [[0.0, 0.0]], [1.0, 2.0], [[math.inf, 1.0]], "rows", [[1], [1, 2]]]
)
@pytest.mark.parametrize("measure", [diversity, vendi_score, lambda rows: copy_paste_rate(rows, np.eye(2))])
def test_what_are_no_embeddings_is_refused(measure, rows):
    with pytest.raises(InvalidValueError, match="embeddings must be rows"):
        measure(rows)


@pytest.mark.parametrize("chosen", [-1, 2, True, 0.0, None])
def test_a_reference_that_is_not_there_cannot_have_been_given(chosen):
    with pytest.raises(InvalidValueError, match="given must be the place of one of the 2 references"):
        copy_paste_rate(np.eye(2), np.eye(2), chosen)


@pytest.mark.parametrize("temperature", [0, -1, math.nan, "cold"])
def test_a_temperature_that_divides_by_nothing_is_refused(temperature):
    with pytest.raises(InvalidValueError, match="temperature must be a number"):
        copy_paste_rate(np.eye(2), np.eye(2), temperature=temperature)


def test_references_of_another_encoder_are_refused():
    with pytest.raises(InvalidValueError, match="references must be of length 3"):
        copy_paste_rate(np.eye(3), np.eye(2))


def test_a_blurred_picture_is_less_sharp_and_a_dim_one_is_not():
    picture = Image.fromarray(puppet_of(0, 0))
    blurred = picture.filter(ImageFilter.GaussianBlur(2))
    dim = picture.point(lambda level: level // 2)
    assert sharpness(blurred) < 0.5 * sharpness(picture)
    assert sharpness(dim) == pytest.approx(sharpness(picture), rel=0.1)
    assert sharpness(Image.new("RGB", (32, 32), "red")) == 0


def test_the_sharpness_of_no_picture_is_an_error(tmp_path):
    with pytest.raises(ImageFileError):
        sharpness(tmp_path / "absent.png")
    with pytest.raises(InvalidValueError):
        sharpness(None)


@SEEDS
def test_a_row_is_pareto_optimal_unless_another_dominates_it(seed):
    rows = np.random.default_rng(seed).integers(0, 4, (12, 3))
    dominated = [any((other >= row).all() and (other > row).any() for other in rows) for row in rows]
    assert any(dominated)
    assert pareto_optimal(rows).tolist() == [not beaten for beaten in dominated]


# Puppets that nothing was trained on


def puppet_of(person, k):
    """The k-th picture of a held-out person, (h, w, 3) RGB."""
    return scene_and_picture(person, k)[1]


def scene_and_picture(person, k):
    identity = sample_identity(np.random.default_rng(HELD_OUT_SEED + 80_000 + person))
    rng = np.random.default_rng(HELD_OUT_SEED + 81_000 + 100 * person + k)
    scene = sample_scene(rng, identity=identity)
    return scene, render(scene).image


@pytest.fixture(scope="module")
def encoders():
    with open_encoder("arcface", "puppet", device="cpu") as arcface, open_clip("puppet", device="cpu") as clip:
        yield {"identity": arcface, "clip": clip}


@pytest.fixture(scope="module")
def sets(encoders):
    """Sets of pictures of one person: varied renders, and near-copies of the first reference, with their prompts."""
    references = [puppet_of(0, k) for k in range(4)]
    drawn = [scene_and_picture(0, 10 + k) for k in range(8)]
    prompts = [full_caption(scene) for scene, _ in drawn]
    varied = [picture for _, picture in drawn]
    copies = near_copies(references[0], 8)
    return {
        name: describe_set(pictures, references, prompts=prompts, name=name, **encoders)
        for name, pictures in {"varied": varied, "copies": copies}.items()
    }


def test_a_set_that_copies_its_reference_scores_high_on_identity_and_is_found_out_by_the_other_measures(sets):
    varied, copies = sets["varied"], sets["copies"]
    assert float(copies.identity) >= float(varied.identity)
    assert float(copies.diversity) < 0.2 * float(varied.diversity)
    assert float(copies.vendi) < 1.5 < float(varied.vendi)
    assert float(copies.copy_paste) > 0.95
    assert float(varied.copy_paste) < 0.75
    assert float(copies.adherence) < float(varied.adherence)  # the prompts asked for other scenes


def test_a_description_counts_its_pictures_and_goes_through_json(sets):
    found = sets["varied"]
    assert (found.pictures, sum(found.counts.values()), found.identity.n) == (8, 8, found.counts["ok"])
    assert found.identity.low < float(found.identity) < found.identity.high
    assert SetDescription.from_json(found.to_json()) == found


def test_a_picture_without_a_face_is_in_no_mean_of_identity(encoders):
    references = [puppet_of(0, k) for k in range(3)]
    empty = render(sample_scene(np.random.default_rng(HELD_OUT_SEED + 5), figures=0)).image
    shown = [puppet_of(0, 10), puppet_of(0, 11)]
    without = describe_set(shown, references, **encoders)
    with_it = describe_set([*shown, empty], references, **encoders)
    assert with_it.identity == without.identity
    assert (with_it.counts["no_face"], with_it.diversity.n) == (1, 3)


def test_a_set_too_small_for_a_number_says_none_and_of_how_many(encoders):
    references = [puppet_of(0, k) for k in range(2)]
    none, one = (describe_set([puppet_of(0, 10)][:n], references, **encoders) for n in (0, 1))
    unknown = Measured(n=0)
    assert (none.identity, none.diversity, none.vendi, none.copy_paste, none.sharpness) == (unknown,) * 5
    assert (one.diversity, one.vendi) == (Measured(n=1),) * 2
    assert one.identity.value is not None
    assert one.identity.low is None
    assert one.adherence == unknown  # without prompts
    assert SetDescription.from_json(one.to_json()) == one


def test_a_description_refuses_what_does_not_fit(encoders, tmp_path):
    references, shown = [puppet_of(0, k) for k in range(2)], [puppet_of(0, 10)]
    empty = render(sample_scene(np.random.default_rng(HELD_OUT_SEED + 5), figures=0)).image
    for expected, pictures, originals, more in (
        ("prompts must be one for all", shown, references, {"prompts": ["a", "b"]}),
        ("given must be the place", shown, references, {"given": 2}),
        ("confidence must be a number", shown, references, {"confidence": 1.5}),
        ("pictures must be a list", shown[0], references, {}),
        ("at least one can be compared", shown, [empty, empty], {}),
        ("pictures that can all be read", shown, [*references, tmp_path / "absent.png"], {}),
    ):
        with pytest.raises(InvalidValueError, match=expected):
            describe_set(pictures, originals, **encoders, **more)


def test_prompts_that_clip_cannot_read_to_their_end_are_counted(encoders):
    references, shown = [puppet_of(0, k) for k in range(2)], [puppet_of(0, 10), puppet_of(0, 11)]
    found = describe_set(shown, references, prompts=["on the beach", "waving " * 100], **encoders)
    assert found.cut_prompts == 1


def test_a_picture_adheres_more_to_its_own_prompt_than_to_anothers(encoders):
    drawn = [scene_and_picture(person, 0) for person in range(8)]
    captions, pictures = [full_caption(scene) for scene, _ in drawn], [picture for _, picture in drawn]
    own = prompt_adherence(encoders["clip"], pictures, captions)
    foreign = prompt_adherence(encoders["clip"], pictures, captions[1:] + captions[:1])
    assert own.shape == (8,)
    assert own.mean() > foreign.mean()


def test_an_unread_picture_adheres_to_nothing(encoders, tmp_path):
    values = prompt_adherence(encoders["clip"], [tmp_path / "absent.png", puppet_of(0, 0)], "on the beach")
    assert np.isnan(values).tolist() == [True, False]


class CountedPath(os.PathLike):
    """A file that counts how often it is asked where it lies, which is once each time it is opened."""

    def __init__(self, path):
        self.path, self.asked = path, 0

    def __fspath__(self):
        self.asked += 1
        return str(self.path)


def test_each_picture_is_opened_once_by_all_that_look_at_it(encoders, tmp_path):
    for k in range(3):
        Image.fromarray(puppet_of(0, k)).save(tmp_path / f"{k}.png")
    paths = [CountedPath(tmp_path / f"{k}.png") for k in range(3)]
    found = describe_set(paths, paths[:2], **encoders)
    assert [path.asked for path in paths] == [2, 2, 1]  # two of them are references too
    assert found.identity.n == found.sharpness.n == 3


def test_the_frontier_shows_every_set_with_its_name_and_fills_the_pareto_optimal_ones(sets):
    worse = replace(
        sets["varied"], name="worse", diversity=Measured(n=8, value=0.001), identity=Measured(n=8, value=0.1),
        adherence=Measured(n=8, value=0.01),
    )  # fmt: skip
    small = replace(sets["varied"], name="small", diversity=Measured(n=1))
    (axis,) = frontier([*sets.values(), worse, small]).axes
    texts = " ".join(text.get_text() for text in axis.texts)
    assert all(f"{name} (n = 8)" in texts for name in ("varied", "copies", "worse"))
    assert "not shown, too few pictures: small" in texts
    markers = [line for line in axis.lines if line.get_marker() == "o"]
    assert [marker.get_markerfacecolor() == "white" for marker in markers] == [True, False, False]  # by identity
    assert markers[1].get_markersize() > markers[2].get_markersize() > markers[0].get_markersize()


def test_a_frontier_of_nothing_says_so():
    (axis,) = frontier([]).axes
    assert "no set" in axis.texts[0].get_text()
