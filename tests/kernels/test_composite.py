"""Kernels of real vectors, sums and products: formulas, signs of eigenvalues, derivatives."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow import kernels
from metricflow._pytree import register_dataclass
from metricflow.kernels.operators import MatrixKernel, PairKernel
from tests.tolerances import tolerance

WIDTH = 1.7
NEAR, FAR = kernels.SquaredExponential(0.8), kernels.SquaredExponential(WIDTH)
PARTS = (NEAR, FAR)
SUM = kernels.Sum(PARTS, (0.3, 2.0))
PRODUCT = kernels.Product(PARTS)


def vectors(seed, count, size=3, dtype="float64"):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, size)), dtype)


def projective(seed, count):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(count, 4)) + 1j * rng.normal(size=(count, 4)))


def double_sum(u, w, width=WIDTH):
    """The formula, entry by entry, in extended precision."""
    u, w = (np.asarray(x).astype(np.clongdouble) for x in (u, w))
    rows = [[sum(abs(a - b) ** 2 for a, b in zip(x, y, strict=True)) for y in w] for x in u]
    return np.exp(-np.array(rows) / (2 * np.longdouble(width) ** 2)).astype(float)


@pytest.mark.equation("MF 2.35")
def test_the_squared_exponential_is_its_formula(dtype):
    u, w = vectors(0, 12, dtype=dtype), vectors(1, 9, dtype=dtype)
    found = kernels.dense(FAR, u, w)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, double_sum(u, w), atol=tolerance("kernel", dtype))
    np.testing.assert_allclose(
        jnp.diagonal(kernels.dense(FAR, u, u)), 1, atol=tolerance("kernel", dtype)
    )
    assert np.max(kernels.dense(FAR, u, u)) <= 1


def test_complex_points_are_vectors_of_twice_the_length():
    z, w = projective(2, 8), projective(3, 6)
    found = kernels.dense(FAR, z, w)
    np.testing.assert_allclose(found, double_sum(z, w), rtol=1e-12)
    apart = [jnp.concatenate([x.real, x.imag], axis=1) for x in (z, w)]
    np.testing.assert_allclose(found, kernels.dense(FAR, *apart), rtol=1e-13)
    # taken as they are scaled
    assert float(jnp.max(jnp.abs(kernels.dense(FAR, 2 * z, w) - found))) > 0.01


def test_far_from_the_origin_nothing_is_lost_in_float32():
    """At 1e3 the products u.u' are 1e6, and their rounding alone would be 0.1."""
    u, w = vectors(4, 40, dtype="float32"), vectors(5, 30, dtype="float32")
    # moved by a number that float32 adds without rounding
    u, w = (jnp.round(x * 1024) / 1024 for x in (u, w))
    here = kernels.dense(FAR, u, w)
    there = kernels.dense(FAR, u + 1024, w + 1024)
    np.testing.assert_allclose(there, here, atol=5e-6)
    np.testing.assert_allclose(here, double_sum(u, w), atol=5e-6)
    # spread as far, rounding would bring |u - u'|^2 below zero on the diagonal
    assert np.max(kernels.dense(FAR, 1000 * u, 1000 * u)) <= 1
    v = vectors(6, 30, 2, "float32")
    tiled = kernels.apply(FAR, u + 1024, w + 1024, v, chunk=7)
    np.testing.assert_allclose(tiled, double_sum(u, w) @ v, atol=tolerance("sum", "float32"))


def test_derivatives_are_those_of_the_formula_on_the_diagonal_too():
    """d_i K = -(u - u')_i K / s^2, and d_i d'_j K = delta_ij / s^2 at u = u'."""
    u = vectors(7, 4)
    w = jnp.concatenate([u[:1], vectors(8, 3)])

    def value(x, y):
        return FAR.matrix(x[None], y[None])[0, 0]

    slope = jax.jit(jax.vmap(jax.vmap(jax.grad(value), (None, 0)), (0, None)))(u, w)
    away = u[:, None] - w
    expected = -away / WIDTH**2 * FAR.matrix(u, w)[..., None]
    np.testing.assert_allclose(slope, expected, atol=1e-14)
    # of the whole matrix, with respect to the second set, whose middle is taken away
    jacobian = jax.jit(jax.jacobian(FAR.matrix, argnums=1))(u, w)
    np.testing.assert_allclose(
        jacobian, jnp.einsum("xyk,yn->xynk", -expected, jnp.eye(4)), atol=1e-14
    )
    mixed = jax.jit(jax.jacfwd(jax.grad(value), argnums=1))
    np.testing.assert_allclose(mixed(u[0], u[0]), np.eye(3) / WIDTH**2, atol=1e-14)


