import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow.geometry import PeriodicGrid, curvature
from metricflow.geometry import grid_curvature as gc
from tests.tolerances import tolerance

PLANE = PeriodicGrid((31, 33), (3.0, 5.0))
SPACE = PeriodicGrid((15, 15, 15))
GRIDS = pytest.mark.parametrize("grid", [PLANE, SPACE], ids=["T2", "T3"])
# identities of the continuum, up to the modes that a grid does not hold: relative to the terms
RESOLVED = {"T2": 1e-9, "T3": 1e-5}


def wavy(grid, size=0.05):
    """A periodic metric without symmetry, as a function of one point; k = 2 or 3."""
    k = grid.dim
    wave = 2 * jnp.pi / jnp.array(grid.lengths)

    def metric(x):
        y = (wave * x).astype(x.dtype)
        phase = jnp.arange(1.0, k + 1, dtype=x.dtype)
        bumps = jnp.sin(y[:, None] + 2 * phase)
        conformal = 1 + size * jnp.cos(jnp.sum(y))
        return jnp.eye(k, dtype=x.dtype) * conformal + size * (bumps + bumps.T) / 2

    return metric


@functools.cache
def sampled(grid, dtype="float64", size=0.05):
    points = grid.points(dtype).reshape(-1, grid.dim)
    g = jax.jit(jax.vmap(wavy(grid, size)))(points)
    return g.reshape(*grid.shape, grid.dim, grid.dim)


def tensor(grid, seed=0, modes=1):
    h = grid.random_field(jax.random.key(seed), modes, entries=(grid.dim, grid.dim))
    return (h + h.swapaxes(-2, -1)) / 2


def at(quantity, grid, *fields, **options):
    return jax.jit(functools.partial(quantity, grid, **options))(*fields)


def close(found, expected, tol=None, scale=1.0):
    np.testing.assert_allclose(found, expected, rtol=0, atol=(tol or tolerance("algebra")) * scale)


def resolved(grid):
    return RESOLVED[f"T{grid.dim}"]


@GRIDS
def test_two_routes_to_curvature(grid):
    """Spectral derivatives at all points against automatic ones, point by point."""
    metric, points = wavy(grid), grid.points().reshape(-1, grid.dim)[::17]
    others = ("christoffel", "riemann", "ricci", "scalar_curvature")
    own = ("grid_christoffel", "grid_riemann", "grid_ricci", "grid_scalar")
    exact = jax.jit(jax.vmap(lambda x: [getattr(curvature, name)(metric, x) for name in others]))
    spectral = jax.jit(lambda g: [getattr(gc, name)(grid, g) for name in own])
    for found, expected in zip(spectral(sampled(grid)), exact(points), strict=True):
        size = float(jnp.max(jnp.abs(expected)))
        assert size > 0.05
        close(found.reshape(-1, *found.shape[grid.dim :])[::17], expected, resolved(grid), size)


def test_single_precision():
    quantities = (gc.grid_christoffel, gc.grid_ricci, gc.grid_riemann)
    every = jax.jit(lambda g: [quantity(PLANE, g) for quantity in quantities])
    pairs = zip(every(sampled(PLANE, "float32")), every(sampled(PLANE)), strict=True)
    for found, wanted in pairs:
        assert found.dtype == "float32"
        size = float(jnp.max(jnp.abs(wanted)))
        assert size > 0.05
        # entries of the matrices that differentiate are of the size of N
        close(found, wanted, tolerance("algebra", "float32"), 10 * size)


def test_curvature_of_a_conformal_factor():
    """g = e^(2u) (dx^2 + dy^2) has R = -2 e^(-2u) (u_xx + u_yy)."""
    u = 0.2 * PLANE.random_field(jax.random.key(1), 1)
    g = jnp.exp(2 * u)[..., None, None] * jnp.eye(2)
    expected = -2 * jnp.exp(-2 * u) * PLANE.laplacian(u)
    close(at(gc.grid_scalar, PLANE, g), expected, 1e-8, float(jnp.max(jnp.abs(expected))))


def test_gauss_bonnet():
    """int R dV = 4 pi chi = 0 on a torus, for a metric that is far from flat."""
    g = sampled(PLANE)
    curved = at(gc.grid_scalar, PLANE, g) * gc.volume_density(g)
    size = float(PLANE.integral(jnp.abs(curved)))
    assert size > 1
    close(PLANE.integral(curved), 0, resolved(PLANE), size)


