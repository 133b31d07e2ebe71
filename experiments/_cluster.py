"""The devices of an experiment: those of this process, or of many processes, here or elsewhere."""

import argparse
import contextlib
import os
from collections.abc import Iterator

import jax

from experiments import _flags
from metricflow import devices

_HEARTBEAT_SECONDS = 30  # after which a process that does not answer is given up


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say where an experiment runs."""
    group = parser.add_argument_group("devices")
    add = group.add_argument
    add(
        "--devices",
        type=_flags.count,
        help="divide the work among so many; processors stand for several",
    )
    add(
        "--coordinator",
        help="HOST:PORT of the first process, or 'auto' to ask Slurm, MPI or the cloud",
    )
    add("--processes", type=_flags.count, help="how many processes there are")
    add("--process-id", type=_flags.whole, help="which of them this is, from 0")


@contextlib.contextmanager
def connected(arguments: argparse.Namespace) -> Iterator[None]:
    """The devices that the flags name, in use.

    Raises:
        ValueError: flags that do not belong together, or more devices than there are.
    """
    _check(arguments)
    if arguments.coordinator is not None:
        with _processes(arguments), jax.set_mesh(devices.mesh()):
            yield
    elif arguments.devices is not None:
        if arguments.devices > 1:
            # settings for processors only; too late, and of no use, once something was computed
            with contextlib.suppress(RuntimeError):
                jax.config.update("jax_num_cpu_devices", arguments.devices)
                threads = max(os.cpu_count() or 1, 4 * arguments.devices)
                os.environ.setdefault("NPROC", str(threads))
        with jax.set_mesh(devices.mesh(arguments.devices)):
            yield
    else:
        yield


@contextlib.contextmanager
def _processes(arguments: argparse.Namespace) -> Iterator[None]:
    given = {}
    if arguments.coordinator != "auto":
        given = {
            "coordinator_address": arguments.coordinator,
            "num_processes": arguments.processes,
            "process_id": arguments.process_id,
        }
    # it would keep a process alive that was asked to end
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(**given, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS)
    if jax.default_backend() == "cpu" and jax.local_device_count() > 1:
        raise ValueError(
            f"--coordinator: expected one device in a process on processors, got "
            f"{jax.local_device_count()}, which may wait for each other for ever; unset XLA_FLAGS"
        )
    yield
    # after a failure nobody waits for the others, who may wait for this process
    jax.distributed.shutdown()


def _check(arguments: argparse.Namespace) -> None:
    if arguments.devices is not None and arguments.devices < 1:
        raise ValueError(f"--devices: expected at least 1, got {arguments.devices}")
    if arguments.coordinator is None:
        if arguments.processes is not None or arguments.process_id is not None:
            raise ValueError("--processes: needs --coordinator HOST:PORT, or 'auto'")
        return
    if arguments.devices is not None:
        raise ValueError("--devices: of several processes all devices are used; leave it out")
    if arguments.coordinator == "auto":
        return
    host, _, port = arguments.coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(
            f"--coordinator: expected HOST:PORT or 'auto', got {arguments.coordinator}"
        )
    count, place = arguments.processes, arguments.process_id
    if count is None or place is None or not 0 <= place < count:
        raise ValueError(
            "--process-id: expected --processes N and a --process-id from 0 to N - 1, got "
            f"{count} and {place}"
        )