def test_a_sum_and_a_product_are_their_algebra():
    u, w = vectors(9, 7), vectors(10, 5)
    near, far = double_sum(u, w, 0.8), double_sum(u, w)
    np.testing.assert_allclose(kernels.dense(SUM, u, w), 0.3 * near + 2 * far, rtol=1e-12)
    np.testing.assert_allclose(kernels.dense(kernels.Sum(PARTS), u, w), near + far, rtol=1e-12)
    np.testing.assert_allclose(kernels.dense(PRODUCT, u, w), near * far, rtol=1e-12)
    # widths of a product of Gaussians add up as inverse squares
    one = kernels.SquaredExponential((0.8**-2 + WIDTH**-2) ** -0.5)
    np.testing.assert_allclose(kernels.dense(PRODUCT, u, w), kernels.dense(one, u, w), rtol=1e-12)
    nested = kernels.Sum((PRODUCT, kernels.Sum((FAR,), (0.5,))))
    np.testing.assert_allclose(kernels.dense(nested, u, w), near * far + 0.5 * far, rtol=1e-12)
    for kernel in (SUM, PRODUCT, nested):
        assert isinstance(kernel, PairKernel)
        assert not isinstance(kernel, MatrixKernel)


def test_they_are_kernels_of_projective_points_as_well():
    z, w = projective(11, 7), projective(12, 6)
    parts = (kernels.Gaussian(0.4), kernels.Exponential(0.7))
    first, second = (np.asarray(kernels.dense(k, z, w)) for k in parts)
    found = kernels.dense(kernels.Sum(parts, (2.0, 0.0)), 1j * z, w)
    np.testing.assert_allclose(found, 2 * first, rtol=1e-12)
    found = kernels.dense(kernels.Product(parts), z, w)
    np.testing.assert_allclose(found, first * second, rtol=1e-12)


@pytest.mark.parametrize("kernel", [FAR, SUM, PRODUCT], ids=lambda k: type(k).__name__)
def test_they_are_positive_semi_definite(kernel):
    u = jnp.concatenate([vectors(13, 40), vectors(13, 5)])  # five points twice
    matrix = np.asarray(kernels.dense(kernel, u, u))
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-14)
    assert np.linalg.eigvalsh(matrix)[0] > -1e-13 * len(u)


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("kernel", [FAR, SUM, PRODUCT], ids=lambda k: type(k).__name__)
def test_tiles_of_real_vectors_are_the_dense_matrix(kernel, normalise):
    u, w, v = vectors(14, 11), vectors(15, 13), vectors(16, 13, 2)
    matrix = np.asarray(kernels.dense(kernel, u, w))
    if normalise:
        matrix = matrix / matrix.sum(1, keepdims=True)
        stored = kernels.dense(kernel, u, w, normalise=True)
        np.testing.assert_allclose(stored, matrix, rtol=1e-12)
    found = kernels.apply(kernel, u, w, v, normalise=normalise, chunk=5)
    np.testing.assert_allclose(found, matrix @ v, rtol=tolerance("sum"))
    for operator in (
        kernels.tiled_operator(kernel, u, w, normalise=normalise, chunk=5),
        kernels.dense_operator(kernel, u, w, normalise=normalise),
    ):
        np.testing.assert_allclose(operator @ v, matrix @ v, rtol=tolerance("sum"))


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Everywhere:
    """K = 1 wherever two points are: padded ones would count in full."""

    reads_vectors = True

    def matrix(self, z1, z2):
        return jnp.ones((len(z1), len(z2)), z1.real.dtype)


@pytest.mark.parametrize("chunk", [4, 13])
def test_padding_takes_no_part(chunk):
    v = jnp.arange(26.0).reshape(13, 2) + 1
    for u, w in ((vectors(0, 9), vectors(1, 13)), (projective(0, 9), projective(1, 13))):
        total = kernels.apply(Everywhere(), u, w, v, chunk=chunk)
        np.testing.assert_allclose(total, np.tile(np.sum(v, 0), (9, 1)), rtol=1e-14)
        mean = kernels.apply(Everywhere(), u, w, v, normalise=True, chunk=chunk)
        np.testing.assert_allclose(mean, np.tile(np.mean(v, 0), (9, 1)), rtol=1e-14)


def test_weights_are_leaves_that_may_be_traced():
    u, v = vectors(17, 6), vectors(18, 6, 2)
    near, far = (np.asarray(kernels.dense(k, u, u)) for k in PARTS)

    @jax.jit
    def size(weights):
        return jnp.vdot(v, kernels.apply(kernels.Sum(PARTS, weights), u, u, v))

    slope = jax.grad(size)((0.3, 2.0))
    np.testing.assert_allclose(slope[0], np.vdot(v, near @ v), rtol=1e-12)
    np.testing.assert_allclose(slope[1], np.vdot(v, far @ v), rtol=1e-12)

    @jax.jit
    def of(kernel):
        return kernel.matrix(u, u)

    for weights in ((1.0, 3.0), (2.0, 0.5)):
        found = of(kernels.Sum(PARTS, weights))
        np.testing.assert_allclose(found, weights[0] * near + weights[1] * far, rtol=1e-12)
    assert of._cache_size() == 1
    width = jax.grad(lambda s: jnp.sum(kernels.Product((s, FAR)).matrix(u, u)))(NEAR).width
    step = 1e-5
    ends = [
        jnp.sum(kernels.Product((kernels.SquaredExponential(0.8 + h), FAR)).matrix(u, u))
        for h in (step, -step)
    ]
    assert float(width) == pytest.approx(float(ends[0] - ends[1]) / (2 * step), rel=1e-6)


