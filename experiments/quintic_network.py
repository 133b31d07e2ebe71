"""A network that is a metric: any ansatz on any hypersurface, trained with optax, every diagnostic.

Source: MF section 3 (introduction) and section 3.3: the networks that kernels are compared with.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _flags, _run
from experiments._manifold import FORMS, parse_manifold
from experiments._precision import in_precision
from metricflow import __version__, ansatz, diagnostics, energies, geometry, processes, save_metric
from metricflow.flows import GaussNewton, NetworkPotential
from metricflow.training import Checkpoints, Training, TrainingState

ANSAETZE = ("potential", *ansatz.ANSAETZE)


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run."""

    manifold: str = "fermat:3"
    ansatz: str = "potential"
    feature_degree: int = 0  # 0: z_i zbar_j / |z|^2; D: invariants of bidegree up to (D, D)
    widths: tuple[int, ...] = (64, 64, 64)
    activation: str = "gelu"
    independent: bool = False
    parameterisation: str = "standard"  # of a network of components
    output_variance: float = 1e-4
    bias_std: float = 0.0  # of a network of components
    energy: dict[str, float] = dataclasses.field(default_factory=dict)
    points: int = 100_000
    validation_points: int = 10_000
    test_points: int = 20_000
    derivative_points: int = 1000
    curvature_points: int = 200
    epochs: int = 10
    batch_size: int = 256
    learning_rate: float = 5e-3
    patience: int | None = None
    polish: int = 0  # Gauss-Newton steps afterwards, potentials only
    polish_points: int = 20_000
    seeds: tuple[int, ...] = (0,)
    precision: str = "float32"


# the weights bring the terms of a multiplicative network to the same size, as unit weights do for
# the components of a metric with eigenvalues of a tenth
_COMPONENTS = {"kaehler": 0.001, "transition": 0.05}
_MULTIPLICATIVE = Config(
    ansatz="multiplicative",
    widths=(128, 128, 128),
    output_variance=1.0,
    energy=_COMPONENTS,
    epochs=50,
    batch_size=64,
    learning_rate=1e-3,
    curvature_points=0,
)
PRESETS = {
    "default": Config(),
    "potential": Config(epochs=50),
    "multiplicative": _MULTIPLICATIVE,
    "relu": dataclasses.replace(_MULTIPLICATIVE, widths=(64, 64, 64), activation="relu"),
    "smoke": Config(
        manifold="fermat:1",
        widths=(8, 8),
        points=200,
        validation_points=100,
        test_points=100,
        derivative_points=10,
        curvature_points=5,
        epochs=3,
        batch_size=20,
        polish=1,
        polish_points=50,
    ),
}
NUMBERS = (
    "sigma",
    "gain",
    "loss_gain",
    "loss_gain_from_fubini_study",
    "kaehler_defect",
    "chart_mismatch",
    "volume_ratio",
    "min_eigenvalue",
    "positive_fraction",
    "mean_abs_ricci",
)


def run(config: Config, record: _run.Record | None = None) -> dict:
    """Train a network for each seed, on points of its own, and diagnose it on fresh points."""
    jax.config.update("jax_enable_x64", True)
    _check(config)
    record = record or _run.Record()
    manifold = parse_manifold(config.manifold)
    runs = [
        record.stage(f"seed/{seed}", lambda s=seed: _seed_stage(config, manifold, s, record))  # type: ignore[misc]
        for seed in config.seeds
    ]
    summary = {
        name: _run.spread([one["after"].get(name, one.get(name)) for one in runs])
        for name in NUMBERS
    }
    return {
        "manifold": config.manifold,
        "ansatz": config.ansatz,
        "seeds": list(config.seeds),
        "weights": runs[0]["weights"],
        "points": config.points,
        "epochs": config.epochs,
        "energy": dataclasses.asdict(energies.Energy(**config.energy)),
        "summary": summary,
        "runs": runs,
        "seconds": {k: record.seconds(k) for k in ("compile", "prepare", "train", "total")},
        "versions": {
            "metricflow": __version__,
            "jax": jax.__version__,
            "optax": optax.__version__,
            "numpy": np.__version__,
        },
    }


