"""One small valid call of every public function and class: what bad calls are made from."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metricflow import (
    ansatz,
    checkpoint,
    clustering,
    data,
    diagnostics,
    discretize,
    energies,
    flows,
    geometry,
    kernels,
    optim,
    plotting,
    records,
    training,
)

COUNT = 6
KEY = jax.random.key(0)


class Call(NamedTuple):
    room: str
    name: str
    function: Callable
    arguments: tuple
    options: dict[str, Any]


class Material:
    """Points of a cubic curve, tori, networks, kernels: made when asked for, once."""

    manifold = geometry.fermat(1)
    other = geometry.fermat(2)
    grid = geometry.PeriodicGrid((3, 3))
    torus = geometry.KaehlerTorus(geometry.PeriodicGrid((3, 3)))
    gaussian = kernels.Gaussian(0.5)
    rbf = kernels.SquaredExponential(1.0)

    @functools.cached_property
    def z(self):
        t = np.linspace(0.2, 0.8, COUNT) * np.exp(1j * np.arange(COUNT))
        z = np.stack([np.ones_like(t), t, (-1 - t**3) ** (1 / 3)], axis=1)
        return jnp.asarray(z)

    @functools.cached_property
    def points(self):
        return geometry.points_at(self.manifold, self.z, chart=(0, 2))

    @functools.cached_property
    def basis(self):
        return ansatz.spectral_basis(self.manifold, 3, self.points)

    @functools.cached_property
    def sections(self):
        return ansatz.section_basis(self.manifold, 1, self.points)

    @functools.cached_property
    def features(self):
        return ansatz.feature_jets(self.basis, self.points)

    @functools.cached_property
    def network(self):
        return ansatz.mlp((3,))

    @functools.cached_property
    def theta(self):
        return ansatz.initial_parameters(KEY, self.network, self.features[0, :, 0])

    @functools.cached_property
    def component_model(self):
        return ansatz.ComponentModel(
            self.manifold, "multiplicative", ansatz.component_mlp(1, (3,), independent=False)
        )

    @functools.cached_property
    def component_data(self):
        return self.component_model.prepare(self.points)

    @functools.cached_property
    def component_theta(self):
        model, found = self.component_model, self.component_data
        return ansatz.initial_parameters(KEY, model.network, found.inputs[0])

    @functools.cached_property
    def kernel_state(self):
        flow = flows.KernelFlow(self.gaussian)
        return flow.init(self.points, dense=True)

    metric = geometry.FubiniStudyMetric(manifold)
    g = jnp.ones((COUNT, 1, 1), complex) * np.linspace(1, 2, COUNT)[:, None, None]
    eta = jnp.linspace(0.8, 1.2, COUNT)
    weight = jnp.ones(COUNT)
    line = jnp.arange(COUNT) // 3
    x = jnp.linspace(0.1, 0.9, 8).reshape(4, 2)
    y = jnp.linspace(-1.0, 1.0, 4).reshape(4, 1)
    w = jnp.linspace(-1.0, 1.0, 12).reshape(4, 3)
    grid_metric = jnp.broadcast_to(jnp.eye(2), (3, 3, 2, 2)) * 1.0
    field = jnp.linspace(0.5, 1.5, 9).reshape(3, 3)
    torus_metric = jnp.ones((3, 3, 1, 1), complex)
    images = np.arange(4 * 5 * 5 * 3, dtype=np.uint8).reshape(4, 5, 5, 3)
    labels = np.array([0, 0, 1, 1], np.int32)
    perceptron = ansatz.Mlp((3,), "tanh", 1)
    perceptron_theta = perceptron.init(KEY, jnp.ones(2))
    rotational = flows.RotationalRicciFlow(3, 16)
    ricci = flows.RicciFlow(grid)

    @functools.cached_property
    def image_set(self):
        return data.ImageSet(self.images, self.labels, ("a", "b"))


def plane(x):
    return jnp.eye(len(x)) * (1 + 0.1 * jnp.sum(x**2))


def hermitian(x):
    return jnp.eye(len(x)) * (1 + 0.1 * jnp.sum(jnp.abs(x) ** 2)) + 0j


def square(x):
    return jnp.sum(jnp.abs(x) ** 2)


def linear(parameters, x):
    return parameters["w"].T @ x


LINEAR = {"w": jnp.ones((2, 1))}


def _geometry(m: Material, axis: Any, folder: Any) -> Iterator[tuple]:
    g = geometry
    z, p, curve, chart = m.z, m.points, m.manifold, (0, 2)
    home = jnp.tile(jnp.array(chart), (COUNT, 1))
    point, spot, one = jnp.array([0.3, 0.4]), jnp.array([0.3 + 0.1j]), z[0]
    yield g.fermat, 1
    yield g.dwork, 1, 0.5
    yield g.hypersurface, np.eye(3, dtype=int) * 3, [1.0, 1.0, 1.0]
    yield g.random_hypersurface, KEY, 1
    yield g.PeriodicGrid, (3, 3), (1.0, 2.0)
    yield g.KaehlerTorus, m.grid, ((1.0,),)
    yield g.FubiniStudyMetric, curve
    yield m.metric, z, home
    yield m.metric.chart, z
    for function in (g.gradient, g.polynomial, g.residual, g.best_chart):
        yield function, curve, z
    yield g.chart_coordinates, z, home
    yield g.permute_to_chart, z, home, chart
    for function in (g.pullback, g.holomorphic_volume, g.neighbour_chart):
        yield function, curve, z, home
    yield g.transition, curve, z, home, (0, 1)
    yield g.home_chart, curve
    yield g.phase_symmetries, curve
    yield g.fubini_study_volume, curve
    yield g.fubini_study_determinant, curve, z, home[:, 1]
    yield g.fubini_study_distance, z, z[::-1]
    yield g.squared_distance, z, z[::-1]
    yield g.pairwise_distance, z, z[:3]
    yield g.nearest_neighbour, z, z[:3]
    yield functools.partial(g.fubini_study_metric), p
    yield g.mean_over_lines, m.eta, m.line
    yield g.variance_over_lines, m.eta, m.line
    yield g.points_at, curve, z
    yield g.project_to_hypersurface, curve, z
    yield g.sample_points, KEY, curve, 6
    yield g.sample_points_in_chart, KEY, curve, 6
    yield g.perturb_points, KEY, curve, p, 0.01
    yield g.local_point, curve, one, chart
    yield g.local_metric, m.metric, curve, one, chart
    for function in (g.hermitian_determinant, g.hermitian_frame, g.hermitian_inverse,
                     g.hermitian_pack, g.hermitian_pivots, g.hermitian_root):  # fmt: skip
        yield function, m.g
    yield g.hermitian_unpack, m.eta[:, None]
    for function in (g.christoffel, g.riemann, g.ricci, g.scalar_curvature):
        yield function, plane, point
    yield g.laplacian, plane, square, point
    for function in (g.kaehler_christoffel, g.kaehler_ricci, g.kaehler_riemann, g.kaehler_scalar):
        yield function, hermitian, spot
    yield g.kaehler_laplacian, hermitian, square, spot
    yield g.real_metric, hermitian
    yield g.holomorphic_derivative, square, spot, spot
    yield g.antiholomorphic_derivative, square, spot, spot
    yield g.real_derivatives, lambda z: jnp.sum(jnp.abs(z) ** 2, -1), z, p.pullback
    yield g.euler_density, m.metric, p
    yield g.euler_number, m.metric, p
    yield g.ricci_scalar, m.metric, p
    yield g.riemann_on_hypersurface, m.metric, p
    yield g.volume_slope_squared, m.metric, curve, p
    for function in (g.grid_christoffel, g.grid_ricci, g.grid_riemann, g.grid_scalar):
        yield function, m.grid, m.grid_metric
    for function in (g.grid_hessian, g.grid_laplacian):
        yield function, m.grid, m.grid_metric, m.field
    yield g.covariant_derivative, m.grid, m.grid_metric, m.grid_metric
    yield g.lichnerowicz, m.grid, m.grid_metric, m.grid_metric
    yield g.ricci_linearisation, m.grid, m.grid_metric, m.grid_metric
    yield g.lie_derivative, m.grid, m.grid_metric, m.grid_metric[..., 0]
    yield m.grid.derivative, m.field, 0
    for function in (m.grid.gradient, m.grid.laplacian, m.grid.smooth, m.grid.mean):
        yield function, m.field
    yield m.grid.integral, m.field
    yield m.grid.multiply, m.field, square
    yield m.grid.random_field, KEY, 1
    for function in (m.torus.slopes, m.torus.hessians, m.torus.metric):
        yield function, m.field
    for function in (m.torus.volume_ratio, m.torus.ricci, m.torus.ricci_scalar,
                     m.torus.double_divergence):  # fmt: skip
        yield function, m.torus_metric
    yield m.torus.laplacian, m.torus_metric, m.field
    yield m.torus.slope_squared, m.torus_metric, m.field


def _ansatz(m: Material, axis: Any, folder: Any) -> Iterator[tuple]:
    z, p, curve = m.z, m.points, m.manifold
    home = jnp.tile(jnp.array([0, 2]), (COUNT, 1))
    a = ansatz
    yield a.Mlp, (3,), "tanh", 1
    yield a.mlp, (3,)
    yield a.component_mlp, 1, (3,)
    yield a.CosineNetwork, 4, 1.0
    yield a.IndependentNetworks, a.Mlp((3,)), 2
    yield a.symmetry_group, curve
    yield a.no_symmetry, curve
    yield a.invariant_dimensions, a.symmetry_group(curve), 3
    yield a.invariant_orbits, a.symmetry_group(curve), 3
    yield a.spectral_basis, curve, 3, p
    yield a.projective_features, curve, geometry.sample_points(KEY, curve, 18)
    yield a.basis_hessians, m.basis, p
    yield a.basis_jets, m.basis, p
    yield a.feature_jets, m.basis, p
    yield m.basis.truncated, 3
    spectral = a.SpectralMetric(curve, m.basis, jnp.zeros(m.basis.size))
    yield a.SpectralMetric, curve, m.basis, jnp.zeros(m.basis.size)
    yield spectral.at, p
    yield spectral.potential, z
    yield spectral, z, home
    yield a.compact_metric, spectral, p
    yield a.section_basis, curve, 1, p
    yield a.section_count, curve, 1
    yield a.section_jets, m.sections, p
    yield a.section_values, m.sections, p
    yield a.balanced_form, m.sections, p
    yield a.form_parameters, jnp.eye(3, dtype=complex)
    yield a.hermitian_form, jnp.eye(3)
    yield a.fubini_study_form, curve, m.sections, p
    algebraic = a.AlgebraicMetric(curve, m.sections, jnp.eye(3))
    yield a.AlgebraicMetric, curve, m.sections, jnp.eye(3)
    yield algebraic, z, home
    yield a.raised_form, algebraic, m.sections, p
    yield a.algebraic_metric, jnp.eye(3), a.section_jets(m.sections, p), 1
    yield a.initial_parameters, KEY, m.network, m.features[0, :, 0]
    yield a.NetworkMetric, curve, m.basis, m.network, m.theta
    yield a.KernelPotentialMetric, curve, m.basis, 1.0, m.features[:2, :, 0], jnp.ones(2)
    yield a.kernel_hessians, m.features, m.features[:2, :, 0], 1.0, 1
    yield a.kernel_jets, m.features, m.features[:2, :, 0], 1.0, 1
    yield a.network_hessians, m.network, m.theta, m.features, 1
    yield a.composed_hessian, square, m.features[0], 1
    yield a.composed_jet, square, m.features[0], 1
    yield a.PotentialModel, curve, m.basis, m.network
    model = a.PotentialModel(curve, m.basis, m.network)
    yield model.prepare, p
    yield a.ComponentModel, curve, "multiplicative", a.component_mlp(1, (3,))
    yield m.component_model.prepare, p
    yield m.component_model.inputs, z, m.g
    yield m.component_model.metric, m.component_theta, m.component_data
    yield m.component_model.components, m.component_theta, m.component_data
    yield a.ComponentMetric, curve, "multiplicative", m.component_model.network, m.component_theta
    yield a.real_coordinates, z
    yield a.linearised, m.perceptron, m.perceptron_theta
    yield a.one_point, m.perceptron
    yield a.tangent_network, m.perceptron


def _energies(m: Material, axis: Any, folder: Any) -> Iterator[tuple]:
    p = m.points
    e = energies
    yield e.Energy, 1.0, 0.1, 0.1
    yield e.ConvexFunction, e.entropy
    yield e.calabi_energy, m.eta, m.eta, m.weight
    for function in (e.calabi_variation, e.einstein_hilbert_variation, e.two_derivative_variation,
                     e.printed_two_derivative_variation, e.ultra_local_variation):  # fmt: skip
        yield function, m.torus, m.torus_metric
    yield e.j_variation, m.torus, m.torus_metric, m.torus_metric
    for function in (e.entropy, e.hellinger, e.square):
        yield function, m.eta
    for function in (e.einstein_hilbert_energy, e.mabuchi_energy, e.two_derivative_energy,
                     e.ultra_local_energy):  # fmt: skip
        yield function, m.eta, m.weight
    yield e.kaehler_perelman_functional, m.eta, m.eta, m.weight
    yield e.j_functional, m.g, m.g, m.eta, m.g, m.eta, m.weight
    yield e.kaehler_loss, jnp.ones((COUNT, 2, 1)), m.g
    yield e.monge_ampere_residuals, m.g, p
    for function in (e.perelman_functional, e.perelman_rate, e.perelman_variation):
        yield function, m.grid, m.grid_metric, m.field
    yield e.weighted_volume, m.grid, m.grid_metric, m.field
    yield e.fixed_measure_velocity, m.grid, m.grid_metric, m.field
    yield e.ricci_loss, m.metric, p
    yield e.sigma_energy, m.eta[:, None], m.eta, m.weight, 1.0
    yield e.sigma_loss, m.g, m.eta, 1.0
    yield e.sigma_loss_variation, m.g, m.eta, 1.0
    yield e.transition_loss, m.g, m.g, m.g
    yield e.volume_loss, m.g, m.g
    yield e.volume_ratio_eta, m.g, m.eta, 1.0


def _diagnostics(m: Material, axis: Any, folder: Any) -> Iterator[tuple]:
    p = m.points
    d = diagnostics
    for function in (d.kappa_estimate, d.eta, d.sigma_measure, d.sigma_standard_error, d.gain,
                     d.volume_ratio, d.volume_ratio_standard_error, d.relative_eigenvalues,
                     d.min_eigenvalue, d.positive_fraction):  # fmt: skip
        yield function, m.g, p
    for function in (d.kaehler_defect, d.chart_mismatch, d.mean_abs_ricci, d.diagnose):
        yield function, m.metric, p


def _kernels(m: Material, axis: Any, folder: Any) -> Iterator[tuple]:
    z, p, x, y, curve, chart = m.z, m.points, m.x, m.y, m.manifold, (0, 2)
    k = kernels
    for cls in (k.Gaussian, k.Exponential, k.SquaredExponential, k.UnitGaussian):
        yield cls, 0.5
    yield k.PeriodicGaussian, 0.5, (1.0, 1.0)
    yield k.InfiniteNetwork, "relu", 1, 1.0, 0.1
    yield k.InfiniteCosineNetwork, 1.0
    yield k.Sum, (m.gaussian, m.gaussian)
    yield k.Product, (m.gaussian, m.gaussian)
    yield k.Rescaled, m.gaussian, square
    for kernel in (m.gaussian, k.Exponential(0.5), k.InfiniteNetwork()):
        yield kernel.matrix, z, z[:3]
    yield m.rbf.matrix, x, x[:2]
    for function in (k.dense, k.dense_operator, k.tiled_operator):
        yield function, m.gaussian, z, z[:3]
    yield k.apply, m.gaussian, z, z[:3], jnp.ones((3, 2))
    theta = jnp.ones((4, 4, 1, 1)) + jnp.eye(4)[:, :, None, None]
    for function in (k.block_eigenvalues, k.block_singular_values, k.joint_matrix,
                     k.joint_spectrum):  # fmt: skip
        yield function, theta
    yield k.effective_rank, m.eta
    yield k.imaginary_share, m.eta + 0j
    yield k.kernel_alignment, theta, theta
    yield k.target_alignment, theta, y
    yield k.wasserstein_distance, m.eta, m.eta
    yield k.spectral_filter, m.eta, 1.0
    yield k.kernel_regression, m.rbf, x, y
    yield k.leave_one_out, m.rbf, x, y
    yield k.log_marginal_likelihood, m.rbf, x, y
    yield k.ensemble_prediction, m.rbf, m.rbf, x, y, x[:2]
    yield k.regression_trajectory, m.rbf, x, y, x[:2], jnp.array([0.5, 1.0])
    yield k.kernel_velocity, m.rbf, x, x, m.eta[:4], y
    yield k.metric_ntk, linear, LINEAR, x
    yield k.metric_ntk_diagonal, linear, LINEAR, x
    yield k.metric_ntk_product, linear, LINEAR, x, x, y
    yield functools.partial(k.metric_ntk_components, pairs=[(0, 0)]), linear, LINEAR, x
    yield k.pulled_back, linear, LINEAR, x, y
    yield k.volume_factor, plane
    yield k.hessian_frame, curve, m.basis, p
    yield k.RootFrame, curve, chart
    yield k.TensorKernel, m.gaussian, k.RootFrame(curve, chart)


def _clustering(m: Material, axis: Any, folder: Any) -> Iterator[tuple]:
    z = m.z
    c = clustering
    yield c.fubini_study_clusters, z, 2
    yield c.batched_clusters, KEY, z, 2, 2
    yield c.birch_clusters, z, 2
    yield c.silhouette, z, m.labels.repeat(2)[:COUNT]
    yield c.ClusteredKernel, m.gaussian, z, jnp.arange(COUNT) // 3


def _discretize(m: Material, axis: Any, folder: Any) -> Iterator[tuple]:
    w = m.w
    q = discretize
    yield q.quantize, w, 2
    yield q.uniform, w, 2
    yield q.unsigned, jnp.abs(w), 2
    for function in (q.binary, q.ternary, q.mean_abs_scale, q.standardised, q.dorefa,
                     q.dorefa_weights, q.clipped):  # fmt: skip
        yield function, w
    for function in (q.lne_potential, q.hessian_metric, q.rank_one_share, q.dense_rank_one_metric):
        yield function, w, 0.1
    yield q.lne_natural_gradient, w, w, 0.1
    yield q.lne_divergence, w, w, 0.1
    yield q.closeness, w, w, 0.1
    yield q.tau_of_share, w, 0.5
    yield q.mirror, w, 1.0
    yield q.mirror_weights, w, 1.0
    yield q.error_decay, w, 1.0
    yield q.strong_inverse, KEY, jnp.eye(3)
    yield q.pack, w, 1
    yield q.unpack, q.pack(w, 1)
    yield q.packed_bytes, q.pack(w, 1)
    yield q.pack_tree, {"a": w}, lambda path: True, 1
    yield q.paths, {"a": w}
    yield q.joined, {"a": w}
    yield q.activation_quantizer, 2
    yield q.weight_quantizer, 2
    yield q.straight_through, q.binary
    yield q.uniform_policy, q.binary
    yield q.Quantization, q.binary
    policy = q.uniform_policy(q.binary)
    yield q.quantization, policy, "body/kernel"
    yield q.quantized_parameters, {"body": {"kernel": w}}, policy
    yield q.split_kernels, {"body": {"kernel": w}}, policy
    yield q.meta_quantizer, KEY, "fc"
    yield q.initial_memory, "lstm", 4, w
    yield (q.corrected_gradient, "fc", q.meta_quantizer(KEY, "fc", 4), w, w,
           q.initial_memory("fc", 4, w))  # fmt: skip
    yield q.dense_discrete_flow_step, jnp.ones((4, 3)), 0.1
    yield q.dense_translation_curvature, jnp.ones((4, 3)), 0.1
    yield q.translation_penalty, jnp.ones(3), jnp.ones((5, 3)), 0.1


def _flows(m: Material, axis: Any, folder: Any) -> Iterator[tuple]:
    a, e = ansatz, energies
    z, p, x, y, curve, chart = m.z, m.points, m.x, m.y, m.manifold, (0, 2)
    point = jnp.array([0.3, 0.4])
    f = flows
    yield f.GaussNewton, 0.1
    yield f.KernelFlow, m.gaussian, 0.1
    yield f.KernelFlow(m.gaussian).init, p
    yield f.KernelFlow(m.gaussian).run, m.kernel_state, 1
    yield f.KernelFlow(m.gaussian).metric, curve, m.kernel_state
    yield f.KernelFlow(m.gaussian).operator, z, z[:3]
    yield f.held_out_sigma, f.KernelFlow(m.gaussian), m.kernel_state, p
    yield f.KernelGaussNewton, m.gaussian, 0.01
    yield f.KernelGaussNewton(m.gaussian).init, p
    yield f.KernelMetric, curve, m.gaussian, z, jnp.ones((COUNT, 1)), chart, True
    yield f.RicciFlow, m.grid, "hamilton"
    yield f.conjugate_heat, m.ricci, jnp.stack([m.grid_metric] * 3), m.field, 0.01
    yield m.ricci.init, m.grid_metric
    yield m.ricci.velocity, m.grid_metric
    yield m.ricci.vector, m.grid_metric
    yield m.ricci.largest_step, m.grid_metric
    yield m.ricci.step, m.ricci.init(m.grid_metric), 0.01
    yield m.ricci.run, m.ricci.init(m.grid_metric), 1, 0.01
    yield f.measure_velocity, m.ricci, m.grid_metric, m.field
    yield f.uniform_equivalence, m.grid_metric, m.grid_metric
    yield f.RotationalRicciFlow, 3, 16
    sine = jnp.sin(m.rotational.coordinates())
    yield m.rotational.init, jnp.ones(16), sine
    yield m.rotational.velocity, jnp.ones(16), sine
    rotational = m.rotational.init(jnp.ones(16), sine)
    yield m.rotational.step, rotational, 0.001
    yield m.rotational.run, rotational, 1, 0.001
    yield f.TorusKaehlerFlow, m.torus
    torus_flow = f.TorusKaehlerFlow(m.torus)
    yield torus_flow.init, 0.01 * m.field
    yield torus_flow.velocity, 0.01 * m.field
    yield torus_flow.step, torus_flow.init(0.01 * m.field), 0.01
    yield torus_flow.run, torus_flow.init(0.01 * m.field), jnp.array([0.01])
    yield f.KaehlerFlow, e.ENTROPY, "dirichlet"
    tangents = f.spectral_tangents(m.basis, p)
    kaehler = f.KaehlerFlow()
    start = kaehler.init(jnp.zeros(m.basis.size))
    yield f.spectral_tangents, m.basis, p
    yield f.LinearTangents, p, a.basis_jets(m.basis, p)
    yield kaehler.step, start, tangents, 0.01
    yield kaehler.run, start, tangents, jnp.array([0.01])
    yield f.LinearPotential, p, a.basis_hessians(m.basis, p)
    yield f.AlgebraicPotential, p, a.section_jets(m.sections, p), 1
    yield f.NetworkPotential, p, m.features, m.network
    yield f.NetworkTangents, p, m.features, m.network
    linear_problem = f.LinearPotential(p, a.basis_hessians(m.basis, p))
    newton = f.GaussNewton()
    yield newton.init, jnp.zeros(m.basis.size)
    yield newton.run, newton.init(jnp.zeros(m.basis.size)), linear_problem, 1
    network_flow = f.NetworkFlow(m.perceptron, lambda values: jnp.sum(values**2))
    yield f.NetworkFlow, m.perceptron, square, 0.1
    yield network_flow.init, m.perceptron_theta
    yield network_flow.values, m.perceptron_theta, x
    yield network_flow.run, network_flow.init(m.perceptron_theta), x, 1
    yield f.metric_velocity, linear, LINEAR, x, x, y
    yield f.parameter_velocity, linear, LINEAR, x, y
    yield f.runge_kutta_step, lambda u: -u, point, 0.1
    yield f.implicit_euler_step, lambda u: -u, lambda t, r: r / (1 + t), point, 0.1
    yield f.rosenbrock_step, lambda u: -u, lambda t, r: r / (1 + t), point, 0.1


def _optim(m: Material, axis: Any, folder: Any) -> Iterator[tuple]:
    q = discretize
    o = optim
    yield o.ste_gradient, 1.0
    yield (o.dorefa_gradient,)
    yield o.exponential_slope, 10
    setting = o.RuleSetting(q.binary, 10, 0.1, KEY)
    yield o.gradient_rule, "ste", setting
    yield o.irnet_gradient, 1.0
    for function in (o.lne_gradient, o.scale_by_lne):
        yield function, 0.1
    yield o.metaquant_gradient, KEY
    yield o.mirror_descent_gradient, 1.0
    yield o.proximal_quantization, optax.sgd(0.1), 0.1
    yield o.rf_dnn_gradient, 0.1
    yield o.as_preconditioner, o.scale_by_lne(0.1)


def _data(m: Material, axis: Any, folder: Any) -> Iterator[tuple]:
    i = data
    yield i.channel_statistics, m.image_set
    yield i.random_crop_and_flip, KEY, m.images
    yield i.standardise, m.images, np.ones(3, np.float32), np.ones(3, np.float32)
    yield i.stratified_split, m.image_set, 2, 0
    yield i.subset, m.image_set, 2, 0
    yield i.translate, m.images, 1, -1
    yield i.load, "cifar10", folder
    yield i.read_cifar10, folder
    yield i.read_cifar100, folder
    yield i.read_idx, folder / "images"
    yield i.read_idx_images, folder, ("a", "b")
    yield i.read_image_folder, folder, (4, 4)
    yield i.read_split_folder, folder, (4, 4)
    yield i.ImageStream, folder, "train"


def _checkpoint(m: Material, axis: Any, folder: Any) -> Iterator[tuple]:
    yield checkpoint.save_metric, folder / "new.npz", m.metric
    yield checkpoint.load_metric, folder / "metric.npz"
    yield checkpoint.read_provenance, folder / "metric.npz"


def _records(m: Material, axis: Any, folder: Any) -> Iterator[tuple]:
    yield records.calabi_yau_metric, "fermat_quartic"
    yield records.provenance, "fermat_quartic"


def _training(m: Material, axis: Any, folder: Any) -> Iterator[tuple]:
    x, w = m.x, m.w
    t = training
    yield t.save_network, folder / "new_network.npz", {"params": {"w": w}}
    yield t.load_network, folder / "network.npz"
    yield t.Checkpoints, folder / "checkpoints"

    def loss(parameters, batch):
        return jnp.sum((batch @ parameters["w"]) ** 2), {}

    loop = t.Training(loss, optax.sgd(0.1), 2)
    yield t.Training, loss, optax.sgd(0.1), 2
    yield loop.init, KEY, LINEAR
    yield loop.run, loop.init(KEY, LINEAR), x, 1


def _plotting(m: Material, axis: Any, folder: Any) -> Iterator[tuple]:
    r = plotting
    rows = [[0.1, 2.0], [0.2, 1.5]]
    yield r.accuracy_against_time, axis, {"network": [[1.0, 0.1], [2.0, 0.05]]}
    yield r.colour_bar, axis, (0.0, 1.0)
    yield r.distance_matrix, axis, np.ones((3, 3))
    yield functools.partial(r.drift_against_width, label="a", power=-0.5, fitted=[8, 16]), \
        axis, [8, 16], [[0.1, 0.2], [0.05, 0.1]]  # fmt: skip
    yield r.drift_history, axis, [0, 1], {"a": [[0.1, 0.2], [0.3, 0.4]]}
    yield r.gain_against_distance, axis, {"relu": rows}
    yield functools.partial(r.gain_against_epoch, constant={"gaussian": 2.0}), \
        axis, [0, 1], {"relu": [[1.0, 2.0], [1.5, 2.5]]}  # fmt: skip
    yield r.gain_bars, axis, {"relu": {"mean": 2.0, "std": 0.5}}
    yield r.local_limit, axis, [0.1, 0.2], {"a": [0.1, 0.2]}
    yield functools.partial(r.nearest_neighbour_distances, prefactor=1.0, exponent=-0.2), \
        axis, [10, 20], [0.1, 0.05], [0.2, 0.1], [0.3, 0.2]  # fmt: skip
    yield functools.partial(r.regression_history, name="relu"), axis, [1.0, 2.0], \
        {"error": [1.0, 0.5], "deviation": [1.0, 0.6]}  # fmt: skip
    yield functools.partial(r.search_history, name="relu"), axis, [1.0, 2.0]
    yield functools.partial(r.sigma_history, name="relu"), axis, [1.0, 2.0], [1.0, 2.0]
    yield r.spectrum_histogram, axis, {"a": [0.1, 1.0]}


ROOMS = {
    "geometry": _geometry,
    "ansatz": _ansatz,
    "energies": _energies,
    "diagnostics": _diagnostics,
    "kernels": _kernels,
    "clustering": _clustering,
    "discretize": _discretize,
    "flows": _flows,
    "optim": _optim,
    "data": _data,
    "checkpoint": _checkpoint,
    "records": _records,
    "training": _training,
    "plotting": _plotting,
}


def valid_calls(room: str, axis: Any, folder: Any, material: Material) -> Iterator[Call]:
    """All of a room; ``axis`` of matplotlib, ``folder`` with files to read."""
    for function, *arguments in ROOMS[room](material, axis, folder):
        inner, options = function, {}
        if isinstance(function, functools.partial):
            inner, options = function.func, dict(function.keywords)
        owner = getattr(inner, "__self__", None)
        if isinstance(inner, type) or hasattr(inner, "__name__"):
            name = inner.__name__
        else:
            name = type(inner).__name__
        if owner is not None:
            name = f"{type(owner).__name__}.{name}"
        yield Call(room, name, inner, tuple(arguments), options)
