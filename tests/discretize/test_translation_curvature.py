"""Translation curvature and its penalty in O(n) against the matrices they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metricflow.discretize import (
    Translations,
    dense_discrete_flow_step,
    dense_translation_curvature,
    translation_penalty,
)
from tests.tolerances import tolerance

SHIFTS = Translations(3, 1, -1, 2)
TAU = 0.7
curvature = jax.jit(dense_translation_curvature, static_argnums=2)
penalty = jax.jit(translation_penalty, static_argnames=("translations", "fifth"))
by_w, by_displacements = (
    jax.jit(jax.grad(translation_penalty, at), static_argnames=("translations", "fifth"))
    for at in (0, 1)
)


def normal(seed, shape, dtype="float64"):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def metric(w, tau=TAU):
    t = np.tanh(tau * np.asarray(w, float).ravel())
    return np.eye(t.size) - np.outer(t, t)


def matrix_penalty(w, displacements, tau, translations, fifth):
    """The squared norm of the tensor as printed, by matrices in float64."""
    w = np.asarray(w, float)
    k1, k2, j1, j2, extra = (metric(w + np.asarray(d, float), tau) for d in displacements)
    velocity = {"later": extra - k1, "earlier": k1 - extra}[fifth]
    rows = (k1 - k2) / (translations.k1 - translations.k2)
    columns = (j1 - j2) / (translations.j1 - translations.j2)
    return np.sum((velocity - rows + columns) ** 2)


@pytest.mark.equation("RF 27", "RF 28")
@given(st.integers(0, 99), st.sampled_from([Translations(), SHIFTS]))
def test_the_curvature_is_a_difference_of_differences(seed, shifts):
    moved = normal(seed, (4, 2, 3))
    k1, k2, j1, j2 = map(metric, moved)
    expected = (k1 - k2) / (shifts.k1 - shifts.k2) - (j1 - j2) / (shifts.j1 - shifts.j2)
    found = curvature(moved, TAU, shifts)
    np.testing.assert_allclose(found, expected, atol=1e-14)
    np.testing.assert_allclose(found, found.T, atol=1e-15)
    # rows and columns exchanged: it is no Ricci tensor
    exchanged = Translations(*shifts[2:], *shifts[:2])
    again = curvature(moved[jnp.array([2, 3, 0, 1])], TAU, exchanged)
    np.testing.assert_allclose(again, -found, atol=1e-15)
    # the order within a pair does not matter
    back = Translations(shifts.k2, shifts.k1, shifts.j1, shifts.j2)
    again = curvature(moved[jnp.array([1, 0, 2, 3])], TAU, back)
    np.testing.assert_allclose(again, found, atol=1e-15)


@pytest.mark.equation("RF 29", "RF 30")
def test_a_step_of_the_flow_adds_the_curvature_to_the_first_metric():
    moved = normal(1, (4, 5))
    velocity = dense_discrete_flow_step(moved, TAU, SHIFTS) - metric(moved[0])
    expected = dense_translation_curvature(moved, TAU, SHIFTS)
    np.testing.assert_allclose(velocity, expected, atol=1e-14)
    # weights that do not move with the image stay where they are
    still = jnp.broadcast_to(moved[0], moved.shape)
    np.testing.assert_allclose(dense_discrete_flow_step(still, TAU), metric(moved[0]), atol=1e-15)


@pytest.mark.equation("RF 31")
@pytest.mark.parametrize("fifth", ["later", "earlier"])
@given(st.integers(0, 99), st.floats(-6, 0), st.sampled_from([Translations(), SHIFTS]))
def test_the_penalty_is_that_of_the_matrices(fifth, seed, power, shifts):
    w, displacements = normal(seed, (2, 3)), 10**power * normal(seed + 1, (5, 2, 3))
    found = penalty(w, displacements, TAU, shifts, fifth=fifth)
    expected = matrix_penalty(w, displacements, TAU, shifts, fifth)
    # the matrices lose 1e-16 / 10^power
    assert float(found) == pytest.approx(expected, rel=1e-12 + 1e-14 / 10**power)


@pytest.mark.equation("RF 31")
@pytest.mark.parametrize("fifth", ["later", "earlier"])
def test_single_precision_is_enough_for_close_weights(fifth):
    """Weights 1e-5 apart: in float32 the matrices differ by few roundings."""
    w = normal(0, 800, "float32") / 20
    displacements = 1e-5 * normal(1, (5, 800), "float32")
    found = penalty(w, displacements, 1.0, fifth=fifth)
    assert found.dtype == "float32"
    expected = matrix_penalty(w, displacements, 1.0, Translations(), fifth)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    gradient = by_displacements(w, displacements, 1.0, fifth=fifth)
    double = by_displacements(w.astype(float), displacements.astype(float), 1.0, fifth=fifth)
    assert np.linalg.norm(gradient - double) < 1e-5 * np.linalg.norm(double)


@pytest.mark.parametrize("fifth", ["later", "earlier"])
def test_the_gradient_is_that_of_central_differences(fifth):
    w, displacements, along = normal(0, 6), 0.3 * normal(1, (5, 6)), normal(2, (6, 6))
    slope = sum(
        float(jnp.vdot(gradient(w, displacements, TAU, SHIFTS, fifth=fifth), way))
        for gradient, way in ((by_w, along[0]), (by_displacements, along[1:]))
    )
    ends = [
        matrix_penalty(w + h * along[0], displacements + h * along[1:], TAU, SHIFTS, fifth)
        for h in (1e-5, -1e-5)
    ]
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=tolerance("difference"))


def test_without_displacements_there_is_neither_penalty_nor_gradient(dtype):
    w, zero = normal(0, 6, dtype), jnp.zeros((5, 6), dtype)
    assert float(penalty(w, zero, TAU)) == 0
    for gradient in (by_w, by_displacements):
        np.testing.assert_array_equal(gradient(w, zero, TAU), 0)


@pytest.mark.equation("RF 30", "RF 31")
@pytest.mark.parametrize("fifth", ["later", "earlier"])
def test_the_penalty_vanishes_on_the_flow(fifth):
    """For one weight the next metric can be solved for: 1 - tanh^2 = g."""
    moved = jnp.array([[0.5], [0.62], [0.41], [0.55]])
    g = dense_discrete_flow_step(moved, TAU, SHIFTS)[0, 0]
    if fifth == "earlier":
        g = 2 * metric(moved[0])[0, 0] - g
    extra = jnp.arctanh(jnp.sqrt(1 - g)) / TAU
    w = jnp.array([0.45])
    displacements = jnp.concatenate([moved, extra[None, None]]) - w
    assert abs(float(penalty(w, displacements, TAU, SHIFTS, fifth=fifth))) < 1e-16
    assert float(penalty(w, 0.9 * displacements, TAU, SHIFTS, fifth=fifth)) > 1e-8


def test_rows_and_columns_that_move_alike_cost_nothing():
    one, other = 0.3 * normal(1, (2, 6))
    alike = jnp.stack([one, other, one, other, one])
    assert abs(float(penalty(normal(0, 6), alike, TAU))) < 1e-14
    assert float(penalty(normal(0, 6), alike, TAU, SHIFTS)) > 1e-3


@pytest.mark.usefixtures("as_user")
def test_bad_input_is_named():
    w, displacements, moved = normal(0, 6), normal(1, (5, 6)), normal(1, (4, 6))
    for wrong in ((1, 1, 0, 1), (0, 1, 2, 2), (1.0, 0, 0, 1), (True, 0, 0, 1), ("1", 0, 0, 1)):
        shifts = Translations(*wrong)
        for call in (
            lambda shifts: translation_penalty(w, displacements, TAU, shifts),
            lambda shifts: dense_translation_curvature(moved, TAU, shifts),
            lambda shifts: dense_discrete_flow_step(moved, TAU, shifts),
        ):
            with pytest.raises(ValueError, match=r"^translations: expected"):
                call(shifts)
    for wrong in (moved, displacements[:, :5], displacements[..., None], w):
        with pytest.raises(ValueError, match=r"^displacements: expected shape \(5, 6\)"):
            translation_penalty(w, wrong, TAU)
    with pytest.raises(ValueError, match=r"^fifth: expected .* got 'never'"):
        translation_penalty(w, displacements, TAU, fifth="never")