def test_symmetries():
    grid = SPACE
    g = sampled(grid)
    r, ricci = at(gc.grid_riemann, grid, g), at(gc.grid_ricci, grid, g)
    size = float(jnp.max(jnp.abs(r)))
    swap = functools.partial(jnp.swapaxes, r)
    close(r, -swap(-2, -1), scale=size)
    close(r, -swap(-4, -3), resolved(grid), size)
    close(r, jnp.moveaxis(r, (-4, -3), (-2, -1)), resolved(grid), size)
    assert not np.any(ricci - ricci.swapaxes(-2, -1))
    trace = jnp.einsum("...ik,...ijkl->...jl", gc.metric_inverse(g), r)
    close(ricci, trace, resolved(grid), size)


@GRIDS
def test_contracted_bianchi_identity(grid):
    """D^j R_ij = d_i R / 2."""
    g = sampled(grid)

    @jax.jit
    def sides(g):
        slope = gc.covariant_derivative(grid, g, gc.grid_ricci(grid, g))
        left = jnp.einsum("...jk,...ijk->...i", gc.metric_inverse(g), slope)
        return left, grid.gradient(gc.grid_scalar(grid, g)) / 2

    left, right = sides(g)
    close(left, right, 10 * resolved(grid), float(jnp.max(jnp.abs(right))))
    assert float(jnp.max(jnp.abs(left - right / 2))) > 0.1 * float(jnp.max(jnp.abs(right)))


def test_flat_metrics():
    """A constant metric, and one in other coordinates: x + v(x) pulls it back."""
    grid = PLANE
    root = jnp.eye(grid.dim) + 0.3 * jnp.tri(grid.dim)
    g = jnp.broadcast_to(root @ root.T, (*grid.shape, grid.dim, grid.dim))
    assert float(jnp.max(jnp.abs(at(gc.grid_riemann, grid, g)))) < tolerance("algebra")
    moved = grid.gradient(0.05 * grid.random_field(jax.random.key(2), 1, entries=(grid.dim,)))
    jacobian = jnp.eye(grid.dim) + moved
    g = jacobian.swapaxes(-2, -1) @ (root @ root.T) @ jacobian
    gamma = at(gc.grid_christoffel, grid, g)
    assert float(jnp.max(jnp.abs(gamma))) > 0.05
    close(at(gc.grid_riemann, grid, g), 0, 10 * resolved(grid), np.max(np.abs(gamma)))


def test_covariant_derivatives():
    grid = PLANE
    g, f = sampled(grid), grid.random_field(jax.random.key(3), 1)
    h, u = tensor(grid), 0.3 * f
    slope = functools.partial(gc.covariant_derivative, grid)
    close(jax.jit(slope)(g, g), 0)
    # of a function: two derivatives are the Hessian, symmetric
    second = jax.jit(lambda g: slope(g, slope(g, f)))(g)
    close(at(gc.grid_hessian, grid, g, f), second)
    close(second, second.swapaxes(-2, -1), scale=10)
    # Leibniz
    product = jax.jit(slope)(g, jnp.sin(u)[..., None, None] * h)
    apart = jnp.sin(u)[..., None, None, None] * jax.jit(slope)(g, h) + jnp.einsum(
        "...ij,...k->...ijk", h, grid.gradient(jnp.sin(u))
    )
    close(product, apart, 1e-7, float(jnp.max(jnp.abs(apart))))


def test_ricci_identity():
    """[D_k, D_l] w_j = -R^m_jkl w_m."""
    grid = SPACE
    g = sampled(grid)
    w = grid.random_field(jax.random.key(4), 1, entries=(grid.dim,))

    @jax.jit
    def sides(g):
        once = gc.covariant_derivative(grid, g, w)
        twice = gc.covariant_derivative(grid, g, once)  # [j, l, k] = D_k D_l w_j
        mixed = jnp.einsum("...mi,...ijkl->...mjkl", gc.metric_inverse(g), gc.grid_riemann(grid, g))
        right = -jnp.einsum("...mjkl,...m->...jkl", mixed, w)
        return twice.swapaxes(-2, -1) - twice, right

    left, right = sides(g)
    close(left, right, 10 * resolved(grid), float(jnp.max(jnp.abs(right))))


