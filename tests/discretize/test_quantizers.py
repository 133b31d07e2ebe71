"""The values quantisers take, their means under random rounding, and the derivative they get."""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metricflow import discretize
from tests.tolerances import tolerance

NAMES = ("binary", "ternary", "uniform", "unsigned", "quantize", "mean_abs_scale")
EAGER = [getattr(discretize, name) for name in NAMES]
STATIC = ("", "axis threshold", "bits axis", "bits maximum", "bits axis scaled", "axis")
binary, ternary, uniform, unsigned, quantize, mean_abs_scale = (
    jax.jit(form, static_argnames=names.split()) for form, names in zip(EAGER, STATIC, strict=True)
)
REAL = ["bfloat16", "float16", "float32", "float64"]
SCALED = [partial(quantize, bits=bits, scaled=True) for bits in (1, 3)]


def normal(seed, shape=(6, 5), dtype="float64"):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


@pytest.mark.equation("RF 1", "RF 33")
@pytest.mark.parametrize("kind", REAL)
def test_the_sign_is_never_zero(kind):
    w = jnp.asarray([0.0, -0.0, 2.0, -1e-6, -np.inf, np.nan], kind)
    for found in (binary(w), uniform(w[:-2], 1), quantize(w, 1)):
        assert found.dtype == w.dtype
        np.testing.assert_array_equal(np.asarray(found, float)[:4], [1, 1, 1, -1])
    np.testing.assert_array_equal(np.asarray(binary(w), float)[4:], [-1, np.nan])
    assert np.isnan(np.asarray(binary(w, key=jax.random.key(0)), float)[-1])


@pytest.mark.parametrize("kind", REAL)
def test_a_random_sign_has_the_right_mean(kind):
    at, draws = jnp.asarray([-3.0, -1, -0.6, 0, 0.3, 1, 2], kind), 40_000
    found = binary(jnp.broadcast_to(at[:, None], (7, draws)), key=jax.random.key(3))
    assert found.dtype == at.dtype
    assert set(np.unique(np.asarray(found, float))) == {-1, 1}
    wanted = np.clip(np.asarray(at, float), -1, 1)
    z = (np.asarray(found, float).mean(1) - wanted) / np.sqrt(1e-300 + (1 - wanted**2) / draws)
    assert np.abs(z).max() < 5


def test_small_random_signs_of_bfloat16_are_unbiased():
    w = jnp.full(2_000_000, 0.0038, "bfloat16")  # of which 1 + w has no bits left
    mean = np.asarray(binary(w, key=jax.random.key(3)), np.float32).mean(dtype=float)
    assert abs(mean - float(w[0])) < 5 / np.sqrt(w.size)


@pytest.mark.equation("RF 34")
@pytest.mark.parametrize("bits", [1, 3, 16])
def test_all_levels_are_there_at_equal_distances(dtype, bits):
    w = jnp.linspace(-3, 3, 200_000, dtype=dtype)
    found, levels = uniform(w, bits), np.linspace(-1, 1, 2**bits)
    np.testing.assert_allclose(np.unique(found), levels, atol=2 * np.finfo(dtype).eps)
    assert found.dtype == dtype


@pytest.mark.equation("RF 34")
@given(st.integers(0, 99), st.integers(2, 10), st.sampled_from(["float32", "float64"]))
def test_the_nearest_level_is_taken(seed, bits, kind):
    w = normal(seed, dtype=kind)
    found = uniform(w, bits)
    unit = np.asarray(w, float) / np.abs(w).max()
    levels, close = np.linspace(-1, 1, 2**bits), tolerance("rounding", kind)
    nearest = levels[np.abs(unit[..., None] - levels).argmin(-1)]
    np.testing.assert_allclose(found, nearest, atol=close)
    assert np.abs(found - unit).max() <= 1 / (2**bits - 1) + close
    np.testing.assert_array_equal(uniform(found, bits), found)


@given(st.integers(0, 99), st.integers(1, 16), st.integers(-100, 120))
def test_the_unit_of_the_weights_does_not_matter(seed, bits, power):
    w = normal(seed, dtype="float32")
    np.testing.assert_array_equal(uniform(2.0**power * w, bits), uniform(w, bits))
    np.testing.assert_array_equal(ternary(2.0**power * w), ternary(w))


def test_large_weights_in_half_precision_are_quantised_like_others():
    w = jnp.asarray([0.9, -0.3, 0.01], "float16")
    np.testing.assert_array_equal(uniform(60_000 * w, 4), uniform(w, 4))


@pytest.mark.parametrize(("dtype", "bits"), [("float32", 8), ("float64", 1)])
def test_zeros_are_quantised_like_any_other_value(dtype, bits):
    zeros = jnp.zeros((3, 4), dtype)
    for key in (None, jax.random.key(0)):
        found = np.asarray(uniform(zeros, bits, key=key))
        np.testing.assert_allclose(np.abs(found), 1 / (2**bits - 1), atol=2e-7)
    assert not np.any(ternary(zeros))
    assert not np.any(quantize(zeros, bits, scaled=True))
    half = zeros.at[1].set(2)  # one channel is not zero
    np.testing.assert_allclose(
        quantize(half, bits, scaled=True, axis=0), half, rtol=tolerance("rounding", dtype)
    )


@pytest.mark.parametrize("form", [partial(uniform, bits=3), ternary, *SCALED])
@pytest.mark.parametrize("axis", [0, -2])
def test_an_axis_is_a_loop_over_channels(form, axis):
    w = normal(1, (4, 4, 4)) * jnp.arange(1, 5)[:, None, None] * jnp.arange(1, 5)[:, None]
    found = jnp.moveaxis(form(w, axis=axis), axis, 0)
    loop = [np.asarray(form(channel)) for channel in jnp.moveaxis(w, axis, 0)]
    np.testing.assert_allclose(found, loop, rtol=1e-14)
    assert np.abs(found - jnp.moveaxis(form(w), axis, 0)).max() > 0.1


