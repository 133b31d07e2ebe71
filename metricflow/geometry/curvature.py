"""Curvature of real Riemannian metrics, from the one-point function of their components.

``metric(x)`` gives the symmetric components g_ij, shape (k, k), at one point x of shape (k,), for
ds^2 = g_ij dx^i dx^j.  Everything here is a function of one point as well: use ``jax.vmap`` for
many.  All derivatives are exact, by forward differentiation.  A singular g gives infinities or NaN;
an indefinite g is fine.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from .._checks import AnyArray

RealMetric = Callable[[Array], Array]

# without it a GPU rounds the factors of float32 products to ten bits
_einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def christoffel(metric: RealMetric, x: Float[AnyArray, " k"]) -> Float[Array, "k k k"]:
    """The Levi-Civita connection Gamma^i_jk = g^il (d_j g_lk + d_k g_lj - d_l g_jk) / 2.

    Args:
        metric: the function x -> g_ij of one point.
        x: the point, shape (k,).

    Returns:
        gamma[i, j, k], symmetric in j and k.

    Raises:
        ValueError: x is not one real point, or the metric is not of shape (k, k) there.
    """
    x = _point(x)
    g, slope = _value_and_derivative(metric, x)
    _check_components(g, x)
    return raised_connection(jnp.linalg.inv(g), slope)


def riemann(metric: RealMetric, x: Float[AnyArray, " k"]) -> Float[Array, "k k k k"]:
    """The Riemann tensor R_ijkl with all indices lowered, R_ijkl = g_im R^m_jkl with

        R^m_jkl = d_k Gamma^m_lj - d_l Gamma^m_kj + Gamma^m_kp Gamma^p_lj - Gamma^m_lp Gamma^p_kj.

    On a space of constant curvature K it is K (g_ik g_jl - g_il g_jk), K = 1 for the unit sphere.

    Args:
        metric: the function x -> g_ij of one point.
        x: the point, shape (k,).

    Returns:
        r[i, j, k, l].

    Raises:
        ValueError: x is not one real point, or the metric is not of shape (k, k) there.
    """
    x = _point(x)
    raised = _mixed_riemann(metric, x)
    return _einsum("im,mjkl->ijkl", metric(x), raised)


def ricci(metric: RealMetric, x: Float[AnyArray, " k"]) -> Float[Array, "k k"]:
    """The Ricci tensor R_jl = R^i_jil, which is (k - 1) g_jl on the unit sphere of dimension k.

    Args:
        metric: the function x -> g_ij of one point.
        x: the point, shape (k,).

    Raises:
        ValueError: x is not one real point, or the metric is not of shape (k, k) there.
    """
    return jnp.trace(_mixed_riemann(metric, _point(x)), axis1=0, axis2=2)


def scalar_curvature(metric: RealMetric, x: Float[AnyArray, " k"]) -> Float[Array, ""]:
    """The scalar curvature R = g^jl R_jl, which is k (k - 1) on the unit sphere of dimension k.

    Args:
        metric: the function x -> g_ij of one point.
        x: the point, shape (k,).

    Raises:
        ValueError: x is not one real point, or the metric is not of shape (k, k) there.
    """
    x = _point(x)
    return _einsum("jl,jl->", jnp.linalg.inv(metric(x)), ricci(metric, x))


def laplacian(
    metric: RealMetric, function: Callable[[Array], Array], x: Float[AnyArray, " k"]
) -> Shaped[Array, "*s"]:
    """The Laplace-Beltrami operator g^ij (d_i d_j f - Gamma^k_ij d_k f); no minus sign in front.

    Args:
        metric: the function x -> g_ij of one point.
        function: f, of one point; values of any shape are treated entry by entry.
        x: the point, shape (k,).

    Raises:
        ValueError: x is not one real point, or the metric is not of shape (k, k) there.
    """
    x = _point(x)
    gamma = christoffel(metric, x)
    slope, second = _value_and_derivative(jax.jacfwd(function), x)
    inverse = jnp.linalg.inv(metric(x))
    drift = _einsum("ij,kij->k", inverse, gamma)
    return _einsum("ij,...ij->...", inverse, second) - _einsum("k,...k->...", drift, slope)


def raised_connection(
    inverse: Float[Array, "*b k k"], slope: Float[Array, "*b k k k"]
) -> Float[Array, "*b k k k"]:
    """Gamma^i_jk from g^il and slope[..., l, j, k] = d_k g_lj, at any number of points."""
    lowered = (slope.swapaxes(-2, -1) + slope - jnp.moveaxis(slope, -1, -3)) / 2
    return _einsum("...il,...ljk->...ijk", inverse, lowered)


def mixed_riemann(
    gamma: Float[Array, "*b k k k"], slope: Float[Array, "*b k k k k"]
) -> Float[Array, "*b k k k k"]:
    """R^m_jkl as r[..., m, j, k, l] from Gamma and slope[..., m, l, j, k] = d_k Gamma^m_lj."""
    half = jnp.einsum("...mljk->...mjkl", slope)
    half = half + _einsum("...mkp,...plj->...mjkl", gamma, gamma)
    return half - half.swapaxes(-2, -1)


def _mixed_riemann(metric: RealMetric, x: Array) -> Array:
    """R^m_jkl as r[m, j, k, l]."""
    return mixed_riemann(*_value_and_derivative(functools.partial(christoffel, metric), x))


def _value_and_derivative(function: Callable[[Array], Array], x: Array) -> tuple[Array, Array]:
    """f and d_k f, the index of the derivative last."""

    def twice(y: Array) -> tuple[Array, Array]:
        value = function(y)
        return value, value

    slope, value = jax.jacfwd(twice, has_aux=True)(x)
    return value, slope


def _point(x: AnyArray) -> Array:
    x = jnp.asarray(x)
    if x.ndim != 1 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"x: expected real coordinates of one point, shape (k,), got {x.dtype} of shape "
            f"{x.shape}; use jax.vmap for many points"
        )
    return x


def _check_components(g: Array, x: Array) -> None:
    expected = (x.shape[0], x.shape[0])
    if g.shape != expected or not jnp.issubdtype(g.dtype, jnp.floating):
        raise ValueError(
            f"metric: expected real components of shape {expected} at one point of shape "
            f"{x.shape}, got {g.dtype} of shape {g.shape}; return the symmetric matrix g_ij"
        )
