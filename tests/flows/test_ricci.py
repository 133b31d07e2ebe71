"""Ricci and Ricci-DeTurck flow on tori: what is known exactly, and what the paper claims."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow.flows import FlowError, Result, RicciFlow, conjugate_heat, uniform_equivalence
from metricflow.geometry import PeriodicGrid
from metricflow.geometry import grid_curvature as gc
from tests.tolerances import tolerance

PLANE, SPACE = PeriodicGrid((15, 15)), PeriodicGrid((9, 9, 9))
GRIDS = pytest.mark.parametrize("grid", [PLANE, SPACE], ids=["T2", "T3"])


@functools.cache
def symmetric(grid, seed=0):
    """A smooth random tensor, its largest entry 1."""

    @jax.jit
    def drawn(key):
        h = grid.random_field(key, 1, entries=(grid.dim, grid.dim))
        h = h + h.swapaxes(-2, -1)
        return h / jnp.max(jnp.abs(h))

    return drawn(jax.random.key(seed))


@functools.cache
def bumpy(grid, size, dtype="float64"):
    return (jnp.eye(grid.dim) + size * symmetric(grid)).astype(dtype)


def flat(grid):
    return jnp.broadcast_to(jnp.eye(grid.dim), (*grid.shape, grid.dim, grid.dim))


def derivative(velocity, g, h):
    return jax.jit(lambda g, h: jax.jvp(velocity, (g,), (h,))[1])(g, h)


def close(found, expected, tol=None, scale=1.0):
    np.testing.assert_allclose(found, expected, rtol=0, atol=(tol or tolerance("algebra")) * scale)


def deviation(grid, state):
    """The L2 distance from the mean."""
    return jnp.sqrt(grid.integral(jnp.sum((state.g - grid.mean(state.g)) ** 2, axis=(-2, -1))))


def metric_of(state):
    return state.g


@functools.cache
def stored(gauge, size=0.2, steps=16, dt=0.012):
    """A flow and all of its metrics, the first included."""
    grid = PLANE
    flow = RicciFlow(grid, gauge)
    start = flow.init(bumpy(grid, size))
    _, info, metrics = flow.run(start, steps, dt, observe=metric_of)
    return flow, jnp.concatenate([start.g[None], metrics]), info, dt


@pytest.mark.equation("RF 19", "RF 8")
@GRIDS
def test_deturck_is_the_heat_equation_at_a_flat_metric(grid):
    """The Lichnerowicz operator of a flat metric is the Laplacian of every component."""
    flow, h = RicciFlow(grid, "deturck"), symmetric(grid)
    found = derivative(flow.velocity, flat(grid), h)
    close(found, grid.laplacian(h))
    close(jax.jit(lambda g, h: gc.lichnerowicz(grid, g, h))(flat(grid), h), found)
    # without the vector field, or with it turned round, it is not
    hamilton = derivative(RicciFlow(grid).velocity, flat(grid), h)
    assert float(jnp.max(jnp.abs(hamilton - found))) > 0.3
    assert float(jnp.max(jnp.abs(2 * hamilton - found - grid.laplacian(h)))) > 0.3


@pytest.mark.equation("RF 6", "RF 8", "RF 20")
def test_deturck_at_a_curved_background():
    """Lichnerowicz with its Ricci terms: the bare one is right on Ricci-flat backgrounds only."""
    grid = PeriodicGrid((25, 25))
    background, h = bumpy(grid, 0.1), symmetric(grid, 1)
    flow = RicciFlow(grid, "deturck", background=background, dealias=False)
    found = derivative(flow.velocity, background, h)
    whole, bare = jax.jit(
        lambda g, h: [gc.lichnerowicz(grid, g, h, ricci_terms=terms) for terms in (True, False)]
    )(background, h)
    size = float(jnp.max(jnp.abs(found)))
    close(found, whole, 1e-7, size)
    assert float(jnp.max(jnp.abs(found - bare))) > 1e-2 * size
    # W vanishes at the background, and is minus V of the linearisation beside it
    close(flow.vector(background), 0)
    slope = jax.jit(functools.partial(gc.covariant_derivative, grid))(background, h)
    inverse = gc.metric_inverse(background)
    v = jnp.einsum("...pq,...pqi->...i", inverse, slope) / 2
    v = v - jnp.einsum("...pq,...piq->...i", inverse, slope)
    w = jnp.einsum("...ij,...j->...i", background, derivative(flow.vector, background, h))
    close(w, -v, 1e-7, float(jnp.max(jnp.abs(v))))


@pytest.mark.equation("RF 19")
@pytest.mark.parametrize("shape", [(5, 5), (5, 3), (3, 3, 3)])
def test_linear_stability_of_flat_metrics(shape):
    """The whole spectrum: -|k|^2, each k (k + 1) / 2 times (Definition 13)."""
    grid = PeriodicGrid(shape)
    flow, k = RicciFlow(grid, "deturck", dealias=False), grid.dim
    rows, columns = np.triu_indices(k)
    weight = np.where(rows == columns, 1.0, 2**-0.5)  # orthonormal components

    def linear(packed):
        values = weight * packed.reshape(*shape, -1)
        h = jnp.zeros((*shape, k, k)).at[..., rows, columns].set(values)
        h = h.at[..., columns, rows].set(values)
        out = jax.jvp(flow.velocity, (flat(grid),), (h,))[1]
        return (out[..., rows, columns] / weight).reshape(-1)

    size = grid.size * len(rows)
    matrix = np.asarray(jax.jit(jax.vmap(linear))(jnp.eye(size)))
    close(matrix, matrix.T)
    waves = [np.fft.fftfreq(n, 1 / n) ** 2 for n in shape]
    squares = np.sum(np.meshgrid(*waves, indexing="ij"), axis=0)
    expected = np.sort(np.repeat(-squares.reshape(-1), len(rows)))
    close(np.linalg.eigvalsh(matrix), expected)
    assert expected[-1] == 0
    assert np.sum(expected == 0) == len(rows)  # the constant metrics: integrable (Definition 14)


@pytest.mark.equation("RF 20", "RF 8")
@pytest.mark.parametrize("method", ["rk4", "rosenbrock"])
def test_small_perturbations_decay_at_the_rate_of_the_laplacian(method):
    """Late rate within 2 % of the slowest eigenvalue; its deviation is quadratic in the size."""
    grid, dt, steps = PLANE, 0.025, 160
    flow = RicciFlow(grid, "deturck", method=method)
    slow = jnp.cos(grid.points()[..., 0] + 0.3)[..., None, None] * jnp.array(
        [[1.0, 0.4], [0.4, -0.5]]
    )
    shape = slow + 0.1 * symmetric(grid)
    off = []
    for size in (0.1, 0.05):
        state = flow.init(jnp.eye(2) + size * shape)
        state, _, seen = flow.run(
            state, steps, dt, observe=jax.tree_util.Partial(functools.partial(deviation, grid))
        )
        rate = float(jnp.log(seen[-21] / seen[-1])) / (20 * dt)
        assert rate == pytest.approx(1, rel=0.02)
        assert float(seen[-1]) < 0.03 * float(seen[0])
        off.append(rate - 1)
        # the limit is flat, but it is not the metric that was perturbed
        shift = float(jnp.max(jnp.abs(grid.mean(state.g) - jnp.eye(2))))
        assert 0.05 * size**2 < shift < size**2
    if method == "rk4":  # the other's own error, of dt^2, hides it
        assert off[0] / off[1] == pytest.approx(4, rel=0.05)


def perturbation(grid, state):
    """Sup norm and L2 norm of g - I, L2 norm of its gradient, and how far the mean is from I."""
    d = state.g - jnp.eye(grid.dim)
    squares = [
        grid.integral(jnp.sum(x**2, axis=(-2, -1)))
        for x in (d, *(grid.derivative(d, i) for i in range(grid.dim)))
    ]
    shift = jnp.linalg.norm(jnp.ravel(grid.mean(d)))
    return jnp.max(jnp.abs(d)), squares[0], sum(squares[1:]), shift


def test_estimates_of_a_small_perturbation():
    """RF 39, 40, 42 and 45 on a flat torus, d = g - I of mean zero at the start."""
    grid, dt, steps, size = PLANE, 0.02, 100, 0.05
    flow = RicciFlow(grid, "deturck")
    h = symmetric(grid) - grid.mean(symmetric(grid))
    start = flow.init(jnp.eye(2) + size * h)
    watch = jax.tree_util.Partial(functools.partial(perturbation, grid))
    top0, square0, _, _ = watch(start)
    _, _, (top, square, slope, shift) = flow.run(start, steps, dt, observe=watch)
    time = dt * jnp.arange(1, steps + 1)
    assert float(jnp.max(top)) < 1.1 * float(top0)
    assert float(jnp.max(slope * time)) < float(square0)
    burnt = float(jnp.sum(slope) * dt)
    assert 1.5 * burnt < float(square0 - square[-1]) < 3 * burnt
    # the flat metric it ends at moves by the square of the perturbation
    assert 1e-2 * burnt < float(shift[-1]) < burnt


def test_constant_metrics_stay():
    flow = RicciFlow(PLANE, "deturck")
    state = flow.init(flat(PLANE) + jnp.array([[0.3, 0.1], [0.1, 0.0]]))
    end, info, _ = flow.run(state, 3, 0.05)
    close(end.g, state.g)
    close(info.speed, 0)
    close(info.volume, float(info.volume[0]), scale=50)
    assert int(end.steps) == 3
    assert float(end.time) == pytest.approx(0.15)


@pytest.mark.equation("RF 5", "RF 8", "MF 2.39")
def test_both_gauges_are_one_flow_up_to_diffeomorphisms():
    """Integrals of invariants agree along both, the metrics do not."""
    grid, steps, dt = PeriodicGrid((11, 11, 11)), 10, 0.02

    def invariants(state):
        volume, scalar = gc.volume_density(state.g), gc.grid_scalar(grid, state.g)
        ricci = gc.tensor_norm(state.g, gc.grid_ricci(grid, state.g))
        densities = jnp.stack([1 + 0 * scalar, scalar, scalar**2, ricci**2], axis=-1)
        return grid.integral(densities * volume[..., None])

    ends = {}
    for gauge in ("hamilton", "deturck"):
        flow = RicciFlow(grid, gauge)
        ends[gauge] = flow.run(flow.init(bumpy(grid, 0.1)), steps, dt, observe=invariants)
    (a, _, left), (b, _, right) = ends.values()
    np.testing.assert_allclose(left, right, rtol=1e-5)
    assert float(jnp.max(jnp.abs(left[-1] / left[0] - 1)[1:])) > 0.2  # they do change
    assert float(jnp.max(jnp.abs(a.g - b.g))) > 1e-3
    # dVol/dt = -int R dV
    change = (left[2:, 0] - left[:-2, 0]) / (2 * dt)
    np.testing.assert_allclose(change, -left[1:-1, 1], rtol=1e-2)


def test_the_step_has_the_order_of_its_method():
    grid = PeriodicGrid((7, 7))
    for method, order in (("rk4", 4), ("rosenbrock", 2)):
        flow = RicciFlow(grid, "deturck", method=method)
        step = jax.jit(lambda g, dt, flow=flow: flow.step(flow.init(g), dt)[0].g)

        def solve(n, step=step):
            g = bumpy(grid, 0.2)
            for _ in range(n):
                g = step(g, 0.4 / n)
            return g

        fine = solve(320)
        errors = [float(jnp.max(jnp.abs(solve(n) - fine))) for n in (5, 10, 20)]
        np.testing.assert_allclose(np.log2(errors[0] / errors[1]), order, atol=0.6)
        np.testing.assert_allclose(np.log2(errors[1] / errors[2]), order, atol=0.3)


def test_stability():
    """Explicit steps up to the bound; implicit ones of any length."""
    grid = PeriodicGrid((33, 33))
    state = RicciFlow(grid, "deturck").init(bumpy(grid, 0.02))
    noise = 1e-4 * grid.smooth(jax.random.normal(jax.random.key(0), (33, 33)))
    state = state._replace(g=state.g + noise[..., None, None] * jnp.eye(2))
    explicit = RicciFlow(grid, "deturck")
    limit = float(explicit.largest_step(state.g))
    assert explicit.run(state, 40, limit)[2] is None
    with pytest.raises(FlowError, match="largest_step"):
        explicit.run(state, 100, 2 * limit)
    implicit = RicciFlow(grid, "deturck", method="rosenbrock")
    end = implicit.run(state, 40, 40 * limit)[0]
    assert float(deviation(grid, end)) < 0.1 * float(deviation(grid, state))


@pytest.mark.equation("RF 36", "RF 37")
def test_uniform_equivalence():
    """e^-C g(0) <= g(T) <= e^C g(0) with C = sup int |dg/dt|_g dt; half of it is not enough."""
    flow, metrics, info, dt = stored("hamilton")
    speed = jax.jit(jax.vmap(lambda g: gc.tensor_norm(g, flow.velocity(g))))(metrics)
    np.testing.assert_allclose(jnp.max(speed[:-1], axis=(1, 2)), info.speed, rtol=1e-12)
    lengths = dt * (jnp.sum(speed, axis=0) - (speed[0] + speed[-1]) / 2)
    needed = uniform_equivalence(metrics[0], metrics[-1])
    C = float(jnp.max(lengths))
    assert C > 0.05
    assert np.all(needed <= lengths * 1.001)  # at every point; the integral is a trapezoidal sum
    assert float(jnp.max(needed)) > C / 2
    # in two dimensions dg/dt = -R g, of norm sqrt(2) |R|
    still = np.argmax(np.asarray(lengths))
    ratio = float(needed.reshape(-1)[still] / lengths.reshape(-1)[still])
    assert ratio == pytest.approx(2**-0.5, rel=1e-3)


@pytest.mark.equation("RF 37")
def test_uniform_equivalence_of_matrices():
    rng = np.random.default_rng(1)
    root = rng.normal(size=(3, 3)) + 2 * np.eye(3)
    g0 = root @ root.T
    g1 = root @ np.diag(np.exp([0.3, -0.7, 0.1])) @ root.T
    assert float(uniform_equivalence(g0, g1)) == pytest.approx(0.7)
    assert float(uniform_equivalence(g1, g0)) == pytest.approx(0.7)


@pytest.mark.equation("MF 2.30")
def test_finite_width():
    """A Gaussian in place of the delta function; its limit of no width is the local flow."""
    g = bumpy(PLANE, 0.1)
    local = jax.jit(RicciFlow(PLANE, "deturck").velocity)(g)
    close(jax.jit(RicciFlow(PLANE, "deturck", width=0.0).velocity)(g), local)
    gaps = []
    for width in (0.1, 0.2):
        found = jax.jit(RicciFlow(PLANE, "deturck", width=width).velocity)(g)
        gaps.append(float(jnp.max(jnp.abs(found - local))))
    assert gaps[1] / gaps[0] == pytest.approx(4, rel=0.1)
    # the kernel sum, written out at one point
    gap = PLANE.points()[..., None, :] + 2 * np.pi * np.stack(
        np.meshgrid(*(np.arange(-3, 4),) * 2, indexing="ij"), -1
    ).reshape(-1, 2)
    width = 0.6
    kernel = jnp.sum(jnp.exp(-jnp.sum(gap**2, -1) / (2 * width**2)), -1) / (2 * np.pi * width**2)
    expected = PLANE.integral(kernel[..., None, None] * local)
    found = jax.jit(RicciFlow(PLANE, "deturck", width=width).velocity)(g)[0, 0]
    close(found, expected, 1e-6)


@pytest.mark.equation("MF 2.40")
@pytest.mark.parametrize("gauge", ["hamilton", "deturck"])
def test_conjugate_heat(gauge):
    """int e^-f dV is constant, and df/dt = -R - Delta f + |grad f|^2 (+ W f in the other gauge)."""
    flow, metrics, _, dt = stored(gauge)
    grid = flow.grid
    final = 0.1 * grid.random_field(jax.random.key(3), 1)
    f = conjugate_heat(flow, metrics, final, dt)
    assert f.shape == (9, *grid.shape)
    close(f[-1], final, 1e-3)  # smoothed
    total = jax.vmap(grid.integral)(jnp.exp(-f) * gc.volume_density(metrics[::2]))
    close(total, total[0], scale=float(total[0]))

    @jax.jit
    @jax.vmap
    def slope(g, f):
        drift = jnp.einsum("...k,...k->...", flow.vector(g), grid.gradient(f))
        right = -gc.grid_scalar(grid, g) - gc.grid_laplacian(grid, g, f)
        return right + gc.squared_gradient(grid, g, f) + drift

    right = slope(metrics[::2], f)
    # Simpson's rule over pairs of intervals
    change = (f[2:] - f[:-2]) / (4 * dt)
    expected = (right[:-2] + 4 * right[1:-1] + right[2:]) / 6
    close(change, expected, 1e-3, float(jnp.max(jnp.abs(expected))))


def test_states_continue_and_map(dtype):
    grid = PeriodicGrid((7, 7))
    flow = RicciFlow(grid, "deturck")
    state = flow.init(bumpy(grid, 0.1, dtype))
    whole = flow.run(state, 4, 0.02)[0]
    half = flow.run(flow.run(state, 2, 0.02)[0], 2, 0.02)[0]
    assert whole.g.dtype == whole.time.dtype == dtype
    close(half.g, whole.g, tolerance("algebra", dtype))
    assert int(half.steps) == 4
    both = jax.vmap(lambda g: flow.run(flow.init(g), 4, 0.02)[0].g)(
        jnp.stack([state.g, 0 * state.g + jnp.eye(2, dtype=dtype)])
    )
    close(both[0], whole.g, tolerance("algebra", dtype))


def test_a_flow_that_breaks_down_says_so():
    grid = PeriodicGrid((7, 7))
    flow = RicciFlow(grid)
    state = flow.init(bumpy(grid, 0.3))
    with pytest.raises(FlowError, match="smaller dt") as error:
        flow.run(state, 20, 5.0)
    assert error.value.result in (Result.LOST_POSITIVITY, Result.NON_FINITE)
    end, info, _ = flow.run(state, 20, 5.0, throw=False)
    assert int(end.steps) == error.value.step < 20
    assert np.all(np.isfinite(end.g))
    assert np.all(gc.metric_pivots(end.g) > 0)
    assert int(info.result[-1]) == int(end.result) == error.value.result
    # once broken it does not move
    again, _, _ = flow.run(end, 2, 1e-3, throw=False)
    assert np.all(again.g == end.g)
    broken = state._replace(g=state.g.at[0, 0, 0, 0].set(jnp.nan))
    assert int(flow.run(broken, 1, 0.01, throw=False)[0].result) == Result.NON_FINITE
    # backwards in time too
    metrics = jnp.stack([state.g] * 9)
    wild = 3 * jax.random.normal(jax.random.key(0), grid.shape)
    with pytest.raises(FlowError, match="smaller dt"):
        conjugate_heat(flow, metrics, wild, 2.0)
    assert not np.all(np.isfinite(conjugate_heat(flow, metrics, wild, 2.0, throw=False)))


@pytest.mark.usefixtures("as_user")
def test_wrong_input_is_named():
    grid = PeriodicGrid((5, 5))
    with pytest.raises(ValueError, match=r"gauge: expected one of .*'deturck'.*, got 'de turck'"):
        RicciFlow(grid, "de turck")
    with pytest.raises(ValueError, match="method: expected one of"):
        RicciFlow(grid, method="euler")
    with pytest.raises(ValueError, match="background: only the gauge 'deturck'"):
        RicciFlow(grid, background=flat(grid))
    with pytest.raises(ValueError, match=r"background: expected .*\(5, 5, 2, 2\).* got"):
        RicciFlow(grid, "deturck", background=jnp.eye(2))
    with pytest.raises(ValueError, match="width: expected a finite number of at least 0, got -1"):
        RicciFlow(grid, width=-1.0)
    with pytest.raises(ValueError, match="diffusivity: expected a finite number above 0"):
        RicciFlow(grid, diffusivity=0.0)
    flow = RicciFlow(grid)
    with pytest.raises(ValueError, match="g: expected a positive definite metric, got an eigen"):
        flow.init(-flat(grid))
    with pytest.raises(ValueError, match=r"g: expected real components of shape"):
        flow.init(jnp.eye(2))
    with pytest.raises(ValueError, match="g: 4 of 100 entries are NaN"):
        flow.init(flat(grid).at[0, 0].set(jnp.nan))
    state = flow.init(flat(grid))
    with pytest.raises(ValueError, match="steps: expected an integer"):
        flow.run(state, 0, 0.1)
    with pytest.raises(ValueError, match="dt: expected a finite number above 0"):
        flow.run(state, 1, -0.1)
    f, metrics = jnp.zeros((5, 5)), jnp.stack([flat(grid)] * 4)
    with pytest.raises(ValueError, match=r"metrics: expected an odd number .* got shape \(4, 5"):
        conjugate_heat(flow, metrics, f, 0.1)
    with pytest.raises(ValueError, match=r"final: expected real values of shape \(5, 5\), got"):
        conjugate_heat(flow, metrics[:3], f[0], 0.1)
    with pytest.raises(ValueError, match="flow: expected a local flow"):
        conjugate_heat(RicciFlow(grid, width=0.1), metrics[:3], f, 0.1)
