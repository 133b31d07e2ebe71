"""Invariant features of points, and the complex Hessians of functions of them.

The features are the first functions of a spectral basis: invariant under the symmetry of the
hypersurface and defined on projective space, so that any function of them is a global function on
X, with the same values in every chart.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._annotations import Count
from .._jit import jit
from .._tiles import carrying, map_tiles
from ..geometry import Points
from .invariant_functions import SpectralBasis, basis_jets
from .jets import jet_size


@jit(static_argnames="chunk")
def feature_jets(
    basis: SpectralBasis, points: Points, *, chunk: Count = 512
) -> Float[Array, "b f c"]:
    """The features y of every point with first and mixed second derivatives, (N, F, 1+2n+n^2)."""

    def at(basis: SpectralBasis, tile: Points) -> Array:
        return jnp.moveaxis(basis_jets(basis, tile), -1, 0)

    return map_tiles(carrying(at, basis), points, chunk)


def composed_jet(
    function: Callable[[Array], Array], features: Float[Array, "f c"], dim: int
) -> Float[Array, " c"]:
    """The jet of F(y(x)) at one point: F, its gradient and :func:`composed_hessian`.

    Args:
        function: F, from (F,) features to a number.
        features: the jet of every feature at the point.
        dim: n.
    """
    value, gradient = jax.value_and_grad(function)(features[:, 0])
    slopes = gradient @ features[:, 1 : 1 + 2 * dim]
    return jnp.concatenate([value[None], slopes, composed_hessian(function, features, dim)])


def composed_hessian(
    function: Callable[[Array], Array], features: Float[Array, "f c"], dim: int
) -> Float[Array, " h"]:
    """d_a dbar_b F(y(x)) at one point as n^2 real components.

    F_m d_a dbar_b y_m + F_ml d_a y_m dbar_b y_l: one gradient of F and its derivative along the
    2n real directions that d_a y consists of, never the F x F Hessian.

    Args:
        function: F, from (F,) features to a number.
        features: the jet of every feature at the point.
        dim: n.
    """
    value, slope = features[:, 0], features[:, 1 : 1 + 2 * dim].T
    gradient, along = jax.linearize(jax.grad(function), value)
    curvature = slope @ jax.vmap(along)(slope).T  # (2n, 2n): (Re, Im) against (Re, Im)
    real, imaginary = slice(0, dim), slice(dim, 2 * dim)
    # d_a y dbar_b y with d_a y = u_a + i v_a
    even = curvature[real, real] + curvature[imaginary, imaginary]
    odd = curvature[imaginary, real] - curvature[real, imaginary]
    rows, columns = np.triu_indices(dim, 1)
    second = jnp.concatenate([jnp.diagonal(even), even[rows, columns], odd[rows, columns]])
    return gradient @ features[:, 1 + 2 * dim : jet_size(dim)] + second