def draw(result: dict, folder: Path) -> None:
    """The validation loss and its terms against the epoch."""
    import matplotlib.pyplot as plt

    from metricflow import plotting

    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for number, one in enumerate(result["runs"]):
        plotting.training_history(
            axis, one["history"], before=one["before"]["loss"], first=not number
        )
    axis.set_title(f"{result['ansatz']}, {result['manifold']}, {result['points']} points")
    _run.save_figure(figure, folder / "training.png")


def build_model(
    config: Config, manifold: geometry.Hypersurface, points: geometry.Points
) -> ansatz.PotentialModel | ansatz.ComponentModel:
    """The model that a config describes; the points fix the features of a potential."""
    if config.ansatz != "potential":
        network = ansatz.component_mlp(
            manifold.dim,
            config.widths,
            config.activation,
            parameterisation=config.parameterisation,
            independent=config.independent,
            output_variance=config.output_variance,
            bias_std=config.bias_std,
        )
        return ansatz.ComponentModel(manifold, config.ansatz, network)
    perceptron = ansatz.mlp(
        config.widths,
        config.activation,
        input_variance=1.0,
        hidden_variance=2.0,
        output_variance=config.output_variance,
        bias_std=0.5,
    )
    few = jax.tree.map(lambda x: x[:5000], points)
    if config.feature_degree:
        basis = ansatz.spectral_basis(manifold, config.feature_degree, few)
    else:
        basis = ansatz.projective_features(manifold, few)
    return ansatz.PotentialModel(manifold, basis, perceptron)


def initial_parameters(key: jax.Array, model: Any, data: Any) -> Any:
    """Random parameters for the inputs that prepared data hold."""
    first = data.features[0, :, 0] if model.kaehler else data.inputs[0]
    return ansatz.initial_parameters(key, model.network, first)


class Fitted(NamedTuple):
    """A trained model.

    Attributes:
        model, parameters: what was trained, and the result.
        train, validation: the points, in double precision.
        before, final: the energy and its terms on the validation points.
        history: rows of the epochs.
    """

    model: Any
    parameters: Any
    train: geometry.Points
    validation: geometry.Points
    before: dict[str, float]
    final: dict[str, float]
    history: list[dict]

    @property
    def metric(self) -> Any:
        """The metric in double precision."""
        return self.model.bind(in_precision(self.parameters, "float64"))


class Problem(NamedTuple):
    """What a config asks to be minimised.

    Attributes:
        model: the model.
        data: the training points as it reads them, in the precision of the config.
        training: loss, optimiser and batch size.
        validate: parameters -> the energy ``"loss"`` and its terms on the validation points.
    """

    model: Any
    data: Any
    training: Training
    validate: Any


