"""Kernels between tensors: how an update of the metric at one point moves it at another.

A kernel that acts on the components in a chart, delta_ik delta_jl K, depends on the chart.  A
tensor-valued kernel compares the tensors T_k of two frames, one at each point, instead:

    Theta_IJ(x, x') = sum_k T_kI(x) K(u(x), u(x')) T_kJ(x'),

with I the real components of :func:`metricflow.geometry.hermitian_pack`.  It is positive
semi-definite wherever K is.  If the tensors are invariant under the symmetry of the hypersurface
and K sees invariant functions u only, then the flow stays invariant and a point learns from all
images of all points.
"""

import dataclasses
import functools
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Num

from .. import _checks
from .._pytree import register_dataclass
from ..ansatz import SpectralBasis
from ..ansatz.features import feature_jets
from ..ansatz.jets import components_to_hermitian
from ..geometry import (
    FubiniStudyMetric,
    Hypersurface,
    Points,
    fubini_study_metric,
    hermitian_inverse,
    hermitian_pack,
    hermitian_root,
    hermitian_unpack,
    points_at,
)
from ..geometry.charts import Chart
from .operators import Operator, dense_operator, tiled_operator

_einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


class FrameValues(NamedTuple):
    """A frame at points.

    Attributes:
        inputs: what the scalar kernel sees, (N, d): real vectors u(x), or homogeneous coordinates.
        tensors: real components of T_k, (N, m, n^2).
    """

    inputs: Num[Array, "b d"]
    tensors: Float[Array, "b m c"]


class Frame(Protocol):
    """Tensors at points of a chart, and what the scalar kernel sees there."""

    def __call__(self, z: Complex[Array, "b k"]) -> FrameValues:
        """The frame at homogeneous coordinates of its chart."""
        ...


@register_dataclass
@dataclasses.dataclass(frozen=True)
class RootFrame:
    """T_k = L E_k L^dagger with g_FS = L L^dagger, E_k an orthonormal basis of Hermitian matrices.

    An update h acts as L h L^dagger: its size is measured by g_FS and does not depend on the
    scaling of coordinates.  The root still refers to a chart.

    Attributes:
        manifold: the hypersurface.
        chart: of the points.

    Raises:
        ValueError: called with points that are not scaled as in that chart.

    Source: MF 2.15, MF 2.16 (with a matrix for h)
    """

    manifold: Hypersurface
    chart: Chart = dataclasses.field(metadata={"static": True})

    def __call__(self, z: Complex[Array, "b k"]) -> FrameValues:
        """The frame at points of ``chart``; the kernel sees z."""
        _checks.scaled_coordinates("z", z, self.chart)
        return FrameValues(z, _root_tensors(self, z))


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class HessianFrame:
    """T_0 = g_FS and T_k = d dbar y_k of invariant functions y, with y for the scalar kernel.

    The tensors are global and share the symmetry of y, and so does whatever a kernel makes of them:
    g_FS + d dbar F(y) has d_k F as coefficients up to terms d y_k dbar y_l.  Built by
    :func:`hessian_frame`.

    Attributes:
        manifold: the hypersurface.
        basis: the functions y.
        sizes: by what the tensors are divided, (m,).
        scales: by what y is divided before the kernel sees it, (F,).
        chart: of the points; only the components refer to it.

    Raises:
        ValueError: called with points that are not scaled as in that chart.
    """

    manifold: Hypersurface
    basis: SpectralBasis
    sizes: Float[Array, " m"]
    scales: Float[Array, " f"]
    chart: Chart = dataclasses.field(metadata={"static": True})

    def __call__(self, z: Complex[Array, "b k"]) -> FrameValues:
        """The frame at points of ``chart``."""
        _checks.scaled_coordinates("z", z, self.chart)
        points = points_at(self.manifold, z, chart=self.chart, check=False)
        values, tensors = _hessian_tensors(self.basis, points)
        scales, sizes = (jnp.asarray(x, values.dtype) for x in (self.scales, self.sizes))
        return FrameValues(values / scales, tensors / sizes[:, None])


