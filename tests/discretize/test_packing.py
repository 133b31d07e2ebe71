"""Packed weights against the quantisers, bit for bit, and against sizes computed by hand."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from metricflow import discretize
from metricflow.discretize import packing
from metricflow.discretize.packing import PackedArray, pack, pack_tree, unpack, unpack_tree

BITS = range(1, 9)
# few, since every other shape is compiled again, operation by operation
SHAPES = st.sampled_from([(), (1,), (7,), (16,), (3, 5), (3, 3, 2, 5)])


def weights(shape, seed=0, size=1.0):
    drawn = np.random.default_rng(seed).standard_normal(shape) * size
    return jnp.asarray(drawn, jnp.float32)


def same_bits(x, y):
    x, y = np.asarray(x), np.asarray(y)
    assert x.dtype == y.dtype == np.float32
    assert x.shape == y.shape
    np.testing.assert_array_equal(x.view(np.uint32), y.view(np.uint32))


@st.composite
def cases(draw):
    shape = draw(SHAPES)
    axis = draw(st.sampled_from([None, 0, -1])) if shape else None
    size = draw(st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 1e20]))
    return weights(shape, draw(st.integers(0, 999)), size), axis


@settings(max_examples=15)
@given(st.sampled_from(BITS), cases(), st.booleans())
@example(1, (jnp.asarray([0.0, -0.0, 1.0], jnp.float32), None), True)
@example(2, (jnp.zeros(7, jnp.float32), None), True)
def test_there_and_back_is_the_quantiser_to_the_bit(bits, case, scaled):
    w, axis = case
    packed = pack(w, bits, scaled=scaled, axis=axis)
    same_bits(unpack(packed), discretize.quantize(w, bits, scaled=scaled, axis=axis))
    assert packed.codes.shape == (math.ceil(w.size * bits / 8),)


@pytest.mark.parametrize("bits", BITS)
def test_there_and_back_for_all_bits(bits):
    w = weights((3, 3, 2, 5), seed=bits)
    for options in ({"scaled": True, "axis": -1}, {"scaled": True}, {"scaled": False, "axis": 2}):
        same_bits(unpack(pack(w, bits, **options)), discretize.quantize(w, bits, **options))


def test_many_weights():
    """Enough for every level of eight bits, and for a reduction in several pieces."""
    w = weights((3, 3, 130, 41), seed=3)
    for bits, axis in ((8, None), (8, -1), (1, -1), (3, 2)):
        packed = pack(w, bits, axis=axis)
        same_bits(unpack(packed), discretize.quantize(w, bits, scaled=True, axis=axis))
    assert len(np.unique(np.asarray(unpack(pack(w, 8))))) > 200


def test_one_bit_without_scale_is_the_sign():
    w = weights((4, 7)).at[0, 0].set(0)
    same_bits(unpack(pack(w, 1, scaled=False)), discretize.binary(w))


@pytest.mark.parametrize("bits", BITS)
def test_every_level_survives(bits):
    count = 2**bits
    w = jnp.linspace(-1, 1, count, dtype=jnp.float32)
    packed = pack(w, bits, scaled=False)
    numbers = np.unpackbits(np.asarray(packed.codes), count=bits * count, bitorder="little")
    numbers = numbers.reshape(count, bits) @ 2 ** np.arange(bits)
    np.testing.assert_array_equal(numbers, np.arange(count))
    np.testing.assert_allclose(unpack(packed), w, atol=2e-7)


def test_the_layout_by_hand():
    w = jnp.asarray([1.0, -1, -1, 1, 1, 1, -1, -1, 1, -1])
    np.testing.assert_array_equal(pack(w, 1).codes, [0b00111001, 0b1])
    levels = jnp.asarray([-1, -1 / 3, 1 / 3, 1, 1])  # 0, 1, 2, 3, 3
    np.testing.assert_array_equal(pack(levels, 2).codes, [0b11100100, 0b11])


def test_bytes():
    w = weights((3, 3, 5, 7))  # 315 weights
    assert packing.packed_bytes(pack(w, 1)) == 40 + 4
    assert packing.packed_bytes(pack(w, 1, axis=-1)) == 40 + 4 * 7
    assert packing.packed_bytes(pack(w, 1, axis=2)) == 40 + 4 * 5
    assert packing.packed_bytes(pack(w, 3, scaled=False, axis=-1)) == 119 + 4
    assert packing.packed_bytes(pack(w, 8)) == 315 + 4


@pytest.mark.parametrize("bits", BITS)
def test_unpacking_compiled_gives_the_same_bits(bits):
    packed = pack(weights((3, 3, 8, 9), seed=bits), bits, axis=-1)
    same_bits(jax.jit(unpack)(packed), unpack(packed))
    leaves, structure = jax.tree.flatten(packed)
    assert len(leaves) == 2
    same_bits(unpack(jax.tree.unflatten(structure, leaves)), unpack(packed))


def test_vmap_over_seeds():
    w = weights((3, 5, 7))
    packed = jax.vmap(lambda one: pack(one, 2, axis=-1))(w)
    assert packed.shape == (5, 7)
    for together, one in zip(jax.vmap(unpack)(packed), w, strict=True):
        np.testing.assert_allclose(together, unpack(pack(one, 2, axis=-1)), rtol=1e-6)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_other_precisions_are_packed_as_float32(kind):
    w = jnp.asarray(weights((6, 5)), kind)
    expected = discretize.quantize(w.astype(jnp.float32), 4, scaled=True)
    same_bits(unpack(pack(w, 4)), expected)


def tree():
    return {
        "stem": {"kernel": weights((3, 3, 3, 4))},
        "stage1_block0": {
            "conv1": {"kernel": weights((3, 3, 4, 4), seed=1)},
            "conv1_norm": {"scale": jnp.ones(4, jnp.bfloat16), "bias": jnp.zeros(4)},
        },
        "head": {"kernel": weights((4, 10), seed=2)},
    }


def inner(path):
    return path.endswith("/kernel") and path.split("/")[0] not in ("stem", "head")


def test_trees():
    params, seen = tree(), []
    packed = pack_tree(params, lambda path: seen.append(path) or inner(path), 1, axis=-1)
    assert set(seen) == {
        "stem/kernel",
        "head/kernel",
        "stage1_block0/conv1/kernel",
        "stage1_block0/conv1_norm/scale",
        "stage1_block0/conv1_norm/bias",
    }
    assert isinstance(packed["stage1_block0"]["conv1"]["kernel"], PackedArray)
    assert packing.tree_bytes(packed) == 4 * (108 + 8 + 40) + 18 + 4 * 4
    back = jax.jit(unpack_tree)(packed)
    assert jax.tree.structure(back) == jax.tree.structure(params)
    kernel = params["stage1_block0"]["conv1"]["kernel"]
    params["stage1_block0"]["conv1"]["kernel"] = discretize.quantize(
        kernel, 1, scaled=True, axis=-1
    )
    jax.tree.map(lambda x, y: same_bits(x, jnp.asarray(y, jnp.float32)), back, params)


def test_options_reach_the_leaves():
    packed = pack_tree({"kernel": weights((4, 6))}, lambda _: True, 3, scaled=False, axis=0)
    same_bits(unpack_tree(packed)["kernel"], discretize.quantize(weights((4, 6)), 3, axis=0))


def test_bytes_without_numbers():
    shapes = jax.eval_shape(lambda: pack_tree(tree(), inner, 1, axis=-1))
    assert packing.tree_bytes(shapes) == packing.tree_bytes(pack_tree(tree(), inner, 1, axis=-1))


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("bits", [1, 4])
@pytest.mark.parametrize("scaled", [True, False])
def test_weights_that_are_not_finite(bad, bits, scaled):
    w = weights((4, 5)).at[1, 2].set(bad)
    with pytest.raises(ValueError, match=r"w: holds NaN.*cannot be packed"):
        pack(w, bits, scaled=scaled, axis=-1)
    with pytest.raises(ValueError, match=r"a/b: holds NaN.*cannot be packed"):
        pack_tree({"a": {"b": w}}, lambda _: True, bits, scaled=scaled)
    # compiled, nobody can raise: NaN comes out
    assert np.isnan(unpack(jax.jit(lambda w: pack(w, bits, scaled=scaled))(w))).all()


def test_a_scale_that_overflows():
    with pytest.raises(ValueError, match="overflows, and cannot be packed"):
        pack(jnp.full(100, 3e38, jnp.float32), 1)
    with pytest.raises(ValueError, match="cannot be packed"):
        pack(jnp.asarray([1e300]), 1)


@pytest.mark.usefixtures("as_user")
def test_bad_input():
    w = weights((4, 5))
    for bits in (0, -1, 9, 16, 1.0, True, "1"):
        with pytest.raises(ValueError, match="bits: expected"):
            pack(w, bits)
    for other in (jnp.arange(3), jnp.ones(3, complex), jnp.ones(3, bool)):
        with pytest.raises(ValueError, match="w: expected real floating point weights, got"):
            pack(other, 1)
        with pytest.raises(ValueError, match="step: expected real floating point weights, got"):
            pack_tree({"step": other}, lambda _: False, 1)
    with pytest.raises(ValueError, match="w: expected at least one weight, got"):
        pack(jnp.ones((0, 3)), 1)
    for bits, axis in ((1, 2), (3, -3)):
        for scaled in (True, False):
            with pytest.raises(ValueError, match="axis: expected an axis of an array"):
                pack(w, bits, axis=axis, scaled=scaled)


@pytest.mark.usefixtures("as_user")
def test_damaged_parts():
    packed = pack(weights((4, 5)), 3, axis=-1)
    for codes in (
        packed.codes[:-1],
        jnp.append(packed.codes, jnp.uint8(0)),
        packed.codes.astype(jnp.int32),
        packed.codes[None],
    ):
        with pytest.raises(ValueError, match="codes: expected 8 bytes for weights of shape"):
            dataclasses.replace(packed, codes=codes)
    for scale in (packed.scale[0], packed.scale[:, :3], packed.scale.astype(jnp.float64)):
        with pytest.raises(ValueError, match="scale: expected float32 that broadcasts"):
            dataclasses.replace(packed, scale=scale)
    with pytest.raises(ValueError, match="bits: expected 1 to 8, got 9"):
        dataclasses.replace(packed, bits=9)
    # rebuilding a tree does not check; unpacking does, compiled or not
    cut = jax.tree.map(lambda leaf: leaf[:5] if leaf.ndim == 1 else leaf, packed)
    for function in (unpack, jax.jit(unpack), unpack_tree):
        with pytest.raises(ValueError, match="codes: expected 8 bytes"):
            function(cut)
