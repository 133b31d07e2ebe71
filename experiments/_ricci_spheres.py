"""The part of ``ricci_flow`` on spheres: round ones that shrink, a dumbbell that pinches."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments import _run
from experiments._tori import thinned
from metricflow.flows import RotationalRicciFlow


def round_spheres(config: Any) -> dict:
    """r(t) of round spheres at nine tenths of their life, in two coordinates, against the exact."""
    found = {}
    for dim in (2, 3, 4):
        for name, stretch in (("round", 0.0), ("stretched", 0.1)):
            flow = RotationalRicciFlow(dim, 32)
            x, steps = flow.coordinates(), config.sphere_steps
            state = flow.init(
                1 + 2 * stretch * jnp.cos(2 * x), jnp.sin(x + stretch * jnp.sin(2 * x))
            )
            state, _, _ = flow.run(state, steps, 0.9 / (2 * (dim - 1)) / steps)
            radius = (1 - 2 * (dim - 1) * float(state.time)) ** 0.5
            errors = [jnp.max(jnp.abs(K**-0.5 / radius - 1)) for K in flow.curvatures(state)]
            found[f"S{dim} {name}"] = float(max(errors))
    return found


def dumbbell(config: Any) -> dict:
    """A neck that pinches: |K|_max (T - t), which is 1 / (2 (n - 1)) for a shrinking cylinder.

    -1 / (d(1/K)/dt) tells that constant at any time, without T.
    """
    points, depth = config.dumbbell
    fine = _pinch(points, depth, config.dumbbell_steps)
    coarse = _pinch(points * 3 // 5, depth, config.dumbbell_steps)
    time, curvature, neck, bell = fine["history"]
    constants = {}
    for growth in (3, 10, 30, 100, 300, 1000, 3000, 10000):
        if growth * curvature[0] < min(x["history"][1][-5] for x in (fine, coarse)):
            constants[str(growth)] = [_constant(x["history"], growth) for x in (fine, coarse)]
    # a straight line through the last tenth of 1/K ends at T
    late = curvature > curvature[-1] / 1.1
    slope, offset = np.polyfit(time[late] - time[-1], 1 / curvature[late], 1)
    T = float(time[-1] - offset / slope)
    product = curvature * (T - time)
    hot = curvature < curvature[-1] / 3
    return {
        "T": T,
        "growth": float(curvature[-1] / curvature[0]),
        "constants": constants,
        "cylinder": 0.5,
        "product": [float(np.min(product[hot])), float(np.max(product[hot]))],
        "neck_against_curvature": float(np.max(np.abs(curvature * neck**2 - 1)[hot])),
        "highest_modes": [fine["tail"], coarse["tail"]],
        "neck": [float(neck[0]), float(neck[-1])],
        "bell": [float(bell[0]), float(bell[-1])],
        "curves": {
            "remaining": thinned((T - time)[:-20]),
            "curvature": thinned(curvature[:-20]),
            "product": thinned(product[:-20]),
        },
        "profiles": fine["profiles"],
    }


def _pinch(points: int, depth: float, steps: int) -> dict:
    """The history of time, largest curvature, radius of the neck and of the bells; profiles."""
    flow = RotationalRicciFlow(3, points)
    sine = jnp.sin(flow.coordinates())
    state = flow.init(jnp.ones_like(sine), sine * (1 - depth * sine**2))

    def radii(state: Any) -> tuple:
        psi = flow.metric(state)[1]
        return jnp.min(psi[points // 4 : -(points // 4)]), jnp.max(psi)

    parts, profiles = [], [_profile(flow, state)]
    for _ in range(6):
        before = radii(state)
        state, info, seen = flow.run(state, steps // 6, observe=radii)
        # radii before each step, as the infos are
        shifted = [np.append(a, np.asarray(b)[:-1]) for a, b in zip(before, seen, strict=True)]
        parts.append([np.asarray(info.time), np.asarray(info.curvature), *shifted])
        profiles.append(_profile(flow, state))
    waves = np.cos(np.outer(np.arange(points), flow.coordinates()))
    series = [np.abs(waves @ np.asarray(x)) for x in (state.a, state.b)]
    tail = max(float(np.max(x[points // 2 :]) / np.max(x)) for x in series)
    history = [np.concatenate(x) for x in zip(*parts, strict=True)]
    return {"history": history, "profiles": profiles, "tail": tail}


def _constant(history: list[np.ndarray], growth: float) -> float:
    """-1 / (d(1/K)/dt) when the curvature is ``growth`` times that of the start."""
    time, curvature = history[:2]
    here = int(np.searchsorted(curvature, growth * curvature[0]))
    near = slice(max(0, here - 4), here + 5)
    slope = np.polyfit(time[near] - time[here], 1 / curvature[near], 1)[0]
    return float(-1 / slope)


def _profile(flow: RotationalRicciFlow, state: Any) -> dict:
    """psi against the distance from the middle."""
    chi, psi = (np.asarray(x) for x in flow.metric(state))
    s = np.cumsum(chi) * np.pi / flow.points
    s = s - np.interp((flow.points - 1) / 2, np.arange(flow.points), s)
    return {
        "time": float(state.time),
        "s": np.round(s, 5).tolist(),
        "psi": np.round(psi, 5).tolist(),
    }


def draw_dumbbell(found: dict, path: Path) -> None:
    """Profiles of the dumbbell, and its curvature times the time that is left."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
    for order, profile in enumerate(found["profiles"]):
        colour = plt.get_cmap("viridis")(order / len(found["profiles"]))
        for sign in (1, -1):
            label = f"t = {profile['time']:.4f}" if sign == 1 else None
            left.plot(profile["s"], sign * np.array(profile["psi"]), color=colour, label=label)
    left.set(xlabel="distance from the neck", ylabel="radius", title="a dumbbell pinches")
    left.set_aspect("equal")
    left.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.5), ncols=3)
    right.semilogx(
        found["curves"]["remaining"], found["curves"]["product"], label=r"$|K|_{\max}\,(T - t)$"
    )
    right.axhline(found["cylinder"], ls=":", color="k", label="shrinking cylinder")
    right.set(xlabel="T - t", ylim=(0.4, 0.7), title="curvature explosion")
    right.invert_xaxis()
    right.legend(fontsize=8)
    _run.save_figure(figure, path)