@pytest.mark.parametrize("kernel", [SUM, PRODUCT, FAR], ids=lambda k: type(k).__name__)
def test_a_tree_of_numbers_and_back(kernel):
    leaves, structure = jax.tree.flatten(kernel)
    assert leaves == {SUM: [0.8, WIDTH, 0.3, 2.0], PRODUCT: [0.8, WIDTH], FAR: [WIDTH]}[kernel]
    assert jax.tree.unflatten(structure, leaves) == kernel
    # with placeholders in place of numbers nothing is checked
    assert jax.tree.structure(jax.tree.map(lambda _: "axis", kernel)) == structure
    assert jax.tree.structure(kernels.Sum(PARTS)) != jax.tree.structure(PRODUCT)


def test_single_precision_stays():
    u, v = vectors(19, 6, dtype="float32"), vectors(20, 6, 2, "float32")
    for kernel in (SUM, PRODUCT, FAR):
        assert kernels.dense(kernel, u, u).dtype == "float32"
        assert kernels.apply(kernel, u, u, v).dtype == "float32"


def test_parts_decide_whether_real_vectors_are_read(as_user):
    u = vectors(21, 4)
    mixed = (FAR, kernels.Gaussian(0.3))
    assert SUM.reads_vectors
    assert PRODUCT.reads_vectors
    for kernel in (kernels.Gaussian(0.3), kernels.Sum(mixed), kernels.Product(mixed)):
        for make in (kernels.dense, kernels.tiled_operator, kernels.dense_operator):
            with pytest.raises(ValueError, match="z1: expected complex homogeneous coordinates"):
                make(kernel, u, u)
        assert kernels.dense(kernel, projective(1, 2), projective(2, 3)).shape == (2, 3)


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("z1", "z2", "message"),
    [
        (np.ones((2, 4)), np.ones((3, 4)) + 0j, "two sets of real vectors .* and complex128"),
        (np.ones((2, 4)) + 0j, np.ones((3, 4)), "z2: expected complex"),
        (np.ones((2, 4)), np.ones((3, 5)), r"z2: .*k = 4 in z1, got float64 of shape \(3, 5\)"),
        (np.ones((2, 4), int), np.ones((3, 4), int), "real vectors .* got int"),
        (np.ones((0, 4)), np.ones((3, 4)), "not empty"),
        (np.ones((2, 4)), np.ones((0, 4)), "not empty"),
        (np.ones(4), np.ones(4), "z1: expected an array of shape"),
    ],
)
def test_vectors_that_do_not_belong_together_are_refused(z1, z2, message):
    for kernel in (FAR, SUM):
        for make in (kernels.dense, kernels.tiled_operator, kernels.dense_operator):
            with pytest.raises(ValueError, match=message):
                make(kernel, z1, z2)


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kernels.Sum(()), "kernels: expected a tuple of at least one for a Sum"),
        (lambda: kernels.Product(()), "kernels: expected a tuple of at least one for a Product"),
        (lambda: kernels.Product([NEAR]), "kernels: expected a tuple"),
        (lambda: kernels.Sum(NEAR, FAR), "kernels: expected a tuple"),
        (lambda: kernels.Sum(PARTS, (1.0,)), "weights: expected one for each of 2 kernels, got 1"),
        (lambda: kernels.Sum(PARTS, ()), "weights: expected one for each of 2 kernels, got 0"),
        (lambda: kernels.Sum(PARTS, 2.0), "weights: expected one for each of 2 kernels, got 2.0"),
        (lambda: kernels.Sum(PARTS, (1.0, -0.1)), "weights: expected numbers of at least 0"),
        (lambda: kernels.Sum(PARTS, (float("nan"), 1)), "weights: expected numbers of at least 0"),
        (lambda: kernels.Sum(PARTS, (1, jnp.asarray(-2.0))), "weights: expected numbers of at"),
        (lambda: kernels.Sum((NEAR, kernels.Delta())), "values for pairs of points, got .*Delta"),
        (lambda: kernels.Product((kernels.Delta(),)), "mix components, and Delta, cannot be parts"),
        (
            lambda: kernels.FrozenNTK(None, None, (0, 3)),
            "model: expected a ComponentModel, got NoneType None",
        ),
        (
            lambda: kernels.Product((NEAR, kernels.TensorKernel(FAR, None))),
            "values for pairs of points, got .*TensorKernel",
        ),
        (lambda: kernels.SquaredExponential(0.0), "width"),
        (lambda: kernels.SquaredExponential(float("nan")), "width"),
    ],
)
def test_what_makes_no_kernel_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
