"""Jets of real functions on a hypersurface: value, gradient and complex Hessian, in bulk.

A jet holds f, d_a f and d_a dbar_b f in local coordinates, as 1 + 2n + n^2 real numbers: all that
a Kaehler potential needs, with no second derivatives of other types.  Jets add and multiply.  The
points stand on the last axis, so that every operation is a stream over them.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Int

from .._checks import AnyArray
from ..geometry import Points

# order along the component axis: f, Re d_a f, Im d_a f, diagonal of the Hessian,
# Re and Im of its entries a < b


def jet_size(dim: int) -> int:
    """The number 1 + 2n + n^2 of real components."""
    return 1 + 2 * dim + dim**2


def constant_jet(dim: int, points: int, dtype: np.dtype) -> Float[Array, "c b"]:
    """The jet of the function 1."""
    return jnp.zeros((jet_size(dim), points), dtype).at[0].set(1)


def pack_jet(
    value: Float[AnyArray, "*b p"],
    gradient: Complex[AnyArray, "*b n p"],
    hessian: Complex[AnyArray, "*b n n p"],
) -> Float[Array, "*b c p"]:
    """A jet from f, d_a f and the Hermitian d_a dbar_b f (its upper triangle is read)."""
    rows, columns = np.triu_indices(gradient.shape[-2], 1)
    diagonal = jnp.stack([hessian[..., a, a, :].real for a in range(gradient.shape[-2])], axis=-2)
    upper = hessian[..., rows, columns, :]
    parts = [value[..., None, :], gradient.real, gradient.imag, diagonal, upper.real, upper.imag]
    return jnp.concatenate(parts, axis=-2)


def hessian_components(jet: Float[AnyArray, "*b c p"], dim: int) -> Float[Array, "*b h p"]:
    """The n^2 real components of the Hessian: the diagonal, then Re and Im for a < b."""
    return jnp.asarray(jet)[..., 1 + 2 * dim :, :]


def hermitian_components(matrix: Complex[Array, "*b n n"]) -> Float[Array, "*b h"]:
    """Hermitian matrices as n^2 real components, in the order of :func:`hessian_components`."""
    dim = matrix.shape[-1]
    rows, columns = np.triu_indices(dim, 1)
    diagonal, upper = jnp.diagonal(matrix, axis1=-2, axis2=-1).real, matrix[..., rows, columns]
    return jnp.concatenate([diagonal, upper.real, upper.imag], axis=-1)


def components_to_hermitian(components: Float[Array, "h p"], dim: int) -> Complex[Array, "p n n"]:
    """The inverse of :func:`hermitian_components`, with the points last on the way in."""
    pairs = list(itertools.combinations(range(dim), 2))
    entries: dict[tuple[int, int], Array] = {}
    for place, (a, b) in enumerate(pairs):
        upper = components[dim + place] + 1j * components[dim + len(pairs) + place]
        entries[a, b], entries[b, a] = upper, upper.conj()
    for a in range(dim):
        entries[a, a] = components[a].astype(jnp.result_type(components.dtype, 1j))
    rows = [jnp.stack([entries[a, b] for b in range(dim)], axis=-1) for a in range(dim)]
    return jnp.stack(rows, axis=-2)


def hermitian_dual(matrix: Complex[AnyArray, "p n n"]) -> Float[Array, "h p"]:
    """The weights v with sum_h v_h hessian_components_h = tr(matrix @ Hessian)."""
    dim = matrix.shape[-1]
    matrix = jnp.asarray(matrix)
    pairs = list(itertools.combinations(range(dim), 2))
    diagonal = [matrix[:, a, a].real for a in range(dim)]
    # tr = sum_ab m_ba h_ab, and h_ba = conj(h_ab), so the pair gives 2 Re(m_ba h_ab)
    real = [2 * matrix[:, b, a].real for a, b in pairs]
    imaginary = [-2 * matrix[:, b, a].imag for a, b in pairs]
    return jnp.stack(diagonal + real + imaginary)


def multiply_jets(
    f: Float[Array, "*#b c p"], h: Float[Array, "*#b c p"], dim: int
) -> Float[Array, "... c p"]:
    """The jet of f h: dd(fh) = f ddh + h ddf + df dbar h + dh dbar f."""
    a, b, c, d, sign = _cross_terms(dim)
    linear = f[..., :1, :] * h + h[..., :1, :] * f
    same = f[..., a, :] * h[..., b, :] + h[..., a, :] * f[..., b, :]
    mixed = f[..., c, :] * h[..., d, :] + h[..., c, :] * f[..., d, :]
    first = 1 + 2 * dim
    # the value f h stands twice in the linear part
    return jnp.concatenate(
        [
            linear[..., :1, :] / 2,
            linear[..., 1:first, :],
            linear[..., first:, :] + same + jnp.asarray(sign, f.dtype)[:, None] * mixed,
        ],
        axis=-2,
    )


def _cross_terms(dim: int) -> tuple[np.ndarray, ...]:
    """Places a, b, c, d and signs with (df dbar h + dh dbar f)_h = x_a y_b + sign x_c y_d + same
    with x and y exchanged, for every component h of the Hessian: shape (n^2,) each.
    """
    real, imaginary = np.arange(1, 1 + dim), np.arange(1 + dim, 1 + 2 * dim)
    rows, columns = np.triu_indices(dim, 1)
    # diagonal, then Re and Im of df_a conj(dh_b)
    a = np.concatenate([real, real[rows], imaginary[rows]])
    b = np.concatenate([real, real[columns], real[columns]])
    c = np.concatenate([imaginary, imaginary[rows], real[rows]])
    d = np.concatenate([imaginary, imaginary[columns], imaginary[columns]])
    sign = np.concatenate([np.ones(dim + len(rows)), -np.ones(len(rows))])
    return a, b, c, d, sign


def holomorphic_monomials(
    exponents: Int[Array, "m k"], top: int, points: Points
) -> tuple[Complex[Array, "m b"], Complex[Array, "m n b"]]:
    """z^p and its derivatives d_a z^p along the hypersurface, for exponents p_i at most ``top``."""
    z = jnp.asarray(points.z).T
    ambient = z.shape[0]
    higher = jax.lax.scan(lambda p, _: (p * z, p * z), jnp.ones_like(z), length=top)[1]
    powers = jnp.concatenate([jnp.ones_like(z)[None], higher])  # (D+1, k, N)
    factors = [powers[exponents[:, i], i] for i in range(ambient)]
    value = math.prod(factors[1:], start=factors[0])
    slopes = []
    for i in range(ambient):
        # p_i z_i^(p_i - 1), which is right where z_i = 0
        lowered = exponents[:, i, None] * powers[jnp.maximum(exponents[:, i] - 1, 0), i]
        others = [factors[j] for j in range(ambient) if j != i]
        slopes.append(math.prod(others, start=lowered))
    jacobian = jnp.moveaxis(jnp.asarray(points.pullback), 0, -1)  # (n, k, N)
    along = [slopes[i][:, None] * jacobian[None, :, i] for i in range(ambient)]
    return value, jnp.sum(jnp.stack(along), axis=0)


def norm_power_jets(power: Int[Array, " m"], points: Points) -> Float[Array, "m c b"]:
    """The jets of |z|^(2e) for integers e, those of exp(e log|z|^2)."""
    log, slope, curvature = norm_jets(points)
    e = power.astype(log.dtype)[:, None]
    value = jnp.exp(e * log)
    square = slope[:, None] * slope[None, :].conj()
    hessian = e[..., None, None] ** 2 * square + e[..., None, None] * curvature
    return pack_jet(value, (e * value)[:, None] * slope, value[:, None, None] * hessian)


def norm_jets(points: Points) -> tuple[Array, Array, Array]:
    """log|z|^2 with its gradient (n, N) and its Hessian (n, n, N), which is g_FS."""
    z, jacobian = jnp.asarray(points.z), jnp.asarray(points.pullback)
    norm = jnp.sum(z.real**2 + z.imag**2, axis=-1)
    gradient = jnp.einsum("xai,xi->ax", jacobian, z.conj()) / norm
    flat = jnp.einsum("xai,xbi->abx", jacobian, jacobian.conj()) / norm
    return jnp.log(norm), gradient, flat - gradient[:, None] * gradient[None, :].conj()
