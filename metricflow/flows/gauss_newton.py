"""Gauss-Newton and Levenberg-Marquardt: the flow whose kernel is a projector.

For residuals r(theta) with Jacobian J the step is theta <- theta - s (J^T J + lambda)^-1 J^T r.
In function space r moves along J (J^T J)^+ J^T, the projector on the tangent space of the model:
every direction the model can follow is followed at the same speed, where gradient descent, whose
kernel is J J^T, crawls along the small eigenvalues.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from .. import _checks, devices
from .result import FlowError, Result

SOLVERS = ("auto", "parameters", "samples", "iterative")
FACTORS = ("qr", "cholesky")
_DENSE_ENTRIES = 200_000_000  # of the Jacobian, above which "auto" does not form it


@runtime_checkable
class LeastSquares(Protocol):
    """A least-squares problem: half the sum of squares of ``residuals`` is to be minimised."""

    def residuals(self, parameters: Any) -> Array:
        """r(theta), shape (N,); infinite outside the domain (the Kaehler cone)."""
        ...


class GaussNewtonState(NamedTuple):
    """What the next step needs.

    Attributes:
        parameters: theta, any tree of arrays.
        damping: lambda, relative to the mean square of the Jacobian's columns.
        loss: the sum of squares of the residuals at theta on the last problem, infinite at first.
        steps: steps accepted so far.
        result: :class:`metricflow.flows.Result` of the last step.
    """

    parameters: Any
    damping: Float[Array, ""]
    loss: Float[Array, ""]
    steps: Int[Array, ""]
    result: Int[Array, ""]


class GaussNewtonInfo(NamedTuple):
    """What happened in a step.

    Attributes:
        loss_before, loss: the sum of squares of the residuals before and after.
        fraction: the part s of the full step that was taken, 0 if none was good.
        step_norm: Euclidean length of the full step.
        rank: singular values kept; -1 where none were computed.
    """

    loss_before: Float[Array, ""]
    loss: Float[Array, ""]
    fraction: Float[Array, ""]
    step_norm: Float[Array, ""]
    rank: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class GaussNewton:
    """Options of the method; ``init``, ``step`` and ``run`` are pure functions.

    Attributes:
        damping: lambda at the start, relative to the mean square column of J; 0 is Gauss-Newton.
        adaptive: divide the damping by 3 after a full step, multiply it by 4 after a shortened or
            refused one (Levenberg-Marquardt).
        solver: ``"parameters"`` factors the P x P side (J^T J + lambda), ``"samples"`` the N x N
            side (J J^T + lambda): the same step.  ``"iterative"`` never forms J: conjugate
            gradients on products.  ``"auto"`` takes the smaller side, or products if J is too big.
        factor: ``"qr"`` works on J itself, accurate to eps cond(J); ``"cholesky"`` on the normal
            equations, three times faster, accurate to eps cond(J)^2, for damped problems.
        rank_tolerance: drop singular values below this times the largest (with ``"qr"``).
        iterations: conjugate gradient iterations, at most.
        tolerance: conjugate gradients stop once the residual has fallen to this part.
        halvings: how often a step is halved to stay in the domain and to lower the loss.
    """

    damping: float = 0.0
    adaptive: bool = False
    solver: str = "auto"
    factor: str = "qr"
    rank_tolerance: float | None = None
    iterations: int = 100
    tolerance: float = 1e-6
    halvings: int = 12

    def __post_init__(self) -> None:
        """Check the options."""
        for name, allowed in (("solver", SOLVERS), ("factor", FACTORS)):
            _checks.one_of(name, getattr(self, name), allowed)
        _checks.nonnegative_number("damping", self.damping)
        if self.adaptive and self.damping == 0:
            raise ValueError("damping: an adaptive damping must start above 0")
        if self.rank_tolerance is not None and not 0 < self.rank_tolerance < 1:
            raise ValueError(
                f"rank_tolerance: expected a number between 0 and 1, got {self.rank_tolerance}"
            )
        if self.rank_tolerance is not None and self.factor != "qr":
            raise ValueError("rank_tolerance: only factor='qr' finds the rank")
        _checks.positive_integer("iterations", self.iterations)
        _checks.positive_number("tolerance", self.tolerance)
        _checks.natural_number("halvings", self.halvings)

    def init(self, parameters: Any) -> GaussNewtonState:
        """The state at parameters theta.

        Raises:
            ValueError: no parameters, or parameters that are not real floating point numbers.
        """
        parameters = _checks.real_parameters(parameters)
        dtype = jnp.result_type(*jax.tree.leaves(parameters))
        zero = jnp.zeros((), jnp.int32)
        return GaussNewtonState(
            parameters=parameters,
            damping=jnp.asarray(self.damping, dtype),
            loss=jnp.asarray(jnp.inf, dtype),
            steps=zero,
            result=zero + Result.SUCCESSFUL,
        )

    def step(
        self, state: GaussNewtonState, problem: LeastSquares
    ) -> tuple[GaussNewtonState, GaussNewtonInfo]:
        """One step on a problem, which may be another minibatch every time.

        If no fraction of the step lowers the loss the parameters stay and the result is
        ``NO_DECREASE``; if the residuals are not finite to begin with they stay too and it is
        ``NON_FINITE``.

        Args:
            state: from :meth:`init` or an earlier step.
            problem: an object with ``residuals(parameters)``; a method ``jacobian(parameters)``
                that returns r and J of shape (N, P) is used if it is there.

        Raises:
            ValueError: a side was chosen whose matrix is singular.
        """
        flat, unravel = ravel_pytree(state.parameters)

        def residuals(theta: Array) -> Array:
            return problem.residuals(unravel(theta))

        size = jax.eval_shape(residuals, flat).shape[0]
        solver = self._solver(size, len(flat))
        smaller = {"parameters": len(flat) <= size, "samples": size <= len(flat)}
        if not (smaller.get(solver, True) or self.damping or self.rank_tolerance):
            raise ValueError(
                f"solver: {solver!r} meets a singular matrix with {size} residuals and "
                f"{len(flat)} parameters; use 'auto', a damping or a rank_tolerance"
            )
        if solver == "iterative":
            r, direction, rank = self._iterative(residuals, flat, state.damping)
        else:
            r, J = self._jacobian(problem, residuals, unravel, flat)
            direction, rank = self._dense(r, J, state.damping, solver)
        before = jnp.sum(r**2)

        fraction, loss = shortened(
            lambda part: jnp.sum(residuals(flat - part * direction) ** 2), before, self.halvings
        )
        good = (loss < before) & jnp.isfinite(before)
        fraction = jnp.where(good, fraction, 0)
        damping = state.damping
        if self.adaptive:
            damping = jnp.where(fraction == 1, damping / 3, damping * 4)
        result = jnp.where(
            jnp.isfinite(before),
            jnp.where(good, Result.SUCCESSFUL, Result.NO_DECREASE),
            Result.NON_FINITE,
        ).astype(state.result.dtype)
        moved = GaussNewtonState(
            parameters=unravel(jnp.where(good, flat - fraction * direction, flat)),
            damping=damping,
            loss=jnp.where(good, loss, before),
            steps=state.steps + good,
            result=result,
        )
        info = GaussNewtonInfo(before, moved.loss, fraction, jnp.linalg.norm(direction), rank)
        return moved, info

    def run(
        self,
        state: GaussNewtonState,
        problem: LeastSquares,
        steps: int,
        *,
        tolerance: float = 0.0,
        throw: bool = True,
    ) -> tuple[GaussNewtonState, list[GaussNewtonInfo]]:
        """At most ``steps`` compiled steps on one problem.

        Stops early once no step lowers the loss (the minimum, up to rounding), or once a step
        lowers it by less than ``tolerance`` of itself.

        Raises:
            FlowError: the residuals are not finite at the start (unless ``throw`` is off).
        """
        infos = []
        for _ in range(_checks.positive_integer("steps", steps)):
            state, info = _compiled_step(self, state, problem)
            infos.append(info)
            if throw and int(state.result) == Result.NON_FINITE:
                raise FlowError(
                    Result.NON_FINITE,
                    int(state.steps),
                    "start from parameters whose metric is positive at every point",
                )
            refused = int(state.result) == Result.NO_DECREASE
            if int(state.result) == Result.NON_FINITE or (refused and not self.adaptive):
                break
            if float(info.loss) > (1 - tolerance) * float(info.loss_before) and float(
                info.fraction
            ):
                break
        return state, infos

    def _solver(self, samples: int, parameters: int) -> str:
        if self.solver != "auto":
            return self.solver
        if samples * parameters > _DENSE_ENTRIES:
            return "iterative"
        return "parameters" if parameters <= samples else "samples"

    def _jacobian(
        self,
        problem: LeastSquares,
        residuals: Callable[..., Any],
        unravel: Callable[..., Any],
        flat: Array,
    ) -> tuple[Array, Array]:
        own = getattr(problem, "jacobian", None)
        if own is not None:
            return own(unravel(flat))
        return residuals(flat), jax.jacfwd(residuals)(flat)

    def _dense(self, r: Array, J: Array, damping: Array, solver: str) -> tuple[Array, Array]:
        """The step from the smaller side of J; with A = J or its transpose."""
        A = J if solver == "parameters" else J.T
        scale = damping * jnp.sum(J**2) / J.shape[1]
        everything = jnp.asarray(-1, jnp.int32)
        if self.factor == "cholesky":
            gram = A.T @ A + scale * jnp.eye(A.shape[1], dtype=A.dtype)
            factor = jax.scipy.linalg.cho_factor(gram)
            if solver == "parameters":
                return jax.scipy.linalg.cho_solve(factor, J.T @ r), everything
            return J.T @ jax.scipy.linalg.cho_solve(factor, r), everything
        Q, R = _tall_qr(A)
        if self.damping:
            # [A; below] = [Q 0; 0 1] [R; below], and the small matrix on the right is factored too
            below = jnp.sqrt(scale) * jnp.eye(A.shape[1], dtype=A.dtype)
            first = len(R)
            inner, R = jnp.linalg.qr(jnp.concatenate([R, below]))
            inner = inner[:first]
        else:
            inner = jnp.eye(len(R), dtype=R.dtype)
        if self.rank_tolerance is not None:
            left, sizes, right = jnp.linalg.svd(R, full_matrices=False)
            kept = sizes > self.rank_tolerance * sizes[0]
            inverse = jnp.where(kept, 1 / jnp.where(kept, sizes, 1), 0)
            rank = jnp.sum(kept).astype(jnp.int32)
            if solver == "parameters":
                return right.T @ (inverse * (left.T @ (inner.T @ (Q.T @ r)))), rank
            return Q @ (inner @ (left @ (inverse * (right @ r)))), rank
        if solver == "parameters":
            return jax.scipy.linalg.solve_triangular(R, inner.T @ (Q.T @ r)), everything
        return Q @ (inner @ jax.scipy.linalg.solve_triangular(R, r, trans=1)), everything

    def _iterative(
        self, residuals: Callable[..., Any], flat: Array, damping: Array
    ) -> tuple[Array, Array, Array]:
        r, forward = jax.linearize(residuals, flat)
        backward = jax.linear_transpose(forward, flat)

        def product(v: Array) -> Array:
            return backward(forward(v))[0] + damping * scale * v

        # the mean square column of J from one random probe with signs; always the same probe,
        # so that a step depends on nothing but the state
        probe = jax.random.rademacher(jax.random.key(0), flat.shape, flat.dtype)
        scale = jnp.sum(forward(probe) ** 2) / len(flat)
        step, _ = jax.scipy.sparse.linalg.cg(
            product, backward(r)[0], maxiter=self.iterations, tol=self.tolerance
        )
        return r, step, jnp.asarray(-1, jnp.int32)


def _tall_qr(A: Array) -> tuple[Array, Array]:
    """Q and R of a tall matrix; devices factor their own rows, and then what is left of them.

    Only the triangles travel.
    """
    share, (rows, columns) = devices.sharing(), A.shape
    if share == 1:
        Q, R = jnp.linalg.qr(A)
        return Q, R

    def own(A: Array) -> tuple[Array, Array]:
        Q, R = jnp.linalg.qr(A)
        inner, whole = jnp.linalg.qr(jax.lax.all_gather(R, devices.AXIS).reshape(-1, columns))
        place = jax.lax.axis_index(devices.AXIS) * len(R)
        return Q @ jax.lax.dynamic_slice_in_dim(inner, place, len(R)), whole

    # rows of zeros change neither R nor the rows of Q above them
    padded = jnp.pad(A, ((0, -rows % share), (0, 0)))
    Q, R = devices.on_each(own, padded, out_axis=(0, None))
    return Q[:rows], R


def shortened(
    loss_at: Callable[[Array], Array], before: Array, halvings: int
) -> tuple[Array, Array]:
    """The first of the parts 1, 1/2, 1/4, ... of a step that lowers the loss, and the loss there.

    If none of them does the loss is not below ``before``.
    """

    def worse(carry: tuple[Array, Array, Array]) -> Array:
        _, loss, tries = carry
        return ~(loss < before) & (tries <= halvings)

    def halve(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        fraction, _, tries = carry
        fraction = jnp.where(tries == 0, 1.0, fraction / 2).astype(before.dtype)
        loss = loss_at(fraction)
        return fraction, jnp.where(jnp.isfinite(loss), loss, jnp.inf), tries + 1

    one = jnp.ones((), before.dtype)
    start = (one, jnp.full_like(one, jnp.inf), jnp.zeros((), jnp.int32))
    fraction, loss, _ = jax.lax.while_loop(worse, halve, start)
    return fraction, loss


@jax.jit(static_argnums=0)
def _compiled_step(
    method: GaussNewton, state: GaussNewtonState, problem: Any
) -> tuple[GaussNewtonState, GaussNewtonInfo]:
    return method.step(state, problem)
