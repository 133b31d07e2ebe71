"""Bayesian optimisation of hyper-parameters: it finds, it resumes, it uses fresh points."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import _run, _tuning, quintic_kernel
from experiments._manifold import parse_manifold

BOX = {"width": (0.01, 1.0, "log"), "power": (1.0, 4.0, "linear"), "depth": (1, 8, "integer")}


def hill(number: int, values: dict) -> float:
    """Largest, zero, at width .1, power 2, depth 5."""
    parts = np.log10(values["width"] / 0.1), values["power"] - 2, (values["depth"] - 5) / 3
    return -float(sum(x**2 for x in parts))


def tuned(objective=hill, evaluations=24, record=None, **options):
    record = record or _run.Record()
    given = {"seed": 0, "name": "tune"} | options
    return _tuning.tune(objective, BOX, evaluations, record=record, **given)


def test_it_finds_the_top_of_a_hill_that_random_search_misses():
    found = tuned()
    random = np.random.default_rng(0).random((24, 3))
    scores = [
        hill(0, {k: _tuning._from_cube(x, *BOX[k]) for k, x in zip(BOX, row, strict=True)})
        for row in random
    ]
    assert len(found.history) == 24
    assert found.mean > -0.05 > max(scores)
    assert found.values["depth"] == 5


def test_values_stay_in_their_boxes_and_reach_both_ends():
    for low, high, scale in BOX.values():
        ends = [_tuning._from_cube(x, low, high, scale) for x in (0.0, 1.0)]
        assert ends == [low, high]
        for value in (low, (low + high) // 2 or 0.3, high):
            there = _tuning._to_cube(value, low, high, scale)
            if scale != "integer":
                assert _tuning._from_cube(there, low, high, scale) == pytest.approx(value, rel=5e-3)
    depths = {_tuning._from_cube(x, 1, 8, "integer") for x in np.linspace(0, 1, 200)}
    assert depths == set(range(1, 9))


def test_first_points_come_first_and_are_cut_to_the_box():
    first = [{"width": 0.1, "power": 2.0, "depth": 5}, {"width": 9.0, "power": 0.0, "depth": 5}]
    history = tuned(evaluations=3, first=first).history
    assert history[0][0]["width"] == pytest.approx(0.1)
    assert history[1][0]["width"] == 1.0
    assert history[1][0]["power"] == 1.0


def test_a_lucky_draw_does_not_decide():
    """Scores of one good and many bad places, one of them raised by luck in the search."""

    def lucky(number: int, values: dict) -> float:
        return 5.0 if number == 3 else hill(number, values)

    found = tuned(lucky, 16, first=[{"width": 0.1, "power": 2.0, "depth": 5}])
    assert found.history[3][1] == 5.0
    assert hill(0, found.values) == found.mean > -0.05
    assert len(found.finalists) <= _tuning.FINALISTS + 1
    assert all(len(scores) == _tuning.DRAWS for _, scores in found.finalists)
    assert found.history[3][0] in [values for values, _ in found.finalists]


def test_finalists_meet_on_the_same_draws_and_these_are_fresh():
    drawn = []

    def noted(number: int, values: dict) -> float:
        drawn.append(number)
        return hill(number, values)

    found = tuned(noted, 6)
    assert drawn[:6] == list(range(6))
    assert drawn[6:] == list(range(6, 6 + _tuning.DRAWS)) * len(found.finalists)


def test_a_search_that_was_interrupted_goes_on_as_if_it_had_not_been(tmp_path):
    whole = tuned(record=_run.Record(tmp_path), evaluations=14)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 14 + _tuning.DRAWS * len(whole.finalists)
    (tmp_path / "metrics.jsonl").write_text("".join(lines[:8]) + lines[8][:20])
    asked = []

    def counted(number: int, values: dict) -> float:
        asked.append(number)
        return hill(number, values)

    again = tuned(counted, 14, record=_run.Record(tmp_path))
    assert asked[:6] == list(range(8, 14))
    assert again == whole


def test_a_record_of_another_search_is_refused(tmp_path):
    tuned(record=_run.Record(tmp_path), evaluations=2)
    with pytest.raises(ValueError, match="--force"):
        tuned(record=_run.Record(tmp_path), evaluations=2, seed=1)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ({"x": (0.0, 1.0, "log")}, "above 0"),
        ({"x": (1.0, 1.0, "linear")}, "low < high"),
        ({"x": (0.0, 1.0, "octave")}, "octave"),
    ],
)
def test_wrong_boxes_are_refused(box, message):
    with pytest.raises(ValueError, match=message):
        _tuning.tune(hill, box, 2, seed=0, record=_run.Record(), name="tune")


def test_a_score_that_is_not_finite_is_named():
    with pytest.raises(ValueError, match="nan"):
        tuned(lambda number, values: float("nan"), 2)


# the search and the flows alone, small
SMALL = dataclasses.replace(
    quintic_kernel.PRESETS["smoke"],
    kernels=("gaussian",),
    network_epochs=0,
    neighbour_sizes=(),
    noise_levels=(),
)


def test_the_flows_use_what_the_search_found(tmp_path):
    config = dataclasses.replace(SMALL, tune=3)
    result = quintic_kernel.run(config, _run.Record(tmp_path))
    for chosen, row in result["tuned"]["gaussian"].items():
        assert len(row["history"]) == 3
        assert row["values"] in [{**row["values"], **tried} for tried, _ in row["finalists"]]
        assert result["kernels"]["gaussian"][chosen]["hyperparameters"] == row["values"]
    quintic_kernel.draw(result, tmp_path)
    assert (tmp_path / "tuning.png").stat().st_size > 5000
    given = quintic_kernel.TUNED["gaussian"]["test_optimal"]
    first = result["tuned"]["gaussian"]["test_optimal"]["history"][0][0]
    assert first == {k: given[k] for k in first}


def test_every_evaluation_has_points_of_its_own():
    """The same hyper-parameters get another score under another number, and the same under one."""
    manifold = parse_manifold(SMALL.manifold)
    given = SMALL.hyperparameters["gaussian"]["test_optimal"]
    scores = [
        quintic_kernel._score(SMALL, manifold, jax.random.key(i), "gaussian", "test_optimal", given)
        for i in (0, 0, 1)
    ]
    assert scores[0] == scores[1] != scores[2]


def test_the_large_preset_streams_what_smaller_ones_store():
    small = {"points": {"gaussian": 300}, "test_points": 200, "steps": 4, "derivative_points": 10}
    small |= {"reference_points": 500}
    large = dataclasses.replace(quintic_kernel.PRESETS["large"], **small)
    found = [
        quintic_kernel.run(dataclasses.replace(large, stored_pairs=pairs, precision=precision))
        for pairs, precision in ((0, "float32"), (10**8, "float64"))
    ]
    streamed, stored = (f["kernels"]["gaussian"]["test_optimal"] for f in found)
    assert list(found[0]["kernels"]["gaussian"]) == ["test_optimal"]
    assert streamed["test_gain"] == pytest.approx(stored["test_gain"], rel=1e-3)
    assert streamed["test_gain"] > 1.05


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--preset", "large", "--kernel", "relu"], "gaussian, not"),
        (["--preset", "smoke", "--tune", "-1"], "--tune"),
    ],
)
def test_wrong_flags_of_the_search(tmp_path, capsys, flags, message):
    assert quintic_kernel.main([*flags, "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
