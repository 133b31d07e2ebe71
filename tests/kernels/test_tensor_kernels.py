"""Kernels between tensors: the block matrix, symmetry, independence of charts, flows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow import ansatz, diagnostics, flows, geometry, kernels
from metricflow.energies import GRADIENTS, sigma_loss_variation
from metricflow.flows import KernelFlow, KernelGaussNewton, KernelMetric
from metricflow.kernels.operators import MatrixKernel, Operator
from tests.tolerances import tolerance

HOME = (0, 4)
COUNT = 400  # training points on the quintic


def head(points, count, first=0):
    return jax.tree.map(lambda x: x[first : first + count], points)


def close(found, expected, name="algebra", dtype="float64"):
    found, expected = np.asarray(found), np.asarray(expected)
    scale = np.max(np.abs(expected))
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=tolerance(name, dtype))


@pytest.fixture(scope="module")
def sample(quintic):
    return geometry.sample_points_in_chart(jax.random.key(0), quintic, COUNT + 100)


@pytest.fixture(scope="module")
def train(sample):
    return head(sample, COUNT)


@pytest.fixture(scope="module")
def frame(quintic, train):
    basis = ansatz.spectral_basis(quintic, 5, head(train, 60))
    return kernels.hessian_frame(quintic, basis, train)


@pytest.fixture(scope="module")
def kernel(frame):
    return kernels.TensorKernel(kernels.SquaredExponential(10.0), frame)


@pytest.fixture(scope="module")
def values(frame, train):
    """The frame at the training points, all at once."""
    return frame(train.z)


class Given:
    """A frame that was computed before, at the points that come first."""

    def __init__(self, values):
        self.values = values

    def __call__(self, z):
        return jax.tree.map(lambda x: x[: len(z)], self.values)


def kernel_of(kind, quintic, values):
    if kind == "hessian":
        return kernels.TensorKernel(kernels.SquaredExponential(2.0), Given(values))
    return kernels.TensorKernel(kernels.Gaussian(0.4), kernels.RootFrame(quintic, HOME))


def blocks(kernel, z):
    """sum_k T_kI(x) K(u(x), u(x')) T_kJ(x'), written out: (N, n^2, N, n^2)."""
    inputs, tensors = (np.asarray(x) for x in kernel.frame(z))
    scalar = np.asarray(kernels.dense(kernel.kernel, inputs, inputs))
    return np.einsum("xki,xy,ykj->xiyj", tensors, scalar, tensors)


@pytest.mark.equation("MF 2.12")
@pytest.mark.parametrize("kind", ["hessian", "root"])
def test_the_operator_is_the_block_matrix(quintic, train, values, kind):
    kernel, z = kernel_of(kind, quintic, values), train.z[:17]
    theta = blocks(kernel, z)
    v = jnp.asarray(np.random.default_rng(1).normal(size=(17, 9)))
    assert isinstance(kernel, MatrixKernel)
    for operator in (
        kernels.tiled_operator(kernel, z, z, chunk=5),
        kernels.dense_operator(kernel, z, z),
        kernel.operator(z, z, chunk=17),
    ):
        assert isinstance(operator, Operator)
        assert isinstance(operator, kernels.TensorOperator)
        close(operator @ v, np.einsum("xiyj,yj->xi", theta, v))
    # to fewer points than it comes from, and back
    close(kernels.apply(kernel, z[:7], z, v, chunk=5), np.einsum("xiyj,yj->xi", theta[:7], v))
    close(
        kernels.dense_operator(kernel, z, z[:7]) @ v[:7],
        np.einsum("xiyj,yj->xi", theta[:, :, :7], v[:7]),
    )
    matrix = theta.reshape(17 * 9, 17 * 9)
    close(matrix, matrix.T, "rounding")
    eigenvalues = np.linalg.eigvalsh(matrix)
    assert eigenvalues[0] > -1e-13 * eigenvalues[-1]
    # it mixes components: off-diagonal blocks are far from zero
    off = theta[:, 0, :, 1]
    assert np.max(np.abs(off)) > 1e-3 * np.max(np.abs(matrix))


@pytest.mark.equation("MF 2.15", "MF 2.16")
def test_a_root_frame_acts_as_the_metric_on_both_sides(quintic, train):
    """sum_k T_k tr(T_k h) = g h g: the size of an update is measured by g_FS."""
    z, g = train.z[:17], np.asarray(geometry.fubini_study_metric(head(train, 17)))
    tensors = kernels.RootFrame(quintic, HOME)(z).tensors
    h = geometry.hermitian_unpack(np.random.default_rng(2).normal(size=(17, 9)))
    found = jnp.einsum("xki,xkj,xj->xi", tensors, tensors, geometry.hermitian_pack(h))
    close(found, geometry.hermitian_pack(g @ np.asarray(h) @ g))
    # orthonormal for the product tr(g^-1 A g^-1 B)
    mixed = np.linalg.inv(g)[:, None] @ np.asarray(geometry.hermitian_unpack(tensors))
    gram = np.einsum("xkab,xlba->xkl", mixed, mixed).real
    np.testing.assert_allclose(gram, np.tile(np.eye(9), (17, 1, 1)), atol=tolerance("algebra"))


def test_the_tensors_of_a_hessian_frame(quintic, train, frame, values):
    """Size of g_FS on average, T_0 along g_FS, functions of variance one."""
    assert frame.chart == HOME
    assert values.tensors.shape == (COUNT, 1 + frame.basis.size, 9)
    g = np.asarray(geometry.fubini_study_metric(train))
    tensors = np.asarray(geometry.hermitian_unpack(values.tensors))
    close(tensors[:, 0], g)
    mixed = np.linalg.inv(g)[:, None] @ tensors
    size = np.mean(np.einsum("xkab,xkba->xk", mixed, mixed).real, axis=0)
    np.testing.assert_allclose(size, 3, rtol=tolerance("algebra"))
    np.testing.assert_allclose(np.std(values.inputs, axis=0), 1, rtol=tolerance("algebra"))
    assert np.max(np.abs(frame.scales - 1)) > 0.01


def test_its_tensors_are_mixed_derivatives_of_its_functions(train, frame, values):
    """4 d_v dbar_v y = y(z+hv) + y(z-hv) + y(z+ihv) + y(z-ihv) - 4 y(z) over h^2."""
    rng, step, few = np.random.default_rng(3), 2e-4, head(train, 80)
    direction = rng.normal(size=3) + 1j * rng.normal(size=3)
    v = jnp.einsum("a,xai->xi", direction, few.pullback)
    turns = jnp.array([1, -1, 1j, -1j, 0])
    # the functions are defined off the hypersurface too
    y = frame((few.z + step * turns[:, None, None] * v).reshape(COUNT, 5)).inputs
    y = y.reshape(5, 80, -1) * frame.scales
    expected = (jnp.sum(y[:4], axis=0) - 4 * y[4]) / (4 * step**2)
    tensors = geometry.hermitian_unpack(values.tensors[:80, 1:] * frame.sizes[1:, None])
    found = jnp.einsum("a,xkab,b->xk", direction, tensors, direction.conj()).real
    scale = float(jnp.max(jnp.abs(expected)))
    np.testing.assert_allclose(found / scale, expected / scale, atol=1e-5)


@pytest.fixture(scope="module")
def fitted(kernel, sample, train):
    """Eight Gauss-Newton steps, with sigma at other points after each."""
    method, test = KernelGaussNewton(kernel, damping=1e-3), head(sample, 100, COUNT)
    start = method.init(train, dense=True)
    watch = flows.held_out_sigma(KernelFlow(kernel), start.flow, test, dense=True)
    state, info, seen = method.run(start, 8, observe=watch)
    return start, state, info, seen, test


def test_gauss_newton_finds_a_metric_that_generalises(fitted):
    _, _, info, seen, test = fitted
    plain = float(diagnostics.sigma_measure(geometry.fubini_study_metric(test), test))
    assert np.all(np.diff(info.loss) < 0)
    assert plain / float(seen[-1]) > 500  # 1600; Gaussian(0.5) on the components: 5.4


@pytest.fixture(scope="module")
def flowed(fitted, kernel):
    flow = KernelFlow(kernel, step_size=0.03, gradient="euclidean", measure="mean")
    return flow, *flow.run(fitted[0].flow, 4)[:2]


def test_the_gradient_flow_lowers_sigma(flowed, train):
    _, state, info = flowed
    last = diagnostics.sigma_measure(state.g, train)
    assert np.all(np.diff(info.energy) < 0)
    assert float(last) < 0.6 * float(info.sigma[0])


def mapped(points):
    """Images of points under symmetries of the quintic in one chart, and what they do to x.

    A pair (z', f) with g(x) = f(g(x')) for an invariant metric.
    """
    turn = np.exp(2j * np.pi / 5)
    phases = np.array([2, 1, 0, 3, 4])
    slope = turn ** (phases - phases[0])[1:4]  # dx'_a / dx_a
    order = np.array([0, 2, 3, 1, 4])
    back = np.argsort(order[1:4] - 1)
    z = np.asarray(points.z)
    return {
        "phases": (z * turn**phases, lambda g: slope[:, None] * g * slope.conj()),
        "conjugation": (z.conj(), np.conj),
        "permutation": (z[:, order], lambda g: g[:, back][:, :, back]),
    }


@pytest.fixture(scope="module")
def mismatches(quintic, fitted, flowed, train, kernel):
    """How far metrics are from invariant, by symmetry, and their values at training points."""
    test, coefficients = head(fitted[-1], 40), fitted[1].flow.coefficients
    images = mapped(test)
    other = np.asarray(geometry.neighbour_chart(quintic, test.z, HOME))
    z = np.concatenate([test.z, *(z for z, _ in images.values()), test.z, train.z[:40]])
    chart = np.tile(np.asarray(HOME), (len(z), 1))
    chart[160:200] = other
    change = np.asarray(geometry.transition(quintic, test.z, HOME, other))
    size = float(jnp.max(jnp.abs(coefficients)))
    gaussian = KernelMetric(
        quintic, kernels.Gaussian(0.5), train.z, 1e-3 * coefficients / size, HOME, normalise=False
    )
    found = {}
    flow, state, _ = flowed
    metrics = {
        "fitted": KernelGaussNewton(kernel).metric(quintic, fitted[1]),
        "flowed": flow.metric(quintic, state),
        "components": gaussian,
    }
    for name, metric in metrics.items():
        g = np.asarray(metric(z, chart)).reshape(6, 40, 3, 3)
        pulled = {k: f(g[i]) for i, (k, (_, f)) in enumerate(images.items(), 1)}
        pulled["chart"] = np.linalg.inv(change) @ g[4] @ np.linalg.inv(change.conj().mT)
        moved = np.linalg.norm(g[0] - np.asarray(geometry.fubini_study_metric(test)), axis=(1, 2))
        gaps = {k: np.linalg.norm(p - g[0], axis=(1, 2)) for k, p in pulled.items()}
        # relative to the correction
        found[name] = {k: np.max(gap) / np.max(moved) for k, gap in gaps.items()}, g[5]
    return found


@pytest.mark.parametrize("symmetry", ["phases", "conjugation", "permutation", "chart"])
def test_metrics_are_as_symmetric_as_the_quintic(mismatches, symmetry):
    """To rounding, wherever the training points lie; those of a component kernel are not."""
    for name in ("fitted", "flowed"):
        assert mismatches[name][0][symmetry] < tolerance("algebra")
    assert mismatches["components"][0][symmetry] > 1e-2


def test_the_metric_is_the_flow_at_its_points(mismatches, fitted, flowed):
    close(mismatches["fitted"][1], fitted[1].flow.g[:40])
    close(mismatches["flowed"][1], flowed[1].g[:40])


@pytest.fixture(scope="module")
def plain_surface():
    """A quartic surface without symmetry, its points, and features of projective space."""
    exponents = [[4, 0, 0, 0], [0, 4, 0, 0], [0, 0, 4, 0], [0, 0, 0, 4], [2, 1, 1, 0], [1, 0, 1, 2]]
    manifold = geometry.hypersurface(exponents, [1, 1.1, 0.9, 1.2, 0.4 + 0.3j, -0.5j])
    # P as a polynomial in z_3, whatever the law of its roots is
    rng = np.random.default_rng(4)
    z = rng.normal(size=(40, 4)) + 1j * rng.normal(size=(40, 4))
    for row in z:
        free = row[:3] ** 4 @ [1, 1.1, 0.9] + (0.4 + 0.3j) * row[0] ** 2 * row[1] * row[2]
        row[3] = np.roots([1.2, 0, -0.5j * row[0] * row[2], 0, free])[0]
    points = geometry.points_at(manifold, z, chart=(0, 3))
    return manifold, points, ansatz.projective_features(manifold, points)


@pytest.fixture(scope="module")
def in_two_charts(plain_surface):
    """Updates by gradients, and Gauss-Newton steps, in each of two charts."""
    manifold, points, basis = plain_surface
    found = []
    for chart in ((0, 3), (1, 2)):
        here = geometry.points_at(manifold, points.z, chart=chart)
        frame = kernels.hessian_frame(manifold, basis, here)
        kernel = kernels.TensorKernel(kernels.SquaredExponential(4.0), frame)
        method = KernelGaussNewton(kernel, damping=0.1)
        start = method.init(here, dense=True)
        state, info, _ = method.run(start, 3)
        run = {"newton": state.flow.g}
        g = start.flow.g
        for gradient in GRADIENTS:
            slope = sigma_loss_variation(g, here.omega2, 1.0, power=2.0, gradient=gradient)
            update = start.flow.operator @ geometry.hermitian_pack(slope)
            run[gradient] = geometry.hermitian_unpack(update)
        found.append((here, frame, run, info, method.metric(manifold, state)))
    return found


def test_without_symmetry_the_flow_does_not_depend_on_the_chart(plain_surface, in_two_charts):
    """Tensors paired with the derivative of the energy; not with its covariant gradient."""
    manifold, points, _ = plain_surface
    (first, frame, run, info, _), (second, other, again, _, _) = in_two_charts
    change = np.asarray(geometry.transition(manifold, points.z, frame.chart, other.chart))

    def moved(g):
        return change @ np.asarray(g) @ change.conj().mT

    for name in ("newton", "euclidean"):
        gap = moved(run[name]) - again[name]
        size = np.linalg.norm(again[name], axis=(1, 2))
        assert np.max(np.linalg.norm(gap, axis=(1, 2)) / size) < tolerance("algebra")
    gap = moved(run["covariant"]) - again["covariant"]
    assert np.max(np.abs(gap)) > 0.1 * np.max(np.abs(again["covariant"]))
    assert info.loss[-1] < 0.5 * info.loss_before[0]
    np.testing.assert_allclose(other.sizes, frame.sizes, rtol=tolerance("algebra"))
    assert np.max(np.abs(np.asarray(first.z - second.z))) > 0.1


def test_without_symmetry_one_metric_serves_all_charts(in_two_charts):
    here, _, run, _, metric = in_two_charts[0]
    close(metric(here.z, here.chart), run["newton"])
    there = in_two_charts[1][0]
    again = metric(there.z, there.chart)
    size = np.linalg.norm(again, axis=(1, 2))
    expected = in_two_charts[1][2]["newton"]
    gap = np.linalg.norm(again - expected, axis=(1, 2)) / size
    assert np.max(gap) < tolerance("algebra")


def test_single_precision_stays(quintic, train, in_two_charts):
    """Frames made in double precision follow the points."""
    here, frame, _, _, metric = in_two_charts[0]
    exact, z = frame(here.z), here.z.astype("complex64")
    found = frame(z)
    assert (found.inputs.dtype, found.tensors.dtype) == ("float32", "float32")
    close(found.inputs, exact.inputs, "algebra", "float32")
    close(found.tensors, exact.tensors, "algebra", "float32")
    v = jnp.asarray(np.random.default_rng(5).normal(size=(17, 4)), "float32")
    wide, narrow = (
        kernels.apply(kernels.TensorKernel(metric.kernel.kernel, Given(x)), z[:17], z[:17], v)
        for x in (exact, found)
    )
    assert (narrow.dtype, wide.dtype) == ("float32", "float64")
    close(narrow, wide, "algebra", "float32")
    rooted = kernels.RootFrame(quintic, HOME)(train.z[:17].astype("complex64"))
    assert (rooted.inputs.dtype, rooted.tensors.dtype) == ("complex64", "float32")


def test_a_kernel_is_a_tree(kernel):
    again = jax.tree.unflatten(jax.tree.structure(kernel), jax.tree.leaves(kernel))
    assert again.frame.chart == kernel.chart == HOME
    assert again.kernel == kernel.kernel
    np.testing.assert_array_equal(again.frame.sizes, kernel.frame.sizes)


def test_constants_of_a_compiled_function_are_points_too(quintic, train):
    """Points that jit closes over are looked at when it is traced."""
    root, z = kernels.RootFrame(quintic, HOME), train.z[:17]
    kernel = kernels.TensorKernel(kernels.Gaussian(0.4), root)
    v = jnp.ones((17, 9))
    found = jax.jit(lambda v: kernels.apply(kernel, z, z, v))(v)
    close(found, kernels.apply(kernel, z, z, v))


def test_what_makes_no_sense_is_refused(as_user, quintic, train, kernel, values):
    z, v = train.z[:9], jnp.ones((9, 9))
    root = kernels.RootFrame(quintic, HOME)
    for frame in (root, kernel.frame):
        with pytest.raises(ValueError, match="expected points of chart"):
            frame(2 * z)
    with pytest.raises(ValueError, match="kernel: expected a scalar kernel, got TensorKernel"):
        kernels.TensorKernel(kernel, root)
    with pytest.raises(ValueError, match="z1: expected complex homogeneous"):
        kernels.apply(kernels.TensorKernel(kernels.Gaussian(0.3), Given(values)), z, z, v)
    with pytest.raises(ValueError, match="has no N1 x N2 matrix"):
        kernels.dense(kernel, z, z)
    for make in (kernels.tiled_operator, kernels.dense_operator):
        with pytest.raises(ValueError, match="normalise: the rows"):
            make(kernel, z, z, normalise=True)
    # the same coordinate is scaled, another one eliminated
    other = kernels.TensorKernel(kernels.Gaussian(0.3), kernels.RootFrame(quintic, (0, 2)))
    for method in (KernelFlow(other), KernelGaussNewton(other)):
        with pytest.raises(ValueError, match=r"points of the chart \(0, 2\) of the kernel, got"):
            method.init(head(train, 9))
