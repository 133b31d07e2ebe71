"""Ways to write a metric, most of them Kaehler: g = g_FS + d dbar phi, or g = d dbar K.

- :class:`SpectralMetric`: phi linear in invariant functions of bidegree (D, D)
- :class:`AlgebraicMetric`: K = (1/k) log s^dagger H s, for hypersurfaces without symmetry
- :class:`NetworkMetric`: phi a neural network of invariant features, :class:`PotentialModel` while
  it is trained
- :class:`ComponentMetric`: a network for the components, in four ways, :class:`ComponentModel`
  while it is trained; not Kaehler
- :class:`KernelPotentialMetric`: phi a sum of fixed kernels of invariant features
"""

from .._front_door import guard
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
from .features import composed_hessian, composed_jet, feature_jets
from .invariant_functions import SpectralBasis, basis_hessians, basis_jets
from .models import (
    ANSAETZE,
    ComponentData,
    ComponentInputs,
    ComponentMetric,
    ComponentModel,
    real_coordinates,
)
from .networks import (
    CosineNetwork,
    IndependentNetworks,
    Mlp,
    component_mlp,
    initial_parameters,
    mlp,
)
from .perceptrons import perceptron_hessians
from .pointwise import linearised, one_point, tangent_network
from .potentials import (
    KernelPotentialMetric,
    NetworkMetric,
    PotentialData,
    PotentialModel,
    kernel_hessians,
    kernel_jets,
    network_hessians,
    projective_features,
)
from .spectral import SpectralMetric, compact_metric
from .spectral_recursion import spectral_basis
from .symmetry import (
    Symmetry,
    invariant_dimensions,
    invariant_orbits,
    no_symmetry,
    symmetry_group,
)

__all__ = [
    "ANSAETZE",
    "AlgebraicMetric",
    "ComponentData",
    "ComponentInputs",
    "ComponentMetric",
    "ComponentModel",
    "CosineNetwork",
    "IndependentNetworks",
    "KernelPotentialMetric",
    "Mlp",
    "NetworkMetric",
    "PotentialData",
    "PotentialModel",
    "Sections",
    "SpectralBasis",
    "SpectralMetric",
    "Symmetry",
    "algebraic_metric",
    "balanced_form",
    "basis_hessians",
    "basis_jets",
    "compact_metric",
    "component_mlp",
    "composed_hessian",
    "composed_jet",
    "feature_jets",
    "form_parameters",
    "fubini_study_form",
    "hermitian_form",
    "initial_parameters",
    "invariant_dimensions",
    "invariant_orbits",
    "kernel_hessians",
    "kernel_jets",
    "linearised",
    "mlp",
    "network_hessians",
    "no_symmetry",
    "one_point",
    "perceptron_hessians",
    "projective_features",
    "raised_form",
    "real_coordinates",
    "section_basis",
    "section_count",
    "section_jets",
    "section_values",
    "spectral_basis",
    "symmetry_group",
    "tangent_network",
]

guard(globals())
