"""Convex functions of the volume ratio in normal form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metricflow.energies import ENTROPY, HELLINGER, SQUARE, ConvexFunction
from tests.tolerances import tolerance

ETA = jnp.geomspace(0.01, 100, 41)


def shifted(eta):
    """The entropy with a constant and a multiple of eta that mean nothing."""
    return eta * jnp.log(eta) + 3 * eta - 7


@pytest.mark.equation("MF B.12", "MF B.14")
@pytest.mark.parametrize(
    ("function", "value", "slope", "curvature"),
    [
        (ENTROPY, lambda e: e * np.log(e) - e + 1, np.log, lambda e: 1 / e),
        (SQUARE, lambda e: (e - 1) ** 2, lambda e: 2 * (e - 1), lambda e: 2 + 0 * e),
        (
            HELLINGER,
            lambda e: (1 - np.sqrt(e)) ** 2,
            lambda e: 1 - e**-0.5,
            lambda e: e**-1.5 / 2,
        ),
        (
            ConvexFunction(shifted),
            lambda e: e * np.log(e) - e + 1,
            np.log,
            lambda e: 1 / e,
        ),
    ],
)
def test_normal_forms(function, value, slope, curvature):
    eta = np.asarray(ETA)
    close = {"rtol": 1e-12, "atol": 1e-12}
    np.testing.assert_allclose(function.value(ETA), value(eta), **close)
    np.testing.assert_allclose(function.slope(ETA), slope(eta), **close)
    np.testing.assert_allclose(function.curvature(ETA), curvature(eta), **close)


@given(st.floats(0.01, 50), st.sampled_from([ENTROPY, SQUARE, HELLINGER]))
def test_zero_at_one_and_positive_elsewhere(eta, function):
    value = float(function.value(jnp.asarray(eta)))
    assert value >= -tolerance("rounding") * max(eta, 1) ** 2
    if abs(eta - 1) > 1e-3:
        assert value > 0


def test_dtype_is_kept():
    single = ETA.astype(jnp.float32)
    assert ENTROPY.value(single).dtype == jnp.float32
    assert ENTROPY.curvature(single).dtype == jnp.float32


@pytest.mark.parametrize("wrong", [jnp.log, jnp.sin, lambda e: -(e**2), lambda e: e])
def test_functions_that_are_not_convex_are_refused(wrong):
    with pytest.raises(ValueError, match="strictly convex"):
        ConvexFunction(wrong).check()


def test_the_check_runs_inside_jit():
    assert float(jax.jit(lambda e: (SQUARE.check(), SQUARE.value(e))[1])(jnp.asarray(2.0))) == 1
