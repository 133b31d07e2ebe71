"""Flows of Kaehler potentials on hypersurfaces: Kaehler-Ricci, Calabi and others, by Galerkin.

The potential moves within a family phi(theta): a spectral basis, kernel sections, a network.  The
energy is that of the points,

    E(theta) = sum_x w_x F(eta_x),  eta of weighted mean one,

and the flow its gradient flow in one of the inner products of :mod:`.potential_flows`, restricted
to the tangent functions f_k = d phi / d theta_k:

    dtheta/dt = -G^-1 dE/dtheta,    G_kl = sum_x w_x eta_x (f_k, f_l)_x

So the energy falls on any set of points, whatever their number; more points and more functions only
make it that of the continuum.  A linearly implicit step solves with G + gamma dt H, where H is the
Gauss-Newton form of the Hessian of E: for dt to infinity a step is one of Newton's method.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from .. import _checks
from .._annotations import Count
from .._pytree import register_dataclass
from ..ansatz.features import feature_jets
from ..ansatz.invariant_functions import SpectralBasis
from ..ansatz.jets import hermitian_dual
from ..energies import ENTROPY, ConvexFunction
from ..geometry import (
    Points,
    hermitian_determinant,
    hermitian_frame,
    hermitian_inverse,
    hermitian_pivots,
)
from .potential_flows import INNER_PRODUCTS, PotentialFlowInfo
from .result import Result, outcome, raise_unless_successful
from .tangent_potentials import LinearTangents, TangentPotential
from .time_steps import (
    Time,
    checked_step_sizes,
    implicit_euler_step,
    rosenbrock_step,
    runge_kutta_step,
)

Attempt = tuple[Array, Array, Array, Array]

METHODS = ("rosenbrock", "implicit_euler", "rk4")


class KaehlerFlowState(NamedTuple):
    """What the next step needs.

    Attributes:
        parameters: theta, any tree of arrays.
        time: flow time.
        result: a :class:`Result` code; once it is not SUCCESSFUL the state no longer moves.
    """

    parameters: Any
    time: Float[Array, ""]
    result: Int[Array, ""]


@register_dataclass
@dataclasses.dataclass(frozen=True)
class KaehlerFlow:
    """A flow of Kaehler potentials on a hypersurface, projected onto a family of potentials.

    Attributes:
        function: F in normal form, for instance :data:`metricflow.energies.ENTROPY`.
        inner_product: ``"dirichlet"`` (with the entropy the Kaehler-Ricci flow), ``"mabuchi"``
            (with the entropy the Calabi flow) or ``"calabi_yau"``.
        method: ``"rosenbrock"``, order 2 and stable for any step; ``"implicit_euler"``, order 1,
            for networks, whose tangent functions change within a step; ``"rk4"``, order 4 for steps
            below the stiff limit.
        damping: added to the diagonal of G, relative to its mean.  Families whose tangent functions
            depend on each other (networks, many kernel sections) need it; what they cannot tell
            apart then moves slowly instead of at random.
        halvings: how often a step that would raise the energy or break the metric is halved; the
            time of the state says how far it came.  0 takes steps as they are, and leaves a rise of
            the energy to be seen.

    Raises:
        ValueError: an option that is not one of those named, a negative damping, an F that is not
            convex.

    Source: MF B.4, MF B.8 (corrected), MF B.9 (corrected), MF B.12, MF B.20, MF B.21 (corrected).
    """

    function: ConvexFunction = dataclasses.field(default=ENTROPY, metadata={"static": True})
    inner_product: str = dataclasses.field(default="dirichlet", metadata={"static": True})
    method: str = dataclasses.field(default="rosenbrock", metadata={"static": True})
    damping: float | Float[Array, ""] = 1e-12
    halvings: int = dataclasses.field(default=8, metadata={"static": True})

    def __post_init__(self) -> None:
        """Check the options."""
        _checks.one_of("inner_product", self.inner_product, INNER_PRODUCTS)
        _checks.one_of("method", self.method, METHODS)
        _checks.nonnegative_number("damping", self.damping)
        _checks.natural_number("halvings", self.halvings)
        self.function.check()

    def init(self, parameters: Any) -> KaehlerFlowState:
        """The state at time zero.

        Raises:
            ValueError: no parameters, or parameters that are not real floating point numbers.
        """
        parameters = _checks.real_parameters(parameters)
        zero = jnp.zeros((), jnp.result_type(*jax.tree.leaves(parameters)))
        code = jnp.zeros((), jnp.int32) + Result.SUCCESSFUL
        return KaehlerFlowState(parameters, zero, code)

    def energy(self, family: TangentPotential, parameters: Any) -> Float[Array, ""]:
        """E = sum_x w_x F(eta_x); NaN where the metric is not positive definite."""
        eta, weight = _volume_ratio(family, parameters)
        return weight @ self.function.value(eta)

    def velocity(self, family: TangentPotential, parameters: Any) -> Any:
        """dtheta/dt = -G^-1 dE/dtheta, a tree like the parameters."""
        gram, slope, _ = self._assembled(family, parameters)
        return ravel_pytree(parameters)[1](-_solved(gram, slope))

    def step(
        self, state: KaehlerFlowState, family: TangentPotential, dt: Time
    ) -> tuple[KaehlerFlowState, PotentialFlowInfo]:
        """One step; if no part of it is good the state stays and ``result`` says why."""
        flat, unravel = ravel_pytree(state.parameters)
        before = self.energy(family, state.parameters)
        # the energy is a mean of numbers of order one, good to a few roundings
        ceiling = before + 10 * jnp.finfo(flat.dtype).eps

        gram, slope, hessian = self._assembled(family, state.parameters)
        first = -_solved(gram, slope)

        def velocity(theta: Array) -> Array:
            return ravel_pytree(self.velocity(family, unravel(theta)))[0]

        def solve(right: Array, c: Array) -> Array:
            return _solved(gram + c * hessian, gram @ right)

        def attempt(dt: Array) -> tuple[Array, Array]:
            if self.method == "rk4":
                new = runge_kutta_step(velocity, flat, dt, first=first)
            else:
                implicit = rosenbrock_step if self.method == "rosenbrock" else implicit_euler_step
                new = implicit(velocity, solve, flat, dt, first=first)
            pivots = hermitian_pivots(family.metric(unravel(new)))
            code = outcome(new, pivots, jnp.zeros_like(state.result) + Result.SUCCESSFUL)
            if self.halvings:
                rises = ~(self.energy(family, unravel(new)) <= ceiling)
                code = jnp.where((code == Result.SUCCESSFUL) & rises, Result.NO_DECREASE, code)
            return new, code.astype(state.result.dtype)

        def again(carry: Attempt) -> Array:
            _, code, _, tries = carry
            return (code != Result.SUCCESSFUL) & (tries <= self.halvings)

        def attempt_part(carry: Attempt) -> Attempt:
            _, _, part, tries = carry
            part = jnp.where(tries == 0, part, part / 2)
            return *attempt(part), part, tries + 1

        tries = jnp.zeros((), jnp.int32)
        untried = jnp.zeros_like(state.result) + Result.NON_FINITE
        start = (flat, untried, jnp.asarray(dt, flat.dtype), tries)
        new, code, part, _ = jax.lax.while_loop(again, attempt_part, start)
        result = jnp.where(state.result == Result.SUCCESSFUL, code, state.result)
        good = result == Result.SUCCESSFUL
        moved = KaehlerFlowState(
            parameters=unravel(jnp.where(good, new, flat)),
            time=jnp.where(good, state.time + part, state.time),
            result=result,
        )
        return moved, self.info(moved, family)

    def info(self, state: KaehlerFlowState, family: TangentPotential) -> PotentialFlowInfo:
        """What is to be seen of a state."""
        eta, weight = _volume_ratio(family, state.parameters)
        return PotentialFlowInfo(
            time=state.time,
            energy=weight @ self.function.value(eta),
            sigma=weight @ jnp.abs(1 - eta),
            min_eta=jnp.min(eta),
            result=state.result,
        )

    def run(
        self,
        state: KaehlerFlowState,
        family: TangentPotential,
        step_sizes: Float[Array, " s"],
        *,
        throw: bool = True,
    ) -> tuple[KaehlerFlowState, PotentialFlowInfo]:
        """A step of each of these sizes, in one compiled scan.

        Returns:
            The last state, and the infos after the steps, stacked.

        Raises:
            ValueError: step sizes that are not all finite and above zero, or parameters whose
                metric is not positive definite.
            FlowError: the flow broke down (unless ``throw`` is off).
        """
        if not _checks.is_traced(state, family):
            smallest = float(_smallest_pivot(family, state.parameters))
            if not smallest > 0:
                raise ValueError(
                    "state: expected parameters with a positive metric at every point, got a "
                    f"smallest pivot of {smallest:.3g}; start closer to zero"
                )
        state, info = _run(self, state, family, checked_step_sizes(step_sizes))
        good = jnp.sum(info.result == Result.SUCCESSFUL)
        raise_unless_successful(state.result, good, "take smaller steps", throw)
        return state, info

    def rates(self, family: TangentPotential, parameters: Any) -> Float[Array, " p"]:
        """The eigenvalues of G^-1 H, ascending: rates of decay of phi near the end of the flow.

        At the Calabi-Yau metric, times 1 / F''(1), those of -Delta for ``"dirichlet"`` and of
        Delta^2 for the others, within the family.
        """
        gram, _, hessian = self._assembled(family, parameters)
        factor = jnp.linalg.cholesky(gram)
        half = jax.scipy.linalg.solve_triangular(factor, hessian, lower=True)
        whole = jax.scipy.linalg.solve_triangular(factor, half.T, lower=True)
        return jnp.linalg.eigvalsh((whole + whole.T) / 2)

    def _assembled(self, family: TangentPotential, parameters: Any) -> tuple[Array, Array, Array]:
        """G, dE/dtheta and the Gauss-Newton form of the Hessian of E."""
        jets = family.tangents(parameters)
        g = family.metric(parameters)
        dim, (eta, weight) = g.shape[-1], _volume_ratio(family, parameters)
        measure = weight if self.inner_product == "calabi_yau" else weight * eta
        if self.inner_product == "dirichlet":
            rows = _gradients_in_frame(jets, g) * jnp.sqrt(measure)
            rows = rows.reshape(len(jets), -1)
        else:
            # the constants are in the span of the functions, and mean nothing
            values = jets[:, 0]
            mean = values @ measure / jnp.sum(measure)
            rows = (values - mean[:, None]) * jnp.sqrt(measure)
        laplacian = jnp.einsum("khx,hx->kx", jets[:, 1 + 2 * dim :], _dual(g))
        # d ln eta / d theta, with the weighted mean of eta held at one
        laplacian = laplacian - (laplacian @ (weight * eta))[:, None]
        slope = laplacian @ (weight * eta * self.function.slope(eta))
        curved = laplacian * (eta * jnp.sqrt(weight * self.function.curvature(eta)))
        gram = rows @ rows.T
        damping = self.damping * jnp.trace(gram) / len(gram)
        return gram + damping * jnp.eye(len(gram), dtype=gram.dtype), slope, curved @ curved.T


def spectral_tangents(
    basis: SpectralBasis, points: Points, *, chunk: Count = 512
) -> LinearTangents:
    """The family phi = sum_k c_k f_k over the functions of a spectral basis.

    It takes M (1 + 2n + n^2) N numbers.
    """
    jets = jnp.moveaxis(feature_jets(basis, points, chunk=chunk), 0, -1)
    return LinearTangents(points, jets)


def _volume_ratio(family: TangentPotential, parameters: Any) -> tuple[Array, Array]:
    """eta of weighted mean one, and the weights of sum one."""
    points = family.points
    weight = points.weight / jnp.sum(points.weight)
    ratio = hermitian_determinant(family.metric(parameters)) / points.omega2
    return ratio / (weight @ ratio), weight


def _gradients_in_frame(jets: Array, g: Array) -> Array:
    """d_a f_k in a frame orthonormal for g, as 2n real numbers a point: (M, 2n, N)."""
    dim, frame = g.shape[-1], hermitian_frame(g)
    u, v = jets[:, 1 : 1 + dim], jets[:, 1 + dim : 1 + 2 * dim]
    rows = []
    # real products over streams of points; the frame is lower triangular
    for c in range(dim):
        e = frame[:, c, : c + 1]
        rows.append(sum(e[:, a].real * u[:, a] - e[:, a].imag * v[:, a] for a in range(c + 1)))
        rows.append(sum(e[:, a].real * v[:, a] + e[:, a].imag * u[:, a] for a in range(c + 1)))
    return jnp.stack(rows, axis=1)


def _dual(g: Array) -> Array:
    return hermitian_dual(hermitian_inverse(g))


def _solved(matrix: Array, right: Array) -> Array:
    return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(matrix), right)


@jax.jit
def _smallest_pivot(family: TangentPotential, parameters: Any) -> Array:
    return jnp.min(hermitian_pivots(family.metric(parameters)))


@jax.jit
def _run(
    flow: KaehlerFlow, state: KaehlerFlowState, family: TangentPotential, step_sizes: Array
) -> tuple[KaehlerFlowState, PotentialFlowInfo]:
    def step(state: KaehlerFlowState, dt: Array) -> tuple[KaehlerFlowState, PotentialFlowInfo]:
        return flow.step(state, family, dt)

    return jax.lax.scan(step, state, step_sizes)
