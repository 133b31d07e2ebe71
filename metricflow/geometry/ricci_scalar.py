"""The trace of the Ricci tensor at many points of a hypersurface, cheaper than the tensor."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .hermitian import hermitian_determinant, hermitian_inverse, hermitian_root
from .local_coordinates import ChartMetric, map_points
from .sampling import Points


def ricci_scalar(metric: ChartMetric, points: Points, *, chunk: int = 64) -> Float[Array, " b"]:
    """g^(ab) R_ab with R_ab = -d_a dbar_b log det g at every point; zero for Calabi-Yau metrics.

    With vectors e_c orthonormal for g this is -sum_c d_(e_c) dbar_(e_c) log det g.  The directions
    are tangent at each point and constant: steps along them leave the hypersurface at second order,
    by holomorphic terms, which a mixed derivative does not see.

    Args:
        metric: a callable metric; it is differentiated twice along the hypersurface.
        points: the points, in the charts to differentiate in.
        chunk: points differentiated at a time.

    Source: MF B.3.
    """
    return map_points(_ricci_scalar, metric, points, chunk)


def _ricci_scalar(metric: ChartMetric, points: Points) -> Array:
    def log_det(z: Array) -> Array:
        return jnp.log(hermitian_determinant(metric(z, points.chart)))

    def second(direction: Array) -> Array:
        def along(z: Array) -> Array:
            return jax.jvp(log_det, (z,), (direction,))[1]

        return jax.jvp(along, (points.z,), (direction,))[1]

    inverse = hermitian_inverse(metric(points.z, points.chart))
    # the inverse carries the indices (bbar, a): its conjugate is sum_c e_c^a conj(e_c^b)
    frame = jnp.einsum("xac,xai->xci", hermitian_root(inverse.conj()), points.pullback)
    directions = frame.swapaxes(0, 1)
    # 4 d_v dbar_v of a real function: its second derivatives along v and i v
    both = jnp.concatenate([directions, 1j * directions])
    return -jnp.sum(jax.lax.map(second, both), axis=0) / 4
