import dataclasses
import io
import json
import os
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow import ansatz, geometry, kernels, load_metric, save_metric
from metricflow.checkpoint import read_provenance
from metricflow.flows import KernelMetric


def kernel_metric(kernel, manifold=None, count=20):
    manifold = manifold or geometry.dwork(3, 0.3 + 0.1j)
    points = geometry.sample_points_in_chart(jax.random.key(0), manifold, count)
    coefficients = 0.01 * jax.random.normal(jax.random.key(1), (count, manifold.dim**2))
    home = geometry.home_chart(manifold)
    return KernelMetric(manifold, kernel, points.z, coefficients, home, normalise=True)


METRICS = [
    geometry.FubiniStudyMetric(geometry.fermat(2)),
    kernel_metric(kernels.Gaussian(0.3)),
    kernel_metric(kernels.Exponential(jnp.asarray(0.3))),
    kernel_metric(kernels.InfiniteNetwork("erf", 3, 1.2, 0.1, "nngp")),
    kernel_metric(kernels.Delta()),
]


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: type(getattr(m, "kernel", m)).__name__)
def test_a_loaded_metric_gives_the_same_numbers(tmp_path, metric):
    path = tmp_path / "metric.npz"
    save_metric(path, metric, provenance={"seed": 3})
    again = load_metric(path)
    z = geometry.sample_points(jax.random.key(2), metric.manifold, 30).z
    assert jnp.array_equal(metric(z), again(z))
    assert jnp.array_equal(metric.chart(z), again.chart(z))
    assert again.manifold.symmetric == metric.manifold.symmetric
    assert read_provenance(path) == {"seed": 3}
    assert [p.name for p in tmp_path.iterdir()] == ["metric.npz"]


def edited_header(path, **changes):
    with np.load(path) as archive:
        arrays = dict(archive)
    header = json.loads(arrays.pop("header").tobytes())
    header.update(changes)
    buffer = io.BytesIO()
    np.savez(buffer, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)
    return buffer.getvalue()


def test_a_kernel_under_its_former_name_is_read(tmp_path):
    path = tmp_path / "metric.npz"
    metric = kernel_metric(kernels.InfiniteNetwork("relu", 2, 1.2, 0.1))
    save_metric(path, metric)
    with np.load(path) as archive:
        header = json.loads(archive["header"].tobytes())
    kernel = header["metric"]["fields"]["kernel"]
    kernel["class"] = "ReluNTK"
    del kernel["fields"]["activation"], kernel["fields"]["statistic"]
    path.write_bytes(edited_header(path, metric=header["metric"]))
    assert load_metric(path).kernel == metric.kernel


