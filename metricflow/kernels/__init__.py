"""Kernels between points, and their action on functions over point sets.

Scalar kernels act component by component, Theta_ijkl(x, x') = delta_ik delta_jl K(x, x'), so one
serves all n^2 real components.  They see homogeneous coordinates in a fixed chart, z_s = 1; those
of the Fubini-Study distance do not depend on the scaling.  :class:`TensorKernel` compares tensors
instead.  The metric-NTK of a finite network mixes components too: :func:`metric_ntk` and its
relatives, and :class:`FrozenNTK` as a kernel of a flow.  :func:`kernel_regression` and what stands
beside it solve the flow of the squared error.
"""

from .._front_door import guard
from .composite import Product, Sum
from .euclidean import (
    FourierFeatures,
    InfiniteCosineNetwork,
    PeriodicGaussian,
    Rescaled,
    UnitGaussian,
    kernel_velocity,
    volume_factor,
)
from .frozen import FrozenNTK, FrozenOperator
from .infinite_width import InfiniteNetwork
from .operators import Operator, apply, dense, dense_operator, tiled_operator
from .radial import Delta, Exponential, Gaussian, SquaredExponential
from .regression import (
    EnsemblePrediction,
    KernelFit,
    ensemble_prediction,
    kernel_regression,
    leave_one_out,
    log_marginal_likelihood,
    regression_trajectory,
)
from .solvers import spectral_filter
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
from .stax import StaxKernel
from .tangent_kernel import (
    metric_ntk,
    metric_ntk_components,
    metric_ntk_diagonal,
    metric_ntk_product,
    pulled_back,
)
from .tensor import (
    FrameValues,
    HessianFrame,
    RootFrame,
    TensorKernel,
    TensorOperator,
    hessian_frame,
)

__all__ = [
    "Delta",
    "EnsemblePrediction",
    "Exponential",
    "FourierFeatures",
    "FrameValues",
    "FrozenNTK",
    "FrozenOperator",
    "Gaussian",
    "HessianFrame",
    "InfiniteCosineNetwork",
    "InfiniteNetwork",
    "KernelFit",
    "Operator",
    "PeriodicGaussian",
    "Product",
    "Rescaled",
    "RootFrame",
    "SquaredExponential",
    "StaxKernel",
    "Sum",
    "TensorKernel",
    "TensorOperator",
    "UnitGaussian",
    "apply",
    "block_eigenvalues",
    "block_singular_values",
    "dense",
    "dense_operator",
    "effective_rank",
    "ensemble_prediction",
    "hessian_frame",
    "imaginary_share",
    "joint_matrix",
    "joint_spectrum",
    "kernel_alignment",
    "kernel_regression",
    "kernel_velocity",
    "leave_one_out",
    "log_marginal_likelihood",
    "metric_ntk",
    "metric_ntk_components",
    "metric_ntk_diagonal",
    "metric_ntk_product",
    "pulled_back",
    "regression_trajectory",
    "spectral_filter",
    "target_alignment",
    "tiled_operator",
    "volume_factor",
    "wasserstein_distance",
]

# asked not to raise, a regression answers with what it found
guard(globals(), may_be_nan=("KernelFit",))
