import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow.geometry import PeriodicGrid
from tests.tolerances import tolerance

# an axis of either kind: a matrix for few points, a transform for many
GRIDS = pytest.mark.parametrize(
    "grid",
    [
        PeriodicGrid((9,)),
        PeriodicGrid((101, 7), (3.0, 1.0)),
        PeriodicGrid((5, 7, 9), (1.0, 2.0, 3.0)),
    ],
    ids=str,
)


def wave(grid, modes, dtype="float64", phase=0.3):
    """cos(k.x + phase) with ``modes`` periods on the axes, and k."""
    k = 2 * np.pi * np.array(modes) / np.array(grid.lengths)
    return jnp.cos(grid.points(dtype) @ jnp.asarray(k, dtype) + phase), k


def modes_of(grid):
    return [(a + 1) % (n // 2) + 1 for a, n in enumerate(grid.shape)]


def close(found, expected, dtype="float64", scale=1.0):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance("algebra", dtype) * scale)


@GRIDS
def test_points_stand_at_regular_places(grid, dtype):
    x = grid.points(dtype)
    assert x.shape == (*grid.shape, grid.dim)
    assert x.dtype == dtype
    assert not np.any(x[(0,) * grid.dim])
    spacing = [length / n for length, n in zip(grid.lengths, grid.shape, strict=True)]
    np.testing.assert_allclose(x[(1,) * grid.dim], spacing, rtol=1e-6)
    assert grid.size == np.prod(grid.shape)
    assert grid.cell == pytest.approx(np.prod(spacing))


@GRIDS
def test_derivatives_of_waves_are_exact(grid, dtype):
    f, k = wave(grid, modes_of(grid), dtype)
    g, _ = wave(grid, modes_of(grid), dtype, phase=0.3 + np.pi / 2)  # -sin
    found = jax.jit(grid.gradient)(f)
    assert found.dtype == dtype
    scale = np.max(np.abs(k))
    close(found, g[..., None] * jnp.asarray(k, dtype), dtype, scale)
    close(jax.jit(grid.laplacian)(f), -np.sum(k**2) * f, dtype, scale**2)


@GRIDS
def test_entries_of_tensors_are_differentiated_one_by_one(grid):
    f = grid.random_field(jax.random.key(0), 1, entries=(2, 3))
    found = grid.derivative(f, grid.dim - 1)
    assert found.shape == f.shape
    close(found[..., 1, 2], grid.derivative(f[..., 1, 2], grid.dim - 1), scale=10)
    assert grid.gradient(f).shape == (*f.shape, grid.dim)


@GRIDS
def test_derivatives_are_antisymmetric_commute_and_vanish_on_constants_only(grid):
    """For any values at the points, the highest modes included."""
    noise = np.random.default_rng(1).normal(size=(2, *grid.shape))

    @jax.jit
    def slopes(f):
        first = [grid.derivative(f, a) for a in range(grid.dim)]
        swapped = [grid.derivative(grid.derivative(f, 0), a) for a in range(grid.dim)]
        return first, [grid.derivative(x, 0) for x in first], swapped

    (a, second, swapped), (b, _, _) = slopes(noise[0]), slopes(noise[1])
    for axis in range(grid.dim):
        size = float(np.max(np.abs(a[axis])))
        close(np.mean(noise[0] * b[axis] + noise[1] * a[axis]), 0, scale=size)
        close(np.mean(a[axis]), 0, scale=size)
        close(second[axis], swapped[axis], scale=size * 1e3)
    line = jax.jit(jax.vmap(lambda f: PeriodicGrid(grid.shape[:1]).derivative(f, 0)))
    assert np.linalg.matrix_rank(line(np.eye(grid.shape[0]))) == grid.shape[0] - 1


@GRIDS
def test_the_laplacian_is_the_divergence_of_the_gradient(grid):
    f = jax.random.normal(jax.random.key(2), grid.shape)
    twice = sum(grid.derivative(grid.derivative(f, a), a) for a in range(grid.dim))
    close(grid.laplacian(f), twice, scale=float(jnp.max(jnp.abs(twice))))


def test_multipliers_solve_and_convolve():
    grid = PeriodicGrid((15, 13), (3.0, 4.0))
    f = jax.random.normal(jax.random.key(3), grid.shape)
    solved = grid.multiply(f, lambda s: 1 / (1 + 0.7 * s))
    close(solved - 0.7 * grid.laplacian(solved), f, scale=10)
    # against the sum over images of the Gaussian of integral one
    width, bump = 0.5, jnp.zeros(grid.shape).at[0, 0].set(1 / grid.cell)
    found = grid.multiply(bump, lambda s: jnp.exp(-(width**2) * s / 2))
    images = np.stack(np.meshgrid(*(np.arange(-5, 6),) * 2, indexing="ij"), -1).reshape(-1, 2)
    gap = grid.points()[..., None, :] + images * np.array(grid.lengths)
    expected = jnp.sum(jnp.exp(-jnp.sum(gap**2, -1) / (2 * width**2)), -1) / (2 * np.pi * width**2)
    # what the grid does not hold is below 1e-9 at this width
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert float(grid.integral(found)) == pytest.approx(1, rel=tolerance("algebra"))


@pytest.mark.parametrize("n", [7, 9, 11, 13, 15])
def test_smoothing_makes_products_exact(n):
    """The modes that a product of two smooth fields keeps are those of the product on R."""
    grid, fine = PeriodicGrid((n,)), PeriodicGrid((4 * n + 1,))
    modes = (n - 1) // 3
    f, g = np.random.default_rng(n).normal(size=(2, 2 * modes + 1))

    def values(coefficients, on):
        x = on.points()[:, 0]
        waves = [jnp.cos(j * x) for j in range(modes + 1)]
        waves += [jnp.sin(j * x) for j in range(1, modes + 1)]
        return jnp.tensordot(coefficients, jnp.stack(waves), 1)

    close(grid.smooth(values(f, grid)), values(f, grid))
    exact = np.fft.rfft(values(f, fine) * values(g, fine)) / fine.size
    found = np.fft.rfft(grid.smooth(values(f, grid) * values(g, grid))) / n
    close(found[: modes + 1], exact[: modes + 1])
    # no other mode is left
    close(np.fft.rfft(grid.smooth(jnp.eye(n)[0]))[modes + 1 :], 0)


def test_smoothing_keeps_means_and_is_a_projection():
    grid = PeriodicGrid((11, 7))
    noise = jax.random.normal(jax.random.key(4), grid.shape)
    f = grid.smooth(noise)
    close(grid.smooth(f), f)
    close(grid.mean(f), grid.mean(noise))
    low, high = wave(grid, (3, 2))[0], wave(grid, (3, 3))[0]
    close(grid.smooth(low), low)
    close(grid.smooth(high), 0)


def test_means_and_integrals():
    grid = PeriodicGrid((9, 11), (3.0, 5.0))
    f, _ = wave(grid, (2, 3))
    close(grid.integral(1 + 2 * f**2), 30)
    close(grid.mean(f), 0)
    both = jnp.stack([f, 3 + 0 * f], -1)
    close(grid.mean(both), [0, 3])


def test_random_fields(dtype):
    grid = PeriodicGrid((11, 9))
    f = grid.random_field(jax.random.key(5), 2, entries=(2, 2), dtype=dtype)
    assert f.shape == (11, 9, 2, 2)
    assert f.dtype == dtype
    np.testing.assert_allclose(grid.mean(f), 0, atol=tolerance("algebra", dtype))
    np.testing.assert_allclose(grid.mean(f**2), 1, rtol=tolerance("algebra", dtype))
    spectrum = np.abs(np.fft.fftn(f, axes=(0, 1)))
    index = [np.abs(np.fft.fftfreq(n, 1 / n)) > 2.5 for n in grid.shape]
    np.testing.assert_allclose(spectrum[index[0]], 0, atol=100 * tolerance("algebra", dtype))
    np.testing.assert_allclose(spectrum[:, index[1]], 0, atol=100 * tolerance("algebra", dtype))


def test_grids_are_static_and_everything_maps():
    grid = PeriodicGrid((9, 7))
    assert grid == PeriodicGrid((9, 7), (2 * np.pi, 2 * np.pi))
    assert hash(grid) == hash(PeriodicGrid((9, 7)))
    assert jax.tree.leaves(grid) == []
    fields = jax.random.normal(jax.random.key(6), (3, 9, 7, 2))

    def everything(f):
        return grid.gradient(f)[..., 1], grid.laplacian(f), grid.smooth(f), grid.mean(f)

    alone = [jax.jit(everything)(f) for f in fields]
    together = jax.jit(jax.vmap(everything))(fields)
    slope = jax.jit(lambda f, v: jax.jvp(everything, (f,), (v,))[1])(*fields[:2])
    for which in range(4):
        close(together[which], jnp.stack([one[which] for one in alone]), scale=100)
        close(slope[which], alone[1][which], scale=100)
    # without compilation too
    close(grid.derivative(fields[0], 1), alone[0][0], scale=100)


@pytest.mark.usefixtures("as_user")
def test_wrong_input_is_named():
    for shape in ((), (8,), (9, 1), (9, 10)):
        with pytest.raises(ValueError, match=r"shape: expected odd numbers of at least 3.*got"):
            PeriodicGrid(shape)
    for lengths in ((1.0,), (1.0, 0.0), (1.0, np.inf), (1.0, -2.0)):
        with pytest.raises(ValueError, match=r"lengths: expected 2 finite numbers above 0, got"):
            PeriodicGrid((9, 9), lengths)
    grid = PeriodicGrid((9, 7))
    for quantity in (
        grid.gradient,
        grid.laplacian,
        grid.smooth,
        grid.mean,
        lambda f: grid.derivative(f, 0),
    ):
        with pytest.raises(ValueError, match=r"field: expected .*\(9, 7\).* got .* \(7, 9\)"):
            quantity(jnp.ones((7, 9)))
        with pytest.raises(ValueError, match=r"field: expected real numbers .* got complex128"):
            quantity(jnp.ones((9, 7)) + 1j)
    with pytest.raises(ValueError, match=r"modes: .* holds 3, got 4"):
        grid.random_field(jax.random.key(0), 4)
    with pytest.raises(ValueError, match="modes: expected an integer"):
        grid.random_field(jax.random.key(0), 0)
