"""Ricci flow and Ricci-DeTurck flow of real metrics on a flat torus as a manifold.

    dg/dt = -2 Ric(g)                                  Hamilton
    dg/dt = -2 Ric(g) + L_W g                          DeTurck
    W^k   = g^ij (Gamma^k_ij - Gamma^k_ij of the background)

The second is the first along moving coordinates, and parabolic: linearised at a flat background it
is the heat equation for every component.  In the paper the same term is - L_V g.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .. import _checks
from .._checks import AnyArray
from .._pytree import register_dataclass
from ..geometry.grid_curvature import (
    check_tensor,
    grid_christoffel,
    grid_ricci,
    lie_derivative,
    metric_inverse,
    metric_pivots,
    tensor_norm,
    volume_density,
)
from ..geometry.periodic_grid import PeriodicGrid
from .result import Result, outcome, raise_unless_successful
from .time_steps import Time, rosenbrock_step, runge_kutta_step

GAUGES = ("hamilton", "deturck")
METHODS = ("rk4", "rosenbrock")
_REACH = 2.78  # of the Runge-Kutta method on the negative real axis


class RicciFlowState(NamedTuple):
    """What the next step needs.

    Attributes:
        g: the metric, shape (*grid, k, k).
        time: t.
        steps: good steps taken.
        result: a :class:`Result` code; once it is not SUCCESSFUL the state no longer moves.
    """

    g: Float[Array, "..."]
    time: Float[Array, ""]
    steps: Int[Array, ""]
    result: Int[Array, ""]


class RicciFlowInfo(NamedTuple):
    """What a person wants to see of a step: values before it.

    Attributes:
        volume: int dV.
        speed: the largest |dg/dt|_g of all points, which is 2 |Ric|_g in Hamilton's gauge.
        result: the :class:`Result` code after the step.
    """

    volume: Float[Array, ""]
    speed: Float[Array, ""]
    result: Int[Array, ""]


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class RicciFlow:
    """Ricci flow on a :class:`.PeriodicGrid`, spectral in space.

    Hamilton's flow is not strictly parabolic: modes that only move the coordinates do not decay,
    so it loses accuracy where DeTurck's does not.  A width makes the flow non-local: its velocity
    is convolved with the periodic Gaussian of that width, a kernel in place of the delta function.

    Attributes:
        grid: the grid.
        gauge: ``"hamilton"`` or ``"deturck"``.
        background: the metric of DeTurck's vector field, (*grid, k, k); None is the flat delta_ij.
        method: ``"rk4"``, of order 4, its step bounded by :meth:`largest_step`; or
            ``"rosenbrock"``, of order 2, linearly implicit with the flat Laplacian.
        diffusivity: c of the c Laplacian in the implicit method; near the largest eigenvalue of
            g^ij it is stable for any step.
        width: standard deviation of the Gaussian; None or 0 is the local flow.
        dealias: cut the highest third of the modes from the start and from every velocity.

    Raises:
        ValueError: an option that is not one of those named, a background of another shape, a
            diffusivity not above zero, a negative width.

    Source: MF 2.39, MF 2.30, RF 5, RF 8, RF 20
    """

    grid: PeriodicGrid = dataclasses.field(metadata={"static": True})
    gauge: str = dataclasses.field(default="hamilton", metadata={"static": True})
    background: Float[AnyArray, "..."] | None = None
    method: str = dataclasses.field(default="rk4", metadata={"static": True})
    diffusivity: Float[Array, ""] | float = 1.0
    width: Float[Array, ""] | float | None = None
    dealias: bool = dataclasses.field(default=True, metadata={"static": True})

    def __post_init__(self) -> None:
        """Check the options; numbers only where a person gave them."""
        for name, allowed in (("gauge", GAUGES), ("method", METHODS)):
            _checks.one_of(name, getattr(self, name), allowed)
        if self.background is not None:
            check_tensor("background", self.grid, self.background)
            if self.gauge != "deturck":
                raise ValueError(
                    "background: only the gauge 'deturck' has one; got the gauge "
                    f"{self.gauge!r}, leave the background out"
                )
        _checks.positive_number("diffusivity", self.diffusivity)
        if self.width is not None:
            _checks.nonnegative_number("width", self.width)

    def init(self, g: Float[AnyArray, "..."], time: Time = 0.0) -> RicciFlowState:
        """The state at time zero.

        Args:
            g: a metric, shape (*grid, k, k); made symmetric, and smoothed if ``dealias``.
            time: t.

        Raises:
            ValueError: another shape, NaN or infinity, or a metric that is not positive definite.
        """
        g = check_tensor("g", self.grid, g)
        _checks.finite("g", g)
        g = (g + g.swapaxes(-2, -1)) / 2
        g = self.grid.smooth(g) if self.dealias else g
        if not _checks.is_traced(g):
            with jax.ensure_compile_time_eval():
                lowest = float(jnp.min(jnp.linalg.eigvalsh(g)))
            if not lowest > 0:
                raise ValueError(
                    f"g: expected a positive definite metric, got an eigenvalue {lowest:.3g} on "
                    "the grid; take a smaller perturbation, or a finer grid if the modes cut by "
                    "dealias matter"
                )
        zero = jnp.zeros((), jnp.int32)
        return RicciFlowState(g, jnp.asarray(time, g.dtype), zero, zero + Result.SUCCESSFUL)

    def velocity(self, g: Float[AnyArray, "..."]) -> Float[Array, "..."]:
        """dg/dt at the metric g, shape (*grid, k, k).

        Source: MF 2.39, RF 8
        """
        g = check_tensor("g", self.grid, g)
        velocity = -2 * grid_ricci(self.grid, g)
        if self.gauge == "deturck":
            moved = lie_derivative(self.grid, g, self.vector(g))
            # symmetric to the last bit, so that no other part can grow
            velocity = velocity + (moved + moved.swapaxes(-2, -1)) / 2
        if self.dealias:
            velocity = self.grid.smooth(velocity)
        return velocity if self.width is None else self.grid.multiply(velocity, self._kernel)

    def vector(self, g: Float[AnyArray, "..."]) -> Float[Array, "..."]:
        """DeTurck's W^k = g^ij (Gamma^k_ij - background), shape (*grid, k); 0 in Hamilton's gauge.

        Linearised at the background, W_k = D^j h_jk - d_k tr h / 2: minus the V of RF 6.

        Source: RF 8
        """
        g = check_tensor("g", self.grid, g)
        if self.gauge == "hamilton":
            return jnp.zeros(g.shape[:-1], g.dtype)
        gamma = grid_christoffel(self.grid, g)
        if self.background is not None:
            gamma = gamma - grid_christoffel(self.grid, jnp.asarray(self.background, g.dtype))
        return jnp.einsum(
            "...ij,...kij->...k", metric_inverse(g), gamma, precision=jax.lax.Precision.HIGHEST
        )

    def largest_step(self, g: Float[AnyArray, "..."]) -> Float[Array, ""]:
        """The largest dt for which ``"rk4"`` is stable near g, with a tenth to spare.

        2.5 / (lambda |k|^2), lambda the largest eigenvalue of g^ij, k the highest mode kept.
        """
        squares = [
            (2 * jnp.pi / length * ((n - 1) // 3 if self.dealias else n // 2)) ** 2
            for n, length in zip(self.grid.shape, self.grid.lengths, strict=True)
        ]
        lowest = jnp.min(jnp.linalg.eigvalsh(check_tensor("g", self.grid, g)))
        return 0.9 * _REACH * lowest / sum(squares)

    def step(self, state: RicciFlowState, dt: Time) -> tuple[RicciFlowState, RicciFlowInfo]:
        """One step; if it would break the metric the state stays and ``result`` says why."""
        g = state.g
        dt = jnp.asarray(dt, g.dtype)
        if self.method == "rk4":
            new = runge_kutta_step(self.velocity, g, dt)
        else:
            new = rosenbrock_step(self.velocity, self._solve, g, dt)
        result = outcome(new, metric_pivots(new), state.result)
        good = result == Result.SUCCESSFUL
        info = RicciFlowInfo(
            volume=self.grid.integral(volume_density(g)),
            speed=jnp.max(tensor_norm(g, self.velocity(g))),
            result=result,
        )
        moved = RicciFlowState(
            g=jnp.where(good, new, g),
            time=jnp.where(good, state.time + dt, state.time),
            steps=state.steps + good,
            result=result,
        )
        return moved, info

    def run(
        self,
        state: RicciFlowState,
        steps: int,
        dt: Time,
        *,
        observe: Any = None,
        throw: bool = True,
    ) -> tuple[RicciFlowState, RicciFlowInfo, Any]:
        """``steps`` steps of length ``dt`` in one compiled scan.

        Args:
            state: from :meth:`init`, or from an earlier run to go on.
            steps: how many.
            dt: the step.
            observe: called with the state after every step; a function, or a
                ``jax.tree_util.Partial`` whose arguments may change without compiling again.
            throw: raise :class:`FlowError` if the flow breaks down; otherwise the state before the
                step that failed comes back with its ``result``.

        Returns:
            The last state, the infos stacked over steps, the observations stacked over steps.

        Raises:
            ValueError: no steps, or a step not above zero.
            FlowError: the metric stopped being positive definite or finite.
        """
        steps = _checks.positive_integer("steps", steps)
        _checks.positive_number("dt", dt)
        if observe is not None and not isinstance(observe, jax.tree_util.Partial):
            observe = jax.tree_util.Partial(observe)
        state, info, seen = _run(self, state, jnp.asarray(dt, state.g.dtype), steps, observe)
        remedy = "use a smaller dt (see largest_step) or the gauge 'deturck'"
        raise_unless_successful(state.result, state.steps, remedy, throw)
        return state, info, seen

    def _solve(self, field: Array, c: Array) -> Array:
        return self.grid.multiply(
            field, lambda square: 1 / (1 + c * self.diffusivity * square * self._kernel(square))
        )

    def _kernel(self, square: Array) -> Array:
        """The Gaussian in Fourier space."""
        return jnp.exp(-((0 if self.width is None else self.width) ** 2) * square / 2)


def uniform_equivalence(
    g0: Float[AnyArray, "*b k k"], g1: Float[AnyArray, "*b k k"]
) -> Float[Array, "*b"]:
    """The smallest C at every point with e^-C g0 <= g1 <= e^C g0, as quadratic forms.

    It is the largest |log| of the eigenvalues of g0^-1 g1.  Along a path of metrics it is at most
    the length of the path, the integral of |dg/dt|_g.

    Source: RF 36, RF 37
    """
    frame = jnp.linalg.inv(jnp.linalg.cholesky(jnp.asarray(g0)))
    relative = frame @ jnp.asarray(g1) @ frame.swapaxes(-2, -1)
    return jnp.max(jnp.abs(jnp.log(jnp.linalg.eigvalsh(relative))), axis=-1)


@jax.jit(static_argnames="steps")
def _run(
    flow: RicciFlow, state: RicciFlowState, dt: Array, steps: int, observe: Any
) -> tuple[Any, ...]:
    def one(carry: RicciFlowState, _: None) -> tuple[Any, ...]:
        carry, info = flow.step(carry, dt)
        return carry, (info, None if observe is None else observe(carry))

    outputs: tuple[RicciFlowInfo, Any]
    last, outputs = jax.lax.scan(one, state, length=steps)
    return last, *outputs
