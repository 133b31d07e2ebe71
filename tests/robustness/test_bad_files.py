"""Damaged files of every format that the library reads: one line that names them, or the truth.

``tests/test_checkpoint_damage.py``, ``tests/training/test_checkpoints.py`` and ``tests/data`` look
at single formats closely; here all formats meet the same damage, and the cases are counted.
"""

import collections
import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metricflow import (
    ansatz,
    checkpoint,
    data,
    discretize,
    geometry,
    kernels,
    load_metric,
    records,
    save_metric,
)
from metricflow.flows import KernelMetric
from metricflow.training import Checkpoints, Training, load_network, save_network
from tests.data.files import write_cifar10, write_cifar100, write_images, write_mnist

from .test_bad_inputs import publish
from .test_bad_runs import snapshot

TRIED = collections.Counter()  # (format, kind, what came of it)


def metric_file(folder, rng):
    centres = jnp.asarray([[1, 0.5, -1.04], [1, 0.2, -1.003]]) + 0j
    metric = KernelMetric(
        geometry.fermat(1), kernels.Gaussian(0.3), centres, jnp.ones((2, 1)), (0, 2), True
    )
    save_metric(folder / "metric.npz", metric, provenance={"seed": 1})
    return load_metric


def provenance(folder, rng):
    metric_file(folder, rng)
    return checkpoint.read_provenance


def network_metric_file(folder, rng):
    """A network with sections: nested trees and classes in the header."""
    manifold = geometry.fermat(1)
    network = ansatz.component_mlp(1, (3,))
    theta = network.init(jax.random.key(0), jnp.ones(6))
    metric = ansatz.ComponentMetric(manifold, "additive", network, theta)
    save_metric(folder / "metric.npz", metric)
    return load_metric


def record_file(folder, rng):
    """The smallest of the metrics that come with the library."""
    stored = Path(records.__file__).parent
    smallest = min(stored.glob("*.npz"), key=lambda path: path.stat().st_size)
    shutil.copy(smallest, folder / "record.npz")
    return load_metric


def network_file(folder, rng):
    kernel = jnp.asarray(rng.normal(size=(3, 3, 2, 5)), jnp.float32)
    packed = discretize.pack(kernel, 2, axis=-1)
    save_network(
        folder / "network.npz",
        {"params": {"conv": {"kernel": packed}, "head": {"bias": jnp.ones(4)}}},
        {"model": "small"},
    )
    return load_network


def idx_file(folder, rng):
    write_mnist(folder / "mnist", rng)
    (folder / "mnist").rename(folder / "all")
    return lambda path: data.read_idx_images(path.parent, tuple("0123456789"))


def packed_idx_file(folder, rng):
    write_mnist(folder / "all", rng, ending=".gz")
    return lambda path: data.read_idx_images(path.parent, tuple("0123456789"))


def cifar10_file(folder, rng):
    write_cifar10(folder / "all", rng, 2)
    return lambda path: data.read_cifar10(path.parent)


def cifar100_file(folder, rng):
    write_cifar100(folder / "all", rng, 2)
    return lambda path: data.read_cifar100(path.parent)


def image_file(folder, rng):
    write_images(folder / "all", rng, {"a": 1, "b": 1})
    return lambda path: data.read_image_folder(path.parent.parent, (8, 8))


def jpeg_file(folder, rng):
    write_images(folder / "all", rng, {"a": 1, "b": 1}, ending="jpg")
    return lambda path: data.read_image_folder(path.parent.parent, (8, 8))


LOOP = Training(lambda w, batch: (jnp.sum((batch @ w) ** 2), {}), optax.sgd(0.1), 2)


def training_checkpoint(folder, rng):
    """Any file of it; the message names the folder and the step."""
    state = LOOP.init(jax.random.key(0), jnp.ones(2))
    checkpoints = Checkpoints(folder / "run", seconds=0)
    checkpoints.save(
        state._replace(step=jnp.asarray(3, state.step.dtype)), [{"loss": 1.0}], [], force=True
    )
    checkpoints.close()

    def read(path):
        while path.name != "run":
            path = path.parent
        opened = Checkpoints(path)
        try:
            return opened.restore(state)
        finally:
            opened.close()

    return read


FORMATS = (
    metric_file,
    provenance,
    network_metric_file,
    record_file,
    network_file,
    idx_file,
    packed_idx_file,
    cifar10_file,
    cifar100_file,
    image_file,
    jpeg_file,
    training_checkpoint,
)
# where every bit of the file is protected, a change is an error or changes nothing
CHECKED = {"metric_file", "network_metric_file", "record_file", "network_file", "provenance"}
REWRITTEN = {"wrong arrays", "an array is missing"}  # a file of another model, and whole
CHECKED |= {"training_checkpoint", "packed_idx_file"}


def damages(content, rng, count):
    """(kind, new content)."""
    for size in rng.integers(0, max(len(content), 1), count):
        yield "cut off", content[:size]
    for place in rng.integers(0, max(len(content), 1), count):
        changed = bytearray(content)
        changed[place : place + 4] = rng.bytes(len(changed[place : place + 4]))
        yield "changed bytes", bytes(changed)
    yield "empty", b""
    yield "wrong type", b"this is a text and no such file\n" * 20
    yield "wrong type", rng.bytes(500)
    yield "appended", content + rng.bytes(100)


