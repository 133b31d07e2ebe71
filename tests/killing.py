"""A program in a process of its own, which tests kill and start again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
LIMIT = 1800  # seconds, on a busy machine
# one thread: sums in one order
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "OMP_NUM_THREADS": "1",
}


class Program:
    """Processes of one command, one after the other, that write what they say to a file."""

    def __init__(self, arguments, output, environment=ENVIRONMENT):
        self.command = [sys.executable, *map(str, arguments)]
        self.output, self.environment = output, environment
        self.process = None

    def start(self):
        with self.output.open("a") as output:
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                cwd=ROOT,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def running(self):
        return self.process.poll() is None

    def processes(self):
        """It and what it started, in the order in which they were started."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *sorted(map(int, children))]

    def wait_for(self, ready, pause=0.005):
        limit = time.monotonic() + LIMIT
        while self.running() and not ready():
            assert time.monotonic() < limit, self.output.read_text()[-3000:]
            time.sleep(pause)
        return self.running()

    def kill(self):
        """Kill it and what it started; False if it was over before."""
        if self.process is None or not self.running():
            return False
        os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait() == -signal.SIGKILL

    def finish(self):
        assert self.process.wait(LIMIT) == 0, self.output.read_text()[-3000:]
