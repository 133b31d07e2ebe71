"""A training that is killed at random moments, in saves too, ends with the same numbers."""

import itertools
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from tests.killing import Program

from . import victim


class Run(Program):
    """Processes that work on one training, one after the other."""

    def __init__(self, folder, epochs):
        folder.mkdir()
        self.folder, self.log, self.result = folder, folder / "log", folder / "result.npz"
        arguments = [victim.__file__, folder / "run", self.log, self.result, epochs]
        super().__init__(arguments, folder / "output")

    def lines(self):
        """Words of the complete lines of the log."""
        text = self.log.read_text() if self.log.exists() else ""
        return [line.split() for line in text.splitlines()]

    def saved(self):
        """The step of the last save that returned."""
        return max((int(step) for word, step in self.lines() if word == "saved"), default=0)

    def kill(self):
        """Kill and say in which part of the program that was; None if it came too late."""
        if not super().kill():
            return None
        last = self.lines()[-1][0] if self.lines() else "start"
        return {"saving": "save", "saved": "step", "start": "start", "end": "end"}[last]

    def finish(self):
        super().finish()
        with np.load(self.result) as found:
            return dict(found)

    def started(self):
        return sum(words[0] == "start" for words in self.lines())

    def unfinished(self):
        """Folders of saves that were not renamed yet."""
        return len(list((self.folder / "run").glob("*.orbax-checkpoint-tmp")))


def killed_and_finished(run, kills, rng, spread):
    """Where the kills fell, and how many left an unfinished folder, and the result.

    Each falls up to ``spread`` seconds after the process took a new step, every fourth one up to
    ``spread`` seconds after it opened the folder.
    """
    places, unfinished = [], 0
    while len(places) < kills:
        saved, started = run.saved(), run.started()
        run.start()
        if len(places) % 4 == 3:
            alive = run.wait_for(lambda started=started: run.started() > started)
        else:
            alive = run.wait_for(lambda saved=saved: run.saved() > saved)
        deadline = time.monotonic() + rng.uniform(0, spread)
        alive = alive and run.wait_for(lambda deadline=deadline: time.monotonic() > deadline)
        assert alive, f"over after {len(places)} kills; {(run.folder / 'output').read_text()}"
        places.append(run.kill())
        unfinished += run.unfinished() > 0
    run.start()
    return places, unfinished, run.finish()


def check_kills(tmp_path, kills, epochs, spread, seed):
    rng = np.random.default_rng(seed)
    whole, broken = Run(tmp_path / "whole", epochs), Run(tmp_path / "broken", epochs)
    try:
        whole.start()
        places, unfinished, found = killed_and_finished(broken, kills, rng, spread)
        wanted = whole.finish()
    finally:
        whole.kill()
        broken.kill()
    calls = [int(step) for word, step in broken.lines() if word == "saved"]
    starts = [int(step) for word, step in broken.lines() if word == "start"]
    identical = wanted.keys() == found.keys() and all(
        wanted[name].dtype == found[name].dtype and wanted[name].tobytes() == found[name].tobytes()
        for name in wanted
    )
    first_steps = [
        int(after[1]) - int(before[1])
        for before, after in itertools.pairwise(broken.lines())
        if (before[0], after[0]) == ("start", "saving")
    ]
    report = {
        "kills": len(places),
        "kills_inside_saves": places.count("save"),
        "kills_between_saves": places.count("step"),
        "kills_while_opening": places.count("start"),
        "kills_that_left_an_unfinished_folder": unfinished,
        "steps": calls[-1],
        "saves_that_returned": len(calls),
        "resumed_at": starts[1:],
        "bit_identical": identical,
    }
    path = os.environ.get("METRICFLOW_KILLS_JSON")
    if path and kills > 2:
        Path(path).write_text(json.dumps(report, indent=2) + "\n")
    assert calls[-1] == epochs * victim.PER_EPOCH
    assert len(wanted["history"]) == epochs
    assert len(starts) == kills + 1
    assert starts[0] == 0
    assert all(start > 0 for start in starts[1:])
    assert set(first_steps) == {victim.STEPS}  # none started again from the beginning
    assert report["bit_identical"], report
    return report


def test_two_kills_change_no_number(tmp_path):
    check_kills(tmp_path, kills=2, epochs=8, spread=0.3, seed=1)


@pytest.mark.heavy
def test_twenty_kills_change_no_number(tmp_path):
    report = check_kills(tmp_path, kills=20, epochs=80, spread=0.5, seed=2)
    assert report["kills_inside_saves"] >= 3
    assert report["kills_that_left_an_unfinished_folder"] >= 1
    assert report["kills_between_saves"] + report["kills_while_opening"] >= 1
