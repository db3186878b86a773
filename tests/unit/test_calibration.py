"""Calibration: thresholds that keep their policy, scikit-learn's rates, intervals that keep their word."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, bootstrap, norm
from sklearn.metrics import det_curve, roc_auc_score

from imagelab.calibration import (
    Scores,
    calibrate,
    check_promises,
    error_curve,
    needed_impostors,
    read_calibration,
    realised_rates,
    write_calibration,
)
from imagelab.calibration import curves as curves_module
from imagelab.calibration.intervals import quantile
from imagelab.calibration.policies import parse_policy
from imagelab.calibration.resampling import draw_weights, plan_resamples
from imagelab.calibration.scores import as_scores
from imagelab.calibration.spread import spread
from imagelab.errors import CalibrationFileError, InvalidValueError, UnknownNameError

tied = st.lists(st.integers(-5, 5).map(lambda tenth: tenth / 10), min_size=2, max_size=30)
policies = st.sampled_from(["eer", "fmr<=0.1", "fmr<=0.5", "fnmr<=0.1", "fnmr<=0.3"])


def scores_of(rng, mean, characters, pictures, spread_of_characters, name):
    """Normal scores of variance 1, part of which the pictures of a character share."""
    shared = rng.normal(0, spread_of_characters, characters).repeat(pictures)
    own = rng.normal(0, math.sqrt(1 - spread_of_characters**2), characters * pictures)
    who = np.array([f"{name}{number}" for number in range(characters)]).repeat(pictures)
    which = np.arange(characters * pictures).astype(str)
    return Scores(values=mean + shared + own, pictures=which[:, None], characters=who[:, None])


@pytest.fixture(scope="module")
def calibration():
    rng = np.random.default_rng(1)
    labels = {"encoder": "puppet_faces", "character_name": "luca", "references_sha256": "ab" * 32}
    return calibrate(rng.normal(2, 1, 64), rng.normal(0, 1, 600), policy="fmr<=0.01", resamples=400, **labels)


# thresholds and rates


@settings(deadline=None)  # the first call imports scikit-learn
@given(tied, tied, policies)
def test_a_threshold_keeps_its_policy_on_the_scores_that_it_was_chosen_on_ties_and_all(genuine, impostor, name):
    own, others, policy = np.array(genuine), np.array(impostor), parse_policy(name)
    curve = error_curve(own, others)
    chosen = int(curves_module.choose(curve, policy))
    fmr, fnmr = (others >= curve.thresholds[chosen]).mean(), (own < curve.thresholds[chosen]).mean()

    assert (fmr, fnmr) == pytest.approx((curve.fmr[chosen], curve.fnmr[chosen]))
    every = [((others >= t).mean(), (own < t).mean()) for t in [*own, *others, 9]]
    if policy.kind == "fmr":
        assert fmr <= policy.limit + 1e-9
        assert fnmr == pytest.approx(min(b for a, b in every if a <= policy.limit + 1e-9))
    elif policy.kind == "fnmr":
        assert fnmr <= policy.limit + 1e-9
        assert fmr == pytest.approx(min(a for a, b in every if b <= policy.limit + 1e-9))
    else:
        assert abs(fmr - fnmr) == pytest.approx(min(abs(a - b) for a, b in every))


@settings(deadline=None)  # the first call imports scikit-learn
@given(tied, tied)
def test_raising_the_threshold_never_accepts_more(genuine, impostor):
    curve = error_curve(np.array(genuine), np.array(impostor))

    assert (np.diff(curve.thresholds) > 0).all()
    assert (np.diff(curve.fmr) <= 0).all()
    assert (np.diff(curve.fnmr) >= 0).all()


@settings(deadline=None)  # the first call imports scikit-learn
@given(tied, tied)
def test_rates_and_area_are_those_of_scikit_learn(genuine, impostor):
    labels, scores = [1] * len(genuine) + [0] * len(impostor), [*genuine, *impostor]
    curve = error_curve(np.array(genuine), np.array(impostor))
    fmr, fnmr, _ = det_curve(labels, scores)

    points = {(round(a, 9), round(b, 9)) for a, b in zip(curve.fmr, curve.fnmr, strict=True)}
    assert {(round(a, 9), round(b, 9)) for a, b in zip(fmr, fnmr, strict=True)} <= points
    assert float(curves_module.auroc(curve)) == pytest.approx(roc_auc_score(labels, scores))


def test_weighted_curves_of_resamples_are_those_of_scikit_learn_with_sample_weights():
    rng = np.random.default_rng(3)
    own, others = rng.normal(1, 1, 20).round(1), rng.normal(0, 1, 50).round(1)
    curve, policy = error_curve(own, others), parse_policy("eer")
    weights = rng.integers(0, 3, (5, 20)).astype(float), rng.integers(0, 3, (5, 50)).astype(float)
    found = spread(own, others, [weights], curve.thresholds, policy, 7, (0.1,))

    labels, scores = [1] * 20 + [0] * 50, [*own, *others]
    wanted = [roc_auc_score(labels, scores, sample_weight=[*a, *b]) for a, b in zip(*weights, strict=True)]
    assert found.auroc == pytest.approx(wanted)
    for row, (a, b) in enumerate(zip(*weights, strict=True)):
        repeated = error_curve(own.repeat(a.astype(int)), others.repeat(b.astype(int)))
        assert found.eer[row] == pytest.approx(float(curves_module.equal_error_rate(repeated)))


def test_equal_error_rate_is_read_where_the_det_curve_crosses_its_diagonal():
    curve = error_curve(np.array([0.4, 0.6, 0.8]), np.array([0.1, 0.2, 0.3, 0.5]))

    # From (FMR 1/4, FNMR 1/3) at 0.55 back to (1/4, 1/3 - 1/3): FNMR passes 1/4 on the way.
    assert float(curves_module.equal_error_rate(curve)) == pytest.approx(0.25)


def test_scores_that_do_not_overlap_are_parted_in_the_middle_of_the_gap_by_every_policy():
    for policy in ("eer", "fmr<=0.5", "fnmr<=0.3"):
        found = calibrate([0.8, 0.9, 0.7, 0.8], [0.1, 0.3, 0.2, -0.4, -0.5, 0.0], policy=policy, resamples=100)
        assert found.threshold.value == pytest.approx(0.5)
        assert (found.auroc.value, found.eer.value, found.fmr.value, found.fnmr.value) == (1, 0, 0, 0)
        assert found.auroc.low < 0.9, "ten pictures don't prove perfection"
        assert found.fnmr.high > 0.3


def test_a_score_at_the_threshold_is_accepted_and_nan_is_refused(calibration):
    edge = calibration.threshold.value

    assert calibration.accepts(edge)
    assert not calibration.accepts(np.nextafter(edge, -1))
    with pytest.raises(InvalidValueError, match="score must be a number"):
        calibration.accepts(math.nan)


def test_negative_cosines_are_scores_like_others():
    found = calibrate([-0.2, -0.1, -0.15], [-0.8, -0.7, -0.9], resamples=100)

    assert found.threshold.value == pytest.approx(-0.45)


# what the data can support


def test_rates_that_the_impostors_cannot_show_are_refused_with_the_number_that_could():
    rng = np.random.default_rng(0)

    with pytest.raises(InvalidValueError, match=r"600 impostor pictures can show.* needs 3000 impostor pictures"):
        calibrate(rng.normal(2, 1, 64), rng.normal(0, 1, 600), policy="fmr<=0.001")


def test_operating_points_beyond_the_data_are_marked_and_have_no_numbers(calibration):
    points = {point.fmr: point for point in calibration.operating_points}

    assert [points[rate].supported for rate in (0.1, 0.01, 0.001, 0.0001)] == [True, True, False, False]
    assert points[0.001].needed == needed_impostors(0.001) == 3000
    assert points[0.001].fnmr is None
    assert points[0.1].fnmr.value < points[0.01].fnmr.value


def test_pairs_of_few_pictures_do_not_pass_for_many_impostors():
    rng = np.random.default_rng(0)
    names = np.array([(f"own{i}", f"other{j}") for i in range(20) for j in range(20)])
    who = np.tile(["luca", "alberto"], (400, 1))
    impostor = Scores(values=rng.normal(0, 1, 400), pictures=names, characters=who)

    with pytest.raises(InvalidValueError, match="40 impostor pictures"):
        calibrate(rng.normal(2, 1, 30), impostor, policy="fmr<=0.01")


@pytest.mark.parametrize(
    ("genuine", "impostor", "options", "error", "message"),
    [
        ([], [0.1, 0.2], {}, InvalidValueError, "genuine scores must be of at least two"),
        ([0.8, 0.9], [], {}, InvalidValueError, "impostor scores must be of at least two"),
        ([0.8, math.nan], [0.1, 0.2], {}, InvalidValueError, "finite; leave out pictures"),
        ([0.8, None], [0.1, 0.2], {}, InvalidValueError, "finite; leave out pictures"),
        ([0.8, "x"], [0.1, 0.2], {}, InvalidValueError, "numbers"),
        ([0.8, 0.9], [0.1, 0.2], {"confidence": math.nan}, InvalidValueError, "confidence"),
        ([0.8, 0.9], [0.1, 0.2], {"policy": "eerr"}, UnknownNameError, "did you mean 'eer'"),
        ([0.8, 0.9], [0.1, 0.2], {"policy": "fnr<=0.05"}, UnknownNameError, "did you mean 'fnmr<=0.05'"),
        ([0.8, 0.9], [0.1, 0.2], {"policy": "fmr<=nan"}, InvalidValueError, "limit"),
        ([0.8, 0.9], [0.1, 0.2], {"policy": "fmr<=2"}, InvalidValueError, "limit"),
        ([0.8, 0.9], [0.1, 0.2], {"policy": None}, UnknownNameError, "policy"),
        ([0.8, 0.9], [0.1, 0.2], {"resamples": 0}, InvalidValueError, "resamples"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_by_name(genuine, impostor, options, error, message):
    with pytest.raises(error, match=message):
        calibrate(genuine, impostor, **options)


def test_several_scores_of_one_picture_are_refused():
    one = Scores(values=[0.8, 0.7, 0.9], pictures=[["a"]] * 3, characters=[["luca"]] * 3)
    with pytest.raises(InvalidValueError, match="of at least two pictures"):
        calibrate(one, [0.1, 0.2, 0.3, 0.85])


def test_resamples_that_drew_nothing_move_no_threshold():
    pairs = [["a", "b"], ["a", "c"], ["b", "c"]]
    few = Scores(values=[0.8, 0.85, 0.9], pictures=pairs, characters=[["luca", "luca"]] * 3)
    resampled = plan_resamples(few, others := as_scores(np.linspace(-0.2, 0.4, 60), "others"))
    weights = next(draw_weights(resampled, 400, 0))
    curve = error_curve(few.values, others.values)
    found = spread(few.values, others.values, [weights], curve.thresholds, parse_policy("eer"), 0, (0.1,))
    empty = weights[0].sum(axis=1) == 0
    assert empty.any()
    assert np.array_equal(np.isnan(found.threshold), empty)
    assert np.array_equal(np.isnan(found.target_thresholds[:, 0]), empty)


def test_a_policy_that_only_refusing_everything_would_keep_is_refused():
    with pytest.raises(InvalidValueError, match=r"impostors score 0\.9 too"):
        calibrate([0.5, 0.6], [0.9] * 40, policy="fmr<=0.1", resamples=100)


def test_scores_of_another_shape_than_their_pictures_are_refused():
    with pytest.raises(InvalidValueError, match="pictures must be of shape"):
        Scores(values=np.zeros(3), pictures=np.array([["a"]]), characters=np.array([["b"]]))


# intervals


def test_where_each_picture_has_one_score_resampling_is_the_bootstrap_of_scipy():
    values = np.random.default_rng(0).normal(0, 1, 40)
    own, others = as_scores(values, "luca"), as_scores(values, "others")
    weights, _ = next(draw_weights(plan_resamples(own, others), 4000, 0))
    ours = (weights @ values) / weights.sum(axis=1)
    theirs = bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=0).standard_error

    assert ours.std() == pytest.approx(theirs * math.sqrt(40 / 39), rel=0.05), "n - 1 of n are drawn"


def test_a_pair_weighs_the_product_of_its_pictures():
    names = np.array([["a", "b"], ["a", "c"], ["b", "c"]])
    pairs = Scores(values=np.zeros(3), pictures=names, characters=np.full_like(names, "luca", dtype="<U4"))
    weights, single = next(draw_weights(plan_resamples(pairs, as_scores_of(["a", "b", "c"])), 50, 0))

    assert (weights == single[:, [0, 0, 1]] * single[:, [1, 2, 2]]).all()


def as_scores_of(names):
    pictures = np.array(names)[:, None]
    return Scores(
        values=np.zeros(len(names)), pictures=pictures, characters=np.full_like(pictures, "luca", dtype="<U4")
    )


SIMULATIONS = 1000


def covered(simulate, numbers):
    """Return how often, in percent, the interval of each number holds the truth."""
    hits = dict.fromkeys(numbers, 0)
    for seed in range(SIMULATIONS):
        found, truth = simulate(seed)
        for name in numbers:
            hits[name] += getattr(found, name).low <= truth[name] <= getattr(found, name).high
    return {name: 100 * count / SIMULATIONS for name, count in hits.items()}


def normal_truth(found, gap, threshold):
    at = found.threshold.value
    rates = {"fmr": norm.sf(at), "fnmr": norm.cdf(at - gap), "eer": norm.cdf(-gap / 2)}
    return rates | {"auroc": norm.cdf(gap / math.sqrt(2)), "d_prime": gap, "threshold": threshold}


@pytest.mark.slow
def test_intervals_of_independent_pictures_hold_the_planted_truth_as_often_as_promised():
    def simulate(seed):
        rng = np.random.default_rng(seed)
        found = calibrate(rng.normal(1.5, 1, 60), rng.normal(0, 1, 100), resamples=150, seed=seed)
        return found, normal_truth(found, 1.5, 0.75)

    rates = covered(simulate, ["auroc", "eer", "fmr", "fnmr", "d_prime", "threshold"])
    assert all(93 <= rate <= 97 for rate in rates.values()), rates


@pytest.mark.slow
def test_intervals_hold_the_truth_of_dependent_pictures_where_resampled_pairs_do_not():
    def simulate(seed, *, keep=True):
        rng = np.random.default_rng(seed)
        own, others = scores_of(rng, 1.5, 1, 60, 0, "own"), scores_of(rng, 0, 12, 8, 0.7, "other")
        found = calibrate(own, others if keep else others.values, resamples=400 if keep else 150, seed=seed)
        return found, normal_truth(found, 1.5, 0.75)

    numbers = ["auroc", "eer", "fmr", "d_prime"]
    rates = covered(simulate, numbers)
    naive = covered(lambda seed: simulate(seed, keep=False), numbers)
    assert all(93 <= rate <= 97 for rate in rates.values()), rates
    assert naive["fmr"] < 85, naive
    assert naive["auroc"] < 90, naive


@pytest.mark.parametrize("policy", ["fmr<=0.05", "fnmr<=0.05"])
def test_the_rates_of_fresh_scores_lie_within_the_promised_intervals(policy):
    hits = dict.fromkeys(("fmr", "fnmr"), 0)
    for seed in range(400):
        rng = np.random.default_rng(seed)
        found = calibrate(rng.normal(1.5, 1, 60), rng.normal(0, 1, 200), policy=policy, resamples=200, seed=seed)
        threshold = found.threshold.value
        wrongly_accepted = np.mean(rng.normal(0, 1, 20_000) >= threshold)
        wrongly_refused = np.mean(rng.normal(1.5, 1, 20_000) < threshold)
        for name, rate in (("fmr", wrongly_accepted), ("fnmr", wrongly_refused)):
            hits[name] += getattr(found, name).low <= rate <= getattr(found, name).high
    # 400 repetitions can't tell 95 from 92.5 or 98.
    assert all(92.5 <= count / 4 <= 98.5 for count in hits.values()), hits


# files


def test_a_calibration_comes_back_from_its_file_as_it_was(tmp_path, calibration):
    write_calibration(tmp_path / "luca" / "calibration.json", calibration)
    back = read_calibration(tmp_path / "luca" / "calibration.json", encoder="puppet_faces", references_sha256="ab" * 32)

    assert back == calibration
    assert [path.name for path in (tmp_path / "luca").iterdir()] == ["calibration.json"]


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\xff\xfe", b"[" * 5000, b"PK\x03\x04", b'{"policy": NaN}', b" " * 2**21, None]
)
def test_a_file_that_is_no_calibration_is_refused_with_its_name_and_the_fix(tmp_path, content):
    path = tmp_path / "calibration.json"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(CalibrationFileError, match=r"calibration\.json: .*Calibrate again"):
        read_calibration(path)


def test_every_truncated_calibration_is_refused(tmp_path, calibration):
    text = calibration.to_json().encode()
    path = tmp_path / "calibration.json"
    for length in range(0, len(text), 97):
        path.write_bytes(text[:length])
        with pytest.raises(CalibrationFileError):
            read_calibration(path)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"encoder": "clip"}, "encoder was puppet_faces, is clip"),
        ({"character_name": "alberto"}, "character_name was luca, is alberto"),
        ({"references_sha256": "cd" * 32}, "references_sha256 was abab"),
        ({"face_choice": "best_match"}, "face_choice was None, is best_match"),
    ],
)
def test_a_calibration_of_something_else_is_stale(tmp_path, calibration, wanted, message):
    write_calibration(tmp_path / "calibration.json", calibration)

    with pytest.raises(CalibrationFileError, match=message):
        read_calibration(tmp_path / "calibration.json", **wanted)


def test_a_calibration_of_a_later_schema_is_refused(tmp_path, calibration):
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(calibration.to_dict() | {"schema_version": 99}))

    with pytest.raises(CalibrationFileError, match="schema_version was 99"):
        read_calibration(path)


@pytest.mark.parametrize("score", [0.9, 0.5, 0.1 + 0.2])
def test_equal_scores_are_worth_as_many_as_they_are_whatever_their_digits(score):
    impostors = [0.1, 0.2, 0.15, 0.05]
    wanted = calibrate([0.5] * 5, impostors, resamples=100).fnmr
    assert calibrate([score] * 5, impostors, resamples=100).fnmr == wanted
    assert wanted.high < 0.7


def test_a_calibration_describes_what_a_verdict_was_made_with(calibration):
    text = calibration.describe()

    assert "for luca with puppet_faces by policy fmr<=0.01 on 64 genuine and 600 impostor scores" in text


def test_the_same_seed_gives_the_same_calibration():
    scores = [0.8, 0.7, 0.9, 0.3], [0.1, 0.4, 0.2, 0.35]

    assert calibrate(*scores, resamples=100) == calibrate(*scores, resamples=100)
    assert calibrate(*scores, resamples=100) != calibrate(*scores, resamples=100, seed=1)


# a threshold that was chosen elsewhere


def test_rates_at_the_threshold_count_what_is_refused_and_what_is_accepted():
    rates = realised_rates([0.8, 0.7, 0.6, 0.2], [0.7, 0.1], 0.7)

    assert rates.fnmr.value == 0.5, "a score at the threshold is accepted"
    assert rates.fmr.value == 0.5
    assert (rates.genuine, rates.impostor) == (4, 2)


@pytest.mark.parametrize("refused", [0, 1, 5, 20])
def test_rates_have_wilsons_intervals(refused):
    rates = realised_rates([0.1] * refused + [0.9] * (20 - refused), [0.0], 0.5)
    wilson = binomtest(refused, 20).proportion_ci(0.95, method="wilson")

    assert (rates.fnmr.low, rates.fnmr.high) == pytest.approx((wilson.low, wilson.high), abs=1e-12)


def test_the_quantile_of_endless_freedom_is_the_normal_one_and_the_limit_of_students():
    assert quantile(math.inf, 0.95) == pytest.approx(quantile(1e9, 0.95), rel=1e-7)


def test_rates_at_a_threshold_do_not_wait_for_scipy():
    code = "import sys; from imagelab.calibration import realised_rates as r; r([0.9], [0.1], 0.5); "
    subprocess.run([sys.executable, "-c", code + "assert 'scipy.stats' not in sys.modules"], check=True)


def test_without_scores_a_rate_is_unknown_and_not_0():
    rates = realised_rates([], [0.1], 0.5)

    assert rates.fnmr is None
    assert rates.fmr.value == 0


def test_a_promise_is_kept_when_new_scores_err_as_the_interval_says():
    calibration = calibrate([0.8, 0.9, 0.7, 0.75] * 25, [0.1, 0.2, 0.3, 0.05] * 25, resamples=100)
    fmr, fnmr = check_promises(calibration, [0.1] * 10 + [0.9] * 10, [0.1] * 20)

    assert fmr.kept
    assert not fnmr.kept
    assert fnmr.realised.value == 0.5
    assert check_promises(calibration, [], [0.1])[1].kept is None


def test_table_of_operating_points_says_what_is_unknown_and_how_many_are_missing():
    rng = np.random.default_rng(0)
    table = calibrate(rng.normal(0.7, 0.1, 40), rng.normal(0.3, 0.1, 40), resamples=100).operating_table()

    assert list(table.index) == ["10 %", "1 %", "0.1 %", "0.01 %"]
    assert "[" in table.loc["10 %", "threshold"]
    assert table.loc["1 %", "threshold"] == "unknown: 260 too few"
    assert table.loc["1 %", "FNMR at it"] == "unknown"
