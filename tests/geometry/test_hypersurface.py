import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow import geometry
from tests.tolerances import tolerance


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
