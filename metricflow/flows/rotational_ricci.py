"""Ricci flow of rotationally symmetric metrics on the sphere S^(n+1).

    ds^2 = chi^2 dx^2 + psi^2 g_(S^n),  0 < x < pi,  d_s = d_x / chi
    dpsi/dt = psi_ss - (n - 1) (1 - psi_s^2) / psi + W psi_x
    dchi/dt = n chi psi_ss / psi + (W chi)_x

W is DeTurck's vector field for the round background, times a function that is one at the poles.
Without it the poles are unstable: an error of the condition psi_x = chi there, without which the
metric has a cone, grows the faster the finer the grid is.  The whole of it draws all points into a
neck.  Here the condition holds by the choice of variables,

    psi = e^a sin x,  chi = e^(a + b sin^2 x),  a and b polynomials in y = cos x,

in which nothing is singular at the poles.  Derivatives are spectral, on the points
x_j = (j + 1/2) pi / N.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .. import _checks
from .._checks import AnyArray
from .._pytree import register_dataclass
from .result import Result, raise_unless_successful
from .time_steps import Time, runge_kutta_step

_PRECISION = jax.lax.Precision.HIGHEST


class RotationalRicciState(NamedTuple):
    """What the next step needs.

    Attributes:
        a: log(psi / sin x) at the points, shape (N,).
        b: log(chi sin x / psi) / sin^2 x at the points, shape (N,).
        time: t.
        steps: good steps taken.
        result: a :class:`Result` code; once it is not SUCCESSFUL the state no longer moves.
    """

    a: Float[Array, " N"]
    b: Float[Array, " N"]
    time: Float[Array, ""]
    steps: Int[Array, ""]
    result: Int[Array, ""]


class RotationalRicciInfo(NamedTuple):
    """What a person wants to see of a step: values before it.

    Attributes:
        time: t before the step.
        dt: the step.
        curvature: the largest sectional curvature by size, over all points.
        result: the :class:`Result` code after the step.
    """

    time: Float[Array, ""]
    dt: Float[Array, ""]
    curvature: Float[Array, ""]
    result: Int[Array, ""]


@register_dataclass
@dataclasses.dataclass(frozen=True)
class RotationalRicciFlow:
    """Ricci-DeTurck flow of chi^2 dx^2 + psi^2 g_(S^n), with steps that follow the curvature.

    A round sphere stays round, r^2 = r_0^2 - 2 n t.  A dumbbell pinches at a time T at which the
    curvature explodes as 1 / (T - t); the flow goes on with ever smaller steps and never reaches T.
    Curvatures at a given t, and distances, are those of Hamilton's flow.

    Attributes:
        dim: n + 1, the dimension of the sphere, at least 2.
        points: N.
        safety: of the stability bound for the step; below 1.
        change: the largest relative change of the metric in one step, about.
        share: of W at the equator, in (0, 1]: W is multiplied by 1 - (1 - share) sin^2 x, so that
            points far from the poles move less.

    Raises:
        ValueError: a dimension below 2, fewer than 4 points, numbers not above zero, a share
            above one.

    Source: RF 5, RF 8, RF 38
    """

    dim: int = dataclasses.field(default=3, metadata={"static": True})
    points: int = dataclasses.field(default=64, metadata={"static": True})
    safety: float | Float[Array, ""] = 0.5
    change: float | Float[Array, ""] = 0.02
    share: float | Float[Array, ""] = 0.3

    def __post_init__(self) -> None:
        """Check the options; numbers only where a person gave them."""
        if _checks.positive_integer("dim", self.dim) < 2:
            raise ValueError(f"dim: expected at least 2, the sphere S^2, got {self.dim}")
        if _checks.positive_integer("points", self.points) < 4:
            raise ValueError(f"points: expected at least 4, got {self.points}")
        _checks.positive_number("safety", self.safety)
        _checks.positive_number("change", self.change)
        _checks.positive_number("share", self.share)
        if isinstance(self.share, int | float) and self.share > 1:
            raise ValueError(f"share: expected a number above 0, at most 1, got {self.share}")

    def coordinates(self, dtype: object = None) -> Float[Array, " N"]:
        """x_j = (j + 1/2) pi / N."""
        x = (np.arange(self.points) + 0.5) * np.pi / self.points
        return jnp.asarray(x, _checks.real_dtype(dtype))

    def init(
        self, chi: Float[AnyArray, " N"], psi: Float[AnyArray, " N"], time: Time = 0.0
    ) -> RotationalRicciState:
        """The state at time zero.

        Args:
            chi, psi: values at :meth:`coordinates`, above zero, of functions with psi_x = chi at
                both poles, psi odd and chi even about them.
            time: t.

        Raises:
            ValueError: another shape, values that are not above zero.
        """
        chi, psi = jnp.asarray(chi), jnp.asarray(psi)
        for name, values in (("chi", chi), ("psi", psi)):
            if values.shape != (self.points,) or not jnp.issubdtype(values.dtype, jnp.floating):
                raise ValueError(
                    f"{name}: expected real values of shape ({self.points},) at coordinates(), "
                    f"got {values.dtype} of shape {values.shape}"
                )
            if not _checks.is_traced(values) and not np.all(np.asarray(values) > 0):
                raise ValueError(f"{name}: expected values above 0 at all points, got {values}")
        sine = jnp.sin(self.coordinates(chi.dtype))
        a = jnp.log(psi / sine)
        b = (jnp.log(chi) - a) / sine**2
        zero = jnp.zeros((), jnp.int32)
        return RotationalRicciState(
            a, b, jnp.asarray(time, chi.dtype), zero, zero + Result.SUCCESSFUL
        )

    def metric(self, state: RotationalRicciState) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
        """chi and psi at the points."""
        sine = jnp.sin(self.coordinates(state.a.dtype))
        return jnp.exp(state.a + state.b * sine**2), sine * jnp.exp(state.a)

    def curvatures(
        self, state: RotationalRicciState
    ) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
        """The sectional curvatures -psi_ss / psi and (1 - psi_s^2) / psi^2 at the points.

        The first is of planes that hold the axis, the second of planes along S^n (for n = 1 there
        are none, and the number means nothing).
        """
        axial, gap, square = self._curvatures(state.a, state.b)[:3]
        return axial, axial + gap * square

    def velocity(
        self, a: Float[AnyArray, " N"], b: Float[AnyArray, " N"]
    ) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
        """da/dt and db/dt.

        With K0 = -psi_ss / psi, K1 = (1 - psi_s^2) / psi^2, s = sin x, and s w the part of W:

            da/dt = -K0 - (n - 1) K1 + w (y - s^2 a_y)
            db/dt = (n - 1) (K1 - K0) / s^2 - w_y - w (b s^2)_y

        Source: RF 5, RF 8
        """
        n, a, b = self.dim - 1, jnp.asarray(a), jnp.asarray(b)
        axial, gap, square, y, slope_a, slope_b, phi = self._curvatures(a, b)
        derivative, smooth = _matrices(self.points)
        slope_gap = square * slope_b - 2 * y * b  # of b s^2
        near, far = jnp.exp(-2 * a), jnp.exp(-2 * (a + b * square))
        w = far * ((n - 1) * slope_a - slope_gap) + 2 * n * y * b * phi * near
        w = w * (1 - (1 - self.share) * square)
        da = -n * axial - (n - 1) * gap * square + w * (y - square * slope_a)
        db = (n - 1) * gap - _apply(derivative, w) - w * slope_gap
        return _apply(smooth, da), _apply(smooth, db)

    def largest_step(self, state: RotationalRicciState) -> Float[Array, ""]:
        """The step that is stable and changes the metric by little."""
        chi = self.metric(state)[0]
        lowest = chi[jnp.argmin(chi)]
        stiff = self.safety * 2.78 * lowest**2 / (2 * self.points / 3) ** 2
        return jnp.minimum(stiff, self.change / (self.dim * self._largest_curvature(state)))

    def step(
        self, state: RotationalRicciState, dt: Time | None = None
    ) -> tuple[RotationalRicciState, RotationalRicciInfo]:
        """One Runge-Kutta step, of :meth:`largest_step` by default.

        The metric stays positive in these variables; if it stops being finite the state stays and
        ``result`` says so.
        """
        dt = self.largest_step(state) if dt is None else jnp.asarray(dt, state.a.dtype)

        def velocity(pair: tuple[Array, Array]) -> tuple[Array, Array]:
            return self.velocity(*pair)

        a, b = runge_kutta_step(velocity, (state.a, state.b), dt)
        # its exponentials too
        moved = state._replace(a=a, b=b)
        sizes = jnp.stack([*self.metric(moved), *self.curvatures(moved)])
        result = jnp.where(
            jnp.all(jnp.isfinite(sizes)), Result.SUCCESSFUL, Result.NON_FINITE
        ).astype(state.result.dtype)
        result = jnp.where(state.result == Result.SUCCESSFUL, result, state.result)
        good = result == Result.SUCCESSFUL
        info = RotationalRicciInfo(
            time=state.time, dt=dt, curvature=self._largest_curvature(state), result=result
        )
        moved = RotationalRicciState(
            a=jnp.where(good, a, state.a),
            b=jnp.where(good, b, state.b),
            time=jnp.where(good, state.time + dt, state.time),
            steps=state.steps + good,
            result=result,
        )
        return moved, info

    def run(
        self,
        state: RotationalRicciState,
        steps: int,
        dt: Time | None = None,
        *,
        observe: Any = None,
        throw: bool = True,
    ) -> tuple[RotationalRicciState, RotationalRicciInfo, Any]:
        """``steps`` steps in one compiled scan; arguments and errors as in :meth:`.RicciFlow.run`.

        Args:
            state: from :meth:`init`, or from an earlier run to go on.
            steps: how many.
            dt: the step; by default each step is :meth:`largest_step`.
            observe: called with the state after every step.
            throw: raise :class:`FlowError` if the flow breaks down.
        """
        steps = _checks.positive_integer("steps", steps)
        if dt is not None:
            _checks.positive_number("dt", dt)
            dt = jnp.asarray(dt, state.a.dtype)
        if observe is not None and not isinstance(observe, jax.tree_util.Partial):
            observe = jax.tree_util.Partial(observe)
        state, info, seen = _run(self, state, dt, steps, observe)
        remedy = "use a smaller dt or more points"
        raise_unless_successful(state.result, state.steps, remedy, throw)
        return state, info, seen

    def _curvatures(self, a: Array, b: Array) -> tuple[Array, ...]:
        """K0, (K1 - K0) / s^2, s^2, y, a_y, b_y, phi(2 b s^2), without cancellation at the poles.

        With E = e^(-2 b s^2):

            e^(2a) K0 = E (1 + 2 y a_y - s^2 a_yy + (2 y b - s^2 b_y) (y - s^2 a_y))
            e^(2a) (K1 - K0) / s^2 = 2 b (2 b phi_2 + E)
                + E (a_yy - a_y^2 + y b_y + 2 y b a_y - s^2 a_y b_y)

        phi(z) = (1 - e^-z) / z and phi_2(z) = (phi(z) - e^-z) / z.
        """
        x = self.coordinates(a.dtype)
        y, square = jnp.cos(x), jnp.sin(x) ** 2
        derivative, _ = _matrices(self.points)
        slope_a, slope_b = _apply(derivative, a), _apply(derivative, b)
        second = _apply(derivative, slope_a)
        phi, phi_2 = _phi(2 * b * square)
        e, scale = jnp.exp(-2 * b * square), jnp.exp(-2 * a)
        axial = 1 + 2 * y * slope_a - square * second
        axial = axial + (2 * y * b - square * slope_b) * (y - square * slope_a)
        gap = second - slope_a**2 + y * slope_b + 2 * y * b * slope_a
        gap = e * (gap - square * slope_a * slope_b) + 2 * b * (2 * b * phi_2 + e)
        return scale * e * axial, scale * gap, square, y, slope_a, slope_b, phi

    def _largest_curvature(self, state: RotationalRicciState) -> Array:
        axial, spherical = self.curvatures(state)
        sizes = jnp.abs(axial if self.dim == 2 else jnp.concatenate([axial, spherical]))
        # the derivative of a maximum asks which entry equals it: where a compiler computes the
        # entries twice, with other roundings, none does, and the derivative is NaN
        return sizes[jnp.argmax(sizes)]


def _phi(z: Array) -> tuple[Array, Array]:
    """(1 - e^-z) / z and (1 - e^-z - z e^-z) / z^2, by their series near 0."""
    small = jnp.abs(z) < 0.5
    near, far = jnp.where(small, z, 0), jnp.where(small, 1, z)
    # phi = sum (-z)^j / (j + 1)!,  phi_2 = sum (-z)^j (j + 1) / (j + 2)!
    first = sum((-near) ** j / math.factorial(j + 1) for j in range(14))
    second = sum((-near) ** j * (j + 1) / math.factorial(j + 2) for j in range(14))
    phi = -jnp.expm1(-far) / far
    phi_2 = (phi - jnp.exp(-far)) / far
    return jnp.where(small, first, phi), jnp.where(small, second, phi_2)


@functools.cache
def _matrices(count: int) -> tuple[np.ndarray, np.ndarray]:
    """d/dy of series of cosines, y = cos x, and the projection on their low modes."""
    x = (np.arange(count) + 0.5) * np.pi / count
    mode = np.arange(count)
    cosines = np.cos(np.outer(x, mode))
    # the discrete orthogonality of cosines at the half-shifted points
    analysis = (cosines * np.where(mode == 0, 1 / count, 2 / count)).T
    derivative = (np.sin(np.outer(x, mode)) * mode / np.sin(x)[:, None]) @ analysis
    return derivative, (cosines * (mode <= 2 * count // 3)) @ analysis


def _apply(matrix: np.ndarray, values: Array) -> Array:
    return jnp.matmul(jnp.asarray(matrix, values.dtype), values, precision=_PRECISION)


@jax.jit(static_argnames="steps")
def _run(
    flow: RotationalRicciFlow,
    state: RotationalRicciState,
    dt: Array | None,
    steps: int,
    observe: Any,
) -> tuple[Any, ...]:
    def one(carry: RotationalRicciState, _: None) -> tuple[Any, ...]:
        carry, info = flow.step(carry, dt)
        return carry, (info, None if observe is None else observe(carry))

    outputs: tuple[RotationalRicciInfo, Any]
    last, outputs = jax.lax.scan(one, state, length=steps)
    return last, *outputs
