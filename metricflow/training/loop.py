"""The training loop: state in, state out, the same numbers however often it is interrupted.

Everything that decides the next step is in the state: parameters, optimiser, random key, and the
number of steps, which is the position in the data.  The order of an epoch is drawn from the key and
the number of the epoch, so that no order needs to be stored.
"""

import abc
import dataclasses
import functools
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Key

from .. import _checks, devices
from .checkpoints import Checkpoints

Loss = Callable[[Any, Any], tuple[Array, dict[str, Array]]]


class TrainingState(NamedTuple):
    """What the next step needs.  With several seeds every array has a leading axis of them.

    Attributes:
        parameters: of the network, any tree.
        optimiser: the state of the optax transformation.
        key: the root of all randomness of this run.
        step: steps taken; step // steps an epoch is the epoch, the rest the place in it.
        failed: a loss or an update was not finite; the state is the one before that step.
        best_parameters: those of the best validation so far.
        best: the loss of them, infinite at first.
        stale: epochs since then.
    """

    parameters: Any
    optimiser: Any
    key: Key[Array, "..."]
    step: Array
    failed: Array
    best_parameters: Any
    best: Array
    stale: Array


class TrainingInfo(NamedTuple):
    """What happened in a step.

    Attributes:
        loss: before the step, on its batch.
        terms: what the loss consists of.
        gradient_norm: Euclidean length of the gradient.
    """

    loss: Array
    terms: dict[str, Array]
    gradient_norm: Array


class TrainingError(FloatingPointError):
    """A loss or an update became NaN or infinite.

    Attributes:
        state: as it was before the step that failed.
        step: the number of good steps.
    """

    def __init__(self, message: str, state: TrainingState, step: int):
        self.state, self.step = state, step
        super().__init__(message)


