"""The tangent kernel of a network at fixed parameters, as a kernel between points."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from .. import _checks
from .._annotations import Count
from .._pytree import register_dataclass
from ..ansatz import ComponentInputs, ComponentModel
from ..geometry import FubiniStudyMetric
from ..geometry.charts import Chart
from .tangent_kernel import metric_ntk_product


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class FrozenNTK:
    """Theta_IJ(x, x') of a component model at fixed parameters, times a scale.

    It mixes components, so it is no scalar kernel; it is applied by products and never stored.
    :class:`metricflow.flows.KernelFlow` with it is gradient descent of the linearised network.

    Attributes:
        model: the model.
        parameters: where the kernel is frozen: of an untrained network, or of a trained one.
        chart: of the points that the kernel will see.
        scale: a factor; 1 / (mean of Theta_II(x, x)) makes step sizes comparable to those of
            kernels with K(x, x) = 1.

    Source: MF 2.11, MF 2.12, MF section 3.3 (its last paragraph)
    """

    model: ComponentModel
    parameters: Any
    chart: Chart = dataclasses.field(metadata={"static": True})
    scale: Float[Array, ""] | float = 1.0

    def operator(
        self,
        z1: Complex[Array, "b1 k"],
        z2: Complex[Array, "b2 k"],
        *,
        chunk: int,
        stored: bool = False,
    ) -> "FrozenOperator":
        """The kernel from functions at z2 to functions at z1, coordinates in ``chart``.

        Its blocks are never stored.
        """
        return FrozenOperator(self, self.inputs(z1), self.inputs(z2), chunk)

    def inputs(self, z: Complex[Array, "b k"]) -> ComponentInputs:
        """What the model reads at points of ``chart``.

        Raises:
            ValueError: points that are not scaled as in that chart.
        """
        _checks.scaled_coordinates("FrozenNTK", z, self.chart)
        chart = jnp.broadcast_to(jnp.asarray(self.chart), (len(z), 2))
        return self.model.inputs(z, FubiniStudyMetric(self.model.manifold)(z, chart))


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class FrozenOperator:
    """A :class:`FrozenNTK` between two sets of points."""

    kernel: FrozenNTK
    x1: ComponentInputs
    x2: ComponentInputs
    chunk: Count = dataclasses.field(metadata={"static": True})

    def __matmul__(self, v: Float[Array, "b2 c"]) -> Float[Array, "b1 c"]:
        """sum_b Theta(x1_a, x2_b) v_b."""
        kernel = self.kernel
        found = metric_ntk_product(
            kernel.model, kernel.parameters, self.x1, self.x2, v, chunk=self.chunk
        )
        return kernel.scale * found
