import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow import ansatz, geometry
from tests.tolerances import tolerance

# the package shows the function of this name
hypersurface_module = importlib.import_module("metricflow.geometry.hypersurface")


def complex_normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    real, imaginary = jax.random.normal(key, (2, *shape))
    return real + 1j * imaginary


def random_hypersurface(ambient: int, seed: int) -> geometry.Hypersurface:
    grid = np.indices((ambient + 1,) * ambient).reshape(ambient, -1).T
    exponents = grid[grid.sum(1) == ambient]
    rng = np.random.default_rng(seed)
    return geometry.hypersurface(exponents, rng.normal(size=(2, len(exponents))).T @ [1, 1j])


@pytest.mark.equation("MF 3.1")
def test_the_fermat_quintic_is_the_sum_of_fifth_powers(quintic):
    z = complex_normal(jax.random.key(0), (20, 5))
    np.testing.assert_allclose(
        geometry.polynomial(quintic, z), np.sum(np.asarray(z) ** 5, axis=1), rtol=1e-13
    )
    assert (quintic.dim, quintic.degree, quintic.ambient) == (3, 5, 5)


@pytest.mark.parametrize(
    "manifold",
    [geometry.fermat(1), geometry.dwork(2, 0.3 - 0.1j), random_hypersurface(5, 0)],
    ids=repr,
)
def test_gradient_obeys_euler_and_finite_differences(manifold):
    z = complex_normal(jax.random.key(1), (7, manifold.ambient))
    slope = geometry.gradient(manifold, z)
    value = geometry.polynomial(manifold, z)
    np.testing.assert_allclose(jnp.sum(z * slope, 1), manifold.degree * value, rtol=1e-11)
    step = 1e-6
    for i in range(manifold.ambient):
        up, down = z.at[:, i].add(step), z.at[:, i].add(-step)
        difference = geometry.polynomial(manifold, up) - geometry.polynomial(manifold, down)
        np.testing.assert_allclose(
            difference / (2 * step), slope[:, i], rtol=tolerance("difference"), atol=1e-6
        )


def closed_form(manifold, z):
    """P and dP in numpy; right where coordinates vanish."""
    exponents, coefficients = np.array(manifold.exponents), np.asarray(manifold.coefficients)
    value = np.prod(np.asarray(z)[:, None] ** exponents, axis=2) @ coefficients
    slopes = []
    for unit in np.eye(manifold.ambient, dtype=int):
        order = exponents @ unit
        lowered = np.asarray(z)[:, None] ** np.maximum(exponents - unit, 0)
        slopes.append(np.prod(lowered, axis=2) @ (coefficients * order))
    return value, np.stack(slopes, axis=1)


