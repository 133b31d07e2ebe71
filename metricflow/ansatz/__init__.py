"""Ways to write a Kaehler metric: g = g_FS + d dbar phi, or g = d dbar K.

- :class:`SpectralMetric`: phi linear in invariant functions of bidegree (D, D)
- :class:`AlgebraicMetric`: K = (1/k) log s^dagger H s, for hypersurfaces without symmetry
- :class:`NetworkMetric`: phi a neural network of invariant features
- :class:`KernelPotentialMetric`: phi a sum of fixed kernels of invariant features
"""

from .algebraic import (
    AlgebraicMetric,
    Sections,
    algebraic_metric,
    balanced_form,
    form_parameters,
    fubini_study_form,
    hermitian_form,
    raised_form,
    section_basis,
    section_count,
    section_jets,
    section_values,
)
from .features import composed_hessian, feature_jets
from .networks import initial_parameters, mlp
from .potentials import (
    KernelPotentialMetric,
    NetworkMetric,
    kernel_hessians,
    network_hessians,
)
from .spectral import (
    SpectralBasis,
    SpectralMetric,
    basis_hessians,
    basis_jets,
    compact_metric,
    spectral_basis,
)
from .symmetry import (
    Symmetry,
    invariant_dimensions,
    invariant_orbits,
    no_symmetry,
    symmetry_group,
)

__all__ = [
    "AlgebraicMetric",
    "KernelPotentialMetric",
    "NetworkMetric",
    "Sections",
    "SpectralBasis",
    "SpectralMetric",
    "Symmetry",
    "algebraic_metric",
    "balanced_form",
    "basis_hessians",
    "basis_jets",
    "compact_metric",
    "composed_hessian",
    "feature_jets",
    "form_parameters",
    "fubini_study_form",
    "hermitian_form",
    "initial_parameters",
    "invariant_dimensions",
    "invariant_orbits",
    "kernel_hessians",
    "mlp",
    "network_hessians",
    "no_symmetry",
    "raised_form",
    "section_basis",
    "section_count",
    "section_jets",
    "section_values",
    "spectral_basis",
    "symmetry_group",
]