def renamed_version(content):
    """A header that says another version; None where a format has none to change."""
    import io

    try:
        with np.load(io.BytesIO(content)) as archive:
            arrays = dict(archive)
        header = json.loads(arrays["header"].tobytes().decode())
    except Exception:
        return
    for version in (999, "new", None, [1]):
        buffer = io.BytesIO()
        text = json.dumps(header | {"format_version": version}).encode()
        np.savez(buffer, **arrays | {"header": np.frombuffer(text, np.uint8)})
        yield "other version", buffer.getvalue()
    for name in [*header]:
        buffer = io.BytesIO()
        text = json.dumps({key: value for key, value in header.items() if key != name}).encode()
        np.savez(buffer, **arrays | {"header": np.frombuffer(text, np.uint8)})
        if name not in ("metricflow", "program_version"):
            yield "no " + name, buffer.getvalue()
    for name, array in arrays.items():
        if array.dtype.kind in "fc" and array.size:
            for entry in (np.nan, np.inf):
                bad = array.copy()
                bad.flat[0] = entry
                buffer = io.BytesIO()
                np.savez(buffer, **arrays | {name: bad})
                yield "NaN in the data", buffer.getvalue()
        if name != "header":
            for other in (array[..., None].repeat(2, -1), array.astype("U8")):
                buffer = io.BytesIO()
                np.savez(buffer, **arrays | {name: other})
                yield "wrong arrays", buffer.getvalue()
            buffer = io.BytesIO()
            np.savez(buffer, **{key: value for key, value in arrays.items() if key != name})
            yield "an array is missing", buffer.getvalue()


def flat(value):
    return [np.asarray(x) for x in jax.tree.leaves(jax.tree.map(plain, value))]


def plain(leaf):
    if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf)
    return leaf


def outcome(read, path, wanted, named):
    """What came of reading: the complaint if it is not one line with the name of the file."""
    try:
        found = read(path)
    except (ValueError, OSError) as error:
        text = str(error)
        if "\n" in text or not any(name in text for name in named) or len(text) > 600:
            return f"unclear: {text[:300]}"
        return "one line"
    except BaseException as error:
        return f"escaped: {type(error).__name__}: {str(error)[:200]}"
    leaves = flat(found)
    same = len(leaves) == len(wanted) and all(
        x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(leaves, wanted, strict=False)
    )
    if same:  # with the infinity of a training that has seen no best loss
        return "the same"
    bad = any(x.dtype.kind in "fc" and not np.all(np.isfinite(x)) for x in leaves)
    return "silent NaN" if bad else "other numbers"


def check_format(make, folder, rng, count):
    read = make(folder, rng)
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    if len(paths) > 8:
        paths = [paths[i] for i in sorted(rng.choice(len(paths), 8, replace=False))]
    wanted = flat(read(paths[0]))
    complaints = []
    for path in paths:
        content = path.read_bytes()
        share = max(count // len(paths), 2)
        cases = [*damages(content, rng, share)]
        if make is not record_file or count > 20:
            cases += renamed_version(content)
        cases += [("a directory in its place", None), ("gone", None)]
        for kind, changed in cases:
            path.unlink()
            if changed is not None:
                path.write_bytes(changed)
            elif kind != "gone":
                path.mkdir()
            before = snapshot(folder)
            names = [str(path), str(path.parent), "the checkpoint of step"]
            found = outcome(read, path, wanted, names)
            unharmed = snapshot(folder) == before
            TRIED[make.__name__, kind, found.split(":")[0]] += 1
            # pixels and labels without checksums may be others, and a file that is not needed
            # may be gone
            allowed = {"one line", "the same"}
            if make.__name__ not in CHECKED or kind in REWRITTEN:
                allowed.add("other numbers")
            if found not in allowed or not unharmed:
                complaints.append((make.__name__, path.name, kind, found, unharmed))
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            path.write_bytes(content)
    return complaints


@pytest.mark.parametrize("make", [network_file, idx_file], ids=lambda make: make.__name__)
def test_some_damaged_files(make, tmp_path, rng):
    assert check_format(make, tmp_path, rng, 2) == []


# orbax leaves the tasks of a failed read to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.heavy
@pytest.mark.parametrize("make", FORMATS, ids=lambda make: make.__name__)
def test_damaged_files_of_every_format(as_user, make, tmp_path, rng):
    assert check_format(make, tmp_path, rng, 40) == []


@pytest.mark.parametrize("read", [load_metric, load_network, data.read_idx, data.read_cifar10])
def test_a_file_that_may_not_be_read_is_named(read, tmp_path, monkeypatch):
    path = tmp_path / "file.npz"
    path.write_bytes(b"content")
    if read is data.read_cifar10:
        write_cifar10(tmp_path / "all", np.random.default_rng(0), 1)
        path = tmp_path / "all"

    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises((OSError, ValueError), match=str(path)) as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.heavy
def test_counts_of_files_are_published():
    """Last, after all others."""
    path = os.environ.get("METRICFLOW_BAD_INPUTS_JSON")
    if not path:
        pytest.skip("METRICFLOW_BAD_INPUTS_JSON names no file")

    def row(select):
        chosen = [(key, n) for key, n in TRIED.items() if select(key)]
        verdict = collections.Counter()
        for key, n in chosen:
            verdict[key[2]] += n
        return {
            "tried": sum(verdict.values()),
            "one_line_errors": verdict["one line"],
            "read_without_loss": verdict["the same"],
            "read_with_other_pixels": verdict["other numbers"],
            "other_exceptions": verdict["escaped"] + verdict["unclear"],
            "silent_nan": verdict["silent NaN"],
        }

    formats = sorted({key[0] for key in TRIED})
    kinds = sorted({key[1] for key in TRIED})
    report = row(lambda key: True) | {
        "by_format": {name: row(lambda key, name=name: key[0] == name) for name in formats},
        "by_kind": {kind: row(lambda key, kind=kind: key[1] == kind) for kind in kinds},
    }
    publish(Path(path), "files", report)
