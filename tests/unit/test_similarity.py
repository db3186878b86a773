import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from imagelab.errors import InvalidValueError, UnknownNameError
from imagelab.similarity import (
    METRICS,
    centroid,
    check_threshold,
    compare,
    cosine,
    cosine_to_euclidean,
    euclidean,
    nearest,
    unit,
)

VECTORS = arrays.arrays(np.float64, 8, elements=st.floats(-1e6, 1e6)).filter(lambda vector: np.abs(vector).max() > 1e-3)


@given(VECTORS, VECTORS)
def test_cosine_and_euclidean_are_one_measure_in_two_units(a, b):
    assert euclidean(a, b) ** 2 == pytest.approx(2 - 2 * cosine(a, b), abs=1e-5)
    assert compare(a, b, "euclidean").cosine == pytest.approx(cosine(a, b), abs=1e-5)


@given(VECTORS, VECTORS, st.floats(0.01, 100))
def test_similarity_is_symmetric_and_blind_to_length(a, b, factor):
    for metric in METRICS:
        assert compare(a, b, metric).value == compare(b, a, metric).value
        assert compare(a * factor, b, metric).value == pytest.approx(compare(a, b, metric).value, abs=1e-3)


@given(VECTORS)
def test_an_embedding_is_nearest_to_itself(a):
    assert cosine(a, a) == pytest.approx(1, abs=1e-6)
    assert euclidean(a, a) == 0


@pytest.mark.parametrize("value", [1.0, 0.65, 0.45, 0.0, -1.0])
@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_thresholds_convert_both_ways(metric, value):
    converted = metric.from_cosine(value)
    assert check_threshold(converted, metric.name) == converted
    assert metric.to_cosine(converted) == pytest.approx(value)


def test_published_pairs_of_thresholds_agree():
    assert cosine_to_euclidean(0.65) == pytest.approx(0.837, abs=5e-4)
    assert cosine_to_euclidean(0.45) == pytest.approx(1.049, abs=5e-4)


def test_centroid_is_the_direction_of_the_mean_of_unit_vectors():
    template = centroid([[10, 0], [0, 0.1]])
    assert template == pytest.approx([math.sqrt(0.5)] * 2)
    assert template.dtype == np.float32


@given(st.lists(VECTORS, min_size=1, max_size=5))
def test_centroid_has_norm_one_and_ignores_the_order(vectors):
    vectors = [np.abs(vector) for vector in vectors]  # one orthant: nothing cancels
    assert np.linalg.norm(centroid(vectors)) == pytest.approx(1, abs=1e-6)
    assert centroid(vectors) == pytest.approx(centroid(vectors[::-1]), abs=1e-6)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ([0, 0], "norm above 0"),
        ([1, math.nan], "finite"),
        ([math.inf, 1], "finite"),
        ([], "vector"),
        ([[1, 2]], "vector"),
        ([1, 2, 3], r"shape \(2,\)"),
    ],
)
def test_what_is_no_embedding_is_refused(bad, reason):
    with pytest.raises(InvalidValueError, match=reason):
        compare([1, 0], bad)


@pytest.mark.parametrize("extreme", [1e-300, 1e300])
def test_extreme_norms_neither_vanish_nor_overflow(extreme):
    assert unit([extreme, 0]) == pytest.approx([1, 0])


@pytest.mark.parametrize("bad", [[], [[1, 0], [1, 0, 0]], [[1, 0], [-1, 0]]])
def test_a_centroid_of_nothing_of_mixed_lengths_or_of_opposites_is_refused(bad):
    with pytest.raises(InvalidValueError, match="embeddings"):
        centroid(bad)


def test_unknown_metric_is_refused_with_the_known_ones():
    with pytest.raises(UnknownNameError, match="cosine, euclidean"):
        compare([1, 0], [1, 0], "foo")


@pytest.mark.parametrize("bad", [2, -1.01, math.nan, True, "0.7", None])
def test_a_threshold_that_no_cosine_reaches_is_refused(bad):
    with pytest.raises(InvalidValueError, match="threshold must be"):
        check_threshold(bad)


def test_each_metric_has_its_own_range_of_thresholds():
    assert check_threshold(2, "euclidean") == 2.0
    with pytest.raises(InvalidValueError):
        check_threshold(-0.5, "euclidean")


def test_the_nearest_of_many_rows_is_that_of_comparing_each():
    rng = np.random.default_rng(0)
    rows, probe = rng.normal(size=(40, 8)).astype(np.float32), rng.normal(size=8)
    for metric in METRICS:
        each = [compare(row, probe, metric) for row in rows]
        assert nearest(rows, probe, metric) == max(each, key=lambda one: one.cosine)
