import numpy as np
import pytest

from advconv_onnx.runtime.difference import Difference

VALUES = np.linspace(-1, 3, 50, dtype=np.float32)


def gather(*samples, bounds=None, typed=True):
    difference = Difference(bounds)
    for want, got, exact in samples:
        difference.add(want, got, exact, typed=typed)
    return difference


def test_the_error_is_relative_to_the_range():
    got = VALUES.copy()
    got[7] += 0.04
    assert gather((VALUES, got, None)).error(1e-4) == pytest.approx(0.01, rel=1e-5)


def test_float64_judges_where_it_agrees_with_the_original():
    exact = VALUES.astype(float)
    off, worse = (VALUES + 1e-4).astype(np.float32), (VALUES - 1e-4).astype(np.float32)
    difference = gather((off, worse, exact))
    assert difference.error(1e-4) == pytest.approx(2.5e-5, rel=1e-2)
    assert difference.is_judged_exactly(1e-4)


def test_the_original_judges_where_it_is_far_from_float64():
    difference = gather((VALUES, VALUES, VALUES + 0.5))
    assert not difference.is_judged_exactly(1e-4)
    assert difference.error(1e-4) == 0


def test_samples_without_float64_count_too():
    bad = VALUES + np.float32(0.4)
    difference = gather((VALUES, VALUES, VALUES.astype(float)), (VALUES, bad, None))
    assert difference.error(1e-4) == pytest.approx(0.1, rel=1e-5)


@pytest.mark.parametrize(
    ("values", "bounds"),
    [
        (np.full(50, 3.0), None),
        (np.zeros(50), None),
        (100 + VALUES / 1000, None),
        (np.exp(VALUES - 12), (0.0, 1.0)),
        (np.where(VALUES > 0, 1 - 1e-6, 1e-6), (0.0, 1.0)),
        (0.4 + VALUES / 1000, (0.0, 1.0)),
        (np.sign(VALUES), (-1.0, 1.0)),
        (np.full(50, np.nan), None),
        (np.full(50, 3), None),
    ],
    ids=["constant", "zero", "flat", "low", "saturated", "narrow", "tanh", "nan", "integer"],
)
def test_degenerate_values_are_recognized(values, bounds):
    assert gather((values, values, None), bounds=bounds).is_degenerate


@pytest.mark.parametrize(
    ("values", "bounds"),
    [
        (VALUES, None),
        (VALUES * 1e-6, None),
        (1 / (1 + np.exp(-VALUES)), (0.0, 1.0)),
        (np.array([[0.3, 0.7]]), (0.0, 1.0)),
        (np.arange(5), None),
    ],
    ids=["plain", "small", "sigmoid", "two_classes", "integer"],
)
def test_telling_values_are_not_degenerate(values, bounds):
    assert not gather((values, values, None), bounds=bounds).is_degenerate


def test_a_large_constant_is_compared_relative_to_its_magnitude():
    values = np.full(5, 1e6)
    assert gather((values, values + 1, None)).error(1e-4) == pytest.approx(1e-6)


@pytest.mark.parametrize(
    ("got", "problem"),
    [
        (VALUES[1:], "has shape"),
        (VALUES.astype(float), "has type float64, the original has float32"),
        ([VALUES], "is no tensor"),
        (np.where(VALUES > 2, np.nan, VALUES), "NaN or infinite at other places"),
        (np.where(VALUES > 2, np.float32(np.inf), VALUES), "NaN or infinite at other places"),
    ],
)
def test_what_cannot_be_compared_differs(got, problem):
    difference = gather((VALUES, got, None))
    assert problem in difference.problem
    assert difference.differs(1.0)


def test_infinities_must_have_the_same_sign():
    one, other = np.float32([1, 2, np.inf]), np.float32([1, 2, -np.inf])
    assert gather((one, other, None)).problem
    assert not gather((one, one, None)).problem


def test_a_type_of_the_same_kind_is_enough_for_a_float64_original():
    assert not gather((VALUES.astype(float), VALUES, None), typed=False).differs(1e-6)


def test_integers_must_be_equal_unless_the_original_rounded_them_too():
    want, exact = np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])
    assert gather((want, np.array([1, 2, 4, 4]), None)).error(1e-4) == 0.25
    assert gather((want, np.array([1, 2, 4, 4]), exact)).differs(1.0)
    assert not gather((want, np.array([1, 2, 3, 5]), exact)).differs(1e-4)
