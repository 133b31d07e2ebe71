"""The part of ``ricci_flow`` on tori: curvature, the linear flow, decay, Perelman's functional."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _run
from experiments._tori import perturbation, styles, thinned, tori, torus_label
from metricflow import geometry
from metricflow.energies import perelman
from metricflow.flows import RicciFlow, RicciFlowState, conjugate_heat, uniform_equivalence
from metricflow.geometry import PeriodicGrid
from metricflow.geometry import grid_curvature as gc

GAUGES = ("hamilton", "deturck")


def curvature(config: Any) -> dict:
    """Spectral curvature against automatic differentiation, and identities, as N grows."""
    found: dict[str, Any] = {}
    for name, finest in tori(config.dims, config.plane, config.space).items():
        dim, rows = finest.dim, []
        for share in config.ladder:
            count = round(share * finest.shape[0] / 2 - 0.5) * 2 + 1
            grid = PeriodicGrid((count,) * dim)
            points = grid.points().reshape(-1, dim)
            g = jax.vmap(_analytic_metric)(points).reshape(*grid.shape, dim, dim)
            exact = jax.jit(jax.vmap(functools.partial(geometry.ricci, _analytic_metric)))(points)
            h = perturbation(grid, config.seed)
            rows.append({"points": count, **_identities(grid, g, h, exact.reshape(g.shape))})
        found[name] = rows
    return found


def _identities(grid: PeriodicGrid, g: jax.Array, h: jax.Array, exact: jax.Array) -> dict:
    """Errors relative to the largest entry of what is compared."""

    @jax.jit
    def pairs(g: jax.Array, h: jax.Array) -> dict:
        ricci, scalar = gc.grid_ricci(grid, g), gc.grid_scalar(grid, g)
        slope = gc.covariant_derivative(grid, g, ricci)
        divergence = jnp.einsum("...jk,...ijk->...i", gc.metric_inverse(g), slope)
        derivative = jax.jvp(lambda x: -2 * gc.grid_ricci(grid, x), (g,), (h,))[1]
        density = gc.volume_density(g)
        total = grid.integral(scalar * density) / grid.integral(jnp.abs(scalar) * density)
        return {
            "ricci": (ricci, exact),
            "bianchi": (divergence, grid.gradient(scalar) / 2),
            "linearisation": (gc.ricci_linearisation(grid, g, h), derivative),
            "gauss_bonnet": (1 + total, jnp.ones(())),
        }

    return {
        name: float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b)))
        for name, (a, b) in pairs(g, h).items()
        if name != "gauss_bonnet" or grid.dim == 2
    }


def spectrum(config: Any) -> dict:
    """Eigenvalues of the linearised Ricci-DeTurck velocity at a flat metric against -|k|^2."""
    found = {}
    for dim in config.dims:
        grid = PeriodicGrid((config.spectrum[dim - 2],) * dim)
        matrix = _linearised(grid)
        squares = np.fft.fftfreq(grid.shape[0], 1 / grid.shape[0]) ** 2
        exact = np.sum(np.meshgrid(*[squares] * dim, indexing="ij"), axis=0).reshape(-1)
        exact = np.sort(np.repeat(-exact, dim * (dim + 1) // 2))
        values = np.linalg.eigvalsh((matrix + matrix.T) / 2)
        found[f"T{dim}"] = {
            "size": len(matrix),
            "error": float(np.max(np.abs(values - exact))),
            "asymmetry": float(np.max(np.abs(matrix - matrix.T))),
            "largest": float(values[-1]),
            "kernel": int(np.sum(np.abs(values) < 1e-6)),
        }
    return found


def _linearised(grid: PeriodicGrid) -> np.ndarray:
    """The Ricci-DeTurck velocity linearised at the flat metric, in orthonormal components."""
    velocity = RicciFlow(grid, "deturck", dealias=False).velocity
    rows, columns = np.triu_indices(grid.dim)
    weight = np.where(rows == columns, 1.0, 2**-0.5)

    def linear(packed: jax.Array) -> jax.Array:
        values = weight * packed.reshape(*grid.shape, -1)
        h = jnp.zeros((*grid.shape, grid.dim, grid.dim)).at[..., rows, columns].set(values)
        h = h.at[..., columns, rows].set(values)
        out = jax.jvp(velocity, (_flat(grid),), (h,))[1]
        return (out[..., rows, columns] / weight).reshape(-1)

    every = jax.jit(functools.partial(jax.lax.map, linear, batch_size=64))
    return np.asarray(every(jnp.eye(grid.size * len(rows))))


def decay(config: Any) -> dict:
    """Late rates of decay to flat metrics; the slowest eigenvalue of the Laplacian is 1."""
    found: dict[str, Any] = {"sizes": list(config.sizes)}
    for name, grid in tori(config.dims, config.plane, config.space).items():
        dim, flow = grid.dim, RicciFlow(grid, "deturck")
        slow = np.array([[1.0, 0.4, 0.2], [0.4, -0.5, 0.3], [0.2, 0.3, 0.8]])[:dim, :dim]
        shape = jnp.cos(grid.points()[..., 0] + 0.3)[..., None, None] * slow
        shape = shape + 0.1 * perturbation(grid, config.seed)
        shape = shape / jnp.max(jnp.abs(shape))
        dt = 0.9 * float(flow.largest_step(jnp.eye(dim) - config.sizes[0] * jnp.abs(shape)))
        steps = int(np.ceil(config.decay_time / dt))
        dt = config.decay_time / steps
        late, rows = max(1, steps // 6), []
        off = []
        for size in config.sizes:
            start = flow.init(jnp.eye(dim) + size * shape)
            observe = jax.tree_util.Partial(_deviation, grid)
            end, _, seen = flow.run(start, steps, dt, observe=observe)
            seen = np.asarray(seen)
            rate = float(np.log(seen[-1 - late] / seen[-1]) / (late * dt))
            off.append(abs(rate - 1))
            rows.append(
                {
                    "late_rate": rate,
                    "fallen_to": float(seen[-1] / seen[0]),
                    "limit_from_flat": float(jnp.max(jnp.abs(grid.mean(end.g) - jnp.eye(dim)))),
                    "time": thinned(dt * np.arange(1, steps + 1)),
                    "deviation": thinned(seen),
                }
            )
        found[name] = {
            "runs": rows,
            "exponent": float(np.polyfit(np.log(config.sizes), np.log(off), 1)[0]),
        }
    return found


def perelman_monotonicity(config: Any) -> dict:
    """Monotonicity along both gauges, and integrals of invariants along both."""
    found: dict[str, Any] = {}
    for name, grid in tori(config.dims, config.plane, config.space).items():
        dim, end = grid.dim, 0.5 if grid.dim == 2 else 0.3
        g = jnp.eye(dim) + config.perelman_size * perturbation(grid, config.seed)
        # two steps of the flow are one of the function
        largest = 0.4 * float(RicciFlow(grid).largest_step(g))
        steps = 2 * int(np.ceil(end / largest / 2))
        final = 0.3 * grid.random_field(jax.random.key(config.seed + 1), 1)
        rows, invariants = {}, {}
        for gauge in GAUGES:
            flow = RicciFlow(grid, gauge)
            metrics, dt = _stored(flow, g, steps, end / steps), end / steps
            f = conjugate_heat(flow, metrics, final, dt)
            values = _perelman_values(grid, metrics[::2], f)
            rate = (values["rate"][:-2] + 4 * values["rate"][1:-1] + values["rate"][2:]) / 6
            rise = (values["F"][2:] - values["F"][:-2]) / (4 * dt)
            rows[gauge] = {
                "steps": steps,
                "volume_spread": float(np.ptp(values["volume"]) / values["volume"][0]),
                "smallest_rise": float(np.min(np.diff(values["F"]))),
                "rate_error": float(np.max(np.abs(rise / rate - 1))),
                "time": thinned(2 * dt * np.arange(len(f))),
                "F": thinned(values["F"]),
            }
            invariants[gauge] = _invariants(grid, metrics[::2])
        a, b = invariants.values()
        rows["gauges"] = {
            key: float(np.max(np.abs(a[key] - b[key])) / np.max(np.abs(a[key]))) for key in a
        }
        found[name] = rows
    return found


def fixed_measure(config: Any) -> dict:
    """Growth of longitudinal modes under the flow that holds e^-f dV fixed: k^2 at width 0."""
    grid = PeriodicGrid((config.space,) * 3)
    measure = jnp.ones(grid.shape)
    linear = jax.jit(
        lambda h: jax.jvp(
            lambda g: perelman.fixed_measure_velocity(grid, g, measure), (_flat(grid),), (h,)
        )[1]
    )
    widths, rows = (0.2, 0.4), []
    for mode in range(1, config.space // 2 + 1):
        wave = jnp.cos(mode * grid.points()[..., 0])[..., None, None]
        along, across = (wave * np.diag(d) for d in ((1.0, 0.0, 0.0), (0.0, 1.0, -1.0)))
        row = {"k": mode, "longitudinal": _factor(linear(along), along)}
        row["transverse"] = _factor(linear(across), across)
        for s in widths:
            smooth = grid.multiply(linear(along), lambda q, s=s: jnp.exp(-(s**2) * q / 2))  # type: ignore[misc]
            row[f"width {s}"] = _factor(smooth, along)
        rows.append(row)
    error = max(
        max(abs(r["longitudinal"] / r["k"] ** 2 - 1), abs(r["transverse"] / r["k"] ** 2 + 1))
        for r in rows
    )
    return {
        "modes": rows,
        "error": float(error),
        "widths": list(widths),
        "bounds": [2 / (np.e * s**2) for s in widths],
    }


def equivalence(config: Any) -> dict:
    """The smallest C with e^-C g(0) <= g(T) <= e^C g(0) against the length of the path."""
    found = {}
    for name, grid in tori(config.dims, config.plane, config.space).items():
        flow = RicciFlow(grid)
        g = jnp.eye(grid.dim) + 0.2 * perturbation(grid, config.seed)
        steps = 2 * int(np.ceil(0.3 / float(flow.largest_step(g)) / 1.6))
        dt = 0.3 / steps
        metrics = _stored(flow, g, steps, dt)
        speed = np.asarray(_speeds(flow, metrics))
        # Simpson's rule
        ends, odd, even = speed[0] + speed[-1], speed[1::2].sum(0), speed[2:-1:2].sum(0)
        length = dt / 3 * (ends + 4 * odd + 2 * even)
        needed = uniform_equivalence(metrics[0], metrics[-1])
        found[name] = {
            "C": float(jnp.max(length)),
            "needed": float(jnp.max(needed)),
            "largest_share": float(jnp.max(needed / length)),
            "half_is_enough": bool(jnp.max(needed) <= jnp.max(length) / 2),
        }
    return found


@jax.jit
def _speeds(flow: RicciFlow, metrics: jax.Array) -> jax.Array:
    """|dg/dt|_g of every metric at every point."""
    return jax.lax.map(lambda g: gc.tensor_norm(g, flow.velocity(g)), metrics)


def _stored(flow: RicciFlow, g: jax.Array, steps: int, dt: float) -> jax.Array:
    """All metrics of a run, the first included."""
    start = flow.init(g)
    metrics = flow.run(start, steps, dt, observe=lambda state: state.g)[2]
    return jnp.concatenate([start.g[None], metrics])


def _perelman_values(grid: PeriodicGrid, metrics: jax.Array, f: jax.Array) -> dict:
    @jax.jit
    def every(metrics: jax.Array, f: jax.Array) -> dict:
        return jax.lax.map(
            lambda both: {
                "F": perelman.perelman_functional(grid, *both),
                "rate": perelman.perelman_rate(grid, *both),
                "volume": perelman.weighted_volume(grid, *both),
            },
            (metrics, f),
        )

    return {name: np.asarray(x) for name, x in every(metrics, f).items()}


def _invariants(grid: PeriodicGrid, metrics: jax.Array) -> dict:
    """Integrals that no diffeomorphism changes."""

    @jax.jit
    def every(metrics: jax.Array) -> dict:
        def one(g: jax.Array) -> dict:
            density, scalar = gc.volume_density(g), gc.grid_scalar(grid, g)
            ricci = gc.tensor_norm(g, gc.grid_ricci(grid, g))
            squares = {"scalar2": scalar**2, "ricci2": ricci**2, "volume": jnp.ones_like(scalar)}
            return {name: grid.integral(x * density) for name, x in squares.items()}

        return jax.lax.map(one, metrics)

    return {name: np.asarray(x) for name, x in every(metrics).items()}


def _analytic_metric(x: jax.Array) -> jax.Array:
    """A periodic metric without symmetry."""
    k = len(x)
    bumps = 0.05 * jnp.sin(x[:, None] + 2 * jnp.arange(1.0, k + 1))
    return jnp.eye(k) * (1 + 0.05 * jnp.cos(jnp.sum(x))) + (bumps + bumps.T) / 2


def _flat(grid: PeriodicGrid) -> jax.Array:
    return jnp.broadcast_to(jnp.eye(grid.dim), (*grid.shape, grid.dim, grid.dim))


def _deviation(grid: PeriodicGrid, state: RicciFlowState) -> jax.Array:
    return jnp.sqrt(grid.integral(jnp.sum((state.g - grid.mean(state.g)) ** 2, axis=(-2, -1))))


def _factor(image: jax.Array, h: jax.Array) -> float:
    """The number by which a mode is multiplied; NaN would be seen, a mixture too."""
    factor = float(jnp.sum(image * h) / jnp.sum(h * h))
    if not jnp.max(jnp.abs(image - factor * h)) < 1e-8 * max(1.0, abs(factor)):
        raise FloatingPointError("a plane wave is no eigenvector of the linearised flow")
    return factor


def draw_tori(result: dict, path: Path) -> None:
    """Decay to flat metrics, the functional along a flow, growth with the measure fixed."""
    import matplotlib.pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10.5, 3.4), layout="constrained")
    row_sizes = result["decay"]["sizes"]
    for name, style in styles(result["decay"]):
        for order, (size, row) in enumerate(
            zip(result["decay"]["sizes"], result["decay"][name]["runs"], strict=True)
        ):
            label = f"{size:g}, {torus_label(name)}" if order in (0, len(row_sizes) - 1) else None
            left.semilogy(row["time"], row["deviation"], style, color=f"C{order}", label=label)
    left.set(xlabel="t", ylabel="distance from a flat metric", title="Ricci-DeTurck flow")
    left.legend(fontsize=8)
    for colour, (name, _) in zip(("C0", "C1"), styles(result["perelman"]), strict=False):
        row = result["perelman"][name]["hamilton"]
        scale = row["F"][-1]
        middle.plot(row["time"], np.array(row["F"]) / scale, color=colour, label=torus_label(name))
    middle.set(xlabel="t", ylabel="F(t) / F(T)", title="Perelman's functional")
    middle.legend(fontsize=8)
    found = result["fixed_measure"]
    k = [row["k"] for row in found["modes"]]
    right.plot(k, [row["longitudinal"] for row in found["modes"]], "o-", label="longitudinal")
    right.plot(k, [row["transverse"] for row in found["modes"]], "s-", label="transverse")
    for order, (width, bound) in enumerate(zip(found["widths"], found["bounds"], strict=True), 2):
        values = [row[f"width {width}"] for row in found["modes"]]
        right.plot(k, values, "^-", color=f"C{order}", label=f"longitudinal, width {width:g}")
        right.axhline(bound, ls=":", color=f"C{order}")
    right.set(xlabel="wave number k", ylabel="growth rate", title="fixed measure: ill-posed")
    right.legend(fontsize=8)
    _run.save_figure(figure, path)
