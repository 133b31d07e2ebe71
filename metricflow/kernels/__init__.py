"""Kernels between points, and their action on functions over point sets.

Radial and infinite-width kernels act on metrics component by component, Theta_ijkl(x, x') =
delta_ik delta_jl K(x, x'), so one scalar kernel serves all n^2 real components.  They see
homogeneous coordinates in a fixed chart, z_s = 1; the radial ones do not depend on the scaling.
The metric-NTK of a finite network mixes components: :func:`metric_ntk` and its relatives, and
:class:`FrozenNTK` as a kernel of a flow.
"""

from .frozen import FrozenNTK, FrozenOperator
from .infinite_width import ReluNTK
from .operators import Operator, apply, dense, dense_operator, tiled_operator
from .radial import Delta, Exponential, Gaussian
from .spectra import (
    block_eigenvalues,
    block_singular_values,
    effective_rank,
    imaginary_share,
    joint_matrix,
    joint_spectrum,
    kernel_alignment,
    target_alignment,
    wasserstein_distance,
)
from .tangent_kernel import (
    metric_ntk,
    metric_ntk_components,
    metric_ntk_diagonal,
    metric_ntk_product,
    pulled_back,
)

__all__ = [
    "Delta",
    "Exponential",
    "FrozenNTK",
    "FrozenOperator",
    "Gaussian",
    "Operator",
    "ReluNTK",
    "apply",
    "block_eigenvalues",
    "block_singular_values",
    "dense",
    "dense_operator",
    "effective_rank",
    "imaginary_share",
    "joint_matrix",
    "joint_spectrum",
    "kernel_alignment",
    "metric_ntk",
    "metric_ntk_components",
    "metric_ntk_diagonal",
    "metric_ntk_product",
    "pulled_back",
    "target_alignment",
    "tiled_operator",
    "wasserstein_distance",
]
