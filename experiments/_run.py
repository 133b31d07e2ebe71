"""What every experiment shares: flags, the results folder, resume, figures.

An experiment is a frozen config, a ``run(config, record)`` that computes in stages, and a
``draw(result, folder)`` that makes figures from stored numbers alone.
"""

import argparse
import contextlib
import dataclasses
import fcntl
import importlib.metadata
import io
import json
import logging
import math
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from experiments import _cluster, _flags
from experiments._record import Record as Record
from experiments._record import finished_stages, parsed, reason
from metricflow import processes
from metricflow._files import write_atomically

log = logging.getLogger("experiments")

Config = TypeVar("Config", bound=Any)

_PACKAGES = ("metricflow-jax", "jax", "jaxlib", "numpy", "scipy", "matplotlib")
_FIGURE_BYTES = 1_000_000


def launch(argv: Sequence[str] | None, module: Any) -> int:
    """The ``main`` of an experiment; returns the exit status.

    Results go to ``OUT/<experiment>/<NAME>/``: config.json, environment.json, metrics.jsonl (a
    line a stage), result.json, figures/*.png and what the experiment saves.

    Args:
        argv: flags; those of the command line by default.
        module: the experiment: ``PRESETS``, ``add_flags(parser)``, ``run(config, record) ->
            result``, ``draw(result, folder)``; ``configure(arguments) -> config`` where the flags
            are not the fields of the config.
    """
    experiment = Path(module.__file__).stem
    parser = _flags.Parser(
        f"python -m experiments.{experiment}",
        str(module.__doc__),
        usage="%(prog)s [--preset NAME] [flags]",
    )
    module.add_flags(parser)
    _cluster.add_flags(parser)
    group = parser.add_argument_group("results")
    group.add_argument("--out", type=Path, default=Path("results"), help="folder of all results")
    group.add_argument("--name", help="name of this run; by default that of the preset")
    group.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    group.add_argument("--force", action="store_true", help="delete earlier results of this name")
    group.add_argument("--redraw", action="store_true", help="only draw the stored numbers again")
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")
    _log_to_terminal()
    arguments = argparse.Namespace(debug=False)
    try:
        parser.parse_args(argv, arguments)
        # before anything asks for a device
        with _cluster.connected(arguments):
            _conduct(module, experiment, arguments, argv)
        return 0
    except KeyboardInterrupt:
        print("interrupted; go on with --resume", file=sys.stderr)
        return 130
    except Exception as error:
        if arguments.debug:
            raise
        print(f"error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 2 if isinstance(error, ValueError | OSError) else 1


def _conduct(
    module: Any, experiment: str, arguments: argparse.Namespace, argv: Sequence[str] | None
) -> None:
    configure = getattr(module, "configure", None)
    config = configure(arguments) if configure else configured(arguments, module.PRESETS)
    folder = arguments.out / experiment / _run_name(arguments)
    if arguments.redraw:
        _redraw(module, folder)
        return
    with contextlib.ExitStack() as stack:
        opened = _opened(folder, config, arguments, argv)
        processes.on_first(lambda: stack.enter_context(opened))
        result = module.run(config, Record(folder))

        def finish() -> None:
            command = {"command": _command(experiment, argv)}
            _write_json(folder / "result.json", result | command)
            module.draw(_stored_result(folder), folder / "figures")
            log.info("results: %s", folder)

        processes.on_first(finish)


def _redraw(module: Any, folder: Path) -> None:
    stored = _stored_result(folder)
    try:
        module.draw(stored, folder / "figures")
    except OSError:
        raise
    except Exception as error:
        raise ValueError(
            f"{folder / 'result.json'}: cannot be drawn ({reason(error)}); it is damaged or of "
            "another version, start again with --force"
        ) from None


def _run_name(arguments: argparse.Namespace) -> str:
    name = arguments.name or arguments.preset
    if name in (".", "..") or Path(name).name != name:
        raise ValueError(f"--name: expected the name of a folder, got {name!r}; --out says where")
    return name


def configured(arguments: argparse.Namespace, presets: Mapping[str, Config]) -> Config:
    """The preset that the flags name, changed in the fields for which there are flags.

    A flag that was not given is None and changes nothing; lists become tuples.
    """
    preset = presets[arguments.preset]
    names = {field.name for field in dataclasses.fields(preset)}
    changes: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(arguments).items()
        if name in names and value is not None
    }
    return dataclasses.replace(preset, **changes)