@pytest.mark.parametrize(("dtype", "bits"), [("float32", 4), ("float64", 1)])
def test_random_rounding_goes_to_a_neighbour_without_bias(dtype, bits):
    at = jnp.asarray([-1.0, -0.83, -0.25, 0.0, 0.41, 1.0], dtype)
    draws, gap = 40_000, 2 / (2**bits - 1)
    w = jnp.broadcast_to(5 * at[:, None], (6, draws))
    found = np.asarray(uniform(w, bits, key=jax.random.key(7)), float)
    assert np.abs(found - np.asarray(at)[:, None]).max() < gap + 1e-6
    assert np.abs(found.mean(1) - np.asarray(at)).max() < 5 * gap / 2 / np.sqrt(draws)
    assert [len(np.unique(row)) for row in found] == [1, 2, 2, 2, 2, 1]
    again = np.asarray(unsigned(w, bits, maximum=5.0, key=jax.random.key(7)), float)
    assert np.abs(again.mean(1) - np.clip(5 * at, 0, 5)).max() < 5 * 5 * gap / 4 / np.sqrt(draws)


@pytest.mark.parametrize("form", [uniform, unsigned])
def test_random_rounding_leaves_the_grid_as_it_is(dtype, form):
    # the largest weight is on it: what is added to 2^16 - 1 must not round it up
    found = form(jnp.ones(20_000, dtype), 16, key=jax.random.key(0))
    np.testing.assert_array_equal(found, 1)


def test_ternary_drops_what_is_small():
    w = jnp.asarray([1.0, -2.0, 0.5, -0.5, 0.0, 2.0])  # mean |w| = 1
    np.testing.assert_array_equal(ternary(w), [1, -1, 0, 0, 0, 1])
    np.testing.assert_array_equal(ternary(w, threshold=0.4), [1, -1, 1, -1, 0, 1])
    np.testing.assert_array_equal(ternary(w, threshold=1.0), [0, -1, 0, 0, 0, 1])


@pytest.mark.parametrize("bits", [1, 5])
def test_unsigned_activations_use_all_levels(dtype, bits):
    x = jnp.linspace(-1, 5, 1001, dtype=dtype)
    found = unsigned(x, bits, maximum=4.0)
    close = 4 * tolerance("rounding", dtype)
    np.testing.assert_allclose(np.unique(found), np.linspace(0, 4, 2**bits), atol=close)
    assert np.abs(found - jnp.clip(x, 0, 4)).max() <= 2 / (2**bits - 1) + 1e-6
    assert found.dtype == x.dtype


@given(st.integers(0, 99), st.integers(1, 8), st.sampled_from([None, 0, 1]))
def test_a_scale_keeps_the_mean_absolute_value(seed, bits, axis):
    w = normal(seed)
    found = mean_abs_scale(quantize(w, bits, scaled=True, axis=axis), axis=axis)
    np.testing.assert_allclose(found, mean_abs_scale(w, axis=axis), rtol=1e-14)


@pytest.mark.equation("RF 33")
@pytest.mark.parametrize("axis", [None, 1])
def test_no_other_scale_of_the_sign_is_closer(axis):
    w, scale = normal(4), mean_abs_scale(normal(4), axis=axis)
    np.testing.assert_allclose(quantize(w, 1, scaled=True, axis=axis), scale * jnp.sign(w))
    distance = jax.grad(lambda alpha: jnp.sum((w - alpha * jnp.sign(w)) ** 2))
    np.testing.assert_allclose(distance(scale), 0, atol=1e-13)


@pytest.mark.equation("RF 21")
@pytest.mark.parametrize("quantizer", [binary, lambda w: uniform(w, 3)])
def test_straight_through_has_the_derivative_of_the_identity(dtype, quantizer):
    w, v = normal(2, dtype=dtype), normal(3, dtype=dtype)
    passed = discretize.straight_through(quantizer)
    both = jax.jvp(passed, (w,), (v,))
    np.testing.assert_array_equal(both, (quantizer(w), v))
    found = jax.jit(jax.grad(lambda w: jnp.sum(passed(w) ** 3 * v)))(w)
    np.testing.assert_allclose(found, 3 * quantizer(w) ** 2 * v, rtol=tolerance("rounding", dtype))


@pytest.mark.usefixtures("as_user")
def test_bad_input_is_named():
    w = normal(0)
    binary, ternary, uniform, unsigned, quantize, mean_abs_scale = EAGER
    for form, bits in product((uniform, unsigned, quantize), (0, -1, True, 1.5, 17)):
        with pytest.raises(ValueError, match=r"^bits: expected"):
            form(w, bits)
    two = [partial(form, bits=2) for form in (uniform, unsigned, quantize)]
    wrong = (jnp.arange(3), jnp.ones(3, complex), jnp.zeros((2, 0)))
    for form, bad in product((binary, ternary, mean_abs_scale, *two), wrong):
        with pytest.raises(ValueError, match=r"expected (real|at least one)"):
            form(bad)
    for form, axis in product((ternary, mean_abs_scale, two[0]), (2, -3)):
        with pytest.raises(ValueError, match=r"^axis: expected an axis .*\(6, 5\)"):
            form(w, axis=axis)
    for form, name in ((ternary, "threshold"), (two[1], "maximum")):
        for bad in (0.0, -1.0, np.nan, np.inf):
            with pytest.raises(ValueError, match=f"^{name}: "):
                form(w, **{name: bad})