def pose(config: Config, train: geometry.Points, validation: geometry.Points) -> Problem:
    """The problem of a config on given points."""
    manifold = parse_manifold(config.manifold)
    model = build_model(config, manifold, train)
    data = in_precision(model.prepare(train), config.precision)
    held_out = in_precision(model.prepare(validation), config.precision)
    energy = energies.Energy(**config.energy)
    kappa = _held_kappa(model, train, config.precision)
    model, kappa = processes.local((model, kappa))

    def loss(parameters: Any, batch: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        return energy(model, parameters, batch, kappa)

    @jax.jit
    def energy_at(held_out: Any, parameters: Any) -> dict[str, jax.Array]:
        total, terms = energy(model, parameters, held_out, kappa)
        return {"loss": total, **terms}

    validate = jax.tree_util.Partial(energy_at, held_out)

    steps = config.epochs * (config.points // config.batch_size)
    optimiser = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adam(optax.cosine_decay_schedule(config.learning_rate, steps)),
    )
    return Problem(model, data, Training(loss, optimiser, config.batch_size), validate)


def fit(config: Config, manifold: geometry.Hypersurface, seed: int, record: _run.Record) -> Fitted:
    """Sample, build and train; a record with a folder also holds the checkpoints."""
    names = ("train", "validation", "network", "order")
    keys = dict(zip(names, jax.random.split(jax.random.key(seed), len(names)), strict=True))
    with record.timed("prepare"):
        train = geometry.sample_points(keys["train"], manifold, config.points)
        validation = geometry.sample_points(keys["validation"], manifold, config.validation_points)
        model, data, training, validate = pose(config, train, validation)
        jax.block_until_ready(data)
    parameters = initial_parameters(keys["network"], model, data)
    state = training.init(keys["order"], parameters)
    before = {name: float(x) for name, x in validate(parameters).items()}
    state, history = _trained(config, training, state, data, validate, seed, record)
    parameters = state.parameters if config.patience is None else state.best_parameters
    final = {name: float(x) for name, x in validate(parameters).items()}
    return Fitted(model, parameters, train, validation, before, final, history)


def _held_kappa(model: Any, points: geometry.Points, precision: str) -> jax.Array | None:
    """kappa of Fubini-Study, which fixes the volume of a metric that is free to change it."""
    if model.kaehler:
        return None
    found = diagnostics.kappa_estimate(geometry.fubini_study_metric(points), points)
    return found.astype(precision)


def _seed_stage(
    config: Config, manifold: geometry.Hypersurface, seed: int, record: _run.Record
) -> dict:
    fitted = fit(config, manifold, seed, record)
    test_key = jax.random.fold_in(jax.random.key(seed), 1)
    test = geometry.sample_points(test_key, manifold, config.test_points)
    trained = _diagnosed(config, fitted.metric, test)
    result = {
        "weights": sum(x.size for x in jax.tree.leaves(fitted.parameters)),
        "before": fitted.before,
        "loss": fitted.final["loss"],
        "loss_gain": fitted.before["loss"] / fitted.final["loss"],
        "loss_gain_from_fubini_study": _fubini_study_loss(config, fitted) / fitted.final["loss"],
        "after": trained,
        "polished": None,
        "history": fitted.history,
    }
    if config.polish:
        with record.timed("polish"):
            parameters, steps = _polish(config, fitted)
        fitted = fitted._replace(parameters=parameters)
        result["polished"] = _diagnosed(config, fitted.metric, test) | steps
    path = record.file(f"metrics/seed-{seed}.npz")
    if path is not None:
        provenance = {"seed": seed, "config": dataclasses.asdict(config)}
        save_metric(path, fitted.metric, provenance=provenance)
    return result


def _fubini_study_loss(config: Config, fitted: Fitted) -> float:
    """The energy of Fubini-Study: it has no Kaehler, transition or volume loss."""
    energy, points = energies.Energy(**config.energy), fitted.validation
    g = geometry.fubini_study_metric(points)
    kappa = _held_kappa(fitted.model, fitted.train, "float64")
    kappa = diagnostics.kappa_estimate(g, points) if kappa is None else kappa
    weight = points.weight / jnp.sum(points.weight)
    gap = energies.sigma_loss(g, points.omega2, kappa, power=energy.power)
    total = energy.monge_ampere * float(weight @ gap)
    if energy.ricci:
        metric = geometry.FubiniStudyMetric(fitted.model.manifold)
        curvature = energies.ricci_loss(metric, points, power=energy.power)
        total += energy.ricci * float(weight @ curvature)
    return total


def _trained(
    config: Config,
    training: Training,
    state: TrainingState,
    data: Any,
    validate: Any,
    seed: int,
    record: _run.Record,
) -> tuple[TrainingState, list[dict]]:
    folder = record.file(f"checkpoints/seed-{seed}")
    checkpoints = None
    if folder is not None:
        settings = dataclasses.asdict(config) | {"seed": seed}
        checkpoints = Checkpoints(folder, settings)
    with record.timed("train"):
        state, history = training.run(
            state,
            data,
            config.epochs,
            validate=validate,
            patience=config.patience,
            progress=True,
            checkpoints=checkpoints,
        )
        jax.block_until_ready(state.parameters)
    if checkpoints is not None:
        checkpoints.close()
    return state, history


def _polish(config: Config, fitted: Fitted) -> tuple[Any, dict]:
    """Levenberg-Marquardt steps on the Monge-Ampere residuals, products only."""
    few = jax.tree.map(lambda x: x[: config.polish_points], fitted.train)
    features = ansatz.feature_jets(fitted.model.basis, few)
    problem = NetworkPotential(few, features, fitted.model.network)
    method = GaussNewton(
        damping=1e-5, adaptive=True, solver="iterative", iterations=100, tolerance=0.05
    )
    start = method.init(in_precision(fitted.parameters, "float64"))
    state, infos = method.run(start, problem, config.polish)
    losses = [float(infos[0].loss_before), *(float(info.loss) for info in infos)]
    return state.parameters, {"training_rms": np.sqrt(losses).tolist()}


def _diagnosed(config: Config, metric: Any, test: geometry.Points) -> dict:
    found = diagnostics.diagnose(
        metric,
        test,
        derivative_points=config.derivative_points,
        curvature_points=config.curvature_points,
    )
    return found._asdict() | {"gain": _run.finite_or_none(found.gain)}


def _check(config: Config) -> None:
    if config.ansatz not in ANSAETZE:
        raise ValueError(f"--ansatz: expected one of {', '.join(ANSAETZE)}, got {config.ansatz}")
    for name in ("points", "validation_points", "test_points", "epochs", "batch_size"):
        if getattr(config, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')}: expected at least 1")
    if config.batch_size > config.points:
        raise ValueError(f"--batch-size: {config.batch_size} is more than --points {config.points}")
    if config.learning_rate <= 0:
        raise ValueError(f"--learning-rate: expected a number above 0, got {config.learning_rate}")
    if not config.seeds:
        raise ValueError("--seeds: expected at least one")
    if config.ansatz != "potential":
        if config.polish:
            raise ValueError("--polish: Gauss-Newton needs --ansatz potential")
        if config.feature_degree:
            raise ValueError("--feature-degree: only --ansatz potential reads features")
    elif config.independent:
        raise ValueError("--independent: a potential has one component")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this experiment."""
    parser.add_argument("--preset", choices=PRESETS, default="default", help="where to start from")
    parser.add_argument("--ansatz", choices=ANSAETZE, help="how the network writes a metric")
    parser.add_argument("--manifold", help=FORMS)
    parser.add_argument("--widths", nargs="+", type=_flags.count, help="hidden layers")
    parser.add_argument("--activation", help="gelu, tanh, relu, ...")
    parser.add_argument(
        "--feature-degree",
        type=_flags.whole,
        help="features of a potential: 0 projective, D invariants",
    )
    parser.add_argument(
        "--independent", action="store_true", default=None, help="a network for each component"
    )
    parser.add_argument("--points", type=_flags.count, help="training points")
    parser.add_argument("--test-points", type=_flags.count, help="points of the diagnostics")
    parser.add_argument("--curvature-points", type=_flags.whole, help="points of the Ricci measure")
    parser.add_argument("--epochs", type=_flags.count, help="epochs")
    parser.add_argument("--batch-size", type=_flags.count, help="points of a step")
    parser.add_argument(
        "--learning-rate", type=_flags.amount, help="of Adam at the start; cosine decay"
    )
    parser.add_argument(
        "--patience", type=_flags.whole, help="epochs without improvement to stop after"
    )
    parser.add_argument("--polish", type=_flags.whole, help="Gauss-Newton steps afterwards")
    parser.add_argument("--seeds", nargs="+", type=_flags.whole, help="seeds")
    parser.add_argument("--precision", choices=("float32", "float64"), help="of the training")
    for term in energies.TERMS:
        parser.add_argument(
            f"--{term.replace('_', '-')}", type=_flags.amount, help="weight in the energy"
        )
    parser.add_argument("--power", type=_flags.amount, help="p of the losses")


def configure(arguments: argparse.Namespace) -> Config:
    """The config that the flags describe."""
    config = PRESETS[arguments.preset]
    names = {field.name for field in dataclasses.fields(Config)} - {"energy"}
    changes: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(arguments).items()
        if name in names and value is not None
    }
    if "ansatz" in changes and (changes["ansatz"] == "potential") != (config.ansatz == "potential"):
        config = PRESETS["default" if changes["ansatz"] == "potential" else "multiplicative"]
    weights = {
        name: getattr(arguments, name)
        for name in (*energies.TERMS, "power")
        if getattr(arguments, name) is not None
    }
    return dataclasses.replace(config, **changes, energy={**config.energy, **weights})


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    return _run.launch(argv, sys.modules[__name__])


if __name__ == "__main__":
    sys.exit(main())
