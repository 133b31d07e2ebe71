"""Flows d(state)/dt = -M(state) . dE(state) in the space of metrics.

Each flow has a State (what the next step needs), an Info (what a person wants to see), and
init / step / run.  Flows of kernels and networks move values of a metric or parameters; the local
flows move a Kaehler potential, or a metric on a grid.  A run that breaks down ends with a named
:class:`Result`.
"""

from .._front_door import guard
from .conjugate_heat import conjugate_heat, measure_velocity
from .gauss_newton import GaussNewton, GaussNewtonInfo, GaussNewtonState, LeastSquares
from .kaehler import KaehlerFlow, KaehlerFlowState, spectral_tangents
from .kaehler_torus import TorusFlowState, TorusKaehlerFlow
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
from .potential_flows import POTENTIAL_FLOWS, PotentialFlowInfo
from .result import FlowError, Result
from .ricci import RicciFlow, RicciFlowInfo, RicciFlowState, uniform_equivalence
from .rotational_ricci import (
    RotationalRicciFlow,
    RotationalRicciInfo,
    RotationalRicciState,
)
from .tangent_potentials import LinearTangents, NetworkTangents, TangentPotential
from .time_steps import implicit_euler_step, rosenbrock_step, runge_kutta_step

__all__ = [
    "POTENTIAL_FLOWS",
    "AlgebraicPotential",
    "FlowError",
    "GaussNewton",
    "GaussNewtonInfo",
    "GaussNewtonState",
    "KaehlerFlow",
    "KaehlerFlowState",
    "KernelFlow",
    "KernelFlowInfo",
    "KernelFlowState",
    "KernelGaussNewton",
    "KernelGaussNewtonInfo",
    "KernelGaussNewtonState",
    "KernelMetric",
    "LeastSquares",
    "LinearPotential",
    "LinearTangents",
    "NetworkComponents",
    "NetworkFlow",
    "NetworkFlowInfo",
    "NetworkFlowState",
    "NetworkPotential",
    "NetworkTangents",
    "PotentialFlowInfo",
    "Result",
    "RicciFlow",
    "RicciFlowInfo",
    "RicciFlowState",
    "RotationalRicciFlow",
    "RotationalRicciInfo",
    "RotationalRicciState",
    "TangentPotential",
    "TorusFlowState",
    "TorusKaehlerFlow",
    "conjugate_heat",
    "held_out_sigma",
    "implicit_euler_step",
    "measure_velocity",
    "metric_velocity",
    "parameter_velocity",
    "rosenbrock_step",
    "runge_kutta_step",
    "spectral_tangents",
    "uniform_equivalence",
]

guard(globals())
