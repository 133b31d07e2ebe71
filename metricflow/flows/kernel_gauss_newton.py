"""Gauss-Newton in function space: the end of the flow of a frozen kernel in a few steps.

A gradient flow moves along each eigenvector of its kernel at the speed of the eigenvalue; those
that decide how well a metric generalises may take 10^5 steps.  Gauss-Newton solves for them.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .. import _checks
from .._annotations import Count
from ..energies import monge_ampere_residuals
from ..geometry import Points, hermitian_pack, hermitian_unpack
from .gauss_newton import shortened
from .kernel import KernelFlow, KernelFlowState
from .result import FlowError, Result


class KernelGaussNewtonState(NamedTuple):
    """What the next step needs.

    Attributes:
        flow: points, kernel, metric and coefficients, as in the gradient flow; its ``kappa`` is
            not used.
        damping: lambda, relative to the size of D K D^T.
    """

    flow: KernelFlowState
    damping: Float[Array, ""]

    @property
    def result(self) -> Int[Array, ""]:
        """The :class:`Result` code of the last step."""
        return self.flow.result


class KernelGaussNewtonInfo(NamedTuple):
    """What happened in a step.

    Attributes:
        loss_before, loss: the sum of squares of the residuals before and after.
        fraction: the part of the full step that was taken, 0 if none was good.
        damping: lambda of the step.
    """

    loss_before: Float[Array, ""]
    loss: Float[Array, ""]
    fraction: Float[Array, ""]
    damping: Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class KernelGaussNewton:
    """Damped Gauss-Newton steps for the Monge-Ampere equation in the function space of a kernel.

    With residuals r(g), their derivative D = dr/dg at the points, and the kernel K between them,

        (D K D^T + lambda s) beta = r,    a -= D^T beta,    g(x) = g_FS(x) + sum_b K(x, x_b) a_b,

    which is the damped Gauss-Newton step among all parameters of which K is the tangent kernel: it
    minimises |r + D dg|^2 + lambda s |dg|_K^2 in the norm of the kernel's function space.  s is the
    Rayleigh quotient of D K D^T at r, so that lambda does not depend on the scale of K.  The system
    is solved by conjugate gradients; nothing of size N^2 is stored.

    Attributes:
        kernel: as for :class:`KernelFlow`: scalar, or one that mixes components.
        damping: lambda at the start, divided by 3 after a full step, multiplied by 4 after a
            shortened or refused one.
        iterations: conjugate gradient iterations a step, at most.
        tolerance: they stop once the residual has fallen to this part.
        halvings: how often a step is halved to stay positive and to lower the loss.

    Raises:
        ValueError: a damping that is not above zero, or other numbers that make no sense.

    Source: MF 2.12 (t to infinity; the paper only takes gradient steps)
    """

    kernel: Any
    damping: float = 1e-2
    iterations: int = 50
    tolerance: float = 0.05
    halvings: int = 12

    def __post_init__(self) -> None:
        _checks.positive_number("damping", self.damping)
        _checks.positive_number("tolerance", self.tolerance)
        _checks.positive_integer("iterations", self.iterations)
        _checks.positive_integer("halvings", self.halvings)

    def init(
        self, points: Points, *, dense: bool = False, chunk: Count = 1024
    ) -> KernelGaussNewtonState:
        """The state at Fubini-Study; arguments and errors as for :meth:`KernelFlow.init`."""
        flow = KernelFlow(self.kernel).init(points, dense=dense, chunk=chunk)
        return KernelGaussNewtonState(flow, jnp.asarray(self.damping, flow.coefficients.dtype))

    def step(
        self, state: KernelGaussNewtonState
    ) -> tuple[KernelGaussNewtonState, KernelGaussNewtonInfo]:
        """One step; if no part of it lowers the loss the metric stays and the damping grows."""
        flow = state.flow
        components = hermitian_pack(flow.g)

        def residuals(h: Array) -> Array:
            return monge_ampere_residuals(hermitian_unpack(h), flow.points)

        r, push = jax.linearize(residuals, components)
        pull = jax.linear_transpose(push, components)

        def product(beta: Array) -> Array:
            return push(flow.operator @ pull(beta)[0])

        before = jnp.sum(r**2)
        scale = jnp.vdot(r, product(r)) / before
        beta, _ = jax.scipy.sparse.linalg.cg(
            lambda v: product(v) + state.damping * scale * v,
            r,
            maxiter=self.iterations,
            tol=self.tolerance,
        )
        source = -pull(beta)[0]
        update = flow.operator @ source
        fraction, loss = shortened(
            lambda part: jnp.sum(residuals(components + part * update) ** 2), before, self.halvings
        )
        good = (loss < before) & jnp.isfinite(before)
        fraction = jnp.where(good, fraction, 0)
        result = jnp.where(
            jnp.isfinite(before),
            jnp.where(good, Result.SUCCESSFUL, Result.NO_DECREASE),
            Result.NON_FINITE,
        ).astype(flow.result.dtype)
        moved = flow._replace(
            g=jnp.where(good, hermitian_unpack(components + fraction * update), flow.g),
            coefficients=jnp.where(good, flow.coefficients + fraction * source, flow.coefficients),
            steps=flow.steps + good,
            result=result,
        )
        damping = jnp.where(fraction == 1, state.damping / 3, state.damping * 4)
        info = KernelGaussNewtonInfo(before, jnp.where(good, loss, before), fraction, state.damping)
        return KernelGaussNewtonState(moved, damping), info

    def run(
        self, state: KernelGaussNewtonState, steps: int, *, observe: Any = None, throw: bool = True
    ) -> tuple[KernelGaussNewtonState, KernelGaussNewtonInfo, Any]:
        """``steps`` compiled steps.

        Args:
            state: from :meth:`init`, or from an earlier run to go on.
            steps: how many.
            observe: called with the ``flow`` part of the state after every step, for instance
                :func:`held_out_sigma`: with it one stops where held-out points are best, since
                small dampings fit the training points only.
            throw: raise :class:`FlowError` if the metric is not positive at the start.

        Returns:
            The last state, the infos and the observations, stacked over steps.
        """
        steps = _checks.positive_integer("steps", steps)
        if observe is not None and not isinstance(observe, jax.tree_util.Partial):
            observe = jax.tree_util.Partial(observe)
        last, infos, seen = _run(dataclasses.replace(self, kernel=None), state, steps, observe)
        if throw and not _checks.is_traced(last) and int(last.result) == Result.NON_FINITE:
            raise FlowError(
                Result.NON_FINITE, int(last.flow.steps), "start from a metric that is positive"
            )
        return last, infos, seen

    def metric(self, manifold: Any, state: KernelGaussNewtonState) -> Any:
        """The metric that was reached, as a callable :class:`KernelMetric`."""
        return KernelFlow(self.kernel).metric(manifold, state.flow)


def _run_scan(
    method: KernelGaussNewton, state: KernelGaussNewtonState, steps: int, observe: Any
) -> tuple[Any, ...]:
    def one(carry: KernelGaussNewtonState, _: None) -> tuple[Any, ...]:
        carry, info = method.step(carry)
        return carry, (info, None if observe is None else observe(carry.flow))

    outputs: tuple[KernelGaussNewtonInfo, Any]
    last, outputs = jax.lax.scan(one, state, length=steps)
    return last, *outputs


# the kernel is in the operator of the state: the options alone decide the program
_run = jax.jit(_run_scan, static_argnums=(0, 2))
