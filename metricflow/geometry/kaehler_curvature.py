"""Curvature of Kaehler metrics, at one point or at many points of a hypersurface.

``metric(x)`` gives the Hermitian components g[a, b] = g_(a bbar), shape (n, n), at one point x of
shape (n,) in complex local coordinates.  Use ``jax.vmap`` for many points;
:mod:`.local_coordinates` turns a metric of a hypersurface into such a function.

Factors of two: everything is the plain contraction with g^(a bbar).  The metric g goes with
ds^2 = 2 Re(g_(a bbar) dx^a dxbar^b) here; for that length the Riemannian scalar curvature is twice
:func:`kaehler_scalar` and the Laplace-Beltrami operator twice :func:`kaehler_laplacian`, while
Ricci tensor and connection are the same.  (Lengths as in the rest of the room, without the 2, make
both factors 4.)
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Shaped

from .._checks import AnyArray
from .curvature import RealMetric
from .hermitian import hermitian_determinant, hermitian_inverse

HermitianMetric = Callable[[Array], Array]

# without it a GPU rounds the factors of float32 products to ten bits
_einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def kaehler_christoffel(
    metric: HermitianMetric, x: Complex[AnyArray, " n"]
) -> Complex[Array, "n n n"]:
    """The connection Gamma^a_bc = g^(a dbar) d_b g_(c dbar); its conjugate is the only other part.

    Symmetric in b and c if and only if the metric is Kaehler.

    Args:
        metric: the function x -> g_(a bbar) of one point.
        x: the point, shape (n,).

    Returns:
        gamma[a, b, c].

    Raises:
        ValueError: x is not one complex point, or the metric is not of shape (n, n) there.
    """
    x = _point(x)
    g, slope, _ = mixed_derivatives(_checked(metric), x, _basis(x))
    return _einsum("bcd,da->abc", slope, hermitian_inverse(g))


def kaehler_riemann(
    metric: HermitianMetric, x: Complex[AnyArray, " n"]
) -> Complex[Array, "n n n n"]:
    """R_(a bbar c dbar) = -d_c dbar_d g_(a bbar) + g^(e fbar) d_c g_(a fbar) dbar_d g_(e bbar).

    Of the Fubini-Study metric of P^n, g = d dbar log(1 + |x|^2), it is
    g_(a bbar) g_(c dbar) + g_(a dbar) g_(c bbar).  For a Hermitian metric that is not Kaehler it is
    the curvature of the Chern connection.

    Args:
        metric: the function x -> g_(a bbar) of one point.
        x: the point, shape (n,).

    Returns:
        r[a, b, c, d], symmetric in a and c and in b and d for a Kaehler metric.

    Raises:
        ValueError: x is not one complex point, or the metric is not of shape (n, n) there.
    """
    x = _point(x)
    return chern_curvature(*mixed_derivatives(_checked(metric), x, _basis(x)))


def kaehler_ricci(metric: HermitianMetric, x: Complex[AnyArray, " n"]) -> Complex[Array, "n n"]:
    """The Ricci tensor R_(a bbar) = -d_a dbar_b log det g, (n + 1) g for Fubini-Study on P^n.

    From the determinant alone, not by contraction of :func:`kaehler_riemann`.

    Args:
        metric: the function x -> g_(a bbar) of one point.
        x: the point, shape (n,).

    Returns:
        The Hermitian components r[a, b], shape (n, n).

    Raises:
        ValueError: x is not one complex point, or the metric is not of shape (n, n) there.

    Source: MF B.3.
    """
    x, metric = _point(x), _checked(metric)

    def log_determinant(y: Array) -> Array:
        return jnp.log(jnp.abs(hermitian_determinant(metric(y))))

    return -mixed_derivatives(log_determinant, x, _basis(x))[2]


def kaehler_scalar(metric: HermitianMetric, x: Complex[AnyArray, " n"]) -> Float[Array, ""]:
    """R = g^(a bbar) R_(a bbar): half the Riemannian scalar of ds^2 = 2 Re(g dx dxbar).

    n (n + 1) for Fubini-Study on P^n.

    Args:
        metric: the function x -> g_(a bbar) of one point.
        x: the point, shape (n,).

    Raises:
        ValueError: x is not one complex point, or the metric is not of shape (n, n) there.
    """
    x = _point(x)
    # the inverse matrix carries the indices (bbar, a)
    inverse = hermitian_inverse(_checked(metric)(x))
    return _einsum("ba,ab->", inverse, kaehler_ricci(metric, x)).real


def kaehler_laplacian(
    metric: HermitianMetric, function: Callable[[Array], Array], x: Complex[AnyArray, " n"]
) -> Shaped[Array, "*s"]:
    """g^(a bbar) d_a dbar_b f: half the Laplace-Beltrami operator of ds^2 = 2 Re(g dx dxbar).

    Args:
        metric: the function x -> g_(a bbar) of one point.
        function: f, of one point, real or complex; any shape is treated entry by entry.
        x: the point, shape (n,).

    Returns:
        Real numbers if f is real.

    Raises:
        ValueError: x is not one complex point, or the metric is not of shape (n, n) there.
    """
    x = _point(x)
    value, _, mixed = mixed_derivatives(function, x, _basis(x))
    inverse = hermitian_inverse(_checked(metric)(x))
    found = _einsum("ba,ab...->...", inverse, mixed)
    return found if jnp.iscomplexobj(value) else found.real


def real_metric(metric: HermitianMetric) -> RealMetric:
    """The same metric as real components of shape (2n, 2n) at (Re x, Im x), shape (2n,).

    ds^2 = 2 Re(g_(a bbar) dx^a dxbar^b), so the blocks are 2 [[Re g, Im g], [-Im g, Re g]].
    """

    def components(y: Array) -> Array:
        real, imaginary = jnp.split(y, 2)
        g = metric(real + 1j * imaginary)
        return 2 * jnp.block([[g.real, g.imag], [-g.imag, g.real]])

    return components


def mixed_derivatives(
    function: Callable[[Array], Array], z: Array, directions: Array
) -> tuple[Array, Array, Array]:
    """f, v_c^i d_i f and v_c^i conj(v_d^j) d_i dbar_j f along directions v_c, c = 1 ... n.

    Second derivatives are taken twice along the same direction only, 2 n^2 of them, where all pairs
    would be 4 n^2.  With L(v, w) = d_v dbar_w f, L(v, v) is a quarter of the sum of the second
    derivatives along v and i v, and polarisation gives the rest.

    Args:
        function: smooth function of z in the real sense; on batches, it acts point by point.
        z: one point or a batch, shape (..., k).
        directions: v[c], shape (n, ..., k), constant vectors at each point.

    Returns:
        Values (...), first derivatives with a leading axis [c], mixed ones with [c, d].
    """
    n = len(directions)
    first, second = np.triu_indices(n, 1)
    paths = jnp.concatenate(
        [
            directions,
            directions[first] + directions[second],
            directions[first] + 1j * directions[second],
        ]
    )

    def twice(direction: Array) -> tuple[Array, Array]:
        def along(w: Array) -> Array:
            return jax.jvp(function, (w,), (direction,))[1]

        return jax.jvp(along, (z,), (direction,))

    slopes, seconds = jax.vmap(twice)(jnp.concatenate([paths, 1j * paths]))
    slope = (slopes[:n] - 1j * slopes[len(paths) : len(paths) + n]) / 2
    levi = (seconds[: len(paths)] + seconds[len(paths) :]) / 4
    diagonal = levi[:n]
    crossed = levi[n:] - jnp.concatenate([diagonal[first] + diagonal[second]] * 2)
    # L(v, w) + L(w, v), and L(v, w) - L(w, v) = i times what v + i w leaves over
    plus, minus = jnp.split(crossed, 2)
    mixed = jnp.zeros((n, n, *diagonal.shape[1:]), slope.dtype)
    mixed = mixed.at[np.arange(n), np.arange(n)].set(diagonal.astype(slope.dtype))
    mixed = mixed.at[first, second].set((plus + 1j * minus) / 2)
    mixed = mixed.at[second, first].set((plus - 1j * minus) / 2)
    return function(z), slope, mixed


def chern_curvature(
    g: Complex[Array, "*b n n"], slope: Complex[Array, "n *b n n"], mixed: Complex[Array, "*s"]
) -> Complex[Array, "*b n n n n"]:
    """R_(a bbar c dbar) from the derivatives that :func:`mixed_derivatives` gives.

    Args:
        g: components g_(a bbar), shape (..., n, n).
        slope: d_c g_(a bbar) as [c, ..., a, b].
        mixed: d_c dbar_d g_(a bbar) as [c, d, ..., a, b].
    """
    # dbar_d g_(e bbar) is the conjugate of d_d g_(b ebar); the inverse carries (fbar, e)
    square = _einsum("c...af,...fe,d...be->...abcd", slope, hermitian_inverse(g), slope.conj())
    return square - jnp.moveaxis(mixed, (0, 1), (-2, -1))


def _basis(x: Array) -> Array:
    return jnp.eye(len(x), dtype=x.dtype)


def _point(x: AnyArray) -> Array:
    x = jnp.asarray(x)
    if x.ndim != 1 or not jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise ValueError(
            f"x: expected complex coordinates of one point, shape (n,), got {x.dtype} of shape "
            f"{x.shape}; use jax.vmap for many points"
        )
    return x


def _checked(metric: HermitianMetric) -> HermitianMetric:
    """The same function with complex values; it refuses components of a wrong shape."""

    def checked(x: Array) -> Array:
        g = metric(x)
        expected = (x.shape[0], x.shape[0])
        if g.shape != expected:
            raise ValueError(
                f"metric: expected components of shape {expected} at one point of shape "
                f"{x.shape}, got {g.shape}; return the Hermitian matrix g[a, b] of one point"
            )
        return g.astype(x.dtype)

    return checked
