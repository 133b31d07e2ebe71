"""Energies of a metric: scalars that a flow lowers, with their variations.

:mod:`.pointwise` has the losses that networks and kernels are trained with, :mod:`.kaehler` the
functionals on Kaehler metrics whose flows are Kaehler-Ricci, Calabi and others, :mod:`.convex` the
functions of the volume ratio that these are made of; :mod:`.perelman` has the functional of real
metrics that Ricci flow raises.
"""

from .._front_door import guard
from .convex import ENTROPY, HELLINGER, SQUARE, ConvexFunction, entropy, hellinger, square
from .kaehler import (
    calabi_energy,
    calabi_variation,
    einstein_hilbert_energy,
    einstein_hilbert_variation,
    j_functional,
    j_variation,
    kaehler_perelman_functional,
    mabuchi_energy,
    printed_two_derivative_variation,
    two_derivative_energy,
    two_derivative_variation,
    ultra_local_energy,
    ultra_local_variation,
)
from .perelman import (
    fixed_measure_velocity,
    perelman_functional,
    perelman_rate,
    perelman_variation,
    weighted_volume,
)
from .pointwise import (
    GRADIENTS,
    TERMS,
    Energy,
    kaehler_loss,
    monge_ampere_residuals,
    ricci_loss,
    sigma_energy,
    sigma_loss,
    sigma_loss_variation,
    transition_loss,
    volume_loss,
    volume_ratio_eta,
)

__all__ = [
    "ENTROPY",
    "GRADIENTS",
    "HELLINGER",
    "SQUARE",
    "TERMS",
    "ConvexFunction",
    "Energy",
    "calabi_energy",
    "calabi_variation",
    "einstein_hilbert_energy",
    "einstein_hilbert_variation",
    "entropy",
    "fixed_measure_velocity",
    "hellinger",
    "j_functional",
    "j_variation",
    "kaehler_loss",
    "kaehler_perelman_functional",
    "mabuchi_energy",
    "monge_ampere_residuals",
    "perelman_functional",
    "perelman_rate",
    "perelman_variation",
    "printed_two_derivative_variation",
    "ricci_loss",
    "sigma_energy",
    "sigma_loss",
    "sigma_loss_variation",
    "square",
    "transition_loss",
    "two_derivative_energy",
    "two_derivative_variation",
    "ultra_local_energy",
    "ultra_local_variation",
    "volume_loss",
    "volume_ratio_eta",
    "weighted_volume",
]

guard(globals())
