"""Symmetry groups, Molien's average and orbits, against counting and against rank."""

import math

import jax
import numpy as np
import pytest

from metricflow import ansatz, geometry


def orbit_values(z, orbits):
    """Real and imaginary part of every orbit sum at points with |z| = 1."""
    rows = []
    for orbit in orbits:
        total = sum(
            np.prod(z ** np.array(p), axis=1) * np.prod(z.conj() ** np.array(q), axis=1)
            for p, q in orbit
        )
        rows += [total.real, total.imag]
    return np.array(rows)


def test_the_groups_of_the_families():
    fermat = ansatz.symmetry_group(geometry.fermat(2))
    assert fermat.phases.shape == (4**3, 4)
    assert fermat.permutations.shape == (math.factorial(4), 4)
    assert fermat.conjugation
    assert len(ansatz.symmetry_group(geometry.dwork(3, 0.5)).phases) == 5**3
    assert not ansatz.symmetry_group(geometry.dwork(1, 0.5 + 0.1j)).conjugation


def test_without_symmetry_the_count_is_that_of_sections():
    manifold = geometry.fermat(3)
    found = ansatz.invariant_dimensions(ansatz.no_symmetry(manifold), 6)
    assert found.tolist() == [ansatz.section_count(manifold, k) ** 2 for k in range(7)]


@pytest.mark.parametrize(
    "manifold",
    [geometry.fermat(1), geometry.fermat(2), geometry.dwork(1, 0.4), geometry.dwork(1, 0.3 + 0.2j)],
    ids=["fermat1", "fermat2", "dwork1", "dwork1-complex"],
)
@pytest.mark.parametrize("group", ["found", "none"])
def test_the_rank_of_all_orbits_is_the_molien_count(manifold, group):
    """Two routes to one number: a group average, and linear algebra on points of X."""
    symmetry = getattr(ansatz, "symmetry_group" if group == "found" else "no_symmetry")(manifold)
    top = 5 if group == "found" else 3
    expected = ansatz.invariant_dimensions(symmetry, top)
    z = np.asarray(
        geometry.sample_points(jax.random.key(0), manifold, 3 * int(expected[-1]) + 60).z
    )
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    for degree in range(1, top + 1):
        values = orbit_values(z, ansatz.invariant_orbits(symmetry, degree))
        assert np.linalg.matrix_rank(values, tol=1e-8) == expected[degree]


def test_orbit_sums_are_invariant(rng):
    manifold = geometry.dwork(2, 0.3)
    symmetry = ansatz.symmetry_group(manifold)
    z = rng.normal(size=(20, 4)) + 1j * rng.normal(size=(20, 4))
    orbits = ansatz.invariant_orbits(symmetry, 4)
    before = orbit_values(z, orbits)
    turn = np.exp(2j * np.pi * symmetry.phases[7] / symmetry.degree)
    for moved in (z * turn, z[:, symmetry.permutations[11]], z.conj()):
        np.testing.assert_allclose(orbit_values(moved, orbits), before, rtol=1e-10, atol=1e-9)
    assert np.ptp(orbit_values(z[:, [1, 0, 2, 3]] * [1, 1, 1, 1j], orbits) - before) > 1e-3
