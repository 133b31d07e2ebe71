"""Flows d(state)/dt = -M(state) . dE(state) in the space of metrics.

Each flow has a State (what the next step needs), an Info (what a person wants to see), and
init / step / run.  A run that breaks down ends with a named :class:`Result`.
"""

from .kernel import KernelFlow, KernelFlowInfo, KernelFlowState, KernelMetric, held_out_sigma
from .result import FlowError, Result

__all__ = [
    "FlowError",
    "KernelFlow",
    "KernelFlowInfo",
    "KernelFlowState",
    "KernelMetric",
    "Result",
    "held_out_sigma",
]
