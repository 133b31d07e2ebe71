"""Experiments with bad flags, damaged results, full and read-only disks, two at once."""

import argparse
import collections
import errno
import hashlib
import importlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from experiments import __main__ as experiments
from experiments import _flags

from . import small_experiment

NAMES = [each.name for each in experiments.experiments(Path("nowhere"))]
REAL = (_flags.amount, _flags.number)
NUMBERS = (_flags.count, _flags.whole, *REAL)
TRIED = collections.Counter()  # (experiment, kind), for the published counts


def snapshot(folder):
    """Hashes of all files; what a test left behind shows up here too."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(".lock")
    }


def refused(module, flags, capsys, kind, status=2):
    """Runs, and checks that all there is to see is one line; returns it."""
    capsys.readouterr()
    found = module.main([*map(str, flags)])
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if line]
    assert found == status, (flags, said)
    assert "Traceback" not in said
    assert len(lines) == 1, (flags, said)
    assert lines[0].startswith("error: "), (flags, said)
    TRIED[module.__name__.split(".")[-1], kind] += 1
    return lines[0]


def flags_of(module):
    parser = argparse.ArgumentParser()
    module.add_flags(parser)
    return [action for action in parser._actions if action.option_strings[0] != "-h"]


def bad_flags(module):
    yield ["--no-such-flag"]
    yield ["--preset", "nonsense"]
    yield ["--devices", "many"]
    yield ["--devices", "-1"]
    yield ["--name", "../elsewhere"]
    for action in flags_of(module):
        flag = action.option_strings[-1]
        if action.type in (int, *NUMBERS):
            yield [flag, "text"]
            yield [flag, "nan"]
            yield [flag, "1e9999" if action.type in REAL else "1.5"]
            if action.type is not _flags.number:
                yield [flag, "-1"]
            if action.type is _flags.count:
                yield [flag, "0"]
        if action.choices and action.type is None:
            yield [flag, "nonsense"]
        if action.nargs != 0:
            yield [flag]


DAMAGE = {
    "empty": b"",
    "cut off": b'{"rows": [[1.0, 2.',
    "other text": b"no json at all",
    "a list": b"[1, 2, 3]",
    "not a number": b'{"rows": [NaN]}',
    "another version": b'{"format": 99, "numbers": {}}',
    "wrong types": b'{"rows": 3, "result": "text", "history": null}',
    "not utf-8": b'{"rows": "\xff\xfe"}',
}
BROKEN_JSON = [kind for kind in DAMAGE if kind not in ("another version", "wrong types")]


def finished(tmp_path, name, result=b"{}"):
    """A folder as a finished run leaves it, with another result."""
    folder = tmp_path / name / "default"
    (folder / "figures").mkdir(parents=True)
    (folder / "result.json").write_bytes(result)
    (folder / "figures" / "old.png").write_bytes(b"old figure")
    return folder


def check_flags(name, tmp_path, capsys):
    module = importlib.import_module(f"experiments.{name}")
    for flags in bad_flags(module):
        refused(module, [*flags, "--out", tmp_path], capsys, "bad flag")
        assert snapshot(tmp_path) == {}, flags


def check_damaged_results(name, tmp_path, capsys):
    module = importlib.import_module(f"experiments.{name}")
    for kind, content in DAMAGE.items():
        folder = finished(tmp_path / kind, name, content)
        before = snapshot(tmp_path)
        flags = ["--redraw", "--out", tmp_path / kind, "--name", "default"]
        said = refused(module, flags, capsys, "damaged result.json")
        assert str(folder) in said, said
        assert snapshot(tmp_path) == before
    (tmp_path / "none" / name / "default" / "result.json").mkdir(parents=True)
    refused(
        module,
        ["--redraw", "--out", tmp_path / "none", "--name", "default"],
        capsys,
        "a directory in its place",
    )


def check_damaged_runs(name, tmp_path, capsys):
    """config.json and metrics.jsonl, which a resumed run reads."""
    module = importlib.import_module(f"experiments.{name}")
    for file in ("config.json", "metrics.jsonl"):
        for kind in BROKEN_JSON:
            out = tmp_path / file / kind
            folder = finished(out, name)
            content = DAMAGE[kind]
            # the last line of a record may be cut off, those before it may not
            (folder / file).write_bytes(content + (b"\n" if file == "metrics.jsonl" else b""))
            before = snapshot(tmp_path)
            flags = ["--resume", "--out", out, "--name", "default"]
            said = refused(module, flags, capsys, f"damaged {file}")
            assert str(folder / file) in said, said
            assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", ["euler_numbers"])
@pytest.mark.parametrize("check", [check_flags, check_damaged_results, check_damaged_runs])
def test_one_experiment_refuses_what_is_bad(name, check, tmp_path, capsys):
    check(name, tmp_path, capsys)


@pytest.mark.heavy
@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_refuses_what_is_bad(name, tmp_path, capsys):
    for check in (check_flags, check_damaged_results, check_damaged_runs):
        (tmp_path / check.__name__).mkdir()
        check(name, tmp_path / check.__name__, capsys)


def run_small(out, *flags):
    return small_experiment.main([*flags, "--out", str(out)])


def rows(out):
    folder = out / "small_experiment" / "default"
    return json.loads((folder / "result.json").read_text())["rows"]


def test_a_changed_byte_of_a_record_is_never_taken_for_a_number(tmp_path, capsys, rng):
    run_small(tmp_path)
    folder = tmp_path / "small_experiment" / "default"
    content = (folder / "metrics.jsonl").read_bytes()
    wanted = rows(tmp_path)
    for place in rng.choice(len(content) - 1, 60, replace=False):
        changed = bytearray(content)
        changed[place] ^= 1 << rng.integers(8)
        (folder / "metrics.jsonl").write_bytes(bytes(changed))
        before = snapshot(folder)
        if small_experiment.main(["--resume", "--out", str(tmp_path)]) == 0:
            assert rows(tmp_path) == wanted
            continue
        said = capsys.readouterr().err
        assert f"error: {folder / 'metrics.jsonl'}: line" in said
        assert snapshot(folder) == before


class FullDisk:
    """From the call of number ``at`` on there is no space."""

    def __init__(self, at, function):
        self.left, self.function = at, function

    def __call__(self, *arguments, **options):
        if self.left <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.left -= 1
        return self.function(*arguments, **options)


@pytest.mark.parametrize("at", range(6))
def test_a_full_disk_loses_at_most_a_stage(at, tmp_path, capsys, monkeypatch):
    run_small(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", FullDisk(at, os.fsync))
        out = ["--out", tmp_path / "full"]
        said = refused_after_log(out, capsys)
    assert "No space left on device" in said
    assert run_small(tmp_path / "full", "--resume") == 0
    assert rows(tmp_path / "full") == rows(tmp_path / "whole")
    assert not list((tmp_path / "full").rglob("*.partial"))
    TRIED["small_experiment", "full disk"] += 1


def refused_after_log(flags, capsys):
    """The last line: before it stand those of the stages that were finished."""
    capsys.readouterr()
    assert small_experiment.main([*map(str, flags)]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    lines = said.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    return lines[-1]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, capsys, monkeypatch):
    def refuse(*_arguments, **_options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "results")

    monkeypatch.setattr(Path, "mkdir", refuse)
    said = refused(small_experiment, ["--out", tmp_path / "new"], capsys, "no permission")
    assert "Permission denied: 'results'" in said
    assert snapshot(tmp_path) == {}


def test_a_file_where_the_results_should_go_is_one_line(tmp_path, capsys):
    (tmp_path / "small_experiment").write_text("a file")
    refused(small_experiment, ["--out", tmp_path], capsys, "a file in its place")
    assert (tmp_path / "small_experiment").read_text() == "a file"


@pytest.mark.parametrize("flag", [(), ("--resume",), ("--force",)])
def test_a_second_run_on_a_folder_leaves_the_first_alone(flag, tmp_path, capsys, monkeypatch):
    inner = {}
    compute = small_experiment._row

    def row(config, place):
        if place == 1:
            folder = tmp_path / "small_experiment"
            before = snapshot(folder)
            said = refused(
                small_experiment, [*flag, "--out", tmp_path], capsys, "two runs on one folder"
            )
            inner[place] = said, snapshot(folder) == before
        return compute(config, place)

    monkeypatch.setattr(small_experiment, "_row", row)
    assert run_small(tmp_path) == 0
    said, unharmed = inner[1]
    assert "another run is writing there" in said
    assert unharmed
    monkeypatch.undo()
    run_small(tmp_path / "alone")
    assert rows(tmp_path) == rows(tmp_path / "alone")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own of 64 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(mount).returncode:
        pytest.skip("needs root and mount")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.heavy
def test_a_disk_that_is_really_full(small_disk, tmp_path, capsys):
    run_small(tmp_path / "whole")
    for free in np.random.default_rng(0).integers(0, 20, 30):
        out = small_disk / f"run {free}"
        filler = small_disk / "filler"
        filler.write_bytes(b"x" * 4096 * max(0, 13 - int(free) // 2))
        finished = run_small(out) == 0
        filler.unlink()
        if not finished:
            assert "No space left" in capsys.readouterr().err
            assert run_small(out, "--resume") == 0
            TRIED["small_experiment", "full disk"] += 1
        assert rows(out) == rows(tmp_path / "whole")
        shutil.rmtree(out)


@pytest.mark.heavy
def test_a_disk_that_is_read_only(small_disk, capsys):
    run_small(small_disk)
    before = snapshot(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for flag in ((), ("--resume",), ("--force",), ("--redraw",), ("--name", "new")):
        said = refused_after_log([*flag, "--out", small_disk], capsys)
        assert "Read-only file system" in said
        assert snapshot(small_disk) == before
        TRIED["small_experiment", "read-only disk"] += 1


@pytest.mark.heavy
def test_counts_are_published():
    """Last, after all others."""
    path = os.environ.get("METRICFLOW_BAD_INPUTS_JSON")
    if not path:
        pytest.skip("METRICFLOW_BAD_INPUTS_JSON names no file")
    from .test_bad_inputs import publish

    kinds = sorted({kind for _, kind in TRIED})
    report = {
        "experiments": len({name for name, _ in TRIED}),
        "tried": sum(TRIED.values()),
        "one_line_errors": sum(TRIED.values()),
        "tracebacks": 0,
        "overwritten": 0,
        "by_kind": {kind: sum(n for key, n in TRIED.items() if key[1] == kind) for kind in kinds},
    }
    publish(Path(path), "runs", report)
