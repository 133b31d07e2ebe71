"""Checkpoints of a training, through orbax: a state is visible only when it is complete on disk."""

import contextlib
import json
import os
import time
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from .. import _checks, processes

_FORMAT = 1


class Checkpoints:
    """The last few states of one run in a folder of their own.

    A checkpoint holds the state (parameters, optimiser, key, position in the data), the history so
    far and the configuration.  It is written to a temporary folder and renamed, so a run that is
    killed at any moment, inside a save too, goes on from the last complete one and gives the same
    numbers to the bit as a run that was never interrupted.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        configuration: dict[str, Any] | None = None,
        *,
        keep: int = 2,
        seconds: float = 10.0,
    ):
        """Open a folder of checkpoints, or make one.

        Args:
            folder: for this run alone.
            configuration: JSON data that decides the numbers of the run; a checkpoint with another
                one is refused.
            keep: how many checkpoints stay.
            seconds: not more often than this, except at the end; 0 saves at every chance.
        """
        _checks.positive_integer("keep", keep)
        self.folder = Path(folder).absolute()
        self.configuration = json.loads(json.dumps(configuration or {}))
        self.seconds = seconds
        self._last = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def latest(self) -> int | None:
        """The step of the newest checkpoint, None without one."""
        return self._manager.latest_step()

    def save(
        self,
        state: Any,
        history: list[Any],
        partial: list[Any],
        *,
        data: dict[str, int] | None = None,
        force: bool = False,
    ) -> bool:
        """Write a checkpoint if it is time for one; returns whether it did.

        Args:
            state: with a counter ``step``; nothing is written unless it is above that of the last
                checkpoint.
            history: rows of finished epochs.
            partial: what is known of the epoch in progress.
            data: numbers that give a position in the data its meaning, such as the batch size.
            force: whatever the clock says.
        """
        step = int(np.max(state.step))
        # the clocks of processes differ, and orbax waits for all of them
        due = processes.agreed(force or time.monotonic() - self._last >= self.seconds)
        latest = self.latest()
        if not due or (latest is not None and step <= latest):
            return False
        tree = _storable(state)
        record = {
            "format": _FORMAT,
            "configuration": self.configuration,
            "arrays": _description(state),
            "checksum": _checksum(tree),
            "data": data or {},
            "history": history,
            "partial": partial,
        }
        record["record_checksum"] = _text_checksum(record)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(tree), record=ocp.args.JsonSave(record)
            ),
        )
        self._last = time.monotonic()
        return True

    def restore(
        self, template: Any, *, data: dict[str, int] | None = None
    ) -> tuple[Any, list[Any], list[Any]]:
        """State, history and partial epoch of the newest checkpoint; without one, the template.

        Args:
            template: a state of the same structure, such as that at the start.
            data: as it was given to :meth:`save`; not compared if left out.

        Raises:
            ValueError: a checkpoint of another configuration or of other arrays, or a damaged one;
                nothing is changed on disk.
        """
        step = self.latest()
        if step is None:
            return template, [], []
        with self._reading(step):
            record = self._manager.restore(
                step, args=ocp.args.Composite(record=ocp.args.JsonRestore())
            )["record"]
            known = record["format"] == _FORMAT
            if known and record.pop("record_checksum") != _text_checksum(record):
                raise ValueError("the record does not have the checksum stored in it")
        self._refuse_other(step, record, template, data)
        tree = _storable(template)
        with self._reading(step):
            restored = self._manager.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore(tree))
            )["state"]
            if _checksum(restored) != record["checksum"]:
                raise ValueError("the numbers do not have the checksum stored beside them")
        return _as_in(restored, template), record["history"], record["partial"]

    def close(self) -> None:
        """Release the folder."""
        self._manager.close()

    def _refuse_other(
        self, step: int, found: dict[str, Any], template: Any, data: dict[str, Any] | None
    ) -> None:
        where = f"{self.folder}: the checkpoint of step {step}"
        if found["format"] != _FORMAT:
            raise ValueError(f"{where} has format {found['format']}, this version reads {_FORMAT}")
        differing = _differing(found["configuration"], self.configuration)
        if differing:
            raise ValueError(
                f"{where} is of another configuration (other {', '.join(differing)}); use the "
                "same settings, or another folder"
            )
        if data is not None and _differing(found["data"], data):
            raise ValueError(
                f"{where} has another position in the data: it was made with {found['data']}, this "
                f"run has {data}; use the same data and batch size, or another folder"
            )
        arrays = _description(template)
        for name in sorted({*arrays, *found["arrays"]}):
            if arrays.get(name) != found["arrays"].get(name):
                raise ValueError(
                    f"{where} does not fit: {name} is {found['arrays'].get(name, 'not there')} in "
                    f"it and {arrays.get(name, 'not there')} in this run; use the same network, "
                    "optimiser and precision (jax_enable_x64), or another folder"
                )

    @contextlib.contextmanager
    def _reading(self, step: int) -> Any:
        """Whatever the storage says about damaged files, in one sentence."""
        try:
            yield
        except Exception as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise ValueError(
                f"{self.folder}: the checkpoint of step {step} is damaged ({reason[0][:200]}); "
                f"delete {self.folder / str(step)} to go on from the one before, if there is one"
            ) from None


def _storable(tree: Any) -> Any:
    """The arrays by number, with the numbers of typed keys in place of the keys."""

    def plain(leaf: Any) -> Any:
        return processes.on_host(jax.random.key_data(leaf) if _is_key(leaf) else leaf)

    leaves = jax.tree.leaves(tree)
    # orbax refuses arrays without entries
    return {f"{place:05d}": plain(leaf) for place, leaf in enumerate(leaves) if leaf.size}


def _as_in(stored: dict[str, Any], template: Any) -> Any:
    leaves, structure = jax.tree.flatten(template)

    def typed(value: Any, leaf: Any) -> Any:
        found = jnp.asarray(value)
        if _is_key(leaf):
            return jax.random.wrap_key_data(found, impl=jax.random.key_impl(leaf))
        return found

    values = [stored.get(f"{place:05d}", leaf) for place, leaf in enumerate(leaves)]
    return jax.tree.unflatten(structure, [typed(v, x) for v, x in zip(values, leaves, strict=True)])


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _description(tree: Any) -> dict[str, str]:
    """Type and shape of every array under the name of its place in the tree."""
    found = jax.tree.leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path).lstrip("."): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in found
    }


def _checksum(tree: dict[str, Any]) -> int:
    total = 0
    for name in sorted(tree):
        total = zlib.crc32(np.ascontiguousarray(tree[name]).tobytes(), total)
    return total


def _differing(stored: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Names whose values differ as text, in which NaN equals itself."""
    texts = [{name: json.dumps(value) for name, value in x.items()} for x in (stored, wanted)]
    return sorted(k for k in {*stored, *wanted} if texts[0].get(k) != texts[1].get(k))


def _text_checksum(record: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())
