"""Spectral potentials: phi = sum_k c_k f_k over the invariant functions of bidegree (D, D)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from .. import processes
from .._checks import AnyArray
from .._pytree import register_dataclass
from .._tiles import carrying, map_tiles
from ..geometry import Hypersurface, Points, fubini_study_metric, points_at
from .global_metric import GlobalMetric
from .invariant_functions import SpectralBasis, basis_jets
from .jets import components_to_hermitian, hessian_components

_TILE = 256  # points evaluated at a time


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class SpectralMetric(GlobalMetric):
    """g = g_FS + d dbar phi with phi = sum_k c_k f_k: Kaehler and chart-free by construction.

    Attributes:
        manifold: the hypersurface.
        basis: the functions f_k.
        coefficients: c, shape (M,).
    """

    manifold: Hypersurface
    basis: SpectralBasis
    coefficients: Float[AnyArray, " m"]

    def at(self, points: Points) -> Array:
        """g at points in their charts, shape (N, n, n)."""
        dim = self.manifold.dim

        def correction(metric: SpectralMetric, tile: Points) -> Array:
            components = hessian_components(basis_jets(metric.basis, tile), dim)
            total = jnp.einsum("k,khx->hx", jnp.asarray(metric.coefficients), components)
            return components_to_hermitian(total, dim)

        return fubini_study_metric(points) + map_tiles(carrying(correction, self), points, _TILE)

    def potential(self, z: Complex[AnyArray, "*b k"]) -> Float[Array, "*b"]:
        """phi at z, a function on the hypersurface."""
        flat = jnp.asarray(z).reshape(-1, self.manifold.ambient)
        points = points_at(self.manifold, flat, check=False)
        values = basis_jets(self.basis, points)[:, 0]
        return (jnp.asarray(self.coefficients) @ values).reshape(jnp.shape(z)[:-1])


def compact_metric(metric: SpectralMetric, points: Points) -> SpectralMetric:
    """The same metric with the mixing of its basis in single precision: a file half as large.

    Whatever part of earlier functions a recursion takes away, the functions span the same space:
    rounding the mixing costs some orthogonality, and new coefficients make up for it.

    Args:
        metric: a fitted metric.
        points: points of its hypersurface, at least 3/2 of the number of functions.

    Raises:
        ValueError: too few points, or functions that are no longer independent.
    """
    size, count = metric.basis.size, len(points.weight)
    if 2 * count < 3 * size:
        raise ValueError(f"points: expected at least {3 * size // 2 + 1}, got {count}")
    mixing = np.asarray(metric.basis.mixing).astype(np.float32)
    basis = dataclasses.replace(metric.basis, mixing=mixing)
    before, after = (processes.on_host(_values(b, points)) for b in (metric.basis, basis))
    columns = np.concatenate([np.ones((1, count)), after]).T
    found, _, rank, _ = np.linalg.lstsq(columns, np.asarray(metric.coefficients) @ before)
    if rank <= size:
        raise ValueError(f"points: {size + 1} functions have rank {rank} after rounding")
    return dataclasses.replace(metric, basis=basis, coefficients=found[1:])


@jax.jit
def _values(basis: SpectralBasis, points: Points) -> Array:
    return basis_jets(basis, points)[:, 0]
