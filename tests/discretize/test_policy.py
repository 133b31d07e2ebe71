"""Which layers a policy quantises, and the quantisers it gives them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow import discretize
from metricflow.discretize import Quantization, policy

PARAMS = {
    "stem": {"kernel": jnp.ones((3, 3, 1, 4))},
    "stage1": {
        "stem": {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.zeros(2)},
        "conv": {"kernel": jnp.full((2, 2), 3.0)},
    },
    "stem2": {"kernel": jnp.full((2, 2), 4.0)},
    "norm": {"scale": jnp.ones(2), "bias": jnp.zeros(2)},
    "head": {"kernel": jnp.full((2, 3), 5.0), "bias": jnp.zeros(3)},
}


def test_the_first_pattern_that_matches_decides():
    one, two = Quantization(jnp.sign), Quantization(jnp.tanh)
    rules = (("^a", one), ("b$", two), ("ab", two))
    assert policy.quantization(rules, "ab") is one
    assert policy.quantization(rules, "cb") is two
    assert policy.quantization(rules, "c") == discretize.FULL_PRECISION
    assert policy.quantization(tuple(reversed(rules)), "ab") is two


def test_ends_are_left_out_by_whole_names():
    latent, rest = discretize.split_kernels(PARAMS, discretize.uniform_policy(jnp.sign))
    assert sorted(latent) == ["stage1/conv/kernel", "stem2/kernel"]
    everything, _ = discretize.split_kernels(
        PARAMS, discretize.uniform_policy(jnp.sign, full_precision=())
    )
    assert len(everything) == 5
    assert not any(path.endswith(("bias", "scale")) for path in everything)
    assert "norm/scale" in rest


def test_split_and_joined_are_inverse():
    parts = discretize.split_kernels(PARAMS, discretize.uniform_policy(jnp.sign))
    back = discretize.joined(*parts)
    assert jax.tree.structure(back) == jax.tree.structure(PARAMS)
    jax.tree.map(np.testing.assert_array_equal, back, PARAMS)


def test_a_policy_without_effect_is_refused():
    only_activations = discretize.uniform_policy(None, jnp.sign)
    with pytest.raises(ValueError, match=r"quantises no kernel; layers with one are head, stage1/"):
        discretize.split_kernels(PARAMS, only_activations)


def test_parameters_are_quantised_where_the_policy_says():
    weights = discretize.weight_quantizer(1, scale="none")
    found = discretize.quantized_parameters(PARAMS, discretize.uniform_policy(weights))
    np.testing.assert_array_equal(found["stage1"]["conv"]["kernel"], jnp.ones((2, 2)))
    np.testing.assert_array_equal(found["head"]["kernel"], PARAMS["head"]["kernel"])
    slope = jax.grad(
        lambda p: jnp.sum(
            discretize.quantized_parameters(p, discretize.uniform_policy(weights))["stem2"][
                "kernel"
            ]
        )
    )(PARAMS)
    np.testing.assert_array_equal(slope["stem2"]["kernel"], jnp.ones((2, 2)))


@pytest.mark.equation("RF 33", "RF 34")
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_quantisers_of_weights(bits, rng):
    w = jnp.asarray(rng.normal(size=(3, 3, 4, 5)))
    plain = discretize.weight_quantizer(bits, scale="none")(w)
    assert len(np.unique(plain)) == 2**bits
    assert float(jnp.max(jnp.abs(plain))) == 1
    for scale, axes in (("array", (0, 1, 2, 3)), ("channel", (0, 1, 2))):
        found = discretize.weight_quantizer(bits, scale=scale)(w)
        np.testing.assert_allclose(
            jnp.mean(jnp.abs(found), axis=axes), jnp.mean(jnp.abs(w), axis=axes), rtol=1e-12
        )


@pytest.mark.parametrize("bits", [1, 4, 8])
@pytest.mark.parametrize("grid", ["signed", "unsigned"])
def test_quantisers_of_activations(grid, bits, rng):
    x = jax.nn.relu(jnp.asarray(rng.normal(size=(50, 8))))
    quantise = discretize.activation_quantizer(bits, grid=grid)
    found = quantise(x)
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.sum(quantise(x)))(x), jnp.ones_like(x))
    if grid == "signed":
        np.testing.assert_array_equal(found, discretize.quantize(x, bits, scaled=True))
        np.testing.assert_allclose(jnp.mean(jnp.abs(found)), jnp.mean(jnp.abs(x)), rtol=1e-12)
        # half of the levels are for numbers that a ReLU does not give
        assert len(np.unique(found)) <= 2 ** (bits - 1) + 1
    else:
        assert float(jnp.max(jnp.abs(found - x))) <= float(jnp.max(x)) / (2**bits - 1) / 2 + 1e-12
        np.testing.assert_array_equal(found[x == 0], 0)
    # the identity, whose derivative is taken, has no other scale
    np.testing.assert_allclose(quantise(3 * x), 3 * found, rtol=1e-12)


def test_nothing_but_zeros_stays_finite():
    for grid in ("signed", "unsigned"):
        found = discretize.activation_quantizer(4, grid=grid)(jnp.zeros((3, 2)))
        assert np.all(np.isfinite(found))
    np.testing.assert_array_equal(found, 0)


def test_wrong_names_are_refused():
    with pytest.raises(ValueError, match="scale: expected 'none', 'array' or 'channel', got 'row'"):
        discretize.weight_quantizer(1, scale="row")
    with pytest.raises(ValueError, match="grid: expected 'signed' or 'unsigned', got 'both'"):
        discretize.activation_quantizer(1, grid="both")
