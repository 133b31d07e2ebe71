"""Work divided among 1, 2, 4 and 8 devices: the same numbers, and each device does its part."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType, PartitionSpec

from metricflow import _tiles, ansatz, devices, diagnostics, geometry, kernels
from metricflow._pytree import register_dataclass
from metricflow.flows import GaussNewton, KernelFlow, LinearPotential, held_out_sigma
from metricflow.training import Training
from tests.tolerances import tolerance

COUNTS = (1, 2, 4, 8)


# four devices do what two and eight do: a mesh, with and without a remainder
@pytest.fixture(params=[1, 2, pytest.param(4, marks=pytest.mark.heavy), 8])
def count(request):
    return request.param


def both(function, count, *arguments):
    """The results of a function without a mesh and on ``count`` devices."""
    alone = jax.tree.map(np.asarray, function(*arguments))
    with jax.set_mesh(devices.mesh(count)):
        assert devices.sharing() == count
        # as if they had been made here: jax treats arrays that are on a mesh differently
        together = function(*devices.everywhere(arguments))
    return alone, together


def close(one, other, name="sum", dtype="float64"):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        scale = np.max(np.abs(a), initial=0)
        np.testing.assert_allclose(b, a, rtol=0, atol=tolerance(name, dtype) * scale)


def same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(b, a)


def spread(x):
    return x.sharding.spec == PartitionSpec(devices.AXIS)


rows_and_chunk = {"rows": st.integers(1, 19), "chunk": st.integers(1, 7)}


@given(**rows_and_chunk, count=st.sampled_from(COUNTS))
def test_tiles_of_rows(rows, chunk, count):
    tree = {"x": np.arange(2.0 * rows).reshape(rows, 2), "k": np.arange(rows)}

    @jax.jit
    def mapped(tree):
        def function(tile):
            assert len(tile["k"]) <= chunk
            return {"y": tile["x"] * 3 - tile["k"][:, None], "k": tile["k"]}

        return _tiles.map_tiles(function, tree, chunk)

    @jax.jit
    def filled(tree):
        return _tiles.fill_tiles(lambda t: t["x"].T[None] - t["k"], tree, chunk, axis=2)

    @jax.jit
    def total(tree):
        def function(x, k):
            return {"sum": x.T @ k.astype(float), "count": len(k) + jnp.zeros((), int)}

        return _tiles.sum_tiles(function, (tree["x"], tree["k"]), chunk)

    x, k = tree["x"], tree["k"]
    with jax.set_mesh(devices.mesh(count)):
        same({"k": k, "y": x * 3 - k[:, None]}, mapped(tree))
        same((x.T - k)[None], filled(tree))
        found = total(tree)
    same(x.T @ k, found["sum"])
    assert found["count"] == rows


@given(**rows_and_chunk, columns=st.integers(1, 19), count=st.sampled_from(COUNTS))
def test_folds_over_pairs(rows, columns, chunk, count):
    """Sums and the first of the largest: the fill of tiles must not be seen."""
    left, right = np.arange(1.0, rows + 1), np.arange(columns) % 5 + 1.0

    @jax.jit
    def folded(left, right):
        def add(so_far, row, column, there):
            weight = jnp.where(there, column, 0)
            outer = jnp.outer(row, weight)
            return so_far[0] + outer.sum(1), jnp.maximum(so_far[1], outer.max(1))

        def start(row):
            return jnp.zeros_like(row), jnp.zeros_like(row)

        return _tiles.fold_pairs(start, add, lambda found: found, left, right, chunk)

    with jax.set_mesh(devices.mesh(count)):
        total, largest = folded(left, right)
    np.testing.assert_allclose(total, left * right.sum(), rtol=1e-13)
    same(left * right.max(), largest)


def test_samples_do_not_depend_on_the_devices(quintic, count):
    for number in (80, 43):  # a multiple of the devices' number, and none

        def sampled(number=number):
            return geometry.sample_points_in_chart(jax.random.key(1), quintic, number)

        alone, together = both(sampled, count)
        close(alone, together, "algebra")
        assert count == 1 or spread(together.z) == (number == 80)


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("sizes", [(64, 48), (37, 51), (3, 2)])
def test_kernel_sums(quintic_points, count, sizes, normalise):
    z, w = quintic_points.z[: sizes[0]], quintic_points.z[-sizes[1] :]
    v = jax.random.normal(jax.random.key(2), (len(w), 3))

    def applied(z, w, v):
        return kernels.apply(kernels.Gaussian(0.2), z, w, v, normalise=normalise, chunk=7)

    close(*both(applied, count, z, w, v))


@pytest.mark.parametrize("normalise", [False, True])
def test_stored_kernels(quintic_points, count, normalise):
    """The matrix is spread by rows, and so is what it makes of values."""
    z, v = quintic_points.z[:64], jnp.arange(50.0)[:, None]

    def stored(z, v):
        matrix = kernels.dense(kernels.Gaussian(0.3), z, z[:50], normalise=normalise)
        return matrix, matrix @ v

    alone, together = both(stored, count, z, v)
    close(alone, together)
    assert count == 1 or all(x.sharding.shard_shape(x.shape)[0] == 64 // count for x in together)


def test_nearest_neighbours(quintic_points, count):
    z = quintic_points.z[:61]
    near = functools.partial(geometry.nearest_neighbour, chunk=9)
    close(*both(near, count, z, z[:50]), "algebra")
    # of equal points the first, and no point is its own neighbour
    tripled = jnp.concatenate([z[:20]] * 3)
    alone, together = both(lambda z: near(z).indices, count, tripled)
    same(alone, together)
    same(alone, np.concatenate([np.arange(20, 40), np.arange(20), np.arange(20)]))


def test_a_kernel_flow(quintic, count):
    def flown():
        train = geometry.sample_points_in_chart(jax.random.key(0), quintic, 80)
        test = geometry.sample_points_in_chart(jax.random.key(1), quintic, 45)
        flow = KernelFlow(kernels.Gaussian(0.3), step_size=0.2, measure="mean")
        state = flow.init(train, chunk=9)
        state, info, seen = flow.run(state, 3, observe=held_out_sigma(flow, state, test))
        found = diagnostics.gain(flow.metric(quintic, state)(test.z), test)
        return state.g, info.sigma, info.energy, seen, found

    alone, together = both(flown, count)
    close(alone, together)
    assert count == 1 or spread(together[0])


def test_tangent_kernels(count):
    network = ansatz.Mlp((5,), outputs=2)
    x, y = (jax.random.normal(jax.random.key(k), (n, 3)) for k, n in ((0, 23), (1, 16)))
    params = network.init(jax.random.key(2), x[0])
    v = jax.random.normal(jax.random.key(3), (16, 2))

    def found(x, y, v):
        return (
            kernels.metric_ntk(network, params, x, y, chunk=3),
            kernels.metric_ntk_diagonal(network, params, x),
            kernels.metric_ntk_product(network, params, x, y, v, chunk=3),
        )

    close(*both(found, count, x, y, v), "tangents")


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Bent:
    """A theta + sin(A theta) / 2 - b, row by row."""

    matrix: jax.Array
    target: jax.Array

    def residuals(self, theta):
        moved = self.matrix @ theta
        return moved + jnp.sin(moved) / 2 - self.target


@pytest.mark.parametrize("rows", [48, 43, 7])
@pytest.mark.parametrize(
    "method",
    [
        GaussNewton(),
        GaussNewton(damping=1e-3, adaptive=True),
        GaussNewton(damping=1e-3, factor="cholesky"),
        GaussNewton(rank_tolerance=1e-9),
        GaussNewton(damping=1e-3, solver="iterative", tolerance=1e-12),
    ],
    ids=["qr", "damped", "cholesky", "rank", "iterative"],
)
def test_gauss_newton(rng, count, method, rows):
    target = Bent(jnp.asarray(rng.normal(size=(rows, 6))), jnp.asarray(rng.normal(size=rows)))

    def solved(target):
        state, infos = method.run(method.init(jnp.ones(6)), devices.divide(target), 3)
        return state.parameters, infos[-1].loss, infos[0].rank

    close(*both(solved, count, target), "algebra")


def test_the_monge_ampere_equation(quintic, count):
    """From random points to a fitted metric, with arrays of which each device has its part."""
    sample = geometry.sample_points(jax.random.key(4), quintic, 800)
    basis = ansatz.spectral_basis(quintic, 5, sample)

    def solved():
        points = geometry.sample_points(jax.random.key(3), quintic, 160)
        problem = LinearPotential(points, ansatz.basis_hessians(basis, points, chunk=16))
        method = GaussNewton()
        state, infos = method.run(method.init(jnp.zeros(basis.size)), problem, 3)
        return problem.hessians, state.parameters, infos[-1].loss

    alone, together = both(solved, count)
    close(alone, together, "algebra")
    if count > 1:
        assert together[0].sharding.spec == PartitionSpec(None, None, devices.AXIS)


def least_squares(parameters, batch):
    residual = batch["x"] @ parameters["w"] - batch["y"]
    value = jnp.mean(residual**2)
    return value, {"fit": value}


@pytest.mark.parametrize("seeds", [0, 3])
def test_training(rng, count, seeds):
    """One network: its batches are divided; several: each device has its own."""
    data = {"x": jnp.asarray(rng.normal(size=(37, 4))), "y": jnp.asarray(rng.normal(size=37))}
    training = Training(least_squares, optax.adam(0.1), 8)

    def trained(data):
        key, start = jax.random.key(0), {"w": jnp.zeros(4)}
        if seeds:
            key = jax.random.split(key, seeds)
            start = {"w": jnp.zeros((seeds, 4))}
        state, history = training.run(training.init(key, start), data, 3)
        return state.parameters, [row["loss"] for row in history]

    close(*both(trained, count, data), "algebra")


def test_each_device_does_its_part(quintic, count):
    """Operations in the program of one device, where nothing is in a loop over tiles."""
    z = geometry.sample_points(jax.random.key(0), quintic, 512).z
    v = jnp.ones((512, 9))

    def loss(p, batch):
        return jnp.sum(jnp.tanh(jnp.tanh(batch["x"] @ p["w"]) @ p["w"]) ** 2), {}

    training = Training(loss, optax.sgd(0.1), 256)
    state = training.init(jax.random.key(0), {"w": jnp.zeros((64, 64))})
    data = {"x": jnp.ones((256, 64))}

    def learned(state, data):
        return training.advance(state, data, 1)

    def pairs(z, v):
        return kernels.apply(kernels.Gaussian(0.3), z, z, v, chunk=512)

    def flops(function, *arguments):
        return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]

    for function, arguments in ((learned, (state, data)), (pairs, (z, v))):
        whole = flops(function, *arguments)
        with jax.set_mesh(devices.mesh(count)):
            part = flops(function, *arguments)
        assert part <= 1.1 * whole / count
        # counted once a turn of the columns, of which there are as many as devices
        assert part >= 0.9 * whole / (count**2 if function is pairs else count)


def test_one_device_costs_nothing(quintic):
    """A mesh of one device: the program is that without a mesh."""
    z = geometry.sample_points(jax.random.key(0), quintic, 40).z

    def program():
        def applied(z, v):
            return kernels.apply(kernels.Gaussian(0.3), z, z, v, chunk=16)

        text = jax.jit(applied).lower(z, jnp.ones((40, 2))).compile().as_text()
        # name, type and operation of every instruction
        return re.findall(r"^\s*(?:ROOT )?%?(\S+ = .*? [a-z][a-z0-9-]*\()", text, re.MULTILINE)

    alone = program()
    assert len(alone) > 100
    with jax.set_mesh(devices.mesh(1)):
        assert program() == alone
    with jax.set_mesh(devices.mesh(2)):
        assert program() != alone


def test_gradients_through_divided_work(count):
    x = jnp.linspace(0.0, 1, 11)

    @jax.jit
    def slope(p):
        def loss(p):
            wave = _tiles.carrying(lambda p, t: jnp.sin(p * t), p)
            return jnp.sum(_tiles.map_tiles(wave, x, 3) ** 2)

        return jax.grad(loss)(p)

    close(*both(slope, count, jnp.float64(1.3)))


def test_meshes_of_others():
    """Work is divided over an axis called "points" only, which has to be automatic."""
    with jax.set_mesh(jax.make_mesh((2,), ("model",), axis_types=(AxisType.Auto,))):
        assert devices.sharing() == 1
        x = jnp.ones(4)
        assert devices.divide(x) is x
    explicit = jax.make_mesh((2,), (devices.AXIS,), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(explicit), pytest.raises(ValueError, match="automatic axis 'points'"):
        devices.sharing()


def test_too_many_devices():
    with pytest.raises(ValueError, match=r"at most 8 devices, got 9.*jax_num_cpu_devices"):
        devices.mesh(9)
    with pytest.raises(ValueError, match="integer of at least 1, got 0"):
        devices.mesh(0)


def test_too_few_threads(monkeypatch):
    """Devices that are threads wait for each other, for ever if some have no thread."""
    monkeypatch.setenv("NPROC", "8")
    with pytest.raises(ValueError, match=r'8 devices on processors with 8 threads.*"NPROC"'):
        devices.mesh()
    assert devices.mesh(4).size == 4  # jax has threads for the eight that there are
    monkeypatch.setenv("NPROC", "9")
    assert devices.mesh(8).size == 8
