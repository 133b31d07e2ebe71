"""The list of experiments: all of them, the newest result, published times."""

import datetime
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import __main__ as experiments

FOLDER = Path(experiments.__file__).parent


def test_all_experiments_are_listed(tmp_path, capsys):
    for age, name in enumerate(("new", "old")):
        file = tmp_path / "ricci_flow" / name / "result.json"
        file.parent.mkdir(parents=True)
        file.write_text('{"seconds": {"total": 150.0}}')
        os.utime(file, (1.7e9 - age, 1.7e9 - age))
    (tmp_path / "ricci_flow" / "unfinished").mkdir()
    assert experiments.main(["--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    listed = {line.split()[0] for line in said.splitlines() if line and not line[0].isspace()}
    assert listed >= {
        path.stem for path in FOLDER.glob("[a-z]*.py") if "--preset" in path.read_text()
    }
    day = datetime.date.fromtimestamp(1.7e9)
    assert f"last result: {tmp_path / 'ricci_flow' / 'new'}, {day}, 2 min\n" in said
    assert said.count("last result") == 1


def test_times_are_those_of_the_published_runs():
    found = {each.name: each.seconds for each in experiments.experiments(Path("nowhere"))}
    results = FOLDER.parent / "docs" / "results"
    one = json.loads((results / "ricci_flow.json").read_text())
    assert found["ricci_flow"] == [pytest.approx(one["seconds"]["total"])]
    # a run a file, and all runs of a table in one file, by their budgets
    assert len(found["learned_kernel"]) == 2
    table = json.loads((results / "record_metrics.json").read_text())
    assert found["record_metric"] == sorted(run["budget"] for run in table)


@pytest.mark.parametrize(
    ("seconds", "shown"), [([], "-"), ([3.0], "1"), ([100, 130], "2"), ([59, 200, 1450], "1-24")]
)
def test_times_are_shown_as_minutes(seconds, shown):
    assert experiments._minutes(seconds) == shown


@pytest.mark.parametrize(
    "each", list(experiments.experiments(Path("nowhere"))), ids=lambda e: e.name
)
def test_a_line_says_what_each_does(each):
    assert each.about.endswith((".", "?"))
    assert len(each.about) < 110


@pytest.mark.parametrize(
    "each", list(experiments.experiments(Path("nowhere"))), ids=lambda e: e.name
)
def test_the_help_of_each_is_readable(each, capsys):
    module = importlib.import_module(f"experiments.{each.name}")
    with pytest.raises(SystemExit, match="0"):
        module.main(["--help"])
    said = capsys.readouterr().out
    assert said.startswith(f"usage: python -m experiments.{each.name} [--preset NAME] [flags]\n")
    assert "default: None" not in said
    # flags, what they take, and after two spaces or on the next line what they are for
    for flag in re.findall(r"^  (--.*)$", said, re.MULTILINE):
        assert "  " in flag or re.search(rf"^  {re.escape(flag)}\n {{20,}}\S", said, re.MULTILINE)


def test_a_reader_that_has_seen_enough_is_no_error():
    command = [sys.executable, "-m", "experiments"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=FOLDER.parent
    ) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert said == ""
    assert process.returncode == 0
