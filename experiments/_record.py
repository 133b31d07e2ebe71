"""The stages of a run on disk: one line of ``metrics.jsonl`` each, with a checksum.

A stage that finished is read back by a resumed run instead of computed again, so that an
interrupted run loses at most the stage it was in.
"""

import contextlib
import json
import logging
import os
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from metricflow import processes
from metricflow._files import write_atomically

log = logging.getLogger("experiments")


class Record:
    """The stages of a run: in memory, and on disk if there is a folder."""

    def __init__(self, folder: Path | None = None):
        """Start a record, or read the finished stages of an earlier run from the folder."""
        self.folder = folder
        self.stages: dict[str, dict] = {}
        self._timers: dict[str, float] = {}
        self._compile = _CompileClock()
        if folder is not None and self._file.exists():
            self._read()

    @property
    def _file(self) -> Path:
        assert self.folder is not None
        return self.folder / "metrics.jsonl"

    def stage(self, name: str, compute: Callable[[], dict]) -> dict:
        """The result of ``compute()``, from the record if this stage was finished before."""
        if name in self.stages:
            log.info("%s: finished before", name)
            return self.stages[name]["result"]
        self._timers = {}
        compiled, start = self._compile.seconds, time.perf_counter()
        result = compute()
        seconds = {
            **self._timers,
            "compile": self._compile.seconds - compiled,
            "total": time.perf_counter() - start,
        }
        line = {"stage": name, "seconds": seconds, "result": result}
        # the same numbers whether they come from memory or from disk, on all processes
        text = processes.agreed(json.dumps(line, allow_nan=False))
        line = json.loads(text)
        if self.folder is not None:
            stored = json.dumps(line | {"checksum": _checksum(line)})
            processes.on_first(lambda: self._append(stored))
        self.stages[name] = line
        log.info("%s: %.1f s", name, seconds["total"])
        return self.stages[name]["result"]

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the time of a block to the seconds of the current stage, compilation excluded."""
        compiled, start = self._compile.seconds, time.perf_counter()
        yield
        spent = time.perf_counter() - start - (self._compile.seconds - compiled)
        self._timers[name] = self._timers.get(name, 0.0) + max(spent, 0.0)

    def seconds(self, name: str) -> float:
        """The seconds of one kind, added up over all stages, earlier processes included."""
        return sum(stage["seconds"].get(name, 0.0) for stage in self.stages.values())

    def file(self, name: str) -> Path | None:
        """A path in the results folder, its parent made; None without a folder."""
        if self.folder is None:
            return None
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _append(self, text: str) -> None:
        with self._file.open("a") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> None:
        complete, rest = finished_stages(self._file)
        self.stages = {line["stage"]: line for line in complete.values()}
        if rest:
            log.warning("metrics.jsonl: dropped an incomplete line")
            content = "".join(text + "\n" for text in complete).encode()
            processes.on_first(lambda: write_atomically(self._file, content))


def finished_stages(path: Path) -> tuple[dict[str, dict], bytes]:
    """The complete lines of a record with their content, and what a killed run left behind them.

    Raises:
        ValueError: a line before the last that is none, or does not have its checksum.
    """
    *lines, rest = path.read_bytes().split(b"\n")
    complete: dict[str, dict] = {}
    for number, text in enumerate(lines, 1):
        try:
            line = parsed(text)
            if line.pop("checksum", None) not in (None, _checksum(line)):
                raise ValueError("the numbers do not have the checksum beside them")
            if not (isinstance(line["result"], dict) and isinstance(line["seconds"], dict)):
                raise ValueError("no result")
            complete[text.decode()] = {"stage": str(line["stage"]), **line}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: line {number} is damaged ({reason(error)}); delete it to compute its "
                "stage again, or start again with --force"
            ) from None
    return complete, rest


def _checksum(line: dict) -> int:
    return zlib.crc32(json.dumps(line).encode())


def parsed(text: bytes) -> Any:
    """JSON as the standard has it, without NaN."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no number")

    return json.loads(text.decode(), parse_constant=refuse)


def reason(error: Exception) -> str:
    said = (str(error).splitlines() or [""])[0]
    return said if isinstance(error, ValueError) else f"{type(error).__name__} {said}"


class _CompileClock:
    """Seconds that jax spent tracing, lowering and compiling in this process."""

    def __init__(self) -> None:
        self.seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._add)

    def _add(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event.startswith("/jax/core/compile/"):
            self.seconds += duration_secs
