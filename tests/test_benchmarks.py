"""The benchmarks' command: runs at small sizes, compares with an older run, refuses nonsense."""

import json

import jax
import numpy as np
import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import _report, growth


def test_exponents_of_powers():
    sizes = np.array([10, 20, 40])
    assert growth.exponent(sizes, 3e-7 * sizes**1.7) == pytest.approx(1.7)


def test_a_run_and_one_beside_it(tmp_path, capsys):
    first = tmp_path / "first.json"
    assert benchmarks.main(["sampling", "--small", "--out", str(first)]) == 0
    content = json.loads(first.read_text())
    names = [row["name"] for row in content["rows"]]
    assert all("1000 quintic points" in name for name in names)
    for row in content["rows"]:
        assert 0 < row["ours"]["wall_min"] <= row["ours"]["wall"] <= row["ours"]["wall_max"]
        assert row["ours"]["first_call"] > row["ours"]["wall"]
    assert first.with_suffix(".png").stat().st_size > 10_000
    capsys.readouterr()

    content["rows"][0]["ours"]["cpu"] *= 1e6
    content["rows"][1]["name"] = "something else"
    content["environment"]["jax"] = "0.0"
    first.write_text(json.dumps(content))
    second = tmp_path / "second.json"
    flags = ["sampling", "--small", "--out", str(second), "--compare", str(first)]
    assert benchmarks.main(flags) == 0
    said = capsys.readouterr().out
    assert f"other jax: 0.0 then, {jax.__version__} now" in said
    assert f"{names[0]}  (faster)" in said
    assert f"new  {names[1]}" in said
    assert "gone  something else" in said


def test_growth_is_fitted_and_drawn(tmp_path):
    def row(name, expected):
        ours = dict.fromkeys(("cpu", "wall", "wall_min", "wall_max", "first_call"), 1.0)
        found = {
            "of": name,
            "along": "points",
            "sizes": [1, 2, 4],
            "cpu": [1.0, 2.0, 4.0],
            "exponent": 1.0,
            "expected": expected,
        }
        return {"name": name, "ours": ours, "peers": {}, "growth": found}

    rows = [row("a step", 1), row("a product", 2)]
    assert "  grows like points^1.00, expected 2 (1 to 4)" in list(_report.lines(rows))
    _report.draw({"rows": rows}, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", ["kernel_step", "ntk_product", "gauss_newton"])
def test_what_growth_measures_runs(name):
    makers = {
        "kernel_step": lambda: growth._kernel_step(30),
        "ntk_product": lambda: growth._ntk_product(30),
        "gauss_newton": lambda: growth._gauss_newton(30, 10, "parameters"),
    }
    for leaf in jax.tree.leaves(makers[name]()()):
        if leaf.dtype.kind in "fc":
            assert np.all(np.isfinite(leaf))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speed"], "got ['speed']"),
        (["sampling", "--compare", "nothing.json"], "nothing.json: expected the JSON file"),
    ],
)
def test_wrong_arguments(arguments, message, tmp_path, capsys):
    out = tmp_path / "rows.json"
    assert benchmarks.main([*arguments, "--out", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()
