"""How a flow ended, as a code inside compiled loops and as an exception on the host."""

import enum


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
