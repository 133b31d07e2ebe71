"""Spectra and distances of tangent kernels: known matrices, invariances, bounds."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from metricflow.kernels import (
    block_eigenvalues,
    block_singular_values,
    effective_rank,
    imaginary_share,
    joint_matrix,
    joint_spectrum,
    kernel_alignment,
    target_alignment,
    wasserstein_distance,
)
from tests.tolerances import tolerance

SEEDS = st.integers(0, 2**31 - 1)
close = functools.partial(np.testing.assert_allclose, rtol=tolerance("algebra"), atol=1e-11)


def kernel(seed=0, count=4, components=3, rank=7, dtype="float64"):
    """J J^T of a random Jacobian, and the Jacobian (N, c, P)."""
    rows = np.random.default_rng(seed).normal(size=(count, components, rank))
    return jnp.asarray(np.einsum("aip,bjp->abij", rows, rows), dtype), rows


def mixed(seed=0, count=4, components=2):
    """Of two different point sets: no symmetry."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, count, *[components] * 2)))


def ordered(values):
    """Complex numbers along the last axis, in an order that rounding does not change."""
    values = np.asarray(values)
    key = np.round(values.real, 6) + 1j * np.round(values.imag, 6)
    return np.take_along_axis(values, np.argsort(key, axis=-1), -1)


