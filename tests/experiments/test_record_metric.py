"""The record experiment end to end with small settings: results, resume, methods, bad flags."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import _ladders, _run, record_metric, record_table, store_record
from metricflow import ansatz, geometry, load_metric
from metricflow.checkpoint import read_provenance
from metricflow.flows import LinearPotential

SMALL = dataclasses.replace(
    record_metric.PRESETS["smoke"],
    manifold="fermat:1",
    seconds=1e9,  # the process that runs the tests is old
    validation_points=100,
    test_points=200,
    derivative_points=10,
    curvature_points=5,
)


def test_a_run_from_the_command_line(tmp_path, capsys):
    flags = [
        "--preset",
        "smoke",
        "--seconds",
        "1e9",
        "--manifold",
        "fermat:1",
        "--out",
        str(tmp_path),
    ]
    assert record_metric.main(flags) == 0
    folder = tmp_path / "record_metric" / "smoke"
    result = json.loads((folder / "result.json").read_text())
    assert result["method"] == "spectral"
    assert result["sigma"] < 1e-6
    assert result["mean_abs_ricci"] < 1e-3
    assert result["chart_mismatch"] < 1e-10
    assert result["kaehler_defect"] < 1e-10
    assert abs(result["volume_ratio"] - 1) < 4 * result["volume_ratio_standard_error"]
    seconds, sigma = np.array(result["history"]).T
    assert np.all(np.diff(seconds) > 0)
    assert sigma[-1] < 1e-6
    assert (folder / "figures" / "accuracy.png").stat().st_size > 5000
    metric = load_metric(folder / "metric.npz")
    assert metric.manifold.dim == 1
    assert read_provenance(folder / "metric.npz")["sigma"] == sigma[-1]
    rung = result["rungs"][-1]["size"]
    stored = store_record.store(folder, rung, tmp_path / "small.npz", points=200)
    assert stored["sigma"] < 1e-6
    assert stored["largest_change_by_rounding"] < 1e-10
    assert load_metric(tmp_path / "small.npz").basis.degree == rung
    assert store_record.main([str(folder), "99", str(tmp_path / "none.npz")]) == 2
    assert "metric-99.npz: no such file" in capsys.readouterr().err
    tables = tmp_path / "tables"
    assert record_table.main([str(folder), "--out", str(tables)]) == 0
    (run,) = json.loads((tables / "record_metrics.json").read_text())
    assert run["sigma"] == result["sigma"]
    assert f"| fermat:1 | spectral | 0 | {1e9:.0f} s | {rung} |" in capsys.readouterr().out
    assert (tables / "record_fermat_1.png").stat().st_size > 5000
    assert record_table.main([str(tmp_path), "--out", str(tables)]) == 2
    assert record_metric.main(flags) == 2
    assert "--resume" in capsys.readouterr().err


def test_a_resumed_run_climbs_on_from_the_stored_rung(tmp_path):
    small = dataclasses.replace(SMALL, curvature_points=0)
    whole = record_metric.run(dataclasses.replace(small, rungs=2), _run.Record())
    folder = tmp_path / "run"
    folder.mkdir()
    first = record_metric.run(small, _run.Record(folder))
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["stage"].startswith("rung/")]
    (folder / "metrics.jsonl").write_text("\n".join(kept) + "\n")
    again = record_metric.run(dataclasses.replace(small, rungs=2), _run.Record(folder))
    assert len(first["rungs"]) == 1
    assert [row["size"] for row in again["rungs"]] == [row["size"] for row in whole["rungs"]]
    assert again["rungs"][0] == first["rungs"][0]
    assert again["rungs"][1]["sigma"] == pytest.approx(whole["rungs"][1]["sigma"], abs=1e-15)
    assert again["rungs"][1]["seconds"] > again["rungs"][0]["seconds"]


@pytest.mark.parametrize(
    "method",
    [
        "algebraic",
        pytest.param("network", marks=pytest.mark.heavy),
        pytest.param("kernel", marks=pytest.mark.heavy),
    ],
)
def test_every_method_improves_on_fubini_study(method):
    rungs = {"algebraic": 2, "network": 2, "kernel": 1}[method]
    config = dataclasses.replace(SMALL, method=method, rungs=rungs, curvature_points=0)
    result = record_metric.run(config, _run.Record())
    assert result["method"] == method
    assert result["gain"] > 1.2
    assert result["min_eigenvalue"] > 0
    assert result["kaehler_defect"] < 1e-6
    assert result["sigma"] <= result["history"][0][1] * 1.5


class Doubling:
    """A ladder whose rungs cost twice as much each."""

    stride = 6

    def sizes(self):
        return list(range(1, 40))

    def work(self, size):
        return 2.0**size


def test_the_climb_follows_the_budget_and_ends_when_it_stalls():
    config = dataclasses.replace(SMALL, seconds=1000.0, rungs=0)

    def rows(*sigmas, cost=4.0):
        return [
            {"size": i + 1, "seconds": 9.0, "cost": cost, "sigma": s} for i, s in enumerate(sigmas)
        ]

    def after(rows, now):
        return record_metric._next_rung(config, Doubling(), rows, now)

    assert after([], 10.0) == 1
    assert after([], 1001.0) is None
    # cheap rungs: as far up as it may jump
    assert after(rows(1.0), 10.0) == 7
    # the last rung took all but nothing of the budget, and each next one doubles
    costly = [{"size": 30, "seconds": 400.0, "cost": 100.0, "sigma": 1.0}]
    cheap = rows(2.0, cost=0.0)
    assert after(cheap + costly, 500.0) == 31
    assert after(cheap + costly, 850.0) is None
    # two rungs together must gain 2 %
    assert after(rows(1.0, 0.5, 0.499, 0.48), 10.0) == 10
    assert after(rows(1.0, 0.5, 0.499, 0.498), 10.0) is None


def test_the_metric_of_a_run_is_the_best_rung_and_not_the_last(monkeypatch):
    class Worsening(Doubling):
        evaluate = record_metric.Ladder.evaluate

        def __init__(self, manifold, key, seconds):
            self.manifold = manifold

        def fit(self, size, metric):
            assert (metric is None) == (size == 1)
            points = geometry.sample_points(jax.random.key(0), self.manifold, 100)
            basis = ansatz.spectral_basis(self.manifold, 2, points)
            return ansatz.SpectralMetric(self.manifold, basis, jnp.full(1, 0.01 * size)), {}

    monkeypatch.setitem(record_metric.LADDERS, "spectral", Worsening)
    config = dataclasses.replace(SMALL, method="spectral", rungs=3, curvature_points=0)
    result = record_metric.run(config, _run.Record())
    sigma = [row[1] for row in result["history"]]
    best = min(sigma)
    assert abs(result["sigma"] / best - 1) < 0.5 * abs(max(sigma) / best - 1)
    assert best != sigma[-1]


def test_a_start_that_fails_at_new_points_is_left_for_fubini_study():
    cubic = geometry.fermat(1)  # g is its own determinant: negative ones have no logarithm
    points = geometry.sample_points(jax.random.key(0), cubic, 50)
    basis = ansatz.spectral_basis(cubic, 6, points)
    problem = LinearPotential(points, ansatz.basis_hessians(basis, points))
    small, large = jnp.full(basis.size, 1e-3), jnp.full(basis.size, 1e3)
    assert jnp.array_equal(_ladders._positive_start(problem, small), small)
    assert not jnp.all(jnp.isfinite(problem.residuals(large)))
    assert not jnp.any(_ladders._positive_start(problem, large))


def test_auto_follows_the_symmetry():
    from experiments._manifold import parse_manifold

    assert record_metric._chosen("auto", parse_manifold("dwork:3:0.5")) == "spectral"
    assert record_metric._chosen("auto", parse_manifold("random:2:0")) == "algebraic"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seconds", "0"], "--seconds: expected a number above 0"),
        (["--test-points", "0"], "--test-points: expected at least 1"),
        (["--manifold", "random:3"], "--manifold: expected fermat:DIM"),
        (["--seconds", "0.001", "--manifold", "fermat:1"], "over before the first rung"),
    ],
)
def test_bad_flags_are_named(tmp_path, capsys, flags, message):
    assert record_metric.main([*flags, "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
