"""Root finding where it is hard: symmetric starts, large and small scales, close pairs."""

import jax.numpy as jnp
import numpy as np
import pytest

from metricflow.geometry.roots import polynomial_roots
from tests.tolerances import tolerance


def with_roots(roots: np.ndarray) -> jnp.ndarray:
    return jnp.asarray(np.poly(roots)[::-1].astype(complex))[:, None]


def matched(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    gap = np.abs(found[:, None] - expected[None])
    assert sorted(gap.argmin(1)) == list(range(len(expected))), "a root is missing or doubled"
    return gap.min(1)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("degree", [3, 4, 5, 6])
def test_roots_of_unity_at_any_scale(degree, scale):
    expected = scale * np.exp(2j * np.pi * np.arange(degree) / degree)
    coefficients = np.zeros((degree + 1, 1), complex)
    coefficients[0], coefficients[-1] = -(scale**degree), 1
    found = np.asarray(polynomial_roots(jnp.asarray(coefficients)))[:, 0]
    assert matched(found, expected).max() < tolerance("algebra") * scale


@pytest.mark.parametrize("gap", [1e-1, 1e-2, 1e-3])
def test_close_pairs_stay_two_roots(gap):
    expected = np.array([1.0, 1.0 + gap, -2.0 + 1j, 0.3j, 1.5 - 1j])
    found = np.asarray(polynomial_roots(with_roots(expected)))[:, 0]
    # the condition number of a pair is 1 / gap
    assert matched(found, expected).max() < tolerance("algebra") / gap


def test_the_slowest_polynomial_of_a_batch_does_not_spoil_the_others():
    easy, hard = np.array([1.0, 2j, -3.0]), np.array([1.0, 1.0001, 100.0])
    coefficients = jnp.concatenate([with_roots(easy), with_roots(hard)], axis=1)
    found = np.asarray(polynomial_roots(coefficients))
    assert matched(found[:, 0], easy).max() < tolerance("algebra")
    assert matched(found[:, 1], hard).max() < 1e4 * tolerance("algebra")
