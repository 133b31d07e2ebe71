"""What the metrics of this room share: they are tensors, defined at every point in any chart."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Int

from .. import _checks
from .._checks import AnyArray
from ..geometry import Hypersurface, Points, best_chart, points_at
from ..geometry.charts import Charts


class GlobalMetric:
    """A callable metric: a subclass, itself a pytree, says what g is at a batch of points."""

    manifold: Hypersurface

    def at(self, points: Points) -> Array:
        """g at points in their charts, shape (N, n, n)."""
        raise NotImplementedError

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
        return _evaluate(self, z, jnp.broadcast_to(jnp.asarray(chart), (*z.shape[:-1], 2)))


@jax.jit
def _evaluate(metric: GlobalMetric, z: Array, chart: Array) -> Array:
    flat, charts = z.reshape(-1, z.shape[-1]), chart.reshape(-1, 2)
    g = metric.at(points_at(metric.manifold, flat, chart=charts, check=False))
    return g.reshape(*z.shape[:-1], *g.shape[1:])
