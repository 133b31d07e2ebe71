"""Metric flows of a frozen kernel: g(x) moves by the kernel sum of loss variations at fixed points.

    g_(t+1)(x) = g_t(x) - dt sum_b m_b K(x, x_b) (dl/dg)(x_b)

The flow accumulates coefficients, g(x) = g_FS(x) + sum_b K(x, x_b) a_b, so what it produces is a
metric that can be evaluated anywhere.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Int

from .. import _checks, processes
from .._annotations import Count
from .._checks import AnyArray
from .._pytree import register_dataclass
from ..diagnostics import kappa_estimate, sigma_measure
from ..energies import GRADIENTS, sigma_loss, sigma_loss_variation
from ..geometry import (
    FubiniStudyMetric,
    Hypersurface,
    Points,
    best_chart,
    chart_coordinates,
    fubini_study_metric,
    hermitian_inverse,
    hermitian_pack,
    hermitian_pivots,
    hermitian_unpack,
    permute_to_chart,
    transition,
)
from ..geometry.charts import Chart, Charts
from ..kernels import Delta, Operator, apply, dense_operator, tiled_operator
from .result import Result, outcome, raise_unless_successful

MEASURES = ("sum", "mean", "calabi_yau")
KAPPAS = ("held", "estimated")


class KernelFlowState(NamedTuple):
    """What the next step needs.

    Attributes:
        points: the training points, all in one chart.
        operator: the kernel between them.
        g: the metric at the training points, (N, n, n).
        coefficients: a_b as real Hermitian components, (N, n^2).
        kappa: Vol_g / Vol_Omega in use.
        steps: good steps taken.
        result: a :class:`Result` code; once it is not SUCCESSFUL the state no longer moves.
    """

    points: Points
    operator: Any
    g: Complex[Array, "b n n"]
    coefficients: Float[Array, "b n2"]
    kappa: Float[Array, ""]
    steps: Int[Array, ""]
    result: Int[Array, ""]


class KernelFlowInfo(NamedTuple):
    """What a person wants to see of a step: values before it, and the size of its update.

    Attributes:
        energy: sum_b m_b l_b.
        sigma: the sigma measure on the training points, kappa re-estimated.
        kappa: Vol_g / Vol_Omega in use.
        largest_update: the largest norm of a pointwise update source, after clipping.
        clipped_fraction: the fraction of training points whose source was clipped.
        result: the :class:`Result` code after the step.
    """

    energy: Float[Array, ""]
    sigma: Float[Array, ""]
    kappa: Float[Array, ""]
    largest_update: Float[Array, ""]
    clipped_fraction: Float[Array, ""]
    result: Int[Array, ""]


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class KernelMetric:
    """g(x) = g_FS(x) + sum_b K(x, x_b) a_b, a metric at any point.

    The components live in the ``home`` chart of the centres.  On a symmetric hypersurface a point
    of another chart is permuted into it (the permutation is an isometry of what we approximate), so
    every chart is served by its own copy and neighbouring charts agree only approximately.
    Otherwise the components are carried to other charts as a tensor.

    Attributes:
        manifold: the hypersurface.
        kernel: the kernel.
        centres: the training points in the home chart, (N, n+2).
        coefficients: a_b as real Hermitian components, (N, n^2).
        home: the chart of the centres.
        normalise: rows of the kernel are divided by their sum.
    """

    manifold: Hypersurface
    kernel: Any
    centres: Complex[Array, "b k"]
    coefficients: Float[Array, "b n2"]
    home: Chart = dataclasses.field(metadata={"static": True})
    normalise: bool = dataclasses.field(metadata={"static": True})

    @property
    def without_kaehler_defect(self) -> str | None:
        """Why the Kaehler defect means nothing here, or None."""
        if isinstance(self.kernel, Delta):
            return (
                "the correction of the delta kernel is locally constant: its derivative is zero "
                "wherever it exists, and the jumps between cells are not seen"
            )
        return None

    @property
    def without_chart_mismatch(self) -> str | None:
        """Why the chart mismatch means nothing here, or None."""
        return None if self.manifold.symmetric else "the model lives in one chart"

    def chart(self, z: Complex[AnyArray, "*b k"]) -> Int[Array, "*b 2"]:
        """The chart a call uses by default: the best one, or home without permutation symmetry."""
        z = jnp.asarray(z)
        if self.manifold.symmetric:
            return best_chart(self.manifold, z)
        return jnp.broadcast_to(jnp.asarray(self.home), (*z.shape[:-1], 2))

    def __call__(
        self,
        z: Complex[AnyArray, "*b k"],
        chart: Charts | None = None,
    ) -> Complex[Array, "*b n n"]:
        """g[a, b] of shape (..., n, n) at homogeneous coordinates z, in ``chart(z)`` by default."""
        z = _checks.homogeneous_coordinates("z", z, self.manifold.ambient)
        chart = self.chart(z) if chart is None else jnp.asarray(chart)
        return _evaluate(self, z, jnp.broadcast_to(chart, (*z.shape[:-1], 2)))


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class KernelFlow:
    """The flow of MF 3.5 with a frozen component-diagonal kernel, Theta = delta delta K.

    The paper does not give the normalisation of its metric.  A metric lambda g moves under the
    Euclidean gradient like g with the step divided by lambda^2; the covariant gradient does not
    depend on the scale.

    Attributes:
        kernel: Gaussian, Exponential, Delta, InfiniteNetwork or anything with ``matrix(z1, z2)``.
        step_size: dt.
        power: p of the loss |1 - eta|^p; 1 is the paper's loss, 2 converges.
        gradient: ``"euclidean"`` or ``"covariant"``, see
            :func:`metricflow.energies.sigma_loss_variation`.
        measure: weights m_b: ``"sum"`` 1 (MF 2.3), ``"mean"`` 1/N, ``"calabi_yau"`` w_b / sum w,
            the Monte Carlo form of the integral over mu_CY (MF 2.4).
        normalise: divide the rows of the kernel by their sums.
        normalise_update: divide every update by its largest norm over the training points.
        clip: largest norm of the pointwise update source, in the metric g for the covariant
            gradient and Frobenius for the Euclidean; None does not clip.
        kappa: ``"held"`` at its Fubini-Study value, or ``"estimated"`` anew at every step.

    Raises:
        ValueError: an option that is not one of those named, a step or clip not above zero.

    Source: MF 3.5, MF 2.3, MF 2.4, MF 2.12, MF 2.14 (the delta kernel), MF 2.23.
    """

    kernel: Any
    step_size: Float[Array, ""] | float = 0.1
    power: float = dataclasses.field(default=2.0, metadata={"static": True})
    gradient: str = dataclasses.field(default="covariant", metadata={"static": True})
    measure: str = dataclasses.field(default="sum", metadata={"static": True})
    normalise: bool = dataclasses.field(default=False, metadata={"static": True})
    normalise_update: bool = dataclasses.field(default=False, metadata={"static": True})
    clip: Float[Array, ""] | float | None = None
    kappa: str = dataclasses.field(default="held", metadata={"static": True})

    def __post_init__(self) -> None:
        """Check the options; numbers only where a person gave them."""
        for name, allowed in (("gradient", GRADIENTS), ("measure", MEASURES), ("kappa", KAPPAS)):
            _checks.one_of(name, getattr(self, name), allowed)
        if isinstance(self.step_size, int | float):
            _checks.positive_number("step_size", self.step_size)
        if isinstance(self.clip, int | float):
            _checks.positive_number("clip", self.clip)
        if not self.power >= 1:
            raise ValueError(f"power: expected a number of at least 1, got {self.power}")

    def init(self, points: Points, *, dense: bool = False, chunk: Count = 1024) -> KernelFlowState:
        """The state at time zero: the Fubini-Study metric at the training points.

        Args:
            points: training points in one chart, see
                :func:`metricflow.geometry.sample_points_in_chart`.
            dense: store the N x N kernel between them: faster while N^2 numbers fit.
            chunk: tile size of the kernel where it is not stored.

        Raises:
            ValueError: no points, points in different charts, or in another than the kernel.
        """
        home, expected = _home(points), getattr(self.kernel, "chart", None)
        if expected is not None and tuple(expected) != home:
            raise ValueError(
                f"points: expected points of the chart {expected} of the kernel, got {home}"
            )
        g = fubini_study_metric(points)
        zero = jnp.zeros((), jnp.int32)
        return KernelFlowState(
            points=points,
            operator=self.operator(points.z, points.z, dense=dense, chunk=chunk),
            g=g,
            coefficients=jnp.zeros((len(g), g.shape[-1] ** 2), g.real.dtype),
            kappa=kappa_estimate(g, points),
            steps=zero,
            result=zero + Result.SUCCESSFUL,
        )

    def step(self, state: KernelFlowState) -> tuple[KernelFlowState, KernelFlowInfo]:
        """One Euler step; if it would break the metric the state stays and ``result`` says why."""
        points, g = state.points, state.g
        kappa = state.kappa if self.kappa == "held" else kappa_estimate(g, points)
        weight = self._weights(points)
        variation = sigma_loss_variation(
            g, points.omega2, kappa, power=self.power, gradient=self.gradient
        )
        size = self._norm(variation, g)
        clipped = jnp.zeros(size.shape, bool)
        if self.clip is not None:
            clipped = size > self.clip
            factor = jnp.where(clipped, self.clip / jnp.where(clipped, size, 1), 1)
            variation, size = variation * factor[:, None, None], size * factor
        source = -hermitian_pack(variation * weight[:, None, None])
        update = state.operator @ source
        if self.normalise_update:
            largest = jnp.max(self._norm(hermitian_unpack(update), g))
            scale = jnp.where(largest > 0, 1 / jnp.where(largest > 0, largest, 1), 0)
            source, update = source * scale, update * scale
        new = g + hermitian_unpack(self.step_size * update)

        result = outcome(new, hermitian_pivots(new), state.result)
        good = result == Result.SUCCESSFUL
        info = KernelFlowInfo(
            energy=jnp.sum(weight * sigma_loss(g, points.omega2, kappa, power=self.power)),
            sigma=sigma_measure(g, points),
            kappa=kappa,
            largest_update=jnp.max(size),
            clipped_fraction=jnp.mean(clipped.astype(size.dtype)),
            result=result,
        )
        moved = state._replace(
            g=jnp.where(good, new, g),
            coefficients=jnp.where(
                good, state.coefficients + self.step_size * source, state.coefficients
            ),
            kappa=kappa,
            steps=state.steps + good,
            result=result,
        )
        return moved, info

    def run(
        self, state: KernelFlowState, steps: int, *, observe: Any = None, throw: bool = True
    ) -> tuple[KernelFlowState, KernelFlowInfo, Any]:
        """``steps`` steps in one compiled scan.

        Args:
            state: from :meth:`init`, or from an earlier run to go on.
            steps: how many.
            observe: called with the state after every step, for instance
                :func:`held_out_sigma`; a function, or a ``jax.tree_util.Partial`` whose
                arguments may change without compiling again.
            throw: raise :class:`FlowError` if the flow breaks down; otherwise the state before the
                step that failed comes back with its ``result``.

        Returns:
            The last state, the infos stacked over steps, the observations stacked over steps.
        """
        steps = _checks.positive_integer("steps", steps)
        if observe is not None and not isinstance(observe, jax.tree_util.Partial):
            observe = jax.tree_util.Partial(observe)
        state, info, seen = _run(self, state, steps, observe)
        remedy = "use a smaller step_size or clip"
        raise_unless_successful(state.result, state.steps, remedy, throw)
        return state, info, seen

    def metric(self, manifold: Hypersurface, state: KernelFlowState) -> KernelMetric:
        """The metric that the flow has reached, as a callable."""
        return KernelMetric(
            manifold=manifold,
            kernel=self.kernel,
            centres=state.points.z,
            coefficients=state.coefficients,
            home=_home(state.points),
            normalise=self.normalise,
        )

    def operator(
        self, z1: AnyArray, z2: AnyArray, *, dense: bool = False, chunk: Count = 1024
    ) -> Operator:
        """The kernel of the flow from functions at z2 to functions at z1.

        Args:
            z1, z2: homogeneous coordinates in the chart of the training points.
            dense: store it.
            chunk: tile size where it is not stored.
        """
        if dense:
            return dense_operator(self.kernel, z1, z2, normalise=self.normalise)
        return tiled_operator(self.kernel, z1, z2, normalise=self.normalise, chunk=chunk)

    def _weights(self, points: Points) -> Array:
        weight = jnp.asarray(points.weight)
        if self.measure == "calabi_yau":
            return weight / jnp.sum(weight)
        return jnp.ones_like(weight) / (len(weight) if self.measure == "mean" else 1)

    def _norm(self, h: Array, g: Array) -> Array:
        if self.gradient == "covariant":
            h = hermitian_inverse(g) @ h
            return jnp.sqrt(jnp.maximum(jnp.einsum("bac,bca->b", h, h).real, 0))
        return jnp.sqrt(jnp.sum(jnp.abs(h) ** 2, axis=(-2, -1)))


def held_out_sigma(
    flow: KernelFlow,
    state: KernelFlowState,
    points: Points,
    *,
    dense: bool = False,
    chunk: Count = 1024,
) -> jax.tree_util.Partial:
    """An ``observe`` for :meth:`KernelFlow.run`: the sigma measure on other points after each step.

    Args:
        flow: the flow.
        state: a state of it, for its training points.
        points: held-out points in the chart of the training points.
        dense: store the kernel between the two sets.
        chunk: tile size where it is not stored.
    """
    if _home(points) != _home(state.points):
        raise ValueError(
            f"points: held-out points are in chart {_home(points)}, "
            f"the training points in {_home(state.points)}"
        )
    operator = flow.operator(points.z, state.points.z, dense=dense, chunk=chunk)
    return jax.tree_util.Partial(_sigma_at, operator, fubini_study_metric(points), points)


def _sigma_at(
    operator: Operator, reference: Array, points: Points, state: KernelFlowState
) -> Array:
    return sigma_measure(reference + hermitian_unpack(operator @ state.coefficients), points)


@jax.jit
def _evaluate(metric: KernelMetric, z: Array, chart: Array) -> Array:
    """Fubini-Study plus the kernel sum, in the given charts."""
    manifold = metric.manifold
    reference = FubiniStudyMetric(manifold)(z, chart)
    here = chart if manifold.symmetric else metric.home
    at = permute_to_chart(chart_coordinates(z, here), here, metric.home)
    correction = apply(
        metric.kernel,
        at.reshape(-1, manifold.ambient),
        metric.centres,
        metric.coefficients,
        normalise=metric.normalise,
    )
    correction = hermitian_unpack(correction).reshape(reference.shape)
    if not manifold.symmetric:
        change = transition(manifold, z, metric.home, chart)
        correction = jnp.einsum("...ac,...cd,...ed->...ae", change, correction, change.conj())
    return reference + correction


@jax.jit(static_argnames="steps")
def _run(flow: KernelFlow, state: KernelFlowState, steps: int, observe: Any) -> tuple[Any, ...]:
    def one(carry: KernelFlowState, _: None) -> tuple[Any, ...]:
        carry, info = flow.step(carry)
        return carry, (info, None if observe is None else observe(carry))

    outputs: tuple[KernelFlowInfo, Any]
    last, outputs = jax.lax.scan(one, state, length=steps)
    return last, *outputs


def _home(points: Points) -> Chart:
    """The one chart of a set of points."""
    if len(points.weight) == 0:
        raise ValueError("points: expected at least one training point, got none")
    charts = np.unique(processes.on_host(points.chart), axis=0)
    if len(charts) != 1:
        raise ValueError(
            f"points: a kernel flow needs points of one chart, got {len(charts)} charts; "
            "use sample_points_in_chart"
        )
    return int(charts[0, 0]), int(charts[0, 1])