@pytest.mark.parametrize("angle", [0.3, 1.2])
def test_blocks_of_known_matrices(dtype, angle):
    """A rotation has exp(+-i angle), a symmetric block real numbers; (I, J) picks the block."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    flip = np.array([[1.0, 2.0], [2.0, 1.0]])
    triangular = np.array([[2.0, 5.0], [0.0, -3.0]])
    theta = np.zeros((2, 2, 2, 2))
    theta[..., 0, 0], theta[..., 0, 1], theta[..., 1, 0] = turn, flip, triangular
    theta = jnp.asarray(theta, dtype)
    found = block_eigenvalues(theta)
    assert found.shape == (2, 2, 2)
    assert found.dtype == {"float32": "complex64", "float64": "complex128"}[dtype]
    near = functools.partial(np.testing.assert_allclose, atol=tolerance("rounding", dtype) * 10)
    near(ordered(found[0, 0]), ordered(np.exp([1j * angle, -1j * angle])))
    near(ordered(found[0, 1]), [-1, 3])
    near(ordered(found[1, 0]), [-3, 2])
    near(found[1, 1], [0, 0])
    near(imaginary_share(found[0, 0]), np.sin(angle))
    near(imaginary_share(found[0, 1]), 0)
    near(imaginary_share(found[1, 1]), 0)
    near(imaginary_share(found[0]), 2 * np.sin(angle) / 6)
    singular = block_singular_values(theta)
    assert singular.dtype == dtype
    near(singular[0, 0], [1, 1])
    near(singular[0, 1], [3, 1])
    near(singular[1, 0], np.linalg.svd(triangular)[1])


@given(seed=SEEDS)
def test_traces_and_determinants(seed):
    theta = mixed(seed)
    values = np.asarray(block_eigenvalues(theta))
    close(values.sum(-1), np.einsum("aaij->ij", theta))
    close(values.prod(-1), np.linalg.det(np.moveaxis(np.asarray(theta), (0, 1), (2, 3))))
    singular = np.asarray(block_singular_values(theta))
    assert np.all(np.diff(singular) <= 0)
    close(np.sum(singular**2, -1), np.einsum("abij,abij->ij", theta, theta))
    own, _ = kernel(seed)
    spectrum = np.asarray(joint_spectrum(own))
    assert np.all(np.diff(spectrum) >= 0)
    close(spectrum.sum(), np.einsum("aaii->", own))
    close(np.sum(spectrum**2), np.sum(np.asarray(own) ** 2))


def test_the_joint_matrix_has_rows_of_points_and_components():
    theta, rows = kernel(count=4, components=3)
    flat = rows.reshape(12, -1)
    close(joint_matrix(theta), flat @ flat.T)
    close(joint_spectrum(theta), np.linalg.eigvalsh(flat @ flat.T))
    # of rank 7, and never negative
    close(joint_spectrum(theta)[:5], np.zeros(5))
    oblong = mixed(count=4)[:3]
    matrix = np.asarray(joint_matrix(oblong))
    assert matrix.shape == (6, 8)
    assert matrix[2 * 2 + 1, 2 * 3 + 0] == oblong[2, 3, 1, 0]
    assert block_singular_values(oblong).shape == (2, 2, 3)


@given(seed=SEEDS)
def test_what_the_order_of_points_and_the_basis_of_components_change(seed):
    rng = np.random.default_rng(seed)
    theta, _ = kernel(seed)
    order = rng.permutation(4)
    shuffled = theta[order][:, order]
    close(joint_spectrum(shuffled), joint_spectrum(theta))
    close(ordered(block_eigenvalues(shuffled)), ordered(block_eigenvalues(theta)))
    basis = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turned = jnp.einsum("ik,abkl,jl->abij", basis, theta, basis)
    close(joint_spectrum(turned), joint_spectrum(theta))
    close(jnp.linalg.norm(turned), jnp.linalg.norm(theta))
    # of two sets, in orders of their own
    both = mixed(seed)
    moved = both[order][:, rng.permutation(4)]
    close(block_singular_values(moved), block_singular_values(both))


def test_block_eigenvalues_depend_on_the_order_of_the_test_points():
    """The statistic of the paper is no property of the two sets alone."""
    theta = mixed(3)
    moved = theta[:, jnp.array([1, 0, 2, 3])]
    close(block_singular_values(moved), block_singular_values(theta))
    here, there = (ordered(block_eigenvalues(t)) for t in (theta, moved))
    assert np.max(np.abs(here - there)) > 0.1
    assert float(imaginary_share(block_eigenvalues(theta))) > 0.1


FEW = st.lists(st.floats(-1e3, 1e3), min_size=6, max_size=6)


@given(first=FEW, second=FEW, shift=st.floats(-100, 100), factor=st.floats(0.01, 100))
def test_wasserstein_distance(first, second, shift, factor):
    a, b = jnp.asarray(first).reshape(2, 3), jnp.asarray(second).reshape(2, 3)
    found = wasserstein_distance(a, b)
    close(found, scipy.stats.wasserstein_distance(first, second), atol=1e-9)
    close(wasserstein_distance(b, a), found)
    close(wasserstein_distance(a[::-1], b[:, ::-1]), found)
    close(wasserstein_distance(a + shift, a), abs(shift), atol=1e-10)
    close(wasserstein_distance(a + shift, b + shift), found, atol=1e-10)
    close(wasserstein_distance(factor * a, factor * b), factor * found, atol=1e-9)
    close(wasserstein_distance(a, b, scale=factor), found / factor)


@given(seed=SEEDS, factor=st.floats(1e-3, 1e3))
def test_alignment_of_kernels(seed, factor):
    first, second = kernel(seed)[0], kernel(seed + 1)[0]
    close(kernel_alignment(first, factor * first), 1)
    close(kernel_alignment(first, -factor * first), -1)
    found = float(kernel_alignment(first, second))
    # positive matrices: never at an obtuse angle
    assert 0 <= found < 1
    close(kernel_alignment(second, factor * first), found)


@given(seed=SEEDS)
def test_alignment_with_a_target(seed):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(4, 3))
    along = jnp.asarray(np.einsum("ai,bj->abij", y, y))
    close(target_alignment(along, jnp.asarray(y)), 1)
    close(target_alignment(along, jnp.asarray(-3 * y)), 1)
    across = rng.normal(size=(4, 3))
    across -= y * np.sum(y * across) / np.sum(y * y)
    close(target_alignment(along, jnp.asarray(across)), 0)
    theta = kernel(seed)[0]
    expected = np.einsum("ai,abij,bj->", y, theta, y) / np.linalg.norm(theta) / np.sum(y**2)
    close(target_alignment(theta, jnp.asarray(y)), expected)
    assert 0 <= expected <= 1


@given(seed=SEEDS, size=st.floats(1e-3, 1e3))
def test_effective_rank(seed, size):
    close(effective_rank(jnp.full(6, size)), 6)
    close(effective_rank(size * jnp.array([0.0, 1, 0, 0, 1, 0])), 2)
    close(effective_rank(size * jnp.array([0.0, 0, 0, 0, 1, 0])), 1)
    # rounding below zero counts as zero
    close(effective_rank(size * jnp.array([-1e-3, 0, 0, 0, 1, 0])), 1)
    shares = np.random.default_rng(seed).dirichlet(np.ones(6))
    expected = np.exp(scipy.stats.entropy(shares))
    close(effective_rank(size * jnp.asarray(shares)), expected)
    assert 1 <= expected <= 6


@pytest.mark.usefixtures("as_user")
def test_kernels_of_two_sets_of_different_sizes_have_no_eigenvalues():
    theta = jnp.ones((3, 4, 2, 2))
    with pytest.raises(ValueError, match=r"as many points.*\(3, 4, 2, 2\); use block_singular"):
        block_eigenvalues(theta)
    with pytest.raises(ValueError, match=r"the kernel of one point set, got shape \(3, 4, 2, 2\)"):
        joint_spectrum(theta)


def test_a_kernel_that_vanishes_has_no_direction():
    zero, one = jnp.zeros((3, 3, 2, 2)), jnp.ones((3, 3, 2, 2))
    assert kernel_alignment(zero, one) == 0
    assert target_alignment(zero, jnp.ones((3, 2))) == 0
    assert effective_rank(jnp.zeros(6)) == 0


def test_distances_need_as_many_numbers(as_user):
    with pytest.raises(ValueError, match="expected 4 numbers like first, got 1"):
        wasserstein_distance(jnp.ones(4), jnp.ones(1))
