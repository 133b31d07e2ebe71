"""Tensors of the spectral basis and steps of Gauss-Newton, against the matrix products in them."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from benchmarks._timing import compare
from metricflow import ansatz, geometry
from metricflow.flows import GaussNewton, LinearPotential

DEGREE = 18


def rows(degree: int = DEGREE) -> list[dict]:
    manifold = geometry.fermat(3)
    size = int(ansatz.invariant_dimensions(ansatz.symmetry_group(manifold), degree)[-1])
    points = geometry.sample_points(jax.random.key(0), manifold, 4 * size)
    basis = ansatz.spectral_basis(manifold, degree, points)
    problem = LinearPotential(points, ansatz.basis_hessians(basis, points))
    method = GaussNewton()
    state = method.init(jnp.zeros(basis.size))
    residuals, jacobian = (np.asarray(x) for x in problem.jacobian(state.parameters))
    # the recursion by itself: a lower triangular matrix times 16 numbers a point
    mixing = np.asarray(basis.mixing)
    jets = np.random.default_rng(0).normal(size=(basis.size, 16 * 512))

    def products() -> None:
        for _ in range(-(-len(points.weight) // 512)):
            scipy.linalg.blas.dtrmm(1.0, mixing, jets, lower=1)

    shape = f"{basis.size} functions, {len(points.weight)} points"
    return [
        compare(
            f"tensors of the spectral basis of the quintic, {shape}",
            lambda: ansatz.basis_hessians(basis, points),
            {"its matrix product alone, BLAS": products},
        ),
        compare(
            f"Gauss-Newton step, {shape}",
            lambda: method.run(state, problem, 1),
            {
                "LAPACK least squares with the same Jacobian": lambda: scipy.linalg.lstsq(
                    jacobian, residuals, lapack_driver="gelsy"
                )
            },
        ),
    ]
