"""One of several processes: python member.py FOLDER HOST:PORT PROCESSES PROCESS-ID.

Without the last three it is alone.  The first process writes FOLDER/result.npz.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metricflow import ansatz, devices, diagnostics, geometry, kernels, processes, save_metric
from metricflow.flows import GaussNewton, KernelFlow
from metricflow.training import Checkpoints, Training

EPOCHS = 4


class Bent:
    """A theta + sin(A theta) / 2 - b, row by row."""

    def __init__(self, matrix, target):
        self.matrix, self.target = matrix, target

    def residuals(self, theta):
        moved = self.matrix @ theta
        return moved + jnp.sin(moved) / 2 - self.target


jax.tree_util.register_pytree_node(
    Bent, lambda x: ((x.matrix, x.target), None), lambda _, leaves: Bent(*leaves)
)


def least_squares(parameters, batch):
    value = jnp.mean((batch["x"] @ parameters["w"] - batch["y"]) ** 2)
    return value, {"fit": value}


def trained(folder, epochs):
    """A training with checkpoints; each process says what it has to say about the folder."""
    rng = np.random.default_rng(1)
    data = {"x": jnp.asarray(rng.normal(size=(40, 4))), "y": jnp.asarray(rng.normal(size=40))}
    training = Training(least_squares, optax.adam(0.1), 8)
    state = training.init(jax.random.key(0), {"w": jnp.zeros(4)})
    checkpoints = Checkpoints(folder / "checkpoints", seconds=0)
    state, history = training.run(state, data, epochs, checkpoints=checkpoints)
    checkpoints.close()
    return {"w": state.parameters["w"], "losses": [row["loss"] for row in history]}


def computed(folder):
    """Everything that is divided among devices, at a small size, on the host."""
    quintic = geometry.fermat(3)
    points = geometry.sample_points_in_chart(jax.random.key(0), quintic, 80)
    anywhere = devices.divide(geometry.sample_points(jax.random.key(1), quintic, 40))
    flow = KernelFlow(kernels.Gaussian(0.3), step_size=0.2, measure="mean")
    state, info, _ = flow.run(flow.init(points, chunk=9), 2)
    metric = flow.metric(quintic, state)
    save_metric(folder / "metric.npz", metric)
    rng = np.random.default_rng(0)
    problem = Bent(jnp.asarray(rng.normal(size=(48, 6))), jnp.asarray(rng.normal(size=48)))
    method = GaussNewton()
    solved, _ = method.run(method.init(jnp.ones(6)), devices.divide(problem), 2)
    network = ansatz.Mlp((5,), outputs=2)
    x = jnp.asarray(rng.normal(size=(24, 3)))
    ntk = kernels.metric_ntk_product(
        network, network.init(jax.random.key(2), x[0]), x, None, x[:, :2], chunk=4
    )
    return processes.on_host(
        {
            "z": points.z,
            "g": state.g,
            "sigma": info.sigma,
            "gain": diagnostics.gain(metric(points.z, points.chart), points),
            # charts of the points, divided as the points are
            "sigma_fs": diagnostics.diagnose(geometry.FubiniStudyMetric(quintic), anywhere).sigma,
            "theta": solved.parameters,
            "ntk": ntk,
            **trained(folder, EPOCHS),
        }
    )


def agreement(place, count):
    """What is said by one process is heard by all, and a failure of the first fails all."""
    assert processes.agreed({"name": "process", "place": place}) == {"name": "process", "place": 0}

    def fail():
        raise OSError("disk full")

    expected = (OSError, "disk full") if place == 0 else (RuntimeError, "OSError: disk full")
    with pytest.raises(expected[0], match=expected[1]):
        processes.on_first(fail)
    assert len(devices.mesh().devices) == count


def main(folder, address=None, count=1, place=0):
    jax.config.update("jax_enable_x64", True)
    if address is None:
        return computed(folder)
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(address, count, place)
    with jax.set_mesh(devices.mesh()):
        agreement(place, count)
        found = computed(folder)
        processes.on_first(lambda: np.savez(folder / "result.npz", **found))
    jax.distributed.shutdown()
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
