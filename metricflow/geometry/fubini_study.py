"""The Fubini-Study metric, pulled back to a hypersurface: the reference of everything here."""

import dataclasses
from typing import Annotated

import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Int

from .. import _checks
from .._annotations import COORDINATES
from .._checks import AnyArray
from .._jit import jit
from .._pytree import register_dataclass
from .charts import Charts, best_chart, chart_coordinates, pullback
from .hypersurface import Hypersurface, gradient
from .sampling import Points


@jit()
def fubini_study_metric(points: Points, *, scale: float | Array = 1.0) -> Complex[Array, "b n n"]:
    """g_FS[a, b] = d_a dbar_b log |z|^2 pulled back, each point in its own chart.

    g = J (1 / |z|^2 - zbar z^T / |z|^4) J^dagger, times ``scale`` (1/pi is also common).

    Source: MF B.1.
    """
    return scale * _pulled_back(jnp.asarray(points.z), jnp.asarray(points.pullback))


def fubini_study_determinant(
    manifold: Hypersurface,
    z: Complex[AnyArray, "*b k"],
    eliminated: Annotated[Int[AnyArray, "*b"], COORDINATES],
) -> Float[Array, "*b"]:
    """det g_FS in closed form: |dP|^2 / (|z|^(2(n+1)) |dP/dz_e|^2) for z on X with z_s = 1."""
    z = jnp.asarray(z)
    slope = jnp.abs(gradient(manifold, z)) ** 2
    norm = jnp.sum(jnp.abs(z) ** 2, axis=-1)
    chosen = jnp.take_along_axis(slope, jnp.asarray(eliminated)[..., None], axis=-1)[..., 0]
    return jnp.sum(slope, axis=-1) / (norm ** (manifold.dim + 1) * chosen)


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class FubiniStudyMetric:
    """Fubini-Study as a callable: ``metric(z)`` is g at z in the chart ``metric.chart(z)``."""

    manifold: Hypersurface

    def chart(self, z: Complex[AnyArray, "*b k"]) -> Int[Array, "*b 2"]:
        """The chart that :meth:`__call__` uses at z."""
        return best_chart(self.manifold, z)

    def __call__(
        self,
        z: Complex[AnyArray, "*b k"],
        chart: Charts | None = None,
    ) -> Complex[Array, "*b n n"]:
        """g[a, b] of shape (..., n, n) at homogeneous coordinates z, in ``chart(z)`` by default."""
        z = _checks.homogeneous_coordinates("z", z, self.manifold.ambient)
        chart = self.chart(z) if chart is None else chart
        z = chart_coordinates(z, chart)
        return _pulled_back(z, pullback(self.manifold, z, chart))


def _pulled_back(z: Array, jacobian: Array) -> Array:
    norm = jnp.sum(z.real**2 + z.imag**2, axis=-1)[..., None, None]
    radial = jnp.einsum("...ai,...i->...a", jacobian, z.conj())
    flat = jnp.einsum("...ai,...bi->...ab", jacobian, jacobian.conj())
    return flat / norm - radial[..., :, None] * radial[..., None, :].conj() / norm**2
