"""Gradient transformations as linear maps, G^-1 at given parameters."""

from collections.abc import Callable
from typing import Any

import optax


def as_preconditioner(
    transformation: optax.GradientTransformation,
) -> Callable[[Any, Any], Any]:
    """(params, gradient) -> G(params)^-1 gradient, of a transformation that is linear in gradients.

    It turns gradient rules into operators: ``functools.partial(as_preconditioner(lne_gradient()),
    params)`` as the ``preconditioner`` of :func:`metricflow.kernels.metric_ntk` gives the LNE-NTK
    J G^-1 J^T, what training by that rule does to the network as a function; a
    :class:`metricflow.flows.NetworkFlow` takes the function of both arguments.

    Args:
        transformation: with a first update that is linear in the gradient and symmetric, such as
            :func:`metricflow.lne_gradient` in all its forms but ``"strong"``.  Momentum, Adam,
            clipping and weight decay are not.

    Source: RF 16, RF 22, MF 2.7
    """

    def precondition(params: Any, gradient: Any) -> Any:
        return transformation.update(gradient, transformation.init(params), params)[0]

    return precondition
