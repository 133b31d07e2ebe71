"""Ladders of models for record metrics: one method each, from a coarse model to a fine one.

A rung is fitted by Gauss-Newton to the Monge-Ampere equation and starts from the rung below.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from experiments._precision import in_precision
from metricflow import ansatz, geometry
from metricflow.flows import AlgebraicPotential, GaussNewton, LinearPotential, NetworkPotential

_MEMORY = 7e9  # bytes that derivative tensors or section jets may take


class Ladder(Protocol):
    """A family of models of growing size."""

    stride: int  # how many rungs up it may jump

    def sizes(self) -> list[int]:
        """The rungs, in increasing order."""
        ...

    def work(self, size: int) -> float:
        """About how many floating point operations a rung takes."""
        ...

    def fit(self, size: int, metric: Any) -> tuple[Any, dict]:
        """The model of a rung, from the metric of the rung before (None at first)."""
        ...

    def evaluate(self, metric: Any, points: geometry.Points) -> jax.Array:
        """g at held-out points, shape (N, n, n)."""
        return metric(points.z, points.chart)


@jax.jit
def _metric(problem: LinearPotential, coefficients: jax.Array) -> jax.Array:
    return problem.metric(coefficients)


@jax.jit
def _residuals(problem: LinearPotential, coefficients: jax.Array) -> jax.Array:
    return problem.residuals(coefficients)


def _positive_start(problem: LinearPotential, coefficients: jax.Array) -> jax.Array:
    """The coefficients, or zero (Fubini-Study) if their metric fails at one of the new points."""
    sound = bool(jnp.all(jnp.isfinite(_residuals(problem, coefficients))))
    return coefficients if sound else jnp.zeros_like(coefficients)


class SpectralLadder(Ladder):
    """phi linear in the invariant functions of bidegree (D, D); a rung is D."""

    stride = 6

    def __init__(self, manifold: geometry.Hypersurface, key: jax.Array, seconds: float):
        self.manifold = manifold
        self.symmetry = ansatz.symmetry_group(manifold)
        self.dimensions = ansatz.invariant_dimensions(self.symmetry, 40)
        last = max(self.sizes())
        self.pool = geometry.sample_points(key, manifold, self._points(last))

    def _points(self, degree: int) -> int:
        return 4 * int(self.dimensions[degree]) + 300

    def sizes(self) -> list[int]:
        """Degrees or numbers whose tensors fit into memory."""
        components = self.manifold.dim**2
        fits = [
            d
            for d in range(8, 41)
            if 8 * components * self._points(d) * self.dimensions[d] < _MEMORY
        ]
        return [d for d in fits if self.dimensions[d] > self.dimensions[d - 1]]

    def work(self, size: int) -> float:
        """Cubic in the number of functions."""
        m = float(self.dimensions[size])
        # jets of all functions once, a QR factorisation a step
        return self._points(size) * m**2 * (2 * (1 + self.manifold.dim) ** 2 + 20)

    def fit(self, size: int, metric: Any) -> tuple[Any, dict]:
        """Eight Gauss-Newton steps on the first rung, two later."""
        points = jax.tree.map(lambda x: x[: self._points(size)], self.pool)
        below = metric.basis if metric is not None else None
        basis = ansatz.spectral_basis(
            self.manifold, size, points, symmetry=self.symmetry, start=below
        )
        known = np.zeros(0) if metric is None else np.asarray(metric.coefficients)
        coefficients = jnp.asarray(np.pad(known, (0, basis.size - len(known))))
        problem = LinearPotential(points, ansatz.basis_hessians(basis, points))
        method = GaussNewton()
        start = _positive_start(problem, coefficients)
        # the rung below is deep in the quadratic regime
        steps = 2 if np.any(start) else 8
        state, infos = method.run(method.init(start), problem, steps, tolerance=1e-3)
        found = ansatz.SpectralMetric(self.manifold, basis, state.parameters)
        return found, _fit_record(basis.size, points, infos)

    def evaluate(self, metric: Any, points: geometry.Points) -> jax.Array:
        """By the program that made the training tensors: calling the metric compiles another."""
        problem = LinearPotential(points, ansatz.basis_hessians(metric.basis, points))
        return _metric(problem, metric.coefficients)


class AlgebraicLadder(Ladder):
    """K = (1/k) log s^dagger H s in single precision; a rung is k."""

    stride = 1

    def __init__(self, manifold: geometry.Hypersurface, key: jax.Array, seconds: float):
        self.manifold, self.key = manifold, key

    def sizes(self) -> list[int]:
        """Degrees whose section jets fit into memory."""
        row = 4 * 2 * (1 + self.manifold.dim)
        counts = {k: ansatz.section_count(self.manifold, k) for k in range(1, 9)}
        return [k for k, s in counts.items() if row * s * self._points(k) < _MEMORY]

    def _points(self, k: int) -> int:
        return int(2.5 * ansatz.section_count(self.manifold, k) ** 2) + 500

    def work(self, size: int) -> float:
        """Quartic in the number of sections."""
        s = float(ansatz.section_count(self.manifold, size))
        # some 200 products with the Jacobian, forward or backward
        return 200 * self._points(size) * 8 * s**2 * (1 + self.manifold.dim)

    def fit(self, size: int, metric: Any) -> tuple[Any, dict]:
        """Gauss-Newton by conjugate gradients in single precision."""
        points = geometry.sample_points(self.key, self.manifold, self._points(size))
        sections = ansatz.section_basis(self.manifold, size, points)
        if metric is None:
            start = ansatz.fubini_study_form(self.manifold, sections, points)
        else:
            start = ansatz.raised_form(metric, sections, points)
        single = in_precision(points, "float32")
        jets = ansatz.section_jets(in_precision(sections, "float32"), single)
        problem = AlgebraicPotential(single, jets, size)
        method = GaussNewton(solver="iterative", iterations=60, tolerance=0.02, damping=1e-7)
        state, infos = method.run(
            method.init(in_precision(start, "float32")), problem, 6, tolerance=0.1
        )
        parameters = jnp.asarray(state.parameters, points.weight.dtype)
        found = ansatz.AlgebraicMetric(self.manifold, sections, parameters)
        return found, _fit_record(parameters.size, points, infos)


class NetworkLadder(Ladder):
    """phi a perceptron of invariant features, by Levenberg-Marquardt; a rung is more steps."""

    stride = 1
    steps = 8

    def __init__(self, manifold: geometry.Hypersurface, key: jax.Array, seconds: float):
        self.manifold, self.key = manifold, key
        width, count = (24, 3000) if seconds < 200 else (48, 10_000)
        self.widths = (width, width)
        self.points = geometry.sample_points(key, manifold, count)
        self.basis = ansatz.spectral_basis(manifold, _feature_degree(manifold), self.points)
        self.features = ansatz.feature_jets(self.basis, self.points)
        self.network = ansatz.mlp(self.widths)
        self.damping = 1e-5

    def sizes(self) -> list[int]:
        """No end."""
        return list(range(1, 1000))

    def work(self, size: int) -> float:
        """The same for every rung."""
        return 1e9

    def fit(self, size: int, metric: Any) -> tuple[Any, dict]:
        """More Levenberg-Marquardt steps on the same points."""
        if metric is None:
            key = jax.random.fold_in(self.key, 1)
            parameters = ansatz.initial_parameters(key, self.network, self.features[0, :, 0])
        else:
            parameters = metric.parameters
        problem = NetworkPotential(self.points, self.features, self.network)
        method = GaussNewton(damping=1e-5, adaptive=True, factor="cholesky")
        state = method.init(parameters)._replace(damping=jnp.asarray(self.damping))
        state, infos = method.run(state, problem, self.steps)
        self.damping = float(state.damping)
        found = ansatz.NetworkMetric(self.manifold, self.basis, self.network, state.parameters)
        count = sum(x.size for x in jax.tree.leaves(parameters))
        return found, {**_fit_record(count, self.points, infos), "damping": self.damping}


class KernelLadder(Ladder):
    """phi a sum of Gaussians of fixed width at centres; a rung is the number of centres."""

    stride = 2
    width = 50.0

    def __init__(self, manifold: geometry.Hypersurface, key: jax.Array, seconds: float):
        self.manifold = manifold
        self.points = geometry.sample_points(key, manifold, self._points(max(self.sizes())))
        self.basis = ansatz.spectral_basis(manifold, _feature_degree(manifold), self.points)

    def _points(self, centres: int) -> int:
        return 4 * centres

    def sizes(self) -> list[int]:
        """Degrees or numbers whose tensors fit into memory."""
        components = self.manifold.dim**2
        sizes = [125, 250, 500, 1000, 1500, 2000, 3000, 4000]
        return [m for m in sizes if 8 * components * m * self._points(m) < _MEMORY]

    def work(self, size: int) -> float:
        """Cubic in the number of centres."""
        return 20.0 * self._points(size) * size**2

    def fit(self, size: int, metric: Any) -> tuple[Any, dict]:
        """Gauss-Newton with more centres and points."""
        points = jax.tree.map(lambda x: x[: self._points(size)], self.points)
        features = ansatz.feature_jets(self.basis, points)
        centres = features[:size, :, 0]
        hessians = ansatz.kernel_hessians(features, centres, self.width, self.manifold.dim)
        known = np.zeros(0) if metric is None else np.asarray(metric.coefficients)
        coefficients = jnp.asarray(np.pad(known, (0, size - len(known))))
        method = GaussNewton(damping=1e-20)
        problem = LinearPotential(points, hessians)
        start = _positive_start(problem, coefficients)
        state, infos = method.run(method.init(start), problem, 8, tolerance=1e-2)
        found = ansatz.KernelPotentialMetric(
            self.manifold, self.basis, self.width, centres, state.parameters
        )
        return found, _fit_record(size, points, infos)


LADDERS: dict[str, type] = {
    "spectral": SpectralLadder,
    "algebraic": AlgebraicLadder,
    "network": NetworkLadder,
    "kernel": KernelLadder,
}


def _fit_record(parameters: int, points: geometry.Points, infos: list) -> dict:
    return {
        "parameters": int(parameters),
        "points": len(points.weight),
        "steps": len(infos),
        "training_rms": float(infos[-1].loss) ** 0.5,
    }


def _feature_degree(manifold: geometry.Hypersurface) -> int:
    """The lowest D with more invariant functions than twice the real dimension, plus two."""
    dimensions = ansatz.invariant_dimensions(ansatz.symmetry_group(manifold), 40)
    enough = np.flatnonzero(dimensions > 4 * manifold.dim + 1)
    return int(enough[0])
