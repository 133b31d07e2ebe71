"""The benchmarks' command: runs at small sizes, compares with an older run, refuses nonsense."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import _operations, _programs, _report, growth, roofline, weak_scaling
from metricflow import devices


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
        peers = {"another": {"cpu": 2.0, "ratio": 0.5, "wall_ratio": 0.5}}
        return {"name": name, "ours": ours, "peers": peers, "growth": found}

    rows = [row("a step", 1), row("a product", 2)]
    assert "  grows like points^1.00, expected 2 (1 to 4)" in list(_report.lines(rows))
    _report.draw({"rows": rows}, tmp_path / "rows.png")
    for name in ("rows", "rows_growth"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", ["kernel_step", "kernel_sum", "ntk_product", "sampling"])
def test_programs_run(name):
    makers = {
        "kernel_step": lambda: _programs.kernel_step(30),
        "kernel_sum": lambda: _programs.kernel_sum(30, "float32"),
        "ntk_product": lambda: _programs.ntk_product(30),
        "sampling": lambda: _programs.sampling(30),
    }
    for leaf in jax.tree.leaves(growth._called(makers[name]())()):
        if leaf.dtype.kind in "fc":
            assert np.all(np.isfinite(leaf))


@pytest.mark.parametrize("factor", ["qr", "cholesky"])
@pytest.mark.parametrize(("samples", "parameters"), [(30, 10), (10, 30)])
def test_the_peer_of_gauss_newton_makes_the_same_step(samples, parameters, factor):
    arguments = (samples, parameters, "parameters" if samples > parameters else "samples", factor)
    ours, _ = growth._called(_programs.gauss_newton(*arguments))()
    np.testing.assert_allclose(ours.parameters, growth._lapack(*arguments)(), atol=1e-10)


def test_shares_of_bounds():
    """A product of 48 x 48 matrices on a device of one operation and one byte a second."""
    x = jnp.ones((48, 48))
    program = (lambda x: x @ x, (x,))
    row = roofline._row("product", *program, roofline.Bounds(1.0, 1.0))
    values, seconds = row["values"], row["ours"]["wall"]
    assert values["operations"] == 2 * 48**3
    assert values["share of the arithmetic bound"] == pytest.approx(2 * 48**3 / seconds)
    assert values["share of the memory bound"] == pytest.approx(2 * x.nbytes / seconds)
    assert min(roofline._bounds("float32", 16)) > 0


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


def counted(function, *arguments, count=1):
    return _operations.count(jax.jit(function).lower(*arguments).compile().as_text(), count)


def test_operations_of_loops():
    """A loop in a loop: 5 times 3 products of 16 x 16 matrices, and 16^2 sums in between."""

    def function(x):
        def inner(x, _):
            return x @ x, None

        def outer(x, _):
            return jax.lax.scan(inner, x, length=3)[0] + 1, None

        return jax.lax.scan(outer, x, length=5)[0]

    found = counted(function, jnp.eye(16))
    products, sums = 5 * 3 * 2 * 16**3, 5 * 16**2
    # the counters of the loops are operations too
    assert products + sums <= found.flops <= products + sums + 200
    assert (found.sent, found.open_loops) == (0, 0)


def test_operations_without_loops():
    x = jnp.ones((40, 6))
    assert counted(lambda x: jnp.sin(x) * 2, x).flops == 2 * 240
    assert counted(lambda x: jnp.einsum("ij,kj->ik", x, x[:7]), x).flops == 2 * 40 * 7 * 6
    complex_ = counted(lambda z: z @ z.T, x + 1j)
    assert complex_.flops == 8 * 40 * 40 * 6
    total = counted(jnp.sum, x).flops
    assert 240 <= total <= 300
    factors = counted(lambda x: jnp.linalg.qr(x), x).flops
    assert 4 * 40 * 36 <= factors <= 5 * 40 * 36


def test_a_loop_of_unknown_length_counts_once():
    def function(x):
        return jax.lax.while_loop(lambda x: x[0, 0] > 0.1, lambda x: x @ x, x)

    found = counted(function, jnp.eye(8) / 2)
    assert found.open_loops == 1
    assert 2 * 8**3 <= found.flops <= 2 * 8**3 + 10


@pytest.mark.parametrize("count", [2, 4])
def test_messages(count):
    x = jnp.ones((8, 10))

    def added(x):
        return devices.summed(lambda x: jnp.sum(x, axis=0), x)

    def turned(x):
        ring = [(k, (k + 1) % count) for k in range(count)]
        return devices.on_each(lambda x: jax.lax.ppermute(x, devices.AXIS, ring), x)

    with jax.set_mesh(devices.mesh(count)):
        assert counted(added, x, count=count).sent == 2 * (count - 1) / count * 10 * 8
        assert counted(turned, x, count=count).sent == 8 // count * 10 * 8


def test_weak_scaling_as_it_should_be():
    """Work of a device: constant, but for pairs, of which there are more."""
    found = weak_scaling.rows(40, 4, counts=(1, 2))
    for row in found:
        one, two = row["by_devices"]
        assert one["sent"] == 0
        assert two["points"] == 80
        growth = two["flops"] / one["flops"]
        if row["name"] == "step of a kernel flow":
            assert growth == pytest.approx(2, rel=0.1)
            # coordinates, values and a flag of each column, once a turn
            assert two["sent"] == pytest.approx(2 * 40 * (5 * 8 + 9 * 4 + 1), rel=0.05)
        elif "QR" not in row["name"]:
            assert growth == pytest.approx(1, rel=0.1)


def test_a_text_that_is_no_program():
    with pytest.raises(ValueError, match="entry computation"):
        _operations.count("nothing", 1)
