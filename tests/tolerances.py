"""Every tolerance of the suite: relative unless the name says otherwise, by dtype."""

import numpy as np

_TABLE = {
    # algebra that should be exact up to a few roundings
    "rounding": {"float32": 2e-6, "float64": 1e-14},
    # chains of such algebra: inverses, pull-backs, transitions
    "algebra": {"float32": 2e-4, "float64": 1e-11},
    # kernels near the diagonal, relative
    "kernel": {"float32": 3e-6, "float64": 1e-12},
    # kernels of infinite networks, relative to the largest entry
    "closed form": {"float32": 1e-6, "float64": 1e-12},
    # tangent kernels by two routes, relative to the largest entry
    "tangents": {"float32": 5e-6, "float64": 1e-13},
    # sums over hundreds of points in another order
    "sum": {"float32": 1e-4, "float64": 1e-11},
    # |P| / |z|^d of sampled points, absolute
    "residual": {"float32": 1e-6, "float64": 1e-13},
    # central differences against derivatives
    "difference": {"float64": 1e-6},
}


def tolerance(name: str, dtype: object = "float64") -> float:
    return _TABLE[name][str(np.finfo(np.dtype(dtype)).dtype)]  # type: ignore[call-overload]
