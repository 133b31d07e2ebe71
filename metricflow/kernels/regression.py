"""Kernel regression: the flow of the mean squared error under a frozen kernel, solved.

With N training points X, targets y of shape (N, c) and L = 1/2 sum_b |f(x_b) - y_b|^2, the flow
df/dt = -Theta(x, X) (f(X) - y) of a frozen kernel is linear, and at time t

    f_t(x) = f_0(x) + Theta(x, X) phi(Theta) (y - f_0(X)),    phi(mu) = (1 - exp(-mu t)) / mu.

Over random initialisations f_0 ~ GP(0, K), so f_t is Gaussian too.  Functions here take f_0 = 0;
for another start pass y - f_0(X) as targets and add f_0(x).

Conventions: ``reduction="sum"`` is L above; ``"mean"`` divides it by N, which is the time t / N
and, for a weight decay lambda beside the loss, the ridge N lambda.  Points are homogeneous
coordinates (N, n+2), or real (N, d) for kernels that read them.  dtype follows the points.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact, Int

from .. import _checks
from .._annotations import Count
from .._checks import AnyArray
from .._pytree import register_dataclass
from . import solvers
from .operators import PairKernel, apply, check_registered, dense
from .solvers import Scalar, _matmul

REDUCTIONS = ("sum", "mean")
SOLVERS = ("direct", "iterative")


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class KernelFit:
    """f(x) = sum_b Theta(x, x_b) a_b, what training makes of f_0 = 0.

    Attributes:
        kernel: Theta.
        centres: the training points.
        coefficients: a, (N, c).
        ridge: lambda as it was added to the kernel matrix.
        residual: of (Theta + lambda) a = (1 - exp(-(Theta + lambda) t)) y, relative to y, the
            largest over the columns (for finite t by iteration: of the flow, see ``lanczos``).
        iterations: that the solver took, 0 for the direct one.
        chunk: points in a tile.
    """

    kernel: Any
    centres: Inexact[Array, "b k"]
    coefficients: Float[Array, "b c"]
    ridge: Scalar
    residual: Float[Array, ""]
    iterations: Int[Array, ""]
    chunk: Count = dataclasses.field(default=1024, metadata={"static": True})

    def __call__(self, x: Inexact[AnyArray, "b1 k"]) -> Float[Array, "b1 c"]:
        """f at points (M, k), in tiles."""
        x = _points("x", x, self.centres.shape[1])
        return apply(self.kernel, x, self.centres, self.coefficients, chunk=self.chunk)


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class EnsemblePrediction:
    """The Gaussian distribution of f_t over initialisations.

    Attributes:
        mean: (M, c).
        covariance: (M, M), of every column; columns are independent.
    """

    mean: Float[Array, "b1 c"]
    covariance: Float[Array, "b1 b1"]

    @property
    def standard_deviation(self) -> Float[Array, " b1"]:
        """At every point; rounding below zero counts as zero."""
        return jnp.sqrt(jnp.maximum(jnp.diagonal(self.covariance), 0))


def kernel_regression(
    kernel: PairKernel,
    x: Inexact[AnyArray, "b k"],
    y: Float[AnyArray, "b c"],
    *,
    time: Scalar = math.inf,
    ridge: Scalar | None = None,
    reduction: str = "sum",
    solver: str = "direct",
    rank: int = 0,
    tolerance: float = 1e-5,
    iterations: int = 200,
    chunk: Count = 1024,
    throw: bool = True,
) -> KernelFit:
    """Train on (x, y) until t: a = phi(Theta) y, phi(mu) = (1 - e^(-(mu + l) t)) / (mu + l).

    At t = infinity this is ridge regression, a = (Theta + lambda)^-1 y.

    Args:
        kernel: Theta, any scalar kernel.
        x: training points.
        y: targets.
        time: t.
        ridge: lambda.  None: zero at a finite time; at infinity 4 eps N max_a Theta(x_a, x_a), four
            roundings of a bound on the largest eigenvalue.
        reduction: ``"sum"`` or ``"mean"``, see the head of the module.
        solver: ``"direct"`` stores the N x N matrix; Cholesky at infinity, else an
            eigendecomposition.  ``"iterative"`` applies it in tiles; conjugate gradients at
            infinity, else Lanczos, whose basis takes ``iterations`` x N x c numbers.
        rank: of the pivoted Cholesky preconditioner of the conjugate gradients.
        tolerance: the relative residual that an iterative solver has to reach.
        iterations: of an iterative solver, at most (Lanczos takes all of them).
        chunk: points in a tile.
        throw: raise if the solver broke down or did not converge.

    Raises:
        ValueError: sets and targets that do not belong together, NaN among them, numbers or names
            that make no sense.
        numpy.linalg.LinAlgError: the matrix is not positive definite, or no convergence.

    Source: MF 2.12 (its solution for the mean squared error; Jacot et al. 2018, Lee et al. 2019).
    """
    x, y = _training_set(kernel, x, y)
    direct = _option("solver", solver, SOLVERS) == "direct"
    if not isinstance(rank, int) or rank < 0:
        raise ValueError(f"rank: expected an integer of at least 0, got {rank!r}")
    _checks.positive_number("tolerance", tolerance)
    iterations = _checks.positive_integer("iterations", iterations)
    chunk = _checks.positive_integer("chunk", chunk)
    time, ridge, endless = _schedule(kernel, x, time, ridge, reduction)
    if rank and (direct or not endless):
        raise ValueError(
            f"rank: expected 0, got {rank}; only solver='iterative' at time=inf is preconditioned"
        )
    count, definite = jnp.zeros((), int), jnp.ones((), bool)
    if direct:
        matrix = dense(kernel, x, x)
        a, learned = solvers.solve_stored(matrix, y, time, ridge, endless, throw)
        residual = solvers.largest_relative(learned - _matmul(matrix, a) - ridge * a, y)
    elif endless:
        a, residual, count, definite = solvers.conjugate_gradients(
            kernel, x, y, ridge, tolerance, rank=min(rank, len(x)), iterations=iterations,
            chunk=chunk,
        )  # fmt: skip
    else:
        a, residual = solvers.lanczos(kernel, x, y, time, ridge, iterations=iterations, chunk=chunk)
        count = jnp.asarray(min(iterations, len(x)))
    if throw and not direct and not _checks.is_traced(residual) and not residual <= tolerance:
        remedy = "a larger ridge, rank or iterations" if endless else "more iterations"
        if not definite:
            remedy = "a larger ridge, since the kernel matrix has a negative eigenvalue"
        raise np.linalg.LinAlgError(
            f"kernel_regression: relative residual {float(residual):.2g} after {int(count)} "
            f"iterations, wanted {tolerance:.2g}; take {remedy}, or solver='direct', or "
            "throw=False to have it anyway"
        )
    return KernelFit(kernel, x, a, jnp.asarray(ridge), residual, count, chunk)


def regression_trajectory(
    kernel: PairKernel,
    x_train: Inexact[AnyArray, "b k"],
    y: Float[AnyArray, "b c"],
    x_test: Inexact[AnyArray, "b1 k"],
    times: Float[AnyArray, " t"],
    *,
    ridge: Scalar | None = None,
    reduction: str = "sum",
    chunk: Count = 1024,
) -> Float[Array, "t b1 c"]:
    """f_t(x) at several finite times from one eigendecomposition of the N x N matrix.

    Args:
        kernel: Theta.
        x_train, y: what to train on.
        x_test: where to predict.
        times: t > 0.
        ridge: lambda, weight decay; None for zero.
        reduction: ``"sum"`` or ``"mean"``.
        chunk: points in a tile.

    Raises:
        ValueError, numpy.linalg.LinAlgError: as :func:`kernel_regression`.

    Source: MF 2.12 (its solution for the mean squared error).
    """
    x, y = _training_set(kernel, x_train, y)
    points = _points("x_test", x_test, x.shape[1])
    chunk = _checks.positive_integer("chunk", chunk)
    times = jnp.asarray(times, y.dtype)
    if times.ndim != 1 or not len(times):
        raise ValueError(f"times: expected shape (T,) with T > 0, got {times.shape}")
    _checks.finite("times", times)
    times, ridge, _ = _schedule(kernel, x, times, ridge, reduction)
    matrix = dense(kernel, x, x)
    eigenvalues, vectors = solvers.spectrum(matrix)
    phi = solvers.spectral_filter(eigenvalues, times[:, None], ridge)
    parts = phi[:, :, None] * _matmul(vectors.T, y)
    a = jnp.moveaxis(_matmul(vectors, parts), 0, 1).reshape(len(x), -1)
    found = apply(kernel, points, x, a, chunk=chunk)
    return jnp.moveaxis(found.reshape(len(points), len(times), -1), 1, 0)


def ensemble_prediction(
    ntk: PairKernel,
    nngp: PairKernel,
    x_train: Inexact[AnyArray, "b k"],
    y: Float[AnyArray, "b c"],
    x_test: Inexact[AnyArray, "b1 k"],
    *,
    time: Scalar = math.inf,
    ridge: Scalar | None = None,
    noise: Scalar = 0.0,
    reduction: str = "sum",
) -> EnsemblePrediction:
    """The distribution of f_t over initialisations f_0 ~ GP(0, K) of infinitely wide networks.

    With A(x) = Theta(x, X) phi(Theta), the mean is A y and the covariance

        K(x, x') + A(x) (K(X, X) + s^2) A(x')^T - A(x) K(X, x') - K(x, X) A(x')^T.

    Bayesian inference is the case Theta = K at t = infinity (only the output layer is trained),
    with observations of variance s^2 = lambda.  The matrices of both kernels over training and
    test points are stored.

    Args:
        ntk: Theta.
        nngp: K.
        x_train, y: what to train on.
        x_test: where to predict, (M, k).
        time, ridge, reduction: as for :func:`kernel_regression`.
        noise: s^2; every member is trained on targets with noise of this variance.

    Raises:
        ValueError, numpy.linalg.LinAlgError: as :func:`kernel_regression`.

    Source: MF 2.12 (its ensemble for the mean squared error; Lee et al. 2019, equations 14 to 16).
    """
    x, y = _training_set(ntk, x_train, y)
    _kernel("nngp", nngp)
    points = _points("x_test", x_test, x.shape[1])
    if not _checks.is_traced(noise) and not 0 <= noise < math.inf:
        raise ValueError(f"noise: expected a finite variance of at least 0, got {noise}")
    time, ridge, endless = _schedule(ntk, x, time, ridge, reduction)
    theta = dense(ntk, x, x)
    across = dense(ntk, x, points)
    weights = solvers.solve_stored(theta, across, time, ridge, endless)[0].T
    within, between, prior = (
        dense(nngp, *pair) for pair in ((x, x), (x, points), (points, points))
    )
    mixed = _matmul(weights, between)
    drawn = _matmul(_matmul(weights, within), weights.T) + noise * _matmul(weights, weights.T)
    covariance = prior + drawn - mixed - mixed.T
    return EnsemblePrediction(_matmul(weights, y), (covariance + covariance.T) / 2)


def leave_one_out(
    kernel: PairKernel,
    x: Inexact[AnyArray, "b k"],
    y: Float[AnyArray, "b c"],
    *,
    ridge: Scalar | None = None,
) -> Float[Array, "b c"]:
    """y_b - f(x_b), f being the fit (t = infinity) to all points but x_b: a_b / G_bb.

    G = (Theta + lambda)^-1 and a = G y: all N fits cost as much as one.  Stores N x N.

    Args:
        kernel: Theta.
        x, y: the training set.
        ridge: lambda, as added to the matrix; by default that of :func:`kernel_regression`.

    Raises:
        ValueError, numpy.linalg.LinAlgError: as :func:`kernel_regression`.
    """
    x, y = _training_set(kernel, x, y)
    _, ridge, _ = _schedule(kernel, x, math.inf, ridge, "sum")
    matrix = dense(kernel, x, x)
    inverse, _ = solvers.solve_stored(matrix, jnp.eye(len(x), dtype=y.dtype), math.inf, ridge, True)
    return _matmul(inverse, y) / jnp.diagonal(inverse)[:, None]


def log_marginal_likelihood(
    kernel: PairKernel,
    x: Inexact[AnyArray, "b k"],
    y: Float[AnyArray, "b c"],
    *,
    ridge: Scalar | None = None,
) -> Float[Array, " c"]:
    """log p(y) for y ~ N(0, Theta + lambda), column by column; differentiable in the kernel.

    -1/2 y^T (Theta + lambda)^-1 y - 1/2 log det(Theta + lambda) - N/2 log 2 pi.  Stores N x N.

    Args:
        kernel: Theta.
        x, y: the training set.
        ridge: lambda, here the variance of the observations; by default that of
            :func:`kernel_regression`.

    Raises:
        ValueError, numpy.linalg.LinAlgError: as :func:`kernel_regression`.
    """
    x, y = _training_set(kernel, x, y)
    _, ridge, _ = _schedule(kernel, x, math.inf, ridge, "sum")
    matrix = dense(kernel, x, x)
    factor = jnp.linalg.cholesky(matrix + ridge * jnp.eye(len(x), dtype=matrix.dtype))
    solvers.check_factored(factor, matrix, ridge)
    white = jax.scipy.linalg.solve_triangular(factor, y, lower=True)
    half_determinant = jnp.sum(jnp.log(jnp.diagonal(factor)))
    return -jnp.sum(white**2, axis=0) / 2 - half_determinant - len(x) / 2 * math.log(2 * math.pi)


def _points(name: str, x: AnyArray, width: int | None = None) -> Array:
    x = jnp.asarray(x)
    expected = f"real or complex points of shape (N, {width or 'k'})"
    if x.ndim != 2 or not jnp.issubdtype(x.dtype, jnp.inexact) or width not in (None, x.shape[1]):
        raise ValueError(f"{name}: expected {expected}, got {x.dtype} of shape {x.shape}")
    if x.size == 0:
        raise ValueError(f"{name}: expected at least one point, got an empty array {x.shape}")
    _checks.finite(name, x)
    return x


def _kernel(name: str, kernel: object) -> None:
    if not isinstance(kernel, PairKernel):
        raise ValueError(
            f"{name}: expected a scalar kernel with a method matrix(x1, x2), got "
            f"{type(kernel).__name__}; one that mixes components serves KernelFlow"
        )
    check_registered(name, kernel)


def _training_set(kernel: object, x: AnyArray, y: AnyArray) -> tuple[Array, Array]:
    _kernel("kernel", kernel)
    x = _points("x", x)
    if not jnp.iscomplexobj(x) and not getattr(kernel, "reads_vectors", False):
        raise ValueError(
            f"x: expected complex homogeneous coordinates for {type(kernel).__name__}, got "
            f"{x.dtype}; a kernel of real vectors says reads_vectors = True in its class"
        )
    y = jnp.asarray(y)
    if y.ndim != 2 or len(y) != len(x) or y.size == 0:
        raise ValueError(
            f"y: expected shape ({len(x)}, c), a row for each point, got {y.shape}; one output is "
            "y[:, None]"
        )
    if jnp.iscomplexobj(y):
        raise ValueError(f"y: expected real targets, got {y.dtype}; stack real and imaginary parts")
    _checks.finite("y", y)
    return x, y.astype(x.real.dtype)


def _schedule(
    kernel: Any, x: Array, time: Any, ridge: Scalar | None, reduction: str
) -> tuple[Any, Scalar, bool]:
    """t and lambda for the summed loss, and whether t is infinite."""
    concrete = not _checks.is_traced(time)
    if concrete and not np.all(np.asarray(time) > 0):
        raise ValueError(f"time: expected numbers above 0, or infinity, got {time}")
    endless = concrete and bool(np.any(np.isinf(np.asarray(time))))
    size = len(x) if _option("reduction", reduction, REDUCTIONS) == "mean" else 1
    if ridge is not None:
        if not _checks.is_traced(ridge) and not 0 < ridge < math.inf:
            raise ValueError(
                f"ridge: expected a finite number above 0, got {ridge}; None takes the smallest "
                "that is safe"
            )
        return time / size, ridge * size, endless
    if not endless:
        return time / size, 0.0, False
    largest = jnp.max(solvers.diagonal(kernel, x))
    return time / size, 4 * len(x) * jnp.finfo(largest.dtype).eps * largest, True


def _option(name: str, value: str, options: tuple[str, ...]) -> str:
    if value not in options:
        raise ValueError(f"{name}: expected one of {options}, got {value!r}")
    return value