def test_the_laplacian():
    """The trace of the Hessian; integral zero and self-adjoint for any values, to rounding."""
    grid = PLANE
    g = sampled(grid)
    f, u = jax.random.normal(jax.random.key(5), (2, *grid.shape))
    smooth = grid.random_field(jax.random.key(6), 1)
    trace = jnp.einsum(
        "...ij,...ij->...", gc.metric_inverse(g), at(gc.grid_hessian, grid, g, smooth)
    )
    size = float(jnp.max(jnp.abs(trace)))
    close(at(gc.grid_laplacian, grid, g, smooth), trace, 10 * resolved(grid), size)
    volume = gc.volume_density(g)
    a, b = at(gc.grid_laplacian, grid, g, f), at(gc.grid_laplacian, grid, g, u)
    size = float(grid.integral(jnp.abs(a) * volume))
    close(grid.integral(a * volume), 0, scale=size)
    close(grid.integral((u * a - f * b) * volume), 0, scale=size)
    energy = grid.integral(gc.squared_gradient(grid, g, f) * volume)
    close(grid.integral(-f * a * volume), energy, scale=size)
    assert float(energy) > 0


def test_lie_derivatives():
    """D_i W_j + D_j W_i; and of a gradient twice the Hessian."""
    grid = PLANE
    g = sampled(grid)
    vector = grid.random_field(jax.random.key(7), 1, entries=(grid.dim,))
    lowered = jnp.einsum("...ij,...j->...i", g, vector)
    slope = at(gc.covariant_derivative, grid, g, lowered)
    found = at(gc.lie_derivative, grid, g, vector)
    close(found, slope + slope.swapaxes(-2, -1), 1e-8, float(jnp.max(jnp.abs(found))))


def test_lie_derivative_is_that_of_the_pull_back():
    """d/dt of the pull-back of a function metric by x + t W(x), by automatic differentiation."""
    grid = PeriodicGrid((31, 31), (4.0, 4.0))
    metric, points = wavy(grid), grid.points().reshape(-1, 2)

    def vector(x):
        return jnp.sin(jnp.pi / 2 * x[::-1]) + jnp.array([0.3, -0.2])

    def pulled(t, x):
        jacobian = jnp.eye(2) + t * jax.jacfwd(vector)(x)
        return jacobian.T @ metric(x + t * vector(x)) @ jacobian

    expected = jax.jit(jax.vmap(lambda x: jax.jacfwd(pulled)(0.0, x)))(points)
    values = jax.jit(jax.vmap(vector))(points).reshape(*grid.shape, 2)
    found = at(gc.lie_derivative, grid, sampled(grid), values)
    close(found, expected.reshape(found.shape), scale=100)


@pytest.mark.equation("RF 6")
@pytest.mark.parametrize(
    ("grid", "curved"), [(PLANE, True), (SPACE, True), (PLANE, False)], ids=["T2", "T3", "flat"]
)
def test_linearisation_of_ricci(grid, curved):
    """Automatic differentiation of -2 Ric against the covariant formula."""
    g = sampled(grid, size=0.05 if curved else 0.0)
    h = tensor(grid)

    @jax.jit
    def every(g, h):
        derivative = jax.jvp(lambda x: -2 * gc.grid_ricci(grid, x), (g,), (h,))[1]
        formula = gc.ricci_linearisation(grid, g, h)
        whole = gc.lichnerowicz(grid, g, h, ricci_terms=True)
        return derivative, formula, whole, gc.lichnerowicz(grid, g, h)

    derivative, formula, whole, bare = every(g, h)
    size = float(jnp.max(jnp.abs(derivative)))
    close(formula, derivative, 10 * resolved(grid) if curved else tolerance("algebra"), size)
    # without V it is another operator, and the terms with Ric are not small: their signs are seen
    assert float(jnp.max(jnp.abs(whole - derivative))) > 0.1 * size
    assert (float(jnp.max(jnp.abs(bare - whole))) > 1e-3 * size) == curved


@pytest.mark.equation("RF 26")
def test_linear_part_of_ricci_at_a_constant_metric():
    """g^(ip) (d_i d_p h_kj + d_k d_j h_ip - d_i d_k h_pj - d_j d_p h_ik), as corrected."""
    grid = PLANE
    root = jnp.eye(grid.dim) + 0.3 * jnp.tri(grid.dim)
    g = jnp.broadcast_to(root @ root.T, (*grid.shape, grid.dim, grid.dim))
    h = tensor(grid)
    second = jax.jit(lambda f: grid.gradient(grid.gradient(f)))(h)  # [k, j, a, b]
    inverse = gc.metric_inverse(g)
    terms = [
        jnp.einsum(f"...ip,...{indices}->...kj", inverse, second)
        for indices in ("kjip", "ipkj", "pjik", "ikjp")
    ]
    expected = terms[0] + terms[1] - terms[2] - terms[3]
    derivative = jax.jit(lambda g, h: jax.jvp(lambda x: -2 * gc.grid_ricci(grid, x), (g,), (h,))[1])
    close(derivative(g, h), expected, scale=float(jnp.max(jnp.abs(expected))))
    # what is printed, 2 g^(ip) d_i d_k g_pj, is not even symmetric
    printed = 2 * terms[2]
    assert float(jnp.max(jnp.abs(printed - printed.swapaxes(-2, -1)))) > 0.1