def test_files_that_are_no_metrics_are_refused_in_one_line(tmp_path):
    good = tmp_path / "good.npz"
    save_metric(good, METRICS[1])
    content = good.read_bytes()
    pickled = io.BytesIO()
    np.savez(pickled, header=np.array([{"a": 1}], object))
    foreign = io.BytesIO()
    np.savez(foreign, weights=np.ones(3))
    bad = {
        "empty": (b"", "not a metric file"),
        "text": (b"hello", "not a metric file"),
        "truncated": (content[: len(content) // 2], "not a metric file"),
        "flipped": (
            content[:300] + bytes([content[300] ^ 255]) + content[301:],
            "not a metric file",
        ),
        "pickled": (pickled.getvalue(), "not a metric file"),
        "foreign": (foreign.getvalue(), "not a metric file"),
        "other format": (edited_header(good, format="other"), "not a metric file"),
        "newer": (edited_header(good, format_version=99), "newer"),
        "unknown class": (
            edited_header(good, metric={"class": "X", "fields": {}}),
            "unknown model",
        ),
        "no class": (edited_header(good, metric={}), "unknown model"),
        "no metric": (edited_header(good, metric={"class": "Delta", "fields": {}}), "not a metric"),
        "extra field": (
            edited_header(good, metric={"class": "Delta", "fields": {"width": 1}}),
            "does not fit",
        ),
        "lost array": (
            edited_header(
                good, metric={"class": "FubiniStudyMetric", "fields": {"manifold": {"array": "x"}}}
            ),
            "missing",
        ),
    }
    for name, (data, message) in bad.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(ValueError, match=message) as caught:
            load_metric(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_metric(tmp_path / "nothing.npz")


def test_what_cannot_be_saved_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "metric.npz"
    save_metric(path, METRICS[0])
    before = path.read_bytes()
    broken = kernel_metric(kernels.Gaussian(0.3))
    # its constructor would refuse
    object.__setattr__(broken, "coefficients", broken.coefficients * jnp.nan)
    with pytest.raises(ValueError, match="NaN"):
        save_metric(path, broken)
    with pytest.raises(TypeError, match="expected one of"):
        save_metric(path, jnp.ones(3))
    with pytest.raises(FileNotFoundError):
        save_metric(tmp_path / "missing" / "metric.npz", METRICS[0])
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["metric.npz"]


def test_float64_data_without_x64_is_refused(tmp_path):
    path = tmp_path / "metric.npz"
    save_metric(path, METRICS[1])
    code = (
        f"import metricflow\ntry:\n    metricflow.load_metric({str(path)!r})\n"
        "except ValueError as error:\n    print(error)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "jax_enable_x64" in result.stdout


def test_a_killed_writer_never_leaves_half_a_file(tmp_path):
    path = tmp_path / "file.bin"
    code = (
        "import sys\nfrom pathlib import Path\nfrom metricflow._files import write_atomically\n"
        "print('ready', flush=True)\n"
        "for i in range(10**6):\n"
        f"    write_atomically(Path({str(path)!r}), bytes([i % 256]) * 200_000)\n"
    )
    rng = np.random.default_rng(0)
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.05 + 0.3 * rng.random())
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        content = path.read_bytes()
        assert len(content) == 200_000
        assert len(set(content)) == 1


def tensor_metric(name):
    """A metric of a kernel of kernels, on the cubic."""
    manifold = geometry.fermat(1)
    home = geometry.home_chart(manifold)
    if name == "hessian":
        points = geometry.sample_points(jax.random.key(3), manifold, 30)
        basis = ansatz.spectral_basis(manifold, 6, points)
        kernel = kernels.TensorKernel(
            kernels.Sum((kernels.SquaredExponential(2.0), kernels.SquaredExponential(0.5))),
            kernels.hessian_frame(manifold, basis, points, chart=home),
        )
    else:
        both = kernels.Product((kernels.Gaussian(0.4), kernels.Exponential(jnp.asarray(0.7))))
        parts = kernels.Sum((both, kernels.Gaussian(0.2)), (0.3, jnp.asarray(2.0)))
        kernel = kernels.TensorKernel(parts, kernels.RootFrame(manifold, home))
    return dataclasses.replace(kernel_metric(kernel, manifold, 30), normalise=False)


@pytest.mark.parametrize("name", ["hessian", "root"])
def test_kernels_made_of_kernels_and_frames_come_back(tmp_path, name):
    path, metric = tmp_path / "metric.npz", tensor_metric(name)
    save_metric(path, metric)
    again = load_metric(path)
    z = geometry.sample_points(jax.random.key(2), metric.manifold, 30).z
    assert jnp.array_equal(metric(z), again(z))
    plain = geometry.FubiniStudyMetric(metric.manifold)(z)
    assert float(jnp.max(jnp.abs(metric(z) - plain))) > 1e-3
    assert jax.tree.structure(again) == jax.tree.structure(metric)
    kinds = [[type(leaf) for leaf in jax.tree.leaves(m.kernel.kernel)] for m in (again, metric)]
    assert kinds[0] == kinds[1]
    assert again.kernel.chart == metric.kernel.chart == metric.home
