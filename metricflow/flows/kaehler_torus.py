"""Flows of Kaehler potentials on flat tori: Kaehler-Ricci, Calabi, ultra-local, two-derivative.

The flows are those of :mod:`.potential_flows`, spectral in space.  A kernel of finite width w gives
dphi/dt = -K_w * (eta Delta F'), which is local in the limit w to 0.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .. import _checks
from .._pytree import register_dataclass
from ..energies import ENTROPY, ConvexFunction
from ..geometry import KaehlerTorus, hermitian_inverse, hermitian_pivots
from .potential_flows import INNER_PRODUCTS, PotentialFlowInfo
from .result import Result, outcome, raise_unless_successful
from .time_steps import Time, checked_step_sizes, rosenbrock_step, runge_kutta_step

METHODS = ("rosenbrock", "rk4")


class TorusFlowState(NamedTuple):
    """What the next step needs.

    Attributes:
        potential: phi on the grid.
        time: flow time.
        result: a :class:`Result` code; once it is not SUCCESSFUL the state no longer moves.
    """

    potential: Float[Array, "..."]
    time: Float[Array, ""]
    result: Int[Array, ""]


@register_dataclass
@dataclasses.dataclass(frozen=True)
class TorusKaehlerFlow:
    """A flow of the Kaehler potential on a flat torus.

    Attributes:
        torus: the torus and its reference metric g_0.
        function: F in normal form, for instance :data:`metricflow.energies.ENTROPY`.
        inner_product: ``"dirichlet"``, ``"mabuchi"`` or ``"calabi_yau"``.
        width: of the Gaussian that the velocity is convolved with; 0 is the local flow.  With
            ``"calabi_yau"`` that is the flow of a kernel, a gradient flow at any width.
        method: ``"rosenbrock"``, order 2 and stable for steps far above the stiff limit, or
            ``"rk4"``, order 4 for small steps.

    Raises:
        ValueError: an option that is not one of those named, a negative width, an F that is not
            convex.

    Source: MF B.4, MF B.6, MF B.8 (corrected), MF B.9 (corrected), MF B.19, MF B.20, MF B.21
    (corrected), MF 2.30, MF 2.31.
    """

    torus: KaehlerTorus
    function: ConvexFunction = dataclasses.field(default=ENTROPY, metadata={"static": True})
    inner_product: str = dataclasses.field(default="dirichlet", metadata={"static": True})
    width: float | Float[Array, ""] = 0.0
    method: str = dataclasses.field(default="rosenbrock", metadata={"static": True})

    def __post_init__(self) -> None:
        """Check the options."""
        _checks.one_of("inner_product", self.inner_product, INNER_PRODUCTS)
        _checks.one_of("method", self.method, METHODS)
        _checks.nonnegative_number("width", self.width)
        self.function.check()

    def init(self, potential: Float[Array, "..."]) -> TorusFlowState:
        """The state at time zero.

        Raises:
            ValueError: a potential whose metric is not positive definite.
        """
        potential = self.torus.grid.smooth(potential)
        if not _checks.is_traced(potential):
            smallest = float(_smallest_pivot(self.torus, potential))
            if not smallest > 0:
                raise ValueError(
                    "potential: expected g_0 + d dbar phi positive on the whole grid, got a "
                    f"smallest pivot of {smallest:.3g}; make the potential smaller"
                )
        zero = jnp.zeros((), potential.dtype)
        code = jnp.zeros((), jnp.int32) + Result.SUCCESSFUL
        return TorusFlowState(potential, zero, code)

    def velocity(self, potential: Float[Array, "..."]) -> Float[Array, "..."]:
        """dphi/dt, of mean zero: the constant in phi means nothing."""
        torus, grid = self.torus, self.torus.grid
        g = torus.metric(potential)
        eta = torus.volume_ratio(g)
        slope = self.function.slope(eta)
        if self.inner_product == "dirichlet":
            found = slope
        else:
            found = -torus.laplacian(g, slope)
            if self.inner_product == "calabi_yau":
                found = eta * found
        found = grid.smooth(found - grid.mean(found))
        return grid.multiply(found, lambda square: jnp.exp(-(self.width**2) * square / 2))

    def step(self, state: TorusFlowState, dt: Time) -> tuple[TorusFlowState, PotentialFlowInfo]:
        """One step; if it would break the metric the state stays and ``result`` says why."""
        dt = jnp.asarray(dt, state.potential.dtype)
        if self.method == "rk4":
            new = runge_kutta_step(self.velocity, state.potential, dt)
        else:
            solve = self._solver(state.potential)
            new = rosenbrock_step(self.velocity, solve, state.potential, dt)
        result = outcome(new, hermitian_pivots(self.torus.metric(new)), state.result)
        good = result == Result.SUCCESSFUL
        moved = TorusFlowState(
            potential=jnp.where(good, new, state.potential),
            time=jnp.where(good, state.time + dt, state.time),
            result=result,
        )
        return moved, self.info(moved)

    def info(self, state: TorusFlowState) -> PotentialFlowInfo:
        """What is to be seen of a state."""
        eta = self.torus.volume_ratio(self.torus.metric(state.potential))
        mean = self.torus.grid.mean
        return PotentialFlowInfo(
            time=state.time,
            energy=mean(self.function.value(eta)),
            sigma=mean(jnp.abs(1 - eta)),
            min_eta=jnp.min(eta),
            result=state.result,
        )

    def run(
        self, state: TorusFlowState, step_sizes: Float[Array, " s"], *, throw: bool = True
    ) -> tuple[TorusFlowState, PotentialFlowInfo]:
        """A step of each of these sizes, in one compiled scan.

        Returns:
            The last state, and the infos after the steps, stacked.

        Raises:
            ValueError: step sizes that are not all finite and above zero.
            FlowError: the flow broke down (unless ``throw`` is off).
        """
        step_sizes = checked_step_sizes(step_sizes)
        state, info = _run(self, state, step_sizes)
        good = jnp.sum(info.result == Result.SUCCESSFUL)
        raise_unless_successful(state.result, good, "take smaller steps", throw)
        return state, info

    def _solver(self, potential: Array) -> Callable[[Array, Array], Array]:
        """(1 - c A)^-1 for the linearised velocity with its coefficients at their largest."""
        eta = self.torus.volume_ratio(g := self.torus.metric(potential))
        inverse = hermitian_inverse(g)
        # an upper bound of the eigenvalues of g^-1, hence of Delta against the flat Laplacian / 4
        largest = jnp.trace(inverse, axis1=-2, axis2=-1).real
        power = 1 if self.inner_product == "dirichlet" else 2
        factor = self.function.curvature(eta) * eta * largest**power
        if self.inner_product == "calabi_yau":
            factor = factor * eta
        # half of it is stable as well, for the method takes gamma > 1 times what it is given
        scale = jnp.max(factor) / 2

        def solve(right: Array, c: Array) -> Array:
            def multiplier(square: Array) -> Array:
                smoothing = jnp.exp(-(self.width**2) * square / 2)
                return 1 / (1 + c * scale * smoothing * (square / 4) ** power)

            return self.torus.grid.multiply(right, multiplier)

        return solve


@jax.jit
def _smallest_pivot(torus: KaehlerTorus, potential: Array) -> Array:
    return jnp.min(hermitian_pivots(torus.metric(potential)))


@jax.jit
def _run(
    flow: TorusKaehlerFlow, state: TorusFlowState, step_sizes: Array
) -> tuple[TorusFlowState, PotentialFlowInfo]:
    return jax.lax.scan(flow.step, state, step_sizes)