@pytest.mark.equation("RF 19")
def test_the_curvature_term_of_lichnerowicz():
    """2 Rm*h at points, from the Riemann tensor; on the metric itself it is 2 Ric."""
    grid, g, h = SPACE, sampled(SPACE), tensor(SPACE)

    @jax.jit
    def every(g, h):
        inverse = gc.metric_inverse(g)
        twice = gc.covariant_derivative(grid, g, gc.covariant_derivative(grid, g, h))
        rough = jnp.einsum("...pq,...ijpq->...ij", inverse, twice)
        raised = inverse @ h @ inverse
        term = 2 * jnp.einsum("...ikjl,...kl->...ij", gc.grid_riemann(grid, g), raised)
        itself = [gc.lichnerowicz(grid, g, g, ricci_terms=terms) for terms in (False, True)]
        return gc.lichnerowicz(grid, g, h), rough + term, itself, gc.grid_ricci(grid, g)

    found, expected, (once, none), ricci = every(g, h)
    close(found, expected, resolved(grid), float(jnp.max(jnp.abs(expected))))
    close(once, 2 * ricci, resolved(grid))
    close(none, 0, resolved(grid))


def test_pointwise_algebra(rng):
    root = rng.normal(size=(6, 4, 4))
    g = root @ root.swapaxes(-2, -1)
    h = rng.normal(size=(6, 4, 4))
    h = h + h.swapaxes(-2, -1)
    close(gc.metric_inverse(g) @ g, np.broadcast_to(np.eye(4), g.shape), 1e-9)
    np.testing.assert_allclose(gc.metric_determinant(g), np.linalg.det(g), rtol=1e-10)
    np.testing.assert_allclose(gc.volume_density(g), np.linalg.det(g) ** 0.5, rtol=1e-10)
    assert np.all(gc.metric_pivots(g) > 0)
    assert not np.any(np.all(gc.metric_pivots(g - 10 * np.max(g) * np.eye(4)) > 0, axis=-1))
    frame = np.linalg.inv(np.linalg.cholesky(g))
    expected = np.linalg.norm(frame @ h @ frame.swapaxes(-2, -1), axis=(-2, -1))
    np.testing.assert_allclose(gc.tensor_norm(g, h), expected, rtol=1e-8)


def test_everything_maps_and_is_compiled():
    grid = PeriodicGrid((7, 7))
    g = jnp.stack([sampled(grid), 2 * sampled(grid)])
    found = jax.jit(jax.vmap(functools.partial(gc.grid_ricci, grid)))(g)
    close(found[0], found[1])  # Ricci does not feel a scale
    close(gc.grid_ricci(grid, g[0]), found[0])


@pytest.mark.usefixtures("as_user")
def test_wrong_input_is_named():
    grid = PeriodicGrid((5, 7))
    good, f = jnp.ones((5, 7, 2, 2)), jnp.ones((5, 7))
    wrong = jnp.ones((7, 5, 2, 2))
    for quantity in (
        gc.grid_christoffel,
        gc.grid_riemann,
        gc.grid_ricci,
        gc.grid_scalar,
        lambda grid, g: gc.lichnerowicz(grid, g, good),
        lambda grid, g: gc.grid_laplacian(grid, g, f),
    ):
        with pytest.raises(
            ValueError, match=r"g: expected .*\(5, 7, 2, 2\).* got .*\(7, 5, 2, 2\)"
        ):
            quantity(grid, wrong)
        with pytest.raises(ValueError, match=r"g: expected real components.*got complex128"):
            quantity(grid, good + 1j)
    with pytest.raises(ValueError, match=r"h: expected .* got float64 of shape \(7, 5, 2, 2\)"):
        gc.ricci_linearisation(grid, good, wrong)
    with pytest.raises(ValueError, match=r"f: expected real values of shape \(5, 7\), got"):
        gc.grid_hessian(grid, good, f[None])
    with pytest.raises(ValueError, match=r"vector: expected the shape \(5, 7, 2\), got \(5, 7\)"):
        gc.lie_derivative(grid, good, f)
    with pytest.raises(ValueError, match=r"tensor: expected indices of 2 values .* got shape"):
        gc.covariant_derivative(grid, good, jnp.ones((5, 7, 3)))
