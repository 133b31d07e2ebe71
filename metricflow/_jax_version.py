"""Refuse the jax versions that are known to compute wrong numbers.

jax 0.10.2 miscompiles batched matrix-vector reductions on the CPU (jax issue 39103): under jit,
``vmap(lambda r: sum((M @ r)**2))`` over 16,385 float64 rows returned 266342400 instead of
268435456.  jax 0.11.0 is reported to fail on some GPUs.  Importing this module refuses them.
"""

import jax

REFUSED = ("0.10.2", "0.11.0")


def refuse_broken_jax(version: str) -> None:
    """Raise ImportError if ``version`` of jax is known to compute wrong numbers."""
    if version in REFUSED:
        raise ImportError(
            f"metricflow: jax {version} is known to compute wrong numbers (jax issue 39103 and "
            "related); install another version, for example: pip install 'jax==0.10.1'"
        )


refuse_broken_jax(jax.__version__)
