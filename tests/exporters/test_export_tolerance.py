"""On a small evaluation split a row is a point: the default tolerates two, a given value none."""

import pytest

from maskpack.exporters import Compute, Tolerance
from maskpack.exporters.report import AccuracyCheck
from maskpack.exporters.verify import check_tolerance


def accuracy(rows, drop):
    return AccuracyCheck(rows, "accuracy", 0.9 - drop / 100, 0.9, 0.99, 0.1)


@pytest.mark.parametrize(("rows", "drop", "fine"), [(100, 1.9, True), (100, 2.1, False)])
def test_the_default_tolerates_two_rows_of_a_small_split(rows, drop, fine):
    found = check_tolerance(Tolerance.of(Compute.INT8), (), accuracy(rows, drop))
    assert (found == []) is fine


@pytest.mark.parametrize(("drop", "fine"), [(0.4, True), (0.6, False)])
def test_on_a_large_split_half_a_point_decides(drop, fine):
    found = check_tolerance(Tolerance.of(Compute.INT8), (), accuracy(872, drop))
    assert (found == []) is fine


def test_a_given_drop_means_what_it_says():
    found = check_tolerance(Tolerance.of(Compute.INT8, max_drop=0.5), (), accuracy(100, 1.0))
    assert found == ["accuracy drops by 1.00 points, tolerated 0.50"]


def test_exact_arithmetic_has_no_rows_to_lose():
    assert check_tolerance(Tolerance.of(Compute.FP32), (), accuracy(100, 1.0))


@pytest.mark.parametrize(("graph", "given"), [(0.67, 1.0), (0.66, 2.0), (0.66, None)])
def test_a_drop_of_as_many_rows_as_are_tolerated_is_tolerated(graph, given):
    """In floats .68 - .67 is a little more than a point."""
    one = AccuracyCheck(100, "accuracy", graph, 0.68, 0.99, 0.1)
    assert one.drop > round(one.drop)
    assert check_tolerance(Tolerance.of(Compute.INT8, max_drop=given), (), one) == []
