"""Kernel regression against the flows, ensembles and refits that it stands for."""

import dataclasses
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.stats

from metricflow import ansatz, kernels
from metricflow._pytree import register_dataclass
from metricflow.kernels import (
    ensemble_prediction,
    kernel_regression,
    regression_trajectory,
    solvers,
)
from tests.tolerances import tolerance


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Rbf:
    """exp(-|x - y|^2 / 2 width^2) of real points."""

    width: Any

    reads_vectors = True

    def matrix(self, x, y):
        return jnp.exp(-jnp.sum((x[:, None] - y[None]) ** 2, -1) / (2 * self.width**2))


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """The kernel of a model that is linear in its parameters: Phi(x) Phi(y)^T."""

    weights: Any

    reads_vectors = True

    def features(self, x):
        return jnp.tanh(x @ self.weights) / jnp.sqrt(self.weights.shape[1])

    def matrix(self, x, y):
        return self.features(x) @ self.features(y).T


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Broken:
    """No kernel: a matrix with an eigenvalue far below zero, or NaN."""

    value: float

    reads_vectors = True

    def matrix(self, x, y):
        return jnp.full((len(x), len(y)), self.value) - 2 * jnp.eye(len(x), len(y))


def data(dtype="float64", n=12, m=5, d=3, c=2, seed=0):
    """Training points, targets and test points."""
    rng = np.random.default_rng(seed)
    sets = rng.normal(size=(n, d)), rng.normal(size=(n, c)), rng.normal(size=(m, d))
    return tuple(jnp.asarray(a.astype(dtype)) for a in sets)


def projective(n):
    """Homogeneous coordinates, of no hypersurface in particular."""
    return jax.random.normal(jax.random.key(0), (n, 5), complex)


def integrated(kernel, x, y, points, time):
    """The flow of f at training and test points, by a high order method."""
    every = jnp.concatenate([x, points])
    theta = np.asarray(kernel.matrix(every, x))
    n, c = y.shape

    def velocity(_, f):
        f = f.reshape(-1, c)
        return (-theta @ (f[:n] - np.asarray(y))).ravel()

    start = np.zeros(len(every) * c)
    found = scipy.integrate.solve_ivp(
        velocity, (0, time), start, method="DOP853", rtol=1e-12, atol=1e-13
    )
    return found.y[:, -1].reshape(-1, c)


