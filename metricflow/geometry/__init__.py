"""Geometry of Calabi-Yau hypersurfaces in projective space, and of flat tori on grids.

Conventions, used everywhere in the library:

- Wirtinger derivatives: d_z = (d_x - i d_y) / 2 and dbar_z = (d_x + i d_y) / 2 with z = x + i y.
- Components: ``g[a, b]`` = g_(a bbar) = d_a dbar_b K, a Hermitian matrix.
- Reference metric: g_FS = d dbar log |z|^2 pulled back to the hypersurface, without 1/pi; a line
  then has area pi, and Vol(X) = d pi^n / n! (the integral of det g over the coordinates).
- Lengths: ds^2 = Re(g_(a bbar) dx^a dxbar^b), so that Fubini-Study distance is
  arccos(|<z, z'>| / |z| |z'|).
- Curvature: the real metric of :mod:`.kaehler_curvature` is ds^2 = 2 Re(g_(a bbar) dx^a dxbar^b),
  twice the lengths above, so that Riemannian and Kaehler formulas share their Ricci tensor.
- Charts: (scaled index s, eliminated index e), z_s = 1 and z_e solved from P = 0; the local
  coordinates x^a are the other z_i in increasing order.  ``pullback[a, i]`` = d z_i / d x^a.
- The holomorphic volume form is Omega = dx^1 ... dx^n / (dP/dz_e): |Omega|^2 = 1 / |dP/dz_e|^2.
"""

from .._front_door import guard
from .charts import (
    best_chart,
    chart_coordinates,
    holomorphic_volume,
    home_chart,
    neighbour_chart,
    permute_to_chart,
    pullback,
    transition,
)
from .curvature import christoffel, laplacian, ricci, riemann, scalar_curvature
from .distances import (
    NearestNeighbour,
    fubini_study_distance,
    nearest_neighbour,
    pairwise_distance,
    squared_distance,
)
from .euler import EulerNumber, euler_density, euler_number
from .fubini_study import FubiniStudyMetric, fubini_study_determinant, fubini_study_metric
from .grid_curvature import (
    covariant_derivative,
    grid_christoffel,
    grid_hessian,
    grid_laplacian,
    grid_ricci,
    grid_riemann,
    grid_scalar,
    lichnerowicz,
    lie_derivative,
    ricci_linearisation,
)
from .hermitian import (
    hermitian_determinant,
    hermitian_frame,
    hermitian_inverse,
    hermitian_pack,
    hermitian_pivots,
    hermitian_root,
    hermitian_unpack,
)
from .hypersurface import (
    Hypersurface,
    dwork,
    fermat,
    fubini_study_volume,
    gradient,
    hypersurface,
    phase_symmetries,
    polynomial,
    random_hypersurface,
    residual,
)
from .hypersurface_curvature import (
    ricci_scalar,
    riemann_on_hypersurface,
    volume_slope_squared,
)
from .kaehler_curvature import (
    kaehler_christoffel,
    kaehler_laplacian,
    kaehler_ricci,
    kaehler_riemann,
    kaehler_scalar,
    real_metric,
)
from .kaehler_torus import KaehlerTorus
from .local_coordinates import local_metric, local_point
from .monte_carlo import mean_over_lines, variance_over_lines
from .periodic_grid import PeriodicGrid
from .sampling import (
    Points,
    perturb_points,
    points_at,
    project_to_hypersurface,
    sample_points,
    sample_points_in_chart,
)
from .wirtinger import antiholomorphic_derivative, holomorphic_derivative, real_derivatives

__all__ = [
    "EulerNumber",
    "FubiniStudyMetric",
    "Hypersurface",
    "KaehlerTorus",
    "NearestNeighbour",
    "PeriodicGrid",
    "Points",
    "antiholomorphic_derivative",
    "best_chart",
    "chart_coordinates",
    "christoffel",
    "covariant_derivative",
    "dwork",
    "euler_density",
    "euler_number",
    "fermat",
    "fubini_study_determinant",
    "fubini_study_distance",
    "fubini_study_metric",
    "fubini_study_volume",
    "gradient",
    "grid_christoffel",
    "grid_hessian",
    "grid_laplacian",
    "grid_ricci",
    "grid_riemann",
    "grid_scalar",
    "hermitian_determinant",
    "hermitian_frame",
    "hermitian_inverse",
    "hermitian_pack",
    "hermitian_pivots",
    "hermitian_root",
    "hermitian_unpack",
    "holomorphic_derivative",
    "holomorphic_volume",
    "home_chart",
    "hypersurface",
    "kaehler_christoffel",
    "kaehler_laplacian",
    "kaehler_ricci",
    "kaehler_riemann",
    "kaehler_scalar",
    "laplacian",
    "lichnerowicz",
    "lie_derivative",
    "local_metric",
    "local_point",
    "mean_over_lines",
    "nearest_neighbour",
    "neighbour_chart",
    "pairwise_distance",
    "permute_to_chart",
    "perturb_points",
    "phase_symmetries",
    "points_at",
    "polynomial",
    "project_to_hypersurface",
    "pullback",
    "random_hypersurface",
    "real_derivatives",
    "real_metric",
    "residual",
    "ricci",
    "ricci_linearisation",
    "ricci_scalar",
    "riemann",
    "riemann_on_hypersurface",
    "sample_points",
    "sample_points_in_chart",
    "scalar_curvature",
    "squared_distance",
    "transition",
    "variance_over_lines",
    "volume_slope_squared",
]

guard(globals())
