"""Metric flows: d(state)/dt = -M(state) . dE(state), with M a kernel or an inverse metric."""

import jax as _jax

from ._jax_version import refuse_broken_jax as _refuse_broken_jax

_refuse_broken_jax(_jax.__version__)
from ._version import __version__  # noqa: E402
from . import geometry  # noqa: E402