@pytest.mark.equation("MF 2.12")
@pytest.mark.parametrize("time", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("seed", range(2))
def test_the_closed_form_is_the_integrated_flow(time, seed):
    x, y, points = data(seed=seed)
    kernel = Rbf(1.0 + seed)
    expected = integrated(kernel, x, y, points, time)
    fit = kernel_regression(kernel, x, y, time=time, chunk=5)
    for z, part in ((x, expected[: len(x)]), (points, expected[len(x) :])):
        np.testing.assert_allclose(fit(z), part, atol=1e-10 * np.abs(expected).max())
    path = regression_trajectory(kernel, x, y, points, jnp.asarray([time / 3, time]), chunk=2)
    np.testing.assert_allclose(path[1], fit(points), rtol=tolerance("algebra"), atol=1e-12)
    assert fit.residual < 1e-13
    assert fit.ridge == 0
    # weight decay: the flow of 1/2 |f - y|^2 + lambda / 2 |theta|^2, in the coefficients
    theta, ridge = np.asarray(kernel.matrix(x, x)), 0.3
    decayed = kernel_regression(kernel, x, y, time=time, ridge=ridge)
    rate = theta + ridge * np.eye(len(x))
    a = np.linalg.solve(rate, y - scipy.linalg.expm(-rate * time) @ y)
    np.testing.assert_allclose(decayed.coefficients, a, rtol=1e-9, atol=1e-11)


@pytest.mark.equation("MF 2.12")
def test_gradient_steps_tend_to_it_at_order_one():
    x, y, points = data()
    kernel, time = Rbf(1.5), 2.0
    exact = kernel_regression(kernel, x, y, time=time)(points)
    theta = kernel.matrix(x, x)

    def error(steps):
        a = jnp.zeros_like(y)
        for _ in range(steps):
            a = a - time / steps * (theta @ a - y)
        return float(jnp.abs(kernel.matrix(points, x) @ a - exact).max())

    errors = [error(n) for n in (50, 100, 200)]
    for first, second in itertools.pairwise(errors):
        assert 1.8 < first / second < 2.2
    assert errors[2] < 0.05


@pytest.mark.equation("MF 2.12")
def test_early_and_late_times(dtype):
    x, y, points = data(dtype)
    kernel = Rbf(jnp.asarray(0.8, dtype))
    endless = kernel_regression(kernel, x, y)
    late = kernel_regression(kernel, x, y, time=1e6)
    close = {"float32": 2e-3, "float64": 1e-10}[dtype]
    np.testing.assert_allclose(late(points), endless(points), atol=close)
    np.testing.assert_allclose(endless(x), y, atol=close)  # it interpolates
    for time in (1e-3, 1e-4):
        early = kernel_regression(kernel, x, y, time=time)(points) / time
        np.testing.assert_allclose(early, kernel.matrix(points, x) @ y, atol=20 * time)
    assert endless(points).dtype == late.coefficients.dtype == dtype
    # the ridge that is taken by itself, and that it is enough where the matrix has no rank
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(endless.ridge, 4 * len(x) * eps, rtol=1e-6)
    flat = kernel_regression(Rbf(jnp.asarray(1e3, dtype)), *data(dtype, n=200)[:2], solver="direct")
    assert np.isfinite(flat.coefficients).all()


@pytest.mark.parametrize("time", [0.7, math.inf])
def test_the_mean_divides_time_by_the_number_of_points(time):
    x, y, points = data()
    n, kernel = len(x), Rbf(1.0)
    mean = kernel_regression(kernel, x, y, time=time, ridge=0.01, reduction="mean")
    total = kernel_regression(kernel, x, y, time=time / n, ridge=0.01 * n)
    np.testing.assert_allclose(mean(points), total(points), rtol=1e-12)
    # ridge regression minimises |f - y|^2 / 2N + lambda |f|^2 / 2
    if time == math.inf:
        theta = kernel.matrix(x, x)

        def loss(a):
            return jnp.sum((theta @ a - y) ** 2) / (2 * n) + 0.01 * jnp.sum(a * (theta @ a)) / 2

        np.testing.assert_allclose(jax.grad(loss)(mean.coefficients), 0, atol=1e-13)


def test_the_filter_of_the_spectrum():
    mu = jnp.asarray([-1e-17, 0.0, 1e-300, 1e-9, 0.5, 3.0])
    np.testing.assert_allclose(
        kernels.spectral_filter(mu, 2.0),
        [2, 2, 2, 2, (1 - np.exp(-1)) / 0.5, (1 - np.exp(-6)) / 3],
        rtol=1e-8,
    )
    np.testing.assert_allclose(kernels.spectral_filter(mu[1:], jnp.inf, 0.1), 1 / (mu[1:] + 0.1))
    small = kernels.spectral_filter(jnp.asarray([0.0, 1e-3], jnp.float32), 1e-3)
    np.testing.assert_allclose(small, 1e-3 * np.asarray([1, 1 - 5e-7]), rtol=1e-7)


@pytest.mark.equation("MF 2.12")
@pytest.mark.parametrize("time", [1.5, math.inf])
def test_an_ensemble_of_linear_models_tends_to_the_formula(time):
    """f = Phi w with w ~ N(0, 1): every member is trained in its parameters, Theta = K."""
    x, y, points = data(n=6, m=4)
    kernel = Features(jnp.asarray(np.random.default_rng(1).normal(size=(3, 40))))
    found = ensemble_prediction(kernel, kernel, x, y, points, time=time)
    train, test = (np.asarray(kernel.features(z)) for z in (x, points))
    theta = train @ train.T
    decay = np.zeros_like(theta) if time == math.inf else scipy.linalg.expm(-theta * time)
    weights = train.T @ np.linalg.solve(theta, np.eye(6) - decay)

    def errors(draws):
        rng = np.random.default_rng(draws)
        w = rng.normal(size=(40, draws))
        trained = [w + weights @ (np.asarray(y)[:, c, None] - train @ w) for c in range(2)]
        f = [test @ one for one in trained]
        mean = np.stack([one.mean(1) for one in f], 1) - found.mean
        return np.linalg.norm(mean), np.linalg.norm(np.cov(f[0]) - found.covariance)

    few, many = errors(400), errors(160_000)
    scale = np.linalg.norm(found.covariance)
    assert many[1] < 0.01 * scale
    assert few[1] < 0.3 * scale
    for first, second in zip(few, many, strict=True):
        assert 5 < first / second < 80  # 20 on average


@pytest.mark.equation("MF 2.12")
def test_wide_networks_are_such_an_ensemble():
    """Linearised ReLU networks of width 1024, each with its own tangent kernel."""
    draws, width, times = 400, 1024, (0.5, math.inf)
    x, y, points = data(n=5, m=4, c=1, seed=3)
    every = jnp.concatenate([x, points])
    network = ansatz.Mlp(
        (width,), "relu", parameterisation="ntk", input_variance=2.0, output_variance=2.0
    )

    def one(key):
        parameters = network.init(key, x[0])
        value = jax.vmap(lambda z: network.apply(parameters, z))(every)
        jacobian = jax.vmap(lambda z: jax.grad(network.apply)(parameters, z))(every)
        flat = jnp.concatenate([j.reshape(len(every), -1) for j in jax.tree.leaves(jacobian)], 1)
        theta = flat @ flat.T
        mu, q = jnp.linalg.eigh(theta[:5, :5])
        learned = 1 - jnp.exp(-mu * jnp.asarray(times)[:, None])
        a = q @ (learned / mu * (q.T @ (y[:, 0] - value[:5]))).T
        return (value[:, None] + theta[:, :5] @ a)[5:]

    trained = jax.lax.map(one, jax.random.split(jax.random.key(0), draws), batch_size=20)
    ntk, nngp = (
        kernels.InfiniteNetwork("relu", 1, math.sqrt(2), 0.0, statistic=s) for s in ("ntk", "nngp")
    )
    for time, f in zip(times, np.moveaxis(np.asarray(trained), -1, 0), strict=True):
        found = ensemble_prediction(ntk, nngp, x, y, points, time=time)
        mean = f.mean(0)
        assert np.all(np.abs(mean - found.mean[:, 0]) < 4 * f.std(0) / np.sqrt(draws))
        products = (f - mean)[:, :, None] * (f - mean)[:, None, :]
        spread = products.std(0) / np.sqrt(draws)
        assert np.all(np.abs(products.mean(0) - found.covariance) < 4 * spread)
        np.testing.assert_allclose(f.std(0), found.standard_deviation, rtol=0.15)


@pytest.mark.parametrize("noise", [0.05])
def test_bayesian_inference_is_a_special_case(noise, dtype):
    x, y, points = data(dtype)
    kernel = Rbf(jnp.asarray(1.2, dtype))
    found = ensemble_prediction(kernel, kernel, x, y, points, ridge=noise, noise=noise)
    k, across, prior = (
        np.asarray(kernel.matrix(a, b), float) for a, b in ((x, x), (points, x), (points, points))
    )
    gain = across @ np.linalg.inv(k + noise * np.eye(len(x)))
    close = tolerance("algebra", dtype)
    np.testing.assert_allclose(found.mean, gain @ y, atol=10 * close)
    np.testing.assert_allclose(found.covariance, prior - gain @ across.T, atol=10 * close)
    assert found.covariance.dtype == dtype
    # without the noise of the observations every member is surer than it should be
    without = ensemble_prediction(kernel, kernel, x, y, points, ridge=noise)
    np.testing.assert_allclose(
        found.covariance - without.covariance, noise * gain @ gain.T, atol=10 * close
    )


@pytest.mark.parametrize("time", [0.3, 10.0, math.inf])
def test_covariances_are_positive_and_vanish_where_the_fit_is_exact(time):
    z = projective(30)
    y = jax.random.normal(jax.random.key(1), (20, 1))
    ntk, nngp = kernels.InfiniteNetwork("relu", 2, 1.4, 0.1), kernels.Gaussian(0.4)
    found = ensemble_prediction(ntk, nngp, z[:20], y, z, time=time)
    np.testing.assert_array_equal(found.covariance, found.covariance.T)
    eigenvalues = np.linalg.eigvalsh(found.covariance)
    assert eigenvalues[0] > -1e-9 * eigenvalues[-1]
    np.testing.assert_allclose(
        found.mean[20:], kernel_regression(ntk, z[:20], y, time=time)(z[20:])
    )
    spread = found.standard_deviation
    assert spread[20:].min() > 0.1
    if time == math.inf:
        assert spread[:20].max() < 2e-6
        np.testing.assert_allclose(found.mean[:20], y, atol=1e-8)
    else:
        assert spread[:20].min() > 2e-5


@pytest.mark.parametrize("rank", [0, 40])
@pytest.mark.parametrize("ridge", [1.0, 1e-3])
def test_conjugate_gradients_give_what_cholesky_gives(rank, ridge):
    z = projective(150)
    size = jnp.asarray([1.0, 1e4, 1.0])
    y = jax.random.normal(jax.random.key(1), (150, 3)) * size * jnp.asarray([1, 1, 0])
    direct = kernel_regression(kernels.Gaussian(0.4), z, y, ridge=ridge)
    found = kernel_regression(
        kernels.Gaussian(0.4), z, y, ridge=ridge, solver="iterative", rank=rank, tolerance=1e-11,
        iterations=2000, chunk=64,
    )  # fmt: skip
    np.testing.assert_allclose(
        found.coefficients / size, direct.coefficients / size, atol=1e-10 / ridge
    )
    assert found.residual <= 1e-11
    assert direct.residual < 1e-11
    assert 0 < found.iterations < 2000
    np.testing.assert_allclose(found(z[:7]), direct(z[:7]), rtol=1e-8, atol=1e-10)


def test_the_preconditioner_saves_iterations(dtype):
    x, y, _ = data(dtype, n=300)
    ridge, wanted = {"float32": (1e-1, 1e-4), "float64": (1e-4, 1e-8)}[dtype]

    def count(rank):
        fit = kernel_regression(
            Rbf(jnp.asarray(1.5, dtype)), x, y, ridge=ridge, solver="iterative", rank=rank,
            iterations=3000, tolerance=wanted,
        )  # fmt: skip
        assert fit.coefficients.dtype == dtype
        return int(fit.iterations)

    plain, helped = count(0), count(150)
    assert helped * 5 < plain, (plain, helped)


@pytest.mark.parametrize("time", [0.01, 20.0])
def test_lanczos_gives_what_the_eigendecomposition_gives(time):
    x, y, points = data(n=60, seed=4)
    y = y.at[:, 1].set(0)
    kernel, ridge = Rbf(1.0), 0.1
    direct = kernel_regression(kernel, x, y, time=time, ridge=ridge)
    found = kernel_regression(
        kernel, x, y, time=time, ridge=ridge, solver="iterative", tolerance=1e-10, chunk=16
    )
    np.testing.assert_allclose(found(points), direct(points), atol=1e-10)
    assert found.iterations == 60
    # one eigenvector uses up its space at once
    _, q = np.linalg.eigh(np.asarray(kernel.matrix(x, x)))
    single = kernel_regression(
        kernel, x, q[:, -1:], time=time, solver="iterative", tolerance=1e-10, iterations=3
    )
    np.testing.assert_allclose(
        single(x), kernel_regression(kernel, x, q[:, -1:], time=time)(x), atol=1e-11
    )


def test_the_residual_of_lanczos_is_that_of_its_flow():
    """y - Theta a - da/dt, by differences in time."""
    x, y, _ = data(n=60, c=1, seed=4)
    kernel, time, h = Rbf(1.0), 2.0, 1e-4

    def solved(t):
        options = {"solver": "iterative", "iterations": 6, "throw": False}
        return kernel_regression(kernel, x, y, time=t, **options)

    rate = (solved(time + h).coefficients - solved(time - h).coefficients) / (2 * h)
    left = y - kernel.matrix(x, x) @ solved(time).coefficients - rate
    expected = jnp.linalg.norm(left) / jnp.linalg.norm(y)
    assert expected > 1e-3
    np.testing.assert_allclose(solved(time).residual, expected, rtol=1e-5)


@pytest.mark.usefixtures("as_user")
def test_iterative_solvers_never_hold_all_pairs():
    z, y = (
        jax.ShapeDtypeStruct((20_000, 5), jnp.complex64),
        jax.ShapeDtypeStruct((20_000, 2), jnp.float32),
    )
    kernel = kernels.Gaussian(0.3)
    programs = (
        solvers.conjugate_gradients.lower(
            kernel, z, y, 0.1, 1e-5, rank=20, iterations=100, chunk=1000
        ),
        solvers.lanczos.lower(kernel, z, y, 1.0, 0.1, iterations=20, chunk=1000),
    )
    for program in programs:
        memory = program.compile().memory_analysis().temp_size_in_bytes
        assert memory < 80e6  # all pairs: 1.6e9


@pytest.mark.parametrize("rank", [3, 12, 20])
def test_pivoted_cholesky_is_a_lower_bound_that_becomes_exact(rank):
    x, _, _ = data()
    # the first points hardly differ: taken in order they would use up the rank
    x = jnp.concatenate([x[0] + 1e-9 * x[1:7], x])
    theta = np.asarray(Rbf(1.5).matrix(x, x))
    factor = np.asarray(solvers.pivoted_cholesky(Rbf(1.5), x, rank))
    left = theta - factor @ factor.T
    assert np.linalg.eigvalsh(left)[0] > -1e-13
    best = np.sum(np.linalg.eigvalsh(theta)[: 18 - min(rank, 12)])
    assert best - 1e-13 <= np.trace(left) <= 20 * best + 1e-13
    assert np.count_nonzero(np.any(factor, axis=0)) == min(rank, 12)


@pytest.mark.parametrize("ridge", [0.5, 1e-4])
def test_leaving_one_out_is_fitting_without_it(ridge, dtype):
    x, y, _ = data(dtype)
    kernel = Rbf(jnp.asarray(1.0, dtype))
    found = kernels.leave_one_out(kernel, x, y, ridge=ridge)
    for b in range(len(x)):
        fit = kernel_regression(kernel, jnp.delete(x, b, 0), jnp.delete(y, b, 0), ridge=ridge)
        np.testing.assert_allclose(
            found[b], (y[b] - fit(x[b : b + 1]))[0], rtol=0, atol=10 * tolerance("algebra", dtype)
        )
    assert found.dtype == dtype


@pytest.mark.parametrize("ridge", [0.5, 1e-2])
def test_the_marginal_likelihood_is_a_gaussian_density(ridge, dtype):
    x, y, _ = data(dtype)
    kernel = Rbf(jnp.asarray(0.7, dtype))
    found = kernels.log_marginal_likelihood(kernel, x, y, ridge=ridge)
    covariance = np.asarray(kernel.matrix(x, x), float) + ridge * np.eye(len(x))
    expected = scipy.stats.multivariate_normal.logpdf(np.asarray(y, float).T, cov=covariance)
    np.testing.assert_allclose(found, expected, rtol=tolerance("algebra", dtype))
    assert found.dtype == dtype


def test_the_likelihood_finds_the_kernel_of_the_data():
    x, _, _ = data(n=80, d=2)
    covariance = np.asarray(Rbf(0.8).matrix(x, x)) + 0.01 * np.eye(80)
    y = jnp.asarray(np.linalg.cholesky(covariance) @ np.random.default_rng(2).normal(size=(80, 5)))

    @jax.jit
    def likelihood(width):
        return jnp.sum(kernels.log_marginal_likelihood(Rbf(width), x, y, ridge=0.01))

    widths = np.linspace(0.4, 1.4, 21)
    values = [float(likelihood(w)) for w in widths]
    errors = [float(jnp.sum(kernels.leave_one_out(Rbf(w), x, y, ridge=0.01) ** 2)) for w in widths]
    assert abs(widths[np.argmax(values)] - 0.8) < 0.11
    assert abs(widths[np.argmin(errors)] - 0.8) < 0.21
    slope = (likelihood(0.7 + 1e-5) - likelihood(0.7 - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(likelihood)(0.7), slope, rtol=1e-6)


def test_fits_are_pytrees_and_work_inside_jit():
    z = projective(20).astype("complex64")
    y = np.random.default_rng(0).normal(size=(20, 2))  # float64: the points decide

    for options in ({}, {"time": 2.0}, {"solver": "iterative", "rank": 5, "ridge": 0.1}):
        expected = kernel_regression(kernels.Gaussian(0.3), z, y, **options)

        @jax.jit
        def run(z, y, options=options):
            return kernel_regression(kernels.Gaussian(0.3), z, y, **options)

        found = run(z, y)
        assert type(found) is kernels.KernelFit
        assert found.coefficients.dtype == found(z).dtype == "float32"
        np.testing.assert_allclose(found(z), expected(z), atol=2e-3)
        assert expected.residual < 1e-3
    # a time and a ridge that change compile nothing new
    kernel_regression(kernels.Gaussian(0.3), z, y, time=1.0, ridge=0.1)
    before = solvers.filtered._cache_size()
    kernel_regression(kernels.Gaussian(0.3), z, y, time=3.0, ridge=0.2)
    assert solvers.filtered._cache_size() == before


class Opaque:
    def matrix(self, x, y):
        return x @ y.T


X, Y = np.ones((3, 2)), np.ones((3, 1))


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kernel_regression(kernels.Gaussian(0.3), X, Y), "x: .* reads_vectors"),
        (lambda: kernel_regression(Rbf(1.0), X, Y[:2]), r"y: expected shape \(3, c\)"),
        (lambda: kernel_regression(Rbf(1.0), X, Y[:, 0]), r"y\[:, None\]"),
        (lambda: kernel_regression(Rbf(1.0), X, Y + 1j), "y: expected real"),
        (lambda: kernel_regression(Rbf(1.0), X, Y * np.nan), "y: 3 of 3 entries are NaN"),
        (lambda: kernel_regression(Rbf(1.0), X * np.inf, Y), "x: 6 of 6 entries"),
        (
            lambda: kernel_regression(Rbf(1.0), X[:0], Y[:0]),
            "x: expected at least one point",
        ),
        (lambda: kernel_regression(Rbf(1.0), X[0], Y), "x: expected real or complex"),
        (
            lambda: kernel_regression(Rbf(1.0), X.astype(int), Y),
            "x: expected real or complex",
        ),
        (lambda: kernel_regression(Rbf(1.0), X, Y, ridge=0.0), "ridge"),
        (lambda: kernel_regression(Rbf(1.0), X, Y, ridge=math.inf), "ridge"),
        (lambda: kernel_regression(Rbf(1.0), X, Y, time=0.0), "time"),
        (lambda: kernel_regression(Rbf(1.0), X, Y, time=math.nan), "time"),
        (lambda: kernel_regression(Rbf(1.0), X, Y, solver="cg"), "solver: expected one of"),
        (
            lambda: kernel_regression(Rbf(1.0), X, Y, reduction="max"),
            "reduction: expected one of",
        ),
        (lambda: kernel_regression(Rbf(1.0), X, Y, rank=-1), "rank"),
        (lambda: kernel_regression(Rbf(1.0), X, Y, rank=2), "rank: expected 0"),
        (lambda: kernel_regression(Rbf(1.0), X, Y, tolerance=0.0), "tolerance"),
        (lambda: kernel_regression(Rbf(1.0), X, Y, iterations=0), "iterations"),
        (lambda: kernel_regression(Rbf(1.0), X, Y, chunk=0), "chunk"),
        (
            lambda: kernel_regression(kernels.Delta(), X, Y),
            "kernel: expected a scalar kernel",
        ),
        (lambda: kernel_regression(Opaque(), X, Y), "kernel: Opaque is no pytree"),
        (lambda: kernel_regression(Rbf(1.0), X, Y)(np.ones((2, 3))), "x: expected .* 2"),
        (lambda: ensemble_prediction(Rbf(1.0), None, X, Y, X), "nngp: expected a scalar"),
        (
            lambda: ensemble_prediction(Rbf(1.0), Rbf(1.0), X, Y, X[:0]),
            "x_test: .* at least one",
        ),
        (lambda: ensemble_prediction(Rbf(1.0), Rbf(1.0), X, Y, X, noise=-1.0), "noise"),
        (lambda: regression_trajectory(Rbf(1.0), X, Y, X, [1.0, -1.0]), "time"),
        (lambda: regression_trajectory(Rbf(1.0), X, Y, X, [1.0, math.inf]), "times"),
        (lambda: regression_trajectory(Rbf(1.0), X, Y, X, 1.0), "times: expected shape"),
        (lambda: kernels.leave_one_out(Rbf(1.0), X, Y, ridge=-1.0), "ridge"),
        (lambda: kernels.log_marginal_likelihood(Rbf(1.0), X, Y[:2]), "y: "),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_breaks_down_says_so():
    x, y, points = data()
    with pytest.raises(np.linalg.LinAlgError, match="eigenvalues begin at -2; try ridge=4") as bad:
        kernel_regression(Broken(0.0), x, y, ridge=0.01)
    ridge = float(str(bad.value).rsplit("=", 1)[1])
    assert np.isfinite(kernel_regression(Broken(0.0), x, y, ridge=ridge).coefficients).all()
    for run in (
        lambda kernel: kernel_regression(kernel, x, y, time=1.0),
        lambda kernel: regression_trajectory(kernel, x, y, points, jnp.ones(1)),
        lambda kernel: ensemble_prediction(kernel, kernel, x, y, points, time=1.0),
    ):
        with pytest.raises(np.linalg.LinAlgError, match="positive semi-definite"):
            run(Broken(0.0))
    for run in (kernel_regression, kernels.leave_one_out, kernels.log_marginal_likelihood):
        with pytest.raises(np.linalg.LinAlgError, match="eigenvalues from nan"):
            run(Broken(math.nan), x, y, ridge=0.1)
        with pytest.raises(np.linalg.LinAlgError, match="try ridge"):
            run(Broken(0.0), x, y, ridge=0.1)
    broken = kernel_regression(Broken(0.0), x, y, ridge=0.01, throw=False)
    assert np.isnan(broken.residual)
    with pytest.raises(np.linalg.LinAlgError, match="negative eigenvalue"):
        kernel_regression(Broken(0.0), x, y, ridge=0.1, solver="iterative")
    options = {"solver": "iterative", "iterations": 2, "tolerance": 1e-9}
    for time, remedy in ((math.inf, "a larger ridge, rank"), (30.0, "more iterations")):
        with pytest.raises(np.linalg.LinAlgError, match=remedy):
            kernel_regression(Rbf(2.0), x, y, time=time, ridge=1e-6, **options)
        rough = kernel_regression(Rbf(2.0), x, y, time=time, ridge=1e-6, throw=False, **options)
        assert rough.residual > 1e-9
        assert rough.iterations == 2