class TrainingLoop(abc.ABC):
    """Epochs of mini-batches: ``step`` and ``advance`` are pure functions, ``run`` is not.

    A kind of training says how a state begins and what one step does to it.

    Attributes:
        batch_size: rows of a batch; the rows of an epoch that fill no batch are left out, other
            rows each time.
    """

    batch_size: int

    @abc.abstractmethod
    def step(self, state: TrainingState, batch: Any) -> tuple[TrainingState, TrainingInfo]:
        """One step of one seed on one batch; one that is not finite leaves the state as it was."""

    def advance(
        self, state: TrainingState, data: Any, steps: int
    ) -> tuple[TrainingState, TrainingInfo]:
        """``steps`` steps inside one epoch, compiled; the infos have a leading axis of steps.

        Args:
            state: from :meth:`init` or an earlier call, one seed or several.
            data: a tree of arrays with the N rows first, on the device.
            steps: not beyond the end of the epoch.

        Raises:
            ValueError: more steps than the epoch has left.
        """
        per_epoch = len(jax.tree.leaves(data)[0]) // self.batch_size
        if not _checks.is_traced(state.step):
            left = per_epoch - int(np.max(state.step)) % per_epoch
            if steps > left:
                raise ValueError(f"steps: the epoch has {left} steps left, got {steps}")
        return _advance(self, state, data, steps)

    def run(
        self,
        state: TrainingState,
        data: Any,
        epochs: int,
        *,
        validate: Callable[[Any], dict[str, Array]] | None = None,
        patience: int | None = None,
        callback: Callable[[dict[str, Any], TrainingState], bool | None] | None = None,
        progress: bool = False,
        checkpoints: Checkpoints | None = None,
        steps_a_call: int | None = None,
        throw: bool = True,
    ) -> tuple[TrainingState, list[dict[str, Any]]]:
        """Train ``epochs`` epochs; with checkpoints, those of earlier calls are among them.

        Args:
            state: from :meth:`init`; if there are checkpoints, the template of what they hold.
            data: a tree of arrays with the N rows first.
            epochs: where to stop.
            validate: parameters -> numbers, one of them ``"loss"``, after every epoch; compiled.
                A function, or a ``jax.tree_util.Partial`` with the arrays that it needs.
                The best parameters by it are kept in the state.
            patience: stop after so many epochs without a better validation.
            callback: gets the row of history and the state after every epoch; stops if it returns
                True.
            progress: a bar on a terminal (needs tqdm) or in a notebook (needs ipywidgets too).
            checkpoints: where states are saved between calls; a run goes on from the last one.
            steps_a_call: steps between looks at the clock; by default an epoch.
            throw: raise if a step is not finite; otherwise that seed keeps the state before it, the
                others go on, and without any the run ends.

        Returns:
            The last state and the history, a row an epoch: ``epoch``, the mean ``loss`` and
            ``terms`` over it, and ``validation``.  With several seeds numbers are lists.

        Raises:
            ValueError: no full batch, rows that do not match, patience without validation, a
                validation without a loss, a checkpoint that does not fit.
            TrainingError: a loss or an update that is not finite, named with its step.
        """
        rows = {len(leaf) for leaf in jax.tree.leaves(data)}
        if len(rows) != 1:
            raise ValueError(f"data: expected arrays of equal length, got {sorted(rows)} rows")
        count = rows.pop()
        per_epoch = count // self.batch_size
        if per_epoch < 1:
            raise ValueError(
                f"batch_size: {self.batch_size} is more than the rows of the data; lower it"
            )
        if patience is not None:
            _checks.positive_integer("patience", patience)
            if validate is None:
                raise ValueError("patience: early stopping needs a validation function")
        if steps_a_call is not None:
            _checks.positive_integer("steps_a_call", steps_a_call)
        call = min(steps_a_call or per_epoch, per_epoch)
        shape = {"rows": count, "batch_size": self.batch_size}
        history: list[dict[str, Any]] = []
        partial: list[Any] = []
        if checkpoints is not None:
            state, history, partial = checkpoints.restore(state, data=shape)
        bar = _bar(epochs, len(history), progress)
        while len(history) < epochs and not _stopped(state, history, patience):
            place = int(np.max(state.step)) % per_epoch
            begin = state.step
            state, info = self.advance(state, data, min(call, per_epoch - place))
            if np.any(state.failed) and throw:
                bar.close()
                raise _failure(state, begin, info, per_epoch, checkpoints)
            if np.all(state.failed):
                break
            partial.append(_values(info))
            if int(np.max(state.step)) % per_epoch == 0:
                row = {"epoch": len(history) + 1, **_average(partial)}
                if validate is not None:
                    state, row["validation"] = _validated(validate, state)
                history.append(row)
                partial = []
                bar.update(1)
                bar.set_postfix_str(_summary(row))
                stop = callback is not None and callback(row, state)
                if stop:
                    row["stopped"] = True
            if checkpoints is not None:
                last = len(history) == epochs or _stopped(state, history, patience)
                checkpoints.save(state, history, partial, data=shape, force=last)
        bar.close()
        return state, history


@dataclasses.dataclass(frozen=True, eq=False)
class Training(TrainingLoop):
    """Mini-batch training of a loss of the parameters.

    Attributes:
        loss: (parameters, batch) -> (number, dictionary of the terms in it).
        optimiser: an optax transformation; one with extra arguments gets ``value``.
        batch_size: rows of a batch; the rows of an epoch that fill no batch are left out, other
            rows each time.
    """

    loss: Loss
    optimiser: optax.GradientTransformation
    batch_size: int

    def __post_init__(self) -> None:
        _checks.positive_integer("batch_size", self.batch_size)

    def init(self, key: Key[Array, "..."], parameters: Any) -> TrainingState:
        """The state at the start.

        Args:
            key: one key, or an array of S keys to train S networks at once.
            parameters: a tree of arrays; with several keys, with a leading axis of length S.

        Raises:
            ValueError: parameters without the axis of the seeds, or not finite.
        """
        if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
            raise ValueError(
                f"key: expected one of jax.random.key or an array of them, got {key.dtype} of "
                f"shape {key.shape}"
            )
        for path, leaf in jax.tree.leaves_with_path(parameters):
            _checks.finite(f"parameters{jax.tree_util.keystr(path)}", leaf)
            if key.ndim and leaf.shape[:1] != key.shape:
                raise ValueError(
                    f"parameters{jax.tree_util.keystr(path)}: expected a leading axis of "
                    f"{len(key)} seeds, got shape {leaf.shape}; vmap the initialisation over keys"
                )
        make = jax.vmap(self._init) if key.ndim else self._init
        return make(key, parameters)

    def step(self, state: TrainingState, batch: Any) -> tuple[TrainingState, TrainingInfo]:
        """One step on one batch; a step that is not finite leaves the state as it was."""
        gradient = jax.value_and_grad(self.loss, has_aux=True)
        (value, terms), slope = gradient(state.parameters, batch)
        optimiser = optax.with_extra_args_support(self.optimiser)
        updates, after = optimiser.update(slope, state.optimiser, state.parameters, value=value)
        parameters = optax.apply_updates(state.parameters, updates)
        return accepted(state, parameters, after, value), TrainingInfo(
            value, terms, optax.tree.norm(slope)
        )

    def _init(self, key: Array, parameters: Any) -> TrainingState:
        return initial_state(key, parameters, self.optimiser.init(parameters))