class _Terminal(logging.StreamHandler):
    """Writes to what standard error is at the time, which notebooks and tests exchange."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        self.stream = sys.stderr
        super().emit(record)


def _log_to_terminal() -> None:
    """One line a stage on standard error, from the experiments only: jax's own logs stay quiet."""
    if not log.handlers:
        handler = _Terminal()
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False


def save_figure(figure: Any, path: Path) -> None:
    """Write a matplotlib figure as PNG and close it.

    Raises:
        ValueError: larger than the 1 MB that published figures may have.
    """
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    figure.savefig(content, dpi=150, format="png")
    plt.close(figure)
    if content.tell() > _FIGURE_BYTES:
        raise ValueError(f"{path}: figures stay under 1 MB")
    write_atomically(path, content.getvalue())


def finite_or_none(value: float | jax.Array) -> float | None:
    """JSON has no infinity: null stands for the gain of a metric whose sigma is exactly zero."""
    return float(value) if math.isfinite(value) else None


def spread(values: Sequence[float | None]) -> dict | None:
    """Mean and sample standard deviation over seeds; None if a value means nothing."""
    if any(value is None for value in values):
        return None
    numbers = np.array(values, float)
    return {
        "mean": float(numbers.mean()),
        "std": float(numbers.std(ddof=1)) if len(numbers) > 1 else 0.0,
        "values": numbers.tolist(),
    }


@contextlib.contextmanager
def _opened(
    folder: Path, config: Any, arguments: argparse.Namespace, argv: Sequence[str] | None
) -> Iterator[None]:
    """The results folder, new or resumed, held by this process alone."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    wanted = json.loads(json.dumps(dataclasses.asdict(config)))
    lock_path = folder.parent / f".{folder.name}.lock"
    with lock_path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{folder}: another run is writing there; give another --name"
            ) from None
        if folder.exists() and any(folder.iterdir()):
            if arguments.force:
                shutil.rmtree(folder)
            elif arguments.resume:
                _check_same(folder, wanted)
                for unfinished in folder.rglob("*.partial"):  # of a process that was killed
                    unfinished.unlink()
            else:
                raise ValueError(
                    f"{folder} exists: --resume goes on with it, --force deletes it, "
                    "or give another --name"
                )
        folder.mkdir(exist_ok=True)
        _write_json(folder / "config.json", wanted)
        _write_json(folder / "environment.json", _environment(argv))
        try:
            yield
        except BaseException:
            # a run that came to nothing, for want of its data say, is not in the way of the next
            if {file.name for file in folder.iterdir()} <= {"config.json", "environment.json"}:
                shutil.rmtree(folder)
            raise


def _check_same(folder: Path, wanted: dict) -> None:
    path, stages = folder / "config.json", folder / "metrics.jsonl"
    if stages.exists():
        finished_stages(stages)
    if not path.exists():
        return
    stored = _object(path)
    differing = sorted(k for k in {*stored, *wanted} if stored.get(k) != wanted.get(k))
    if differing:
        raise ValueError(
            f"{folder}: was made with other settings ({', '.join(differing)}); resume with the "
            "same flags, give another --name, or start again with --force"
        )


def _stored_result(folder: Path) -> dict:
    path = folder / "result.json"
    if not path.exists():
        raise ValueError(f"{path}: no finished run there")
    return _object(path)


def _object(path: Path) -> dict:
    try:
        found = parsed(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError(f"got a {type(found).__name__}, expected an object")
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({reason(error)}); start again with --force") from None
    return found


def _environment(argv: Sequence[str] | None) -> dict:
    versions = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "devices": [f"{d.platform}:{d.device_kind}" for d in jax.devices()],
        "x64": bool(jax.config.jax_enable_x64),  # type: ignore[attr-defined]
        "versions": versions,
        "arguments": list(sys.argv[1:] if argv is None else argv),
    }


def _command(experiment: str, argv: Sequence[str] | None) -> str:
    given = list(sys.argv[1:] if argv is None else argv)
    return " ".join(["python", "-m", f"experiments.{experiment}", *given])


def _write_json(path: Path, content: dict) -> None:
    write_atomically(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
