"""What flows of Kaehler potentials share: inner products, names, what is to be seen of a step.

All lower <F(eta)> for a convex function F of the volume ratio; what makes them different is the
inner product of potentials in which they are gradient flows:

    "dirichlet"   int d u dbar v mu_g      dphi/dt = F'(eta)
    "mabuchi"     int u v mu_g             dphi/dt = -Delta F'(eta)
    "calabi_yau"  int u v mu_CY            dphi/dt = -eta Delta F'(eta)

With F = eta ln eta the first is the Kaehler-Ricci flow and the second the Calabi flow.  The
gradient with respect to the fixed measure mu_CY is the one that kernels know.
"""

from typing import NamedTuple

from jaxtyping import Array, Float, Int

from ..energies import ENTROPY, HELLINGER, SQUARE, ConvexFunction

INNER_PRODUCTS = ("dirichlet", "mabuchi", "calabi_yau")

#: The flows of potentials by name: a convex function and an inner product.
POTENTIAL_FLOWS: dict[str, tuple[ConvexFunction, str]] = {
    "kaehler_ricci": (ENTROPY, "dirichlet"),
    "calabi": (ENTROPY, "mabuchi"),
    "ultra_local": (SQUARE, "mabuchi"),
    "ultra_local_dirichlet": (SQUARE, "dirichlet"),
    "two_derivative": (HELLINGER, "dirichlet"),
}


class PotentialFlowInfo(NamedTuple):
    """What a person wants to see of a step, after it, on the grid or on the points of the flow.

    Attributes:
        time: flow time.
        energy: <F(eta)>.
        sigma: the sigma measure, <|1 - eta|>.
        min_eta: the smallest eta.
        result: the :class:`metricflow.flows.Result` code after the step.
    """

    time: Float[Array, ""]
    energy: Float[Array, ""]
    sigma: Float[Array, ""]
    min_eta: Float[Array, ""]
    result: Int[Array, ""]