def accepted(state: TrainingState, parameters: Any, optimiser: Any, value: Array) -> TrainingState:
    """The state after a step, or marked as failed the state before it if something is not finite.

    Args:
        state: before the step.
        parameters, optimiser: after it.
        value: of the loss.
    """
    # a sum is finite if every term is; overflow of finite terms is a failure too
    finite = jnp.isfinite(value) & jnp.isfinite(optax.tree.norm(parameters))
    good = finite & ~state.failed
    moved = state._replace(parameters=parameters, optimiser=optimiser, step=state.step + 1)
    kept = state._replace(failed=~good)
    return jax.tree.map(functools.partial(_where, good), moved, kept)


def initial_state(key: Key[Array, ""], parameters: Any, optimiser: Any) -> TrainingState:
    """The state of one seed before the first step."""
    parameters = jax.tree.map(jnp.asarray, parameters)
    return TrainingState(
        parameters=parameters,
        optimiser=optimiser,
        key=key,
        step=jnp.zeros((), jnp.int32),
        failed=jnp.zeros((), bool),
        best_parameters=parameters,
        best=jnp.array(jnp.inf, jnp.result_type(float)),
        stale=jnp.zeros((), jnp.int32),
    )


@functools.partial(jax.jit, static_argnums=(0, 3))
def _advance(
    training: TrainingLoop, state: TrainingState, data: Any, steps: int
) -> tuple[TrainingState, TrainingInfo]:
    rows = len(jax.tree.leaves(data)[0])
    per_epoch = rows // training.batch_size

    def one_seed(state: TrainingState, data: Any) -> tuple[TrainingState, TrainingInfo]:
        epoch, place = state.step // per_epoch, state.step % per_epoch
        order = jax.random.permutation(jax.random.fold_in(state.key, epoch), rows)
        batches = order[: per_epoch * training.batch_size].reshape(per_epoch, -1)
        wanted = jax.lax.dynamic_slice_in_dim(batches, place, steps)

        def step(state: TrainingState, index: Array) -> tuple[TrainingState, TrainingInfo]:
            return training.step(state, devices.divide(jax.tree.map(lambda x: x[index], data)))

        return jax.lax.scan(step, state, wanted)

    if state.step.ndim:
        state, info = devices.by_rows(jax.vmap(one_seed, (0, None)), state, whole=(data,))
        info = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), info)
        return devices.everywhere((state, info))
    return one_seed(state, data)


def _validated(
    validate: Callable[..., Any], state: TrainingState
) -> tuple[TrainingState, dict[str, Any]]:
    """The validation of the parameters, and the state with the best ones so far."""
    if not isinstance(validate, jax.tree_util.Partial):
        validate = jax.tree_util.Partial(validate)
    found = _validation(validate, state.parameters, bool(state.step.ndim))
    if "loss" not in found:
        raise ValueError(f"validate: expected a number called 'loss', got {sorted(found)}")
    if found["loss"].shape != state.best.shape:
        raise ValueError(
            f"validate: expected one number as 'loss', got shape {found['loss'].shape}"
        )
    loss = found["loss"].astype(state.best.dtype)
    better = loss < state.best
    best = jax.tree.map(functools.partial(_where, better), state.parameters, state.best_parameters)
    state = state._replace(
        best_parameters=best,
        best=jnp.where(better, loss, state.best),
        stale=jnp.where(better, 0, state.stale + 1),
    )
    return state, {name: np.asarray(x).tolist() for name, x in found.items()}


