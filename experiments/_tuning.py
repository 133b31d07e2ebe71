"""Bayesian optimisation of hyper-parameters: every evaluation is a stage, so that it resumes.

The optimiser sees the unit cube.  On a resumed run it is asked again and told the stored scores:
its answers, and with them all points, come out the same.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import bayes_opt
import numpy as np
from tqdm import tqdm

from experiments import _run

SCALES = ("linear", "log", "integer")
Box = Mapping[str, Sequence[Any]]  # name: (low, high, one of SCALES)

# variance of a score against that of all scores: fresh points make every score a draw
_NOISE = 0.01
_RANDOM_SHARE = 4  # one evaluation in four is random, first of all
# the best by the surrogate's mean, and the first point, meet on the same fresh points
FINALISTS = 4
DRAWS = 5


class Tuned(NamedTuple):
    """What was chosen.

    Attributes:
        values: the finalist with the best mean score.
        mean: that mean.
        finalists: [values, scores] of those points that were evaluated again, all on the same
            draws: one lucky draw does not decide.
        history: [values, score] of every evaluation of the search, in order.
    """

    values: dict[str, Any]
    mean: float
    finalists: list[list[Any]]
    history: list[list[Any]]


def tune(
    objective: Callable[[int, dict[str, Any]], float],
    box: Box,
    evaluations: int,
    *,
    seed: int,
    record: _run.Record,
    name: str,
    first: Sequence[dict[str, Any]] = (),
) -> Tuned:
    """Look for the values in a box with the largest score.

    Args:
        objective: (number of the draw, values) -> score, to be computed on points that belong to
            this number.
        box: (low, high, "linear", "log" or "integer") for every name.
        evaluations: of the search; its finalists are evaluated ``DRAWS`` times more.
        seed: of the optimiser.
        record: where evaluations are stages ``NAME/<number>``.
        name: of these stages.
        first: points to begin with, such as values found earlier; cut to the box.

    Raises:
        ValueError: a box without width, of an unknown scale, or logarithmic and not above zero; a
            score that is not finite.
    """
    _check(box)
    optimiser = bayes_opt.BayesianOptimization(
        f=None,
        pbounds=dict.fromkeys(box, (0.0, 1.0)),
        acquisition_function=bayes_opt.acquisition.ExpectedImprovement(xi=0.01),
        random_state=seed,
        verbose=0,
        allow_duplicate_points=True,
    )
    optimiser.set_gp_params(alpha=_NOISE)
    random = np.random.default_rng(seed)
    history: list[list[Any]] = []
    cubes: list[dict[str, float]] = []
    for number in tqdm(range(evaluations), desc=name, disable=None, leave=False):
        if number < len(first):
            cube = {k: _to_cube(first[number][k], *box[k]) for k in box}
        elif number < len(first) + evaluations // _RANDOM_SHARE or not history:
            cube = dict(zip(box, random.random(len(box)).tolist(), strict=True))
        else:
            with warnings.catch_warnings(action="ignore"):  # of length scales at their bounds
                cube = {k: float(x) for k, x in optimiser.suggest().items()}
        values = {k: _from_cube(cube[k], *box[k]) for k in box}
        score = _stage(record, f"{name}/{number}", objective, number, values)
        optimiser.register(cube, score)
        cubes.append(cube)
        history.append([values, score])
    with warnings.catch_warnings(action="ignore"):
        means = np.asarray(optimiser.predict(cubes))
    finalists: list[list[Any]] = []
    for place in [*range(len(first[:1])), *np.argsort(-means, kind="stable").tolist()]:
        values = history[place][0]
        if len(finalists) < FINALISTS + len(first[:1]) and values not in [v for v, _ in finalists]:
            finalists.append([values, []])
    for place, (values, scores) in enumerate(finalists):
        for draw in range(DRAWS):
            stage = f"{name}/final/{place}/{draw}"
            scores.append(_stage(record, stage, objective, evaluations + draw, values))
    best = int(np.argmax([np.mean(scores) for _, scores in finalists]))
    return Tuned(finalists[best][0], float(np.mean(finalists[best][1])), finalists, history)


def _stage(
    record: _run.Record, stage: str, objective: Callable, number: int, values: dict[str, Any]
) -> float:
    """The score of one evaluation, computed or read back."""

    def evaluate() -> dict:
        score = float(objective(number, values))
        if not math.isfinite(score):
            raise ValueError(f"the score of {values} is {score}: nothing can be learned from it")
        return {"values": values, "score": score}

    found = record.stage(stage, evaluate)
    if found["values"] != values:
        raise ValueError(
            f"{stage}: the record holds {found['values']}, this version of the optimiser asks for "
            f"{values}; start again with --force"
        )
    return found["score"]


def _to_cube(value: float, low: float, high: float, scale: str) -> float:
    if scale == "log":
        value, low, high = (math.log(x) for x in (value, low, high))
    return float(np.clip((value - low) / (high - low), 0, 1))


def _from_cube(part: float, low: float, high: float, scale: str) -> float | int:
    if scale == "integer":
        return min(int(low + part * (high - low + 1)), int(high))
    # three digits are more than a noisy score can tell apart, and can be written down
    found = low * (high / low) ** part if scale == "log" else low + part * (high - low)
    return float(f"{found:.3g}")


def _check(box: Box) -> None:
    for name, (low, high, scale) in box.items():
        if scale not in SCALES:
            raise ValueError(f"box of {name}: expected a scale of {SCALES}, got {scale!r}")
        if not low < high or (scale == "log" and not low > 0):
            raise ValueError(f"box of {name}: expected low < high, above 0 if log, got {low, high}")
