"""Kernels between points of projective space, and their action on functions over point sets.

A kernel acts on metrics component by component, Theta_ijkl(x, x') = delta_ik delta_jl K(x, x'), so
one scalar kernel serves all n^2 real components.  Kernels see homogeneous coordinates in a fixed
chart, z_s = 1; the radial ones do not depend on the scaling.
"""

from .infinite_width import ReluNTK
from .operators import Operator, apply, dense, dense_operator, tiled_operator
from .radial import Delta, Exponential, Gaussian

__all__ = [
    "Delta",
    "Exponential",
    "Gaussian",
    "Operator",
    "ReluNTK",
    "apply",
    "dense",
    "dense_operator",
    "tiled_operator",
]