@functools.partial(jax.jit, static_argnames="several")
def _validation(validate: jax.tree_util.Partial, parameters: Any, several: bool) -> dict[str, Any]:
    return (jax.vmap(validate) if several else validate)(parameters)


def _stopped(state: TrainingState, history: list[dict[str, Any]], patience: int | None) -> bool:
    asked = bool(history) and history[-1].get("stopped", False)
    return asked or (patience is not None and bool(np.min(state.stale) >= patience))


def _where(condition: Array, a: Any, b: Any) -> Any:
    """Choose between leaves; the condition may have the axis of the seeds."""
    a = jnp.asarray(a)
    return jnp.where(condition.reshape(condition.shape + (1,) * (a.ndim - condition.ndim)), a, b)


def _values(info: TrainingInfo) -> dict[str, Any]:
    """Loss and terms of every step of a call."""
    terms = {name: np.asarray(x, float).tolist() for name, x in info.terms.items()}
    return {"loss": np.asarray(info.loss, float).tolist(), "terms": terms}


def _average(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the steps of an epoch, the same however it was split into calls."""

    def average(values: list[Any]) -> Any:
        return np.mean(np.concatenate([np.array(x, float) for x in values]), axis=0).tolist()

    return {
        "loss": average([part["loss"] for part in parts]),
        "terms": {
            name: average([part["terms"][name] for part in parts]) for name in parts[0]["terms"]
        },
    }


def _failure(
    state: TrainingState,
    begin: Array,
    info: TrainingInfo,
    per_epoch: int,
    checkpoints: Checkpoints | None,
) -> TrainingError:
    """Which step of which seed failed, and which term of the loss."""
    failed = np.atleast_1d(np.asarray(state.failed))
    seed = int(np.flatnonzero(failed)[0])
    step = int(np.atleast_1d(np.asarray(state.step))[seed])
    values = np.asarray(info.loss).reshape(len(info.loss), -1)[:, seed]
    place = min(step % per_epoch, per_epoch - 1)
    # the steps of the call before this one were good
    failing = step - int(np.atleast_1d(np.asarray(begin))[seed])
    what = "an update is not finite"
    if not np.isfinite(values[failing]):
        terms = {
            name: float(np.asarray(x).reshape(len(values), -1)[failing, seed])
            for name, x in info.terms.items()
        }
        wrong = [name for name, value in terms.items() if not math.isfinite(value)]
        what = f"the loss is {values[failing]} ({', '.join(wrong) or 'the sum'})"
    of_seed = f" of seed {seed}" if len(failed) > 1 else ""
    saved = ""
    if checkpoints is not None and checkpoints.latest() is not None:
        saved = f"; the checkpoint of step {checkpoints.latest()} is good"
    return TrainingError(
        f"training: {what} in step {step + 1}{of_seed} (epoch {step // per_epoch + 1}, batch "
        f"{place + 1} of {per_epoch}); lower the learning rate, clip the gradients or look at "
        f"the data, or pass throw=False to keep the state before that step{saved}",
        state,
        step,
    )


class _NoBar:
    def update(self, n: int) -> None: ...

    def set_postfix_str(self, text: str) -> None: ...

    def close(self) -> None: ...


def _bar(epochs: int, done: int, progress: bool) -> Any:
    if not progress:
        return _NoBar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a notebook without widgets
            from tqdm.auto import tqdm
    except ImportError:
        raise ValueError("progress: needs tqdm; pip install tqdm, or pass progress=False") from None
    return tqdm(total=epochs, initial=done, unit="epoch", disable=None)


def _summary(row: dict[str, Any]) -> str:
    found = row.get("validation", row)["loss"]
    return f"loss {np.mean(found):.3g}"