def test_many_monomials_are_summed_in_a_loop_to_the_same_numbers(monkeypatch):
    dwork, quartic = geometry.dwork(2, 0.3 - 0.1j), random_hypersurface(4, 2)
    assert len(dwork.exponents) < hypersurface_module._UNROLLED < len(quartic.exponents)
    z = complex_normal(jax.random.key(4), (6, 4)).at[0, 2].set(0).at[1, :3].set(0)
    unrolled = [f(dwork, z) for f in (geometry.polynomial, geometry.gradient)]
    monkeypatch.setattr(hypersurface_module, "_UNROLLED", 1)
    looped = [f(dwork, z) for f in (geometry.polynomial, geometry.gradient)]
    for found, expected in zip(looped, unrolled, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    value, slope = closed_form(quartic, z)
    np.testing.assert_allclose(geometry.polynomial(quartic, z), value, atol=1e-11)
    np.testing.assert_allclose(geometry.gradient(quartic, z), slope, atol=1e-11)
    # in any shape and precision
    folded = geometry.gradient(quartic, z.reshape(2, 3, 4))
    np.testing.assert_allclose(folded.reshape(6, 4), slope, atol=1e-11)
    single = geometry.polynomial(quartic, z.astype(jnp.complex64))
    assert single.dtype == jnp.complex64
    np.testing.assert_allclose(single, value, rtol=1e-4, atol=1e-4)


def test_the_gradient_of_the_loop_is_the_holomorphic_derivative_of_its_value():
    manifold = random_hypersurface(4, 2)
    z = complex_normal(jax.random.key(5), (5, 4))
    by_jax = jax.grad(lambda w: geometry.polynomial(manifold, w), holomorphic=True)
    np.testing.assert_allclose(
        jax.jit(jax.vmap(by_jax))(z), geometry.gradient(manifold, z), atol=1e-11
    )


def test_a_random_hypersurface_is_that_of_its_key_and_has_no_symmetry():
    first, again, other = (
        geometry.random_hypersurface(jax.random.key(seed), 2) for seed in (0, 0, 1)
    )
    assert (first.dim, len(first.exponents)) == (2, 35)
    assert first.exponents == again.exponents
    assert np.array_equal(first.coefficients, again.coefficients)
    assert np.abs(first.coefficients - other.coefficients).min() > 0
    assert not first.symmetric
    group = ansatz.symmetry_group(first)
    assert (len(group.phases), len(group.permutations), group.conjugation) == (1, 1, False)
    points = geometry.sample_points(jax.random.key(2), first, 400)
    assert float(jnp.max(geometry.residual(first, points.z))) < tolerance("residual") * 100
    unit = points.z / jnp.linalg.norm(points.z, axis=1, keepdims=True)
    slope = jnp.linalg.norm(geometry.gradient(first, unit), axis=1)
    assert float(jnp.min(slope)) > 0.01 * float(jnp.max(slope))
    with pytest.raises(ValueError, match="dim: expected a complex dimension of at least 1"):
        geometry.random_hypersurface(jax.random.key(0), 0)


def test_no_coordinates_are_special_for_random_hypersurfaces():
    """E |P(z)|^2 = 2 |z|^(2d) at every z: the law is invariant under rotations."""
    z = np.array([[1, 0, 0], [3**-0.5, 3**-0.5, 3**-0.5], [0.6, 0.8j, 0]])
    sample = [geometry.random_hypersurface(jax.random.key(seed), 1) for seed in range(100)]
    square = np.mean([np.abs(closed_form(manifold, z)[0]) ** 2 for manifold in sample], axis=0)
    # a mean of a hundred exponential variables: ten per cent
    np.testing.assert_allclose(square, 2, rtol=0.4)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_phase_symmetries_are_all_and_leave_the_modulus_of_p(dim):
    degree = dim + 2
    fermat, dwork = geometry.fermat(dim), geometry.dwork(dim, 0.5)
    assert len(geometry.phase_symmetries(fermat)) == degree ** (dim + 1)
    # the overall phase is divided out, sum k = 0 mod d is left
    phases = geometry.phase_symmetries(dwork)
    assert len(phases) == degree**dim
    z = complex_normal(jax.random.key(2), (degree,))
    turned = z * np.exp(2j * np.pi * phases / degree)
    expected = jnp.abs(geometry.polynomial(dwork, z))
    np.testing.assert_allclose(jnp.abs(geometry.polynomial(dwork, turned)), expected, rtol=1e-12)


def test_permutation_symmetry_is_recognised(quintic, asymmetric_cubic):
    assert quintic.symmetric
    assert geometry.dwork(3, 0.5).symmetric
    assert not asymmetric_cubic.symmetric
    assert not random_hypersurface(4, 1).symmetric


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_singular_dwork_is_refused_by_both_front_doors(dim):
    degree = dim + 2
    psi = np.exp(2j * np.pi / degree)
    with pytest.raises(ValueError, match="singular"):
        geometry.dwork(dim, psi)
    exponents = np.vstack([degree * np.eye(degree, dtype=int), np.ones((1, degree), int)])
    with pytest.raises(ValueError, match="singular"):
        geometry.hypersurface(exponents, np.append(np.ones(degree), -degree * psi))


@pytest.mark.parametrize(
    ("exponents", "coefficients", "message"),
    [
        ([[5, 0, 0, 0, 0], [0, 5, 0, 0, 0], [0, 0, 5, 0, 0], [0, 0, 0, 5, 0]], [1] * 4, "singular"),
        ([[4, 0, 0], [0, 3, 0], [0, 0, 3]], [1] * 3, "degree 3"),
        ([[3, 0, 0], [0, 3, 0], [0, 3, 0]], [1] * 3, "once"),
        ([[3, 0, 0], [0, 3, 0], [0, 0, 3]], [1, 1], "coefficients"),
        ([[3, 0, 0], [0, 3, 0], [0, 0, 3]], [1, 1, 0], "non-zero"),
        ([[3, 0, 0], [0, 3, 0], [0, 0, 3]], [1, 1, np.nan], "finite"),
        ([[3, 0, 0], [0, 3]], [1, 1], "rows"),
        ([], [], "rows"),
    ],
)
def test_bad_hypersurfaces_are_refused(exponents, coefficients, message):
    with pytest.raises(ValueError, match=message):
        geometry.hypersurface(exponents, coefficients)


@pytest.mark.parametrize(("call", "name"), [((0,), "dim"), ((3, np.nan), "psi")])
def test_bad_family_members_are_refused(call, name):
    with pytest.raises(ValueError, match=name):
        (geometry.fermat if len(call) == 1 else geometry.dwork)(*call)


def test_moduli_are_traced_not_compiled_in():
    compiled = jax.jit(geometry.polynomial)
    z = complex_normal(jax.random.key(3), (4, 5))
    for psi in (0.1, 0.2, 0.7):
        value = compiled(geometry.dwork(3, psi), z)
        np.testing.assert_allclose(value, np.sum(z**5, 1) - 5 * psi * np.prod(z, 1), rtol=1e-12)
    assert compiled._cache_size() == 1
