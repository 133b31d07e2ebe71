"""How a flow ended, as a code inside compiled loops and as an exception on the host."""

import enum

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .. import _checks


class Result(enum.IntEnum):
    """The outcome of a flow."""

    SUCCESSFUL = 0
    LOST_POSITIVITY = 1
    NON_FINITE = 2
    NO_DECREASE = 3


_ADVICE = {
    Result.LOST_POSITIVITY: "the metric stopped being positive definite at a training point",
    Result.NON_FINITE: "the metric became NaN or infinite at a training point",
    Result.NO_DECREASE: "no step lowers the loss",
}


def outcome(numbers: Array, pivots: Float[Array, "..."], before: Int[Array, ""]) -> Int[Array, ""]:
    """The :class:`Result` code of a step to new numbers whose metric has these pivots.

    Args:
        numbers: of the new state, all of which must be finite.
        pivots: of its metric, all of which must be above zero.
        before: the code so far; an earlier failure stays.
    """
    code = jnp.where(
        jnp.all(jnp.isfinite(numbers)),
        jnp.where(jnp.all(pivots > 0), Result.SUCCESSFUL, Result.LOST_POSITIVITY),
        Result.NON_FINITE,
    ).astype(before.dtype)
    return jnp.where(before == Result.SUCCESSFUL, code, before)


def raise_unless_successful(result: Array, steps: Array, remedy: str, throw: bool) -> None:
    """Raise :class:`FlowError` on the host if a run broke down after so many good steps."""
    if throw and not _checks.is_traced(result) and int(result) != Result.SUCCESSFUL:
        raise FlowError(Result(int(result)), int(steps), remedy)


class FlowError(FloatingPointError):
    """A flow broke down; ``result`` says how, ``step`` counts the good steps before.

    Args:
        result: how.
        step: the number of good steps.
        remedy: what the user of this flow can change.
    """

    def __init__(self, result: Result, step: int, remedy: str):
        self.result, self.step = result, step
        super().__init__(
            f"flow: {_ADVICE[result]} after {step} good steps; {remedy}, or pass throw=False to "
            "keep the state before the step that failed"
        )