def hessian_frame(
    manifold: Hypersurface, basis: SpectralBasis, points: Points, *, chart: Chart | None = None
) -> HessianFrame:
    """The :class:`HessianFrame` of functions, normalised on points.

    Args:
        manifold: the hypersurface.
        basis: the functions, from :func:`metricflow.ansatz.spectral_basis`.
        points: where tensors have mean square size n in g_FS, tr (g_FS^-1 T)^2, as g_FS itself,
            and the functions variance 1.
        chart: of the points that the kernel will see; by default that of the first point.
    """
    values, tensors = _hessian_tensors(basis, points)
    sizes = _mean_sizes(points, tensors) / basis.dim**0.5
    if chart is None:
        chart = (int(points.chart[0, 0]), int(points.chart[0, 1]))
    return HessianFrame(manifold, basis, sizes, jnp.std(values, axis=0), chart)


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class TensorKernel:
    """Theta_IJ(x, x') = sum_k T_kI(x) K(u(x), u(x')) T_kJ(x').

    Attributes:
        kernel: the scalar kernel K of what the frame lets it see.
        frame: the tensors T_k.

    T_k is to be paired with the derivative of an energy, a covector.  The covariant gradient, a
    tensor like g, gives flows that depend on the chart and need not lower the energy, so
    :class:`metricflow.flows.KernelFlow` wants ``gradient="euclidean"`` here.

    Raises:
        ValueError: a kernel that mixes components itself; on use, one that does not read what the
            frame lets it see.

    Source: MF 2.12 (a frozen kernel that mixes components)
    """

    kernel: Any
    frame: Any

    def __post_init__(self) -> None:
        """Check the kernel."""
        if hasattr(self.kernel, "operator"):
            raise ValueError(
                f"kernel: expected a scalar kernel, got {type(self.kernel).__name__}, which mixes "
                "components itself"
            )

    @property
    def chart(self) -> Chart | None:
        """Of the points that the kernel will see, if its frame refers to one."""
        return getattr(self.frame, "chart", None)

    def operator(
        self,
        z1: Complex[Array, "b1 k"],
        z2: Complex[Array, "b2 k"],
        *,
        chunk: int,
        stored: bool = False,
    ) -> "TensorOperator":
        """The kernel from functions at z2 to functions at z1; ``stored`` keeps N1 x N2 values."""
        first = self.frame(z1)
        second = first if z2 is z1 else self.frame(z2)
        if stored:
            scalar = dense_operator(self.kernel, first.inputs, second.inputs)
        else:
            scalar = tiled_operator(self.kernel, first.inputs, second.inputs, chunk=chunk)
        return TensorOperator(scalar, first.tensors, second.tensors)


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class TensorOperator:
    """A :class:`TensorKernel` between two sets of points: contract, sum, expand."""

    scalar: Operator
    tensors1: Float[Array, "b1 m c"]
    tensors2: Float[Array, "b2 m c"]

    def __matmul__(self, v: Float[Array, "b2 c"]) -> Float[Array, "b1 c"]:
        """sum_b Theta(x1_a, x2_b) v_b."""
        moved = self.scalar @ _einsum("xmc,xc->xm", self.tensors2, v)
        return _einsum("xmc,xm->xc", self.tensors1, moved)


@jax.jit
def _root_tensors(frame: RootFrame, z: Array) -> Array:
    """The components of L E_k L^dagger, (N, n^2, n^2)."""
    chart = jnp.broadcast_to(jnp.asarray(frame.chart), (len(z), 2))
    root = hermitian_root(FubiniStudyMetric(frame.manifold)(z, chart))
    basis = hermitian_unpack(jnp.eye(root.shape[-1] ** 2, dtype=root.real.dtype))
    return hermitian_pack(_einsum("xac,kcd,xbd->xkab", root, basis, root.conj()))


@jax.jit
def _hessian_tensors(basis: SpectralBasis, points: Points) -> tuple[Array, Array]:
    """y of shape (N, F) and the components of g_FS and d dbar y, (N, 1 + F, n^2)."""
    jets = feature_jets(basis, points)
    dim = basis.dim
    hessians = jets[..., 1 + 2 * dim :].reshape(-1, dim**2)
    matrices = components_to_hermitian(hessians.T, dim).reshape(*jets.shape[:2], dim, dim)
    reference = fubini_study_metric(points)[:, None]
    return jets[..., 0], hermitian_pack(jnp.concatenate([reference, matrices], axis=1))


@jax.jit
def _mean_sizes(points: Points, tensors: Array) -> Array:
    """Root mean square of the size of tensors in g_FS, (m,)."""
    matrices = hermitian_unpack(tensors)
    mixed = hermitian_inverse(fubini_study_metric(points))[:, None] @ matrices
    return jnp.sqrt(jnp.mean(jnp.einsum("xmab,xmba->xm", mixed, mixed).real, axis=0))
