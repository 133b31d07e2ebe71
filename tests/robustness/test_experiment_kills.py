"""Every experiment, killed at random moments and resumed, ends with the numbers of a whole run.

With METRICFLOW_EXPERIMENT_KILLS_JSON=PATH the counts are written there, experiment by experiment,
beside those that the file holds already.
"""

import contextlib
import json
import os
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from experiments import __main__ as experiments
from experiments import _run, flow_map
from metricflow import __version__
from metricflow._files import write_atomically
from tests.killing import ENVIRONMENT, ROOT, Program

NAMES = [each.name for each in experiments.experiments(Path("nowhere"))]
SMOKE = ["--preset", "smoke"]
FLAGS = {
    "flow_map": ["--published", str(ROOT / "docs" / "results")],
    # the rungs must not depend on the clock
    "record_metric": [*SMOKE, "--manifold", "fermat:1", "--rungs", "2", "--seconds", "1e9"],
    # of dimension three: minutes of compilation
    "quintic_kernel": [*SMOKE, "--manifold", "fermat:1"],
    "kernel_generalisation": [*SMOKE, "--manifold", "fermat:1"],
    "kernel_regression": [*SMOKE, "--manifold", "fermat:1"],
}
# moments of kills: anywhere in what is left of the run, in the start of the process, when a file
# is being written, when figures are drawn
MOMENTS = ("any", "start", "any", "saving", "any", "drawing")
PLACES = ("start", "stage", "saving", "drawing")
# what two whole runs do not share either
UNEQUAL = {"seconds", "cpu_seconds", "cost", "command"}
SEED = 1


