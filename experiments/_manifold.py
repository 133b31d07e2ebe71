"""Manifolds by name on the command line: ``fermat:3``, ``dwork:3:0.5``."""

from metricflow.geometry import Hypersurface, dwork, fermat

FORMS = "fermat:DIM or dwork:DIM:PSI"


def parse_manifold(text: str) -> Hypersurface:
    """The hypersurface that a text such as ``dwork:3:0.5`` names.

    Raises:
        ValueError: another form, or a singular manifold.
    """
    family, *numbers = text.split(":")
    try:
        if family == "fermat" and len(numbers) == 1:
            return fermat(int(numbers[0]))
        if family == "dwork" and len(numbers) == 2:
            return dwork(int(numbers[0]), complex(numbers[1]))
    except ValueError as error:
        raise ValueError(f"--manifold {text}: {error}") from None
    raise ValueError(f"--manifold: expected {FORMS}, got {text!r}")
