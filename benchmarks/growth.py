"""How cost grows: exponents fitted to processor seconds, beside those expected."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import scipy.linalg

from benchmarks import _programs
from benchmarks._timing import beside, measure
from metricflow.flows.gauss_newton import FACTORS

SIDES = ("parameters", "samples")  # of a Jacobian
STEPS = 3  # sizes, each twice the one before


def rows(points: int = 8192) -> list[dict]:
    """Sizes up to ``points`` for pairs, and others in proportion."""
    side = max(points // 4, 16)
    return [
        _growth("step of a kernel flow", "points", 2, _programs.kernel_step, _sizes(points)),
        _growth("metric-NTK product", "points", 1, _programs.ntk_product, _sizes(20 * points)),
        *(
            _gauss_newton_growth(factor, solver, along, side)
            for factor in FACTORS
            for solver in SIDES
            for along in SIDES
        ),
    ]


def _gauss_newton_growth(factor: str, solver: str, along: str, side: int) -> dict:
    """The other side of the Jacobian is so much longer or shorter that its powers are small."""
    short = along == solver
    fixed = 4 * side if short else max(side // 16, 4)

    def shaped(make: Callable[..., Any]) -> Callable[[int], Any]:
        def made(size: int) -> Any:
            shape = (size, fixed) if along == "samples" else (fixed, size)
            return make(*shape, solver, factor)

        return made

    return _growth(
        f"Gauss-Newton, {factor}, {solver}' side",
        along,
        2 if short else 1,
        shaped(_programs.gauss_newton),
        _sizes(side if short else 32 * side),
        shaped(_lapack),
    )


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """The slope of log seconds against log size, by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def _sizes(largest: int) -> list[int]:
    return [largest // 2**k for k in reversed(range(STEPS))]


def _growth(
    name: str,
    along: str,
    expected: float,
    make: Callable[[int], _programs.Program],
    sizes: Sequence[int],
    lapack: Callable[[int], Callable[[], Any]] | None = None,
) -> dict:
    found = [measure(_called(make(size))) for size in sizes]
    seconds = [row["cpu"] for row in found]
    growth = {
        "of": name,
        "along": along,
        "sizes": list(sizes),
        "cpu": seconds,
        "exponent": exponent(sizes, seconds),
        "expected": expected,
    }
    peers = {}
    if lapack is not None:
        # library routines become more efficient with size, which an exponent shows as well
        peer = [measure(lapack(size), repeats=3) for size in sizes]
        growth["lapack"] = exponent(sizes, [row["cpu"] for row in peer])
        peers["LAPACK"] = beside(found[-1], peer[-1])
    return {
        "name": f"{name}, {sizes[-1]} {along}",
        "ours": found[-1],
        "peers": peers,
        "growth": growth,
    }


def _called(program: _programs.Program) -> Callable[[], Any]:
    function, arguments = program
    compiled = jax.jit(function)
    return lambda: compiled(*arguments)


def _lapack(samples: int, parameters: int, solver: str, factor: str) -> Callable[[], Any]:
    """The parameters after the same step, by SciPy."""
    J, r = jax.tree.leaves(jax.tree.map(np.asarray, _programs.affine(samples, parameters)))
    small = solver == "parameters"
    A = J if small else J.T

    def by_cholesky() -> np.ndarray:
        lower = scipy.linalg.cho_factor(A.T @ A, overwrite_a=True)
        return (
            scipy.linalg.cho_solve(lower, J.T @ r)
            if small
            else J.T @ scipy.linalg.cho_solve(lower, r)
        )

    def by_qr() -> np.ndarray:
        Q, R = scipy.linalg.qr(A, mode="economic")
        if small:
            return scipy.linalg.solve_triangular(R, Q.T @ r)
        return Q @ scipy.linalg.solve_triangular(R, r, trans=1)

    return by_cholesky if factor == "cholesky" else by_qr
