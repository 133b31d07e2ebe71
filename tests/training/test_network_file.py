"""Networks on disk: what is written comes back, and nothing else is taken for a network."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow import discretize
from metricflow.training import load_network, save_network

VARIABLES = {
    "params": {
        "conv": {"kernel": jax.random.normal(jax.random.key(0), (3, 3, 2, 5), jnp.float32)},
        "head": {"bias": jnp.arange(4, dtype=jnp.float32)},
    },
    "batch_stats": {"norm": {"mean": jnp.ones(5, jnp.float32)}},
}


def packed(bits=1):
    kernel = discretize.pack(VARIABLES["params"]["conv"]["kernel"], bits, axis=-1)
    return {**VARIABLES, "params": {**VARIABLES["params"], "conv": {"kernel": kernel}}}


def test_arrays_come_back(tmp_path):
    path = tmp_path / "net.npz"
    save_network(path, VARIABLES, {"model": "small", "classes": 4})
    found, about = load_network(path)
    assert about == {"model": "small", "classes": 4}
    assert jax.tree.structure(found) == jax.tree.structure(VARIABLES)
    jax.tree.map(np.testing.assert_array_equal, found, VARIABLES)


@pytest.mark.parametrize("bits", [1, 2, 5])
def test_packed_kernels_come_back_quantised(bits, tmp_path):
    path = tmp_path / "net.npz"
    save_network(path, packed(bits))
    found, _ = load_network(path)
    np.testing.assert_array_equal(
        found["params"]["conv"]["kernel"],
        discretize.quantize(VARIABLES["params"]["conv"]["kernel"], bits, scaled=True, axis=-1),
    )
    np.testing.assert_array_equal(found["params"]["head"]["bias"], jnp.arange(4.0))


def test_one_bit_weights_take_one_bit(tmp_path):
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 64, 64), jnp.float32)
    whole = {"params": {"kernel": kernel}}
    sizes = [
        save_network(tmp_path / "whole.npz", whole),
        save_network(tmp_path / "bits.npz", {"params": {"kernel": discretize.pack(kernel, 1)}}),
    ]
    assert sizes[0] > 4 * kernel.size
    assert sizes[1] < kernel.size / 8 + 2000


def test_values_that_are_not_finite_are_not_written(tmp_path):
    path = tmp_path / "net.npz"
    save_network(path, VARIABLES)
    before = path.read_bytes()
    bad = {"params": {"head": {"bias": jnp.array([1.0, jnp.nan])}}}
    with pytest.raises(ValueError, match="params/head/bias: holds values that are not finite"):
        save_network(path, bad)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "net.npz"
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_network(path)
    save_network(path, packed())
    content = path.read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="is no network or is damaged"):
            load_network(path)
    np.savez(path, weights=np.ones(3))
    with pytest.raises(ValueError, match="is no network or is damaged"):
        load_network(path)
    np.savez(path, header=np.frombuffer(b'{"format": "x", "format_version": 9}', np.uint8))
    with pytest.raises(ValueError, match="got 'x' version 9, expected 'metricflow network' 1"):
        load_network(path)


def test_packed_parts_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "net.npz"
    save_network(path, packed())
    with np.load(path) as archive:
        arrays = dict(archive)
    for change in ({"codes": None}, {"codes": np.zeros(3, np.uint8)}):
        spoiled = dict(arrays)
        for part, value in change.items():
            name = f"params/conv/kernel:{part}"
            spoiled.pop(name)
            if value is not None:
                spoiled[name] = value
        np.savez(path, **spoiled)
        with pytest.raises(ValueError, match=r"params/conv/kernel is damaged"):
            load_network(path)
    header = json.loads(bytes(arrays["header"]))
    header["packed"]["params/conv/kernel"]["bits"] = 9
    np.savez(path, **{**arrays, "header": np.frombuffer(json.dumps(header).encode(), np.uint8)})
    with pytest.raises(ValueError, match=r"params/conv/kernel is damaged"):
        load_network(path)
