"""The flow of a metric that a network writes, as gradient descent of its parameters.

    dtheta/dt = -G^-1 J(x_b)^T dE/dg(x_b),      dg(x)/dt = -J(x) G^-1 J(x_b)^T dE/dg(x_b)

The second line follows from the first by the chain rule: J G^-1 J^T is the metric-NTK, which moves
with theta.  For a linearised network (:func:`metricflow.ansatz.linearised`) it stays, and the same
flow is that of a frozen kernel.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from .. import _checks
from .._annotations import Count
from ..ansatz import one_point
from ..kernels.tangent_kernel import (
    check_points,
    metric_ntk_product,
    pulled_back,
    static,
    unwrapped,
)
from ..kernels.tangents import Preconditioner, check_parameters
from .result import Result, raise_unless_successful

SCHEMES = ("euler", "rk4")


class NetworkFlowState(NamedTuple):
    """What the next step needs.

    Attributes:
        parameters: theta.
        time: flow time.
        steps: good steps taken.
        result: a :class:`Result` code; once it is not SUCCESSFUL the state no longer moves.
    """

    parameters: Any
    time: Float[Array, ""]
    steps: Int[Array, ""]
    result: Int[Array, ""]


class NetworkFlowInfo(NamedTuple):
    """What a person wants to see of a step, before it.

    Attributes:
        energy: E.
        slope_norm: |dE/dg| over the batch.
        speed: |dtheta/dt|.
    """

    energy: Float[Array, ""]
    slope_norm: Float[Array, ""]
    speed: Float[Array, ""]


def parameter_velocity(
    apply_fn: Any,
    params: Any,
    x: Any,
    slope: Float[Array, "b c"],
    *,
    preconditioner: Preconditioner | None = None,
    chunk: Count = 1024,
) -> Any:
    """dtheta/dt = -G^-1 sum_b,I (dg_I(x_b)/dtheta) dE/dg_I(x_b): gradient descent of the weights.

    Args:
        apply_fn, params, preconditioner: as for :func:`metricflow.kernels.metric_ntk`.
        x: the N points of the batch.
        slope: dE/dg at them, their weights included, shape (N, c).
        chunk: points in a tile.

    Source: MF 2.2, RF 4
    """
    pulled = pulled_back(apply_fn, params, x, slope, chunk=chunk)
    pulled = pulled if preconditioner is None else preconditioner(pulled)
    return jax.tree.map(jnp.negative, pulled)


def metric_velocity(
    apply_fn: Any,
    params: Any,
    x: Any,
    batch: Any,
    slope: Float[Array, "b2 c"],
    *,
    preconditioner: Preconditioner | None = None,
    chunk: Count = 1024,
) -> Float[Array, "b1 c"]:
    """dg_I(x_a)/dt = -sum_b,J Theta_IJ(x_a, x_b) dE/dg_J(x_b): what that does to the metric.

    Args:
        apply_fn, params, preconditioner: as for :func:`metricflow.kernels.metric_ntk`.
        x: where to look, N1 points.
        batch: the points that drive the flow.
        slope: dE/dg at the batch, with the weights of a sum or an integral, shape (N2, c).
        chunk: points in a tile.

    Source: MF 2.1, MF 2.5, MF 2.6, MF 2.8
    """
    return -metric_ntk_product(
        apply_fn, params, x, batch, slope, preconditioner=preconditioner, chunk=chunk
    )


@dataclasses.dataclass(frozen=True, eq=False)
class NetworkFlow:
    """Gradient descent of a network on a whole batch, in flow time.

    Attributes:
        apply_fn: a network of one point, a module or a model, see
            :func:`metricflow.kernels.metric_ntk`.
        energy: (values (N, c) at the batch) -> number; a ``jax.tree_util.Partial`` to hold data.
        step_size: dt.
        scheme: ``"euler"`` for the discrete flow, error of order dt to the continuous one;
            ``"rk4"`` for the continuous one, error of order dt^4.
        preconditioner: (params, gradient) -> G(params)^-1 gradient.
        chunk: points in a tile.

    Raises:
        ValueError: an unknown scheme, a step not above zero.

    Source: MF 2.1, MF 2.2, MF 2.8, MF 2.12 (for a linearised network)
    """

    apply_fn: Any
    energy: Callable[[Array], Array]
    step_size: Float[Array, ""] | float = 0.1
    scheme: str = "euler"
    preconditioner: Callable[[Any, Any], Any] | None = None
    chunk: Count = 1024

    def __post_init__(self) -> None:
        _checks.one_of("scheme", self.scheme, SCHEMES)
        _checks.positive_number("step_size", self.step_size)
        _checks.positive_integer("chunk", self.chunk)

    def init(self, params: Any) -> NetworkFlowState:
        """The state at time zero."""
        params = check_parameters(params)
        zero = jnp.zeros((), jnp.int32)
        real = jnp.finfo(jnp.result_type(*jax.tree.leaves(params))).dtype
        return NetworkFlowState(params, jnp.zeros((), real), zero, zero + Result.SUCCESSFUL)

    def values(self, params: Any, x: Any) -> Float[Array, "b c"]:
        """The outputs at N points.

        Raises:
            ValueError: NaN or infinity.
        """
        _checks.finite_tree("x", x)
        _checks.finite_tree("params", params)
        return jax.vmap(one_point(self.apply_fn), in_axes=(None, 0))(params, x)

    def step(self, state: NetworkFlowState, batch: Any) -> tuple[NetworkFlowState, NetworkFlowInfo]:
        """One step; if it would leave the numbers the state stays and ``result`` says so."""
        dt = self.step_size
        energy, slope, first = self._velocity(state.parameters, batch)
        moved = _moved(state.parameters, first, dt)
        if self.scheme == "rk4":
            second = self._velocity(_moved(state.parameters, first, dt / 2), batch)[2]
            third = self._velocity(_moved(state.parameters, second, dt / 2), batch)[2]
            fourth = self._velocity(_moved(state.parameters, third, dt), batch)[2]
            mean = jax.tree.map(
                lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6, first, second, third, fourth
            )
            moved = _moved(state.parameters, mean, dt)
        finite = jnp.isfinite(optax.tree.norm(moved)) & jnp.isfinite(energy)
        good = finite & (state.result == Result.SUCCESSFUL)
        result = jnp.where(finite, state.result, Result.NON_FINITE).astype(state.result.dtype)
        result = jnp.where(state.result == Result.SUCCESSFUL, result, state.result)
        kept = jax.tree.map(lambda new, old: jnp.where(good, new, old), moved, state.parameters)
        after = NetworkFlowState(
            kept,
            state.time + jnp.where(good, dt, 0).astype(state.time.dtype),
            state.steps + good,
            result,
        )
        return after, NetworkFlowInfo(energy, jnp.linalg.norm(slope), optax.tree.norm(first))

    def run(
        self,
        state: NetworkFlowState,
        batch: Any,
        steps: int,
        *,
        observe: Any = None,
        throw: bool = True,
    ) -> tuple[NetworkFlowState, NetworkFlowInfo, Any]:
        """``steps`` steps in one compiled scan.

        Args:
            state: from :meth:`init`, or from an earlier run to go on.
            batch: the points that drive the flow, as the network reads them.
            steps: how many.
            observe: called with the state after every step.
            throw: raise :class:`FlowError` if the flow breaks down.

        Returns:
            The last state, the infos and the observations, stacked over steps.
        """
        steps = _checks.positive_integer("steps", steps)
        batch = check_points("batch", batch)
        parts = (self.apply_fn, self.energy, self.preconditioner, observe)
        last, infos, seen = _run(
            tuple(static(part) for part in parts),
            jnp.asarray(self.step_size),
            state,
            batch,
            (self.scheme, self.chunk, steps),
        )
        raise_unless_successful(last.result, last.steps, "use a smaller step_size", throw)
        return last, infos, seen

    def _velocity(self, params: Any, batch: Any) -> tuple[Array, Array, Any]:
        """E, dE/dg and dtheta/dt."""
        energy, slope = jax.value_and_grad(self.energy)(self.values(params, batch))
        at = None
        if self.preconditioner is not None:
            at = jax.tree_util.Partial(self.preconditioner, params)
        velocity = parameter_velocity(
            self.apply_fn, params, batch, slope, preconditioner=at, chunk=self.chunk
        )
        return energy, slope, velocity


@functools.partial(jax.jit, static_argnums=4)
def _run(
    parts: tuple[Any, ...],
    step_size: Array,
    state: NetworkFlowState,
    batch: Any,
    options: tuple[Any, ...],
) -> tuple[Any, ...]:
    """The scan; functions with their arrays are arguments, so that new arrays compile nothing."""
    apply_fn, energy, preconditioner, watch = (unwrapped(part) for part in parts)
    scheme, chunk, steps = options
    flow = NetworkFlow(apply_fn, energy, step_size, scheme, preconditioner, chunk)

    def one(carry: NetworkFlowState, _: None) -> tuple[Any, ...]:
        carry, info = flow.step(carry, batch)
        return carry, (info, None if watch is None else watch(carry))

    outputs: tuple[NetworkFlowInfo, Any]
    last, outputs = jax.lax.scan(one, state, length=steps)
    return last, *outputs


def _moved(params: Any, velocity: Any, dt: Any) -> Any:
    return jax.tree.map(lambda p, v: (p + dt * v).astype(p.dtype), params, velocity)