class Experiment(Program):
    """Processes of one experiment, each of which resumes what the one before left."""

    def __init__(self, name, out, cache, processes=1):
        out.mkdir()
        module = [f"experiments.{name}"]
        if processes > 1:
            module = ["experiments.local_processes", processes, name]
        flags = [*FLAGS.get(name, SMOKE), "--out", out, "--name", "run", "--resume"]
        environment = {
            **ENVIRONMENT,
            "MPLBACKEND": "Agg",
            # restarts are cheap
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        super().__init__(["-m", *module, *flags], out / "output", environment)
        self.folder = out / name / "run"

    def start(self):
        self.before = {name: self.state(name) for name in ("environment.json", "result.json")}
        self.found = self.lines(), self.unfinished()
        super().start()
        self.spent = 0.0

    def state(self, name):
        try:
            found = (self.folder / name).stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns

    def wrote(self, name):
        """Whether this process wrote that file already."""
        return self.state(name) not in (None, self.before[name])

    def opened(self):
        return self.wrote("environment.json")

    def drawing(self):
        return self.wrote("result.json")

    def text(self):
        path = self.folder / "metrics.jsonl"
        return path.read_bytes() if path.exists() else b""

    def lines(self):
        """The complete lines of the record."""
        return self.text().split(b"\n")[:-1]

    def files(self):
        found = set()
        for folder, _, names in os.walk(self.folder):
            for path in (Path(folder, name) for name in names):
                with contextlib.suppress(FileNotFoundError):
                    found.add((path, path.stat().st_mtime_ns, path.stat().st_size))
        return found

    def unfinished(self):
        """Files and folders that do not have their name yet."""
        found = set()
        for folder, below, names in os.walk(self.folder):
            found |= {Path(folder, x) for x in names if x.endswith(".partial")}
            found |= {Path(folder, x) for x in below if x.endswith("-tmp")}
        return found

    def saving(self):
        """Whether something is half written that the process before did not leave."""
        return bool(self.unfinished() - self.found[1]) or self.text()[-1:] not in (b"", b"\n")

    def place(self):
        """Where it was killed."""
        if self.drawing():
            return "drawing"
        if self.saving():
            return "saving"
        return "stage" if self.opened() else "start"

    def seconds(self):
        """Processor time of these processes: a clock that others on the machine do not disturb."""
        with contextlib.suppress(OSError):  # they are over
            stats = [Path(f"/proc/{x}/stat").read_text() for x in self.processes()]
            ticks = [stat.rpartition(")")[2].split()[11:13] for stat in stats]
            self.spent = sum(int(x) for pair in ticks for x in pair) / os.sysconf("SC_CLK_TCK")
        return self.spent

    def wait_until(self, seconds):
        return self.wait_for(lambda: self.seconds() > seconds, 0.02)

    def whole(self):
        """Run to the end and say when what happened."""
        self.start()
        self.wait_for(self.opened)
        opened, stages = self.seconds(), []
        while not self.drawing() and self.running():
            time.sleep(0.02)
            stages += [self.seconds()] * (len(self.lines()) - len(stages))
        result = self.seconds()
        self.wait_until(np.inf)
        self.finish()
        return Timeline(opened, stages, result, self.spent)


class Timeline(NamedTuple):
    """Processor time of an uninterrupted run until things were on disk: folder, stages, result."""

    opened: float
    stages: list[float]
    result: float
    end: float


class Killer:
    """Chooses moments; those of kind *any* are uniform over the time of the whole run."""

    def __init__(self, timeline, moments, rng):
        self.timeline, self.rng = timeline, rng
        self.left = moments.count("any")
        self.reached, self.late = 0.0, 0

    def wait(self, run, moment):
        """Wait for a moment in a process that was just started; False if it ended before."""
        if moment == "any":
            return self._wait_anywhere(run)
        if moment == "start":
            return run.wait_until(self.rng.uniform(0, self.timeline.opened))
        if moment == "saving":
            return self._wait_for_a_change(run)
        run.wait_for(run.drawing)
        drawn = self.timeline.end - self.timeline.result
        return run.wait_until(run.seconds() + self.rng.uniform(0, drawn))

    def _wait_for_a_change(self, run):
        """One of the first changes of any file, such as a temporary one that appears."""
        for _ in range(self.rng.integers(1, 7)):
            files = run.files()
            if not run.wait_for(lambda files=files: run.files() != files, 0.001):
                return False
        return True

    def _wait_anywhere(self, run):
        """The next of several uniform moments in order, given that those before are over."""
        opened, stages, _, end = self.timeline
        kept = [opened, *stages][min(len(run.found[0]), len(stages))]
        low = max(self.reached, kept if run.found[0] else 0.0)
        span = (end - low) / 2**self.late  # a run may be faster than the one that was measured
        moment = low + span * (1 - self.rng.uniform() ** (1 / max(self.left, 1)))
        if moment < opened:
            alive = run.wait_until(moment)
        else:
            run.wait_for(run.opened)
            alive = run.wait_until(run.seconds() + moment - kept)
        if alive:
            self.reached, self.left = moment, self.left - 1
        else:
            self.reached, self.late = 0.0, self.late + 1
        return alive


class Ledger:
    """What was on disk after each kill, held against a whole run."""

    def __init__(self, wanted):
        self.wanted = contents(wanted.folder)
        self.lines = {}
        self.lost = self.altered = self.torn = self.unnamed = self.broken = 0

    def check(self, run):
        """Every line that was ever complete is there and unchanged, and no file is half written."""
        now = {json.loads(line)["stage"]: line for line in run.lines()}
        self.lost += len(self.lines.keys() - now.keys()) + len(run.lines()) - len(now)
        self.altered += sum(now.get(name, line) != line for name, line in self.lines.items())
        self.torn += run.text()[-1:] not in (b"", b"\n")
        self.unnamed += bool(run.unfinished() - run.found[1])
        self.lines = now
        try:
            found = contents(run.folder)
        except Exception as error:
            self.broken += 1
            return print(f"{run.folder}: {error!r}")
        for name in found.keys() - {"stages"}:
            self.altered += differs(name, found[name], self.wanted.get(name))
        for name, stage in found["stages"].items():
            self.altered += differs(name, stage, self.wanted["stages"].get(name))
        return None

    def finish(self, run):
        """The run is over: nothing is missing or left behind."""
        self.check(run)
        found = contents(run.folder)
        missing = self.wanted.keys() - found.keys()
        missing |= self.wanted["stages"].keys() - found["stages"].keys()
        self.lost += len(missing)
        return len(run.unfinished())


def differs(name, found, wanted):
    if found != wanted:
        print(f"{name}: another value than in the whole run")
    return found != wanted


def contents(folder):
    """Everything in a results folder that two runs share; an error if a file is half written."""
    found = {"stages": {}}
    for path in sorted(x for x in folder.rglob("*") if x.is_file()):
        name = str(path.relative_to(folder))
        if name in ("config.json", "result.json"):
            found[name] = shared(json.loads(path.read_text()))
            if folder.parent.name == "record_metric":
                found[name].pop("history", None)  # seconds and what its rungs say too
        elif name == "environment.json":
            json.loads(path.read_text())
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                found[name] = {key: (x.dtype, x.shape, x.tobytes()) for key, x in arrays.items()}
            if "header" in found[name]:
                found[name]["header"] = shared(json.loads(found[name]["header"][2]))
        elif path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
            found[name] = image.size
        elif path.suffix == ".html":
            found[name] = path.read_bytes()
    record = folder / "metrics.jsonl"
    for line in record.read_bytes().split(b"\n")[:-1] if record.exists() else ():
        stage = json.loads(line)
        found["stages"][stage["stage"]] = shared(stage["result"])
    return found


def shared(tree):
    """A result without what depends on the clock."""
    if isinstance(tree, dict):
        return {name: shared(value) for name, value in tree.items() if name not in UNEQUAL}
    return [shared(value) for value in tree] if isinstance(tree, list) else tree


def killed_and_finished(run, ledger, killer, moments):
    """Kill, look, start again; where the kills fell, how many stages each restart found."""
    places, kept, late = [], [], 0
    while len(places) < len(moments):
        run.start()
        alive = killer.wait(run, moments[len(places)])
        if alive and run.kill():
            places.append(run.place())
        else:
            late += 1
            assert late <= 2 * len(moments), run.output.read_text()[-2000:]
            run.finish()
        ledger.check(run)
        kept.append(len(run.lines()))
    run.start()
    run.finish()
    return places, kept, late


def check_kills(name, tmp_path, cache, moments, processes=1):
    rng = np.random.default_rng([SEED, processes, zlib.crc32(name.encode())])
    runs = [Experiment(name, tmp_path / x, cache, processes) for x in ("first", "whole", "killed")]
    first, whole, killed = runs
    try:
        if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
            first.whole()  # fills the cache, so that the next one takes as long as a restart
        timeline = whole.whole()
        ledger = Ledger(whole)
        if first.folder.exists():
            assert contents(first.folder) == ledger.wanted  # without any kill
        places, kept, late = killed_and_finished(
            killed, ledger, Killer(timeline, moments, rng), moments
        )
        left = ledger.finish(killed)
    finally:
        for run in runs:
            run.kill()
    report = {
        "kills": len(places),
        **{f"kills_in_{place}": places.count(place) for place in PLACES},
        "came_too_late": late,
        "stages": len(timeline.stages),
        "finished_stages_at_each_kill": kept,
        "kills_that_left_a_torn_line": ledger.torn,
        "kills_that_left_a_temporary_file": ledger.unnamed,
        "lost": ledger.lost,
        "altered": ledger.altered,
        "half_written_files": ledger.broken,
        "temporary_files_at_the_end": left,
        "cpu_seconds_of_a_whole_run": float(f"{timeline.end:.6g}"),
    }
    print(json.dumps(report))
    publish(name if processes == 1 else f"{name}, {processes} processes", report)
    assert set(places) <= set(PLACES)
    counts = {key: report[key] for key in ("lost", "altered", "half_written_files")}
    assert counts == {"lost": 0, "altered": 0, "half_written_files": 0}
    assert report["temporary_files_at_the_end"] == 0
    return report


def publish(name, report):
    """Add the counts of one experiment to the file that the environment names."""
    target = os.environ.get("METRICFLOW_EXPERIMENT_KILLS_JSON")
    if not target:
        return
    path = Path(target)
    known = json.loads(path.read_text())["experiments"] if path.exists() else {}
    known[name] = report
    total = sum((Counter(numbers(each)) for each in known.values()), Counter())
    whole = {
        "command": "METRICFLOW_EXPERIMENT_KILLS_JSON=kills.json python -m pytest -m heavy "
        "tests/robustness/test_experiment_kills.py",
        "version": __version__,
        "seed": SEED,
        "total": {"experiments": len(known), **{key: total[key] for key in numbers(report)}},
        "experiments": dict(sorted(known.items())),
    }
    write_atomically(path, (json.dumps(whole, indent=2) + "\n").encode())


def numbers(report):
    return {key: value for key, value in report.items() if isinstance(value, int)}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return os.environ.get("JAX_COMPILATION_CACHE_DIR") or tmp_path_factory.mktemp("cache")


@pytest.mark.heavy
@pytest.mark.parametrize("name", NAMES)
def test_kills_change_no_number(name, tmp_path, cache):
    check_kills(name, tmp_path, cache, MOMENTS)


@pytest.mark.heavy
def test_kills_of_two_processes_change_no_number(tmp_path, cache):
    check_kills("quintic_network", tmp_path, cache, MOMENTS, processes=2)


def test_what_a_killed_process_left_half_written_goes(tmp_path):
    flags = [*FLAGS["flow_map"], "--out", str(tmp_path)]
    left = tmp_path / "flow_map" / "default" / "figures" / "flow_map.png1.partial"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    assert flow_map.main([*flags, "--resume"]) == 0
    assert [path.name for path in left.parent.iterdir()] == ["flow_map.png"]


def test_a_figure_appears_when_it_is_complete(tmp_path):
    class Figure:
        def savefig(self, file, **_):
            file.write(b"half")
            raise OSError("disk full")

    path = tmp_path / "figure.png"
    path.write_bytes(b"older")
    with pytest.raises(OSError, match="disk full"):
        _run.save_figure(Figure(), path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"older"
