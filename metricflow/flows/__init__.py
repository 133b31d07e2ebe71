"""Flows d(state)/dt = -M(state) . dE(state) in the space of metrics.

Each flow has a State (what the next step needs), an Info (what a person wants to see), and
init / step / run.  A run that breaks down ends with a named :class:`Result`.
"""

from .gauss_newton import GaussNewton, GaussNewtonInfo, GaussNewtonState, LeastSquares
from .kernel import KernelFlow, KernelFlowInfo, KernelFlowState, KernelMetric, held_out_sigma
from .kernel_gauss_newton import (
    KernelGaussNewton,
    KernelGaussNewtonInfo,
    KernelGaussNewtonState,
)
from .monge_ampere import (
    AlgebraicPotential,
    LinearPotential,
    NetworkComponents,
    NetworkPotential,
)
from .network import (
    NetworkFlow,
    NetworkFlowInfo,
    NetworkFlowState,
    metric_velocity,
    parameter_velocity,
)
from .result import FlowError, Result

__all__ = [
    "AlgebraicPotential",
    "FlowError",
    "GaussNewton",
    "GaussNewtonInfo",
    "GaussNewtonState",
    "KernelFlow",
    "KernelFlowInfo",
    "KernelFlowState",
    "KernelGaussNewton",
    "KernelGaussNewtonInfo",
    "KernelGaussNewtonState",
    "KernelMetric",
    "LeastSquares",
    "LinearPotential",
    "NetworkComponents",
    "NetworkFlow",
    "NetworkFlowInfo",
    "NetworkFlowState",
    "NetworkPotential",
    "Result",
    "held_out_sigma",
    "metric_velocity",
    "parameter_velocity",
]
