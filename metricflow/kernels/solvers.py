"""Solving (Theta + lambda) a = (1 - exp(-(Theta + lambda) t)) y for a kernel over a set of points.

Direct: the N x N matrix is stored and factored.  Iterative: it is only applied, in tiles.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Inexact, Int

from .. import _checks
from .operators import apply

Scalar = Float[Array, ""] | float
_matmul = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
_einsum = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def spectral_filter(
    eigenvalues: Float[Array, "..."], time: Any, ridge: Scalar = 0.0
) -> Float[Array, "..."]:
    """phi(mu) = (1 - exp(-(mu + lambda) t)) / (mu + lambda), what training makes of an eigenvalue.

    The coefficients of kernel regression are phi(Theta) y.  Both ways to regularise are such
    filters: early stopping (1 - exp(-mu t)) / mu, which is t for mu = 0, and for t = infinity the
    ridge 1 / (mu + lambda).  Together they are the flow of the loss with weight decay.

    Args:
        eigenvalues: mu; what rounding left below zero counts as zero.
        time: t > 0, infinity included if every mu + lambda is above zero.
        ridge: lambda.

    Raises:
        ValueError: a time that is no number, or negative.

    Source: MF 2.12 (its solution for the mean squared error, eigenvalue by eigenvalue).
    """
    if not _checks.is_traced(time) and not np.all(np.asarray(time) >= 0):
        raise ValueError(f"time: expected a number above 0, got {time!r}")
    rate = jnp.maximum(eigenvalues, 0) + ridge
    positive = rate > 0
    safe = jnp.where(positive, rate, 1)
    return jnp.where(positive, -jnp.expm1(-safe * time) / safe, time)


@jax.jit
def diagonal(kernel: Any, x: Inexact[Array, "b k"]) -> Float[Array, " b"]:
    """K(x_a, x_a)."""
    return jax.vmap(lambda point: kernel.matrix(point[None], point[None])[0, 0])(x)


def largest_relative(error: Float[Array, "b c"], y: Float[Array, "b c"]) -> Float[Array, ""]:
    """max_c |error_c| / |y_c|; a column of zeros counts as one of size one."""
    size = jnp.linalg.norm(y, axis=0)
    return jnp.max(jnp.linalg.norm(error, axis=0) / jnp.where(size > 0, size, 1))


@jax.jit
def cholesky_solve(
    matrix: Float[Array, "b b"], ridge: Scalar, y: Float[Array, "b c"]
) -> Float[Array, "b c"]:
    """(Theta + lambda)^-1 y; NaN where the factorisation broke down."""
    factor = jnp.linalg.cholesky(matrix + ridge * jnp.eye(len(matrix), dtype=matrix.dtype))
    return jax.scipy.linalg.cho_solve((factor, True), y)


@jax.jit
def filtered(
    eigenvalues: Float[Array, " b"],
    vectors: Float[Array, "b b"],
    time: Scalar,
    ridge: Scalar,
    y: Float[Array, "b c"],
) -> tuple[Float[Array, "b c"], Float[Array, "b c"]]:
    """phi(Theta) y and (1 - exp(-(Theta + lambda) t)) y from an eigendecomposition."""
    phi = spectral_filter(eigenvalues, time, ridge)
    rate = jnp.maximum(eigenvalues, 0) + ridge
    parts = phi[:, None] * _matmul(vectors.T, y)
    return _matmul(vectors, parts), _matmul(vectors, rate[:, None] * parts)


def solve_stored(
    matrix: Array, y: Array, time: Scalar, ridge: Scalar, endless: bool, throw: bool = True
) -> tuple[Array, Array]:
    """a = phi(Theta) y from the stored matrix, and (1 - exp(-(Theta + lambda) t)) y."""
    if endless:
        a = cholesky_solve(matrix, ridge, y)
        if throw:
            check_factored(a, matrix, ridge)
        return a, y
    eigenvalues, vectors = spectrum(matrix, throw)
    return filtered(eigenvalues, vectors, time, ridge, y)


def spectrum(
    matrix: Float[Array, "b b"], throw: bool = True
) -> tuple[Float[Array, " b"], Float[Array, "b b"]]:
    """Eigenvalues and vectors of a matrix that has to be positive semi-definite to rounding."""
    eigenvalues, vectors = jnp.linalg.eigh(matrix)
    rounding = -100 * len(matrix) * jnp.finfo(matrix.dtype).eps * eigenvalues[-1]
    if throw and not _checks.is_traced(eigenvalues) and not eigenvalues[0] >= rounding:
        raise np.linalg.LinAlgError(_indefinite(float(eigenvalues[0]), float(eigenvalues[-1])))
    return eigenvalues, vectors


def check_factored(found: Array, matrix: Float[Array, "b b"], ridge: Scalar) -> None:
    """Raise LinAlgError if what came of a Cholesky factorisation is not finite (tracers pass)."""
    if _checks.is_traced(found) or bool(jnp.all(jnp.isfinite(found))):
        return
    eigenvalues = jnp.linalg.eigvalsh(matrix)
    least, largest = float(eigenvalues[0]), float(eigenvalues[-1])
    if not math.isfinite(least):
        raise np.linalg.LinAlgError(_indefinite(least, largest))
    enough = 2 * max(-least, 0) + 10 * float(ridge)
    raise np.linalg.LinAlgError(
        f"the Cholesky factorisation of the kernel matrix broke down with ridge {float(ridge):.2g}:"
        f" its eigenvalues begin at {least:.2g}; try ridge={enough:.2g}"
    )


def _indefinite(least: float, largest: float) -> str:
    return (
        f"kernel: expected a positive semi-definite matrix, got eigenvalues from {least:.2g} to "
        f"{largest:.2g}; check the kernel at these points"
    )


@partial(jax.jit, static_argnames="rank")
def pivoted_cholesky(kernel: Any, x: Inexact[Array, "b k"], rank: int) -> Float[Array, "b r"]:
    """L with L L^T close to Theta: each column removes the largest diagonal entry that is left.

    Evaluates r rows of the kernel, and needs no more memory than L.  Columns after the matrix has
    been used up are zero.

    Source: Harbrecht, Peters, Schneider 2012.
    """
    start = diagonal(kernel, x)
    rounding = len(x) * jnp.finfo(start.dtype).eps * jnp.max(start)

    def column(place: Int[Array, ""], carry: tuple[Array, Array]) -> tuple[Array, Array]:
        factor, left = carry
        pivot = jnp.argmax(left)
        row = kernel.matrix(x[pivot][None], x)[0] - _matmul(factor, factor[pivot])
        there = left[pivot] > rounding
        new = jnp.where(there, row / jnp.sqrt(jnp.where(there, left[pivot], 1)), 0)
        left = jnp.maximum(left - new**2, 0).at[pivot].set(0)
        return factor.at[:, place].set(new), left

    factor = jnp.zeros((len(x), rank), start.dtype)
    factor, _ = jax.lax.fori_loop(0, rank, column, (factor, start))
    return factor


@partial(jax.jit, static_argnames=("rank", "iterations", "chunk"))
def conjugate_gradients(
    kernel: Any,
    x: Inexact[Array, "b k"],
    y: Float[Array, "b c"],
    ridge: Scalar,
    tolerance: Scalar,
    *,
    rank: int,
    iterations: int,
    chunk: int,
) -> tuple[Float[Array, "b c"], Float[Array, ""], Int[Array, ""], Bool[Array, ""]]:
    """(Theta + lambda)^-1 y, all columns at once, the matrix never stored.

    The preconditioner is (L L^T + lambda)^-1 with L of ``rank`` columns from
    :func:`pivoted_cholesky`, applied in its eigenbasis (the Woodbury formula, but stable for
    lambda near rounding).

    Returns:
        The solution, its relative residual (computed anew, not the one that the recursion
        carries), the number of iterations, and whether the matrix was positive along all of them.
    """
    size = jnp.linalg.norm(y, axis=0)
    scale = jnp.where(size > 0, size, 1)
    b = y / scale
    if rank:
        u, s, _ = jnp.linalg.svd(pivoted_cholesky(kernel, x, rank), full_matrices=False)
        inside = (1 / (s**2 + ridge) - 1 / ridge)[:, None]

    def precondition(r: Array) -> Array:
        return r / ridge + _matmul(u, inside * _matmul(u.T, r)) if rank else r

    def shifted(v: Array) -> Array:
        return apply(kernel, x, x, v, chunk=chunk) + ridge * v

    def running(carry: tuple[Any, ...]) -> Array:
        # to half the tolerance, since the recursion drifts away from the true residual
        _, r, _, _, count, definite = carry
        left = jnp.any(jnp.linalg.norm(r, axis=0) > tolerance / 2)
        return (count < iterations) & definite & left

    def step(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        a, r, p, rz, count, definite = carry
        q = shifted(p)
        curvature = jnp.sum(p * q, axis=0)
        definite = definite & jnp.all((curvature > 0) | (rz <= 0))
        length = jnp.where(curvature > 0, rz / jnp.where(curvature > 0, curvature, 1), 0)
        a, r = a + length * p, r - length * q
        z = precondition(r)
        new = jnp.sum(r * z, axis=0)
        p = z + jnp.where(rz > 0, new / jnp.where(rz > 0, rz, 1), 0) * p
        return a, r, p, new, count + 1, definite

    z = precondition(b)
    rz = jnp.sum(b * z, axis=0)
    start = (jnp.zeros_like(b), b, z, rz, jnp.zeros((), int), jnp.ones((), bool))
    a, *_, count, definite = jax.lax.while_loop(running, step, start)
    return scale * a, largest_relative(b - shifted(a), b), count, definite


@partial(jax.jit, static_argnames=("iterations", "chunk"))
def lanczos(
    kernel: Any,
    x: Inexact[Array, "b k"],
    y: Float[Array, "b c"],
    time: Scalar,
    ridge: Scalar,
    *,
    iterations: int,
    chunk: int,
) -> tuple[Float[Array, "b c"], Float[Array, ""]]:
    """phi(Theta) y at a finite time from the Krylov spaces of the columns of y.

    With Theta V = V T + beta v e_m^T and |y| V e_1 = y: phi(Theta) y = |y| V phi(T) e_1 up to the
    solution of the flow whose source is the residual.  The basis, m N c numbers, is stored and
    kept orthogonal.

    Returns:
        The solution and the residual of its flow, beta |e_m^T phi(T) e_1|, relative to y.

    Source: Hochbruck, Lubich 1997.
    """
    steps = min(iterations, len(x))
    size = jnp.linalg.norm(y, axis=0)
    basis = jnp.zeros((steps + 1, *y.shape), y.dtype)
    basis = basis.at[0].set(y / jnp.where(size > 0, size, 1))
    eps = jnp.finfo(y.dtype).eps

    def step(place: Int[Array, ""], carry: tuple[Array, Array, Array]) -> tuple[Any, ...]:
        basis, alpha, beta = carry
        v = basis[place]
        w = apply(kernel, x, x, v, chunk=chunk)
        across = jnp.sum(v * w, axis=0)
        for _ in range(2):  # twice is enough for orthogonality to rounding
            w = w - _einsum("mbc,mc->bc", basis, _einsum("mbc,bc->mc", basis, w))
        alpha = alpha.at[place].set(across)
        length = jnp.linalg.norm(w, axis=0)
        # the space is used up: what is left is rounding
        there = length > len(x) * eps * jnp.max(jnp.abs(alpha), axis=0)
        basis = basis.at[place + 1].set(jnp.where(there, w / jnp.where(there, length, 1), 0))
        return basis, alpha, beta.at[place].set(jnp.where(there, length, 0))

    zeros = jnp.zeros((steps, y.shape[1]), y.dtype)
    basis, alpha, beta = jax.lax.fori_loop(0, steps, step, (basis, zeros, zeros))

    def small(alpha: Array, beta: Array) -> Array:
        matrix = jnp.diag(alpha) + jnp.diag(beta[:-1], 1) + jnp.diag(beta[:-1], -1)
        eigenvalues, q = jnp.linalg.eigh(matrix)
        return _matmul(q, spectral_filter(eigenvalues, time, ridge) * q[0])

    found = jax.vmap(small, in_axes=1, out_axes=1)(alpha, beta)
    residual = jnp.max(beta[-1] * jnp.abs(found[-1]))
    return size * _einsum("mbc,mc->bc", basis[:-1], found), residual
