"""An experiment as several processes of this machine.

``python -m experiments.local_processes 4 quintic_network --epochs 20``

The processes divide the work as those of several machines would.  If one of them dies it is named,
and the others are ended; ``--resume`` goes on with the last complete checkpoint, with as many
processes or others.
"""

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import IO

from experiments import _flags

_LINES = 5  # of what a process said last
_PATIENCE = 5.0  # seconds for each of the others to end by itself


def run(count: int, experiment: str, flags: Sequence[str]) -> int:
    """Start the processes and wait for them; returns the exit status of the first that failed.

    Raises:
        ValueError: no processes, or flags that are set here.
    """
    if count < 1:
        raise ValueError(f"N: expected at least 1 process, got {count}")
    taken = [flag for flag in flags if flag.split("=")[0] in ("--coordinator", "--process-id")]
    if taken:
        raise ValueError(f"{taken[0]}: is set for each process here; leave it out")
    command = [sys.executable, "-m", f"experiments.{experiment}", *flags]
    address = f"localhost:{_free_port()}"
    with contextlib.ExitStack() as stack:
        # the first process speaks for all of them; what others say is kept for when they fail
        errors = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(count)]
        started = []
        for place, file in enumerate(errors):
            own = [f"--coordinator={address}", f"--processes={count}", f"--process-id={place}"]
            process = subprocess.Popen(
                [*command, *own],
                stdout=None if place == 0 else subprocess.DEVNULL,
                stderr=None if place == 0 else file,
                # of processors: several devices in one process may wait for each other for ever
                env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"},
            )
            stack.callback(_end, process)
            started.append(process)
        return _watched(started, errors)


def _watched(processes: list[subprocess.Popen], errors: Sequence[IO[bytes]]) -> int:
    while True:
        states = [process.poll() for process in processes]
        failed = [(place, state) for place, state in enumerate(states) if state]
        if failed:
            place, state = failed[0]
            how = f"ended with status {state}"
            if state < 0:
                how = f"was killed by {signal.Signals(-state).name}"
            errors[place].seek(0)
            said = errors[place].read().decode(errors="replace").strip().splitlines()
            for line in said[-_LINES:]:
                print(line, file=sys.stderr)
            print(
                f"process {place} of {len(processes)} {how}; the others are ended; "
                "go on with --resume",
                file=sys.stderr,
            )
            return state if state > 0 else 128 - state
        if all(state == 0 for state in states):
            return 0
        time.sleep(0.1)


def _end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    parser = _flags.Parser("python -m experiments.local_processes", str(__doc__))
    parser.add_argument(
        "count", type=_flags.count, metavar="N", help="processes, each with its own device"
    )
    parser.add_argument("experiment", help="name of the experiment, such as quintic_kernel")
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="its flags")
    try:
        arguments = parser.parse_args(argv)
        return run(arguments.count, arguments.experiment, arguments.flags)
    except KeyboardInterrupt:
        return 130
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
