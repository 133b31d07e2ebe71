"""Training of discretised networks: Algorithms 1 and 2 of paper RF for any Linen model.

Latent kernels are kept; loss and gradient are taken at what the gradient rule shows of them, the
rule turns dL/dQ(w) into an update.  All other parameters are trained as usual.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Integer, Key

from .. import _checks, devices
from .._annotations import Count
from .._tiles import carrying, sum_tiles
from ..data import translate
from ..discretize.layers import quantized_activations
from ..discretize.policy import Policy, joined, split_kernels
from ..optim import GradientRule
from .loop import TrainingInfo, TrainingLoop, TrainingState, accepted, initial_state

Images = Float[Array, "n h w c"]


class NetworkParameters(NamedTuple):
    """Everything a network predicts from.

    Attributes:
        latent: kernels that are quantised, by path.
        rest: all other parameters, by path.
        statistics: running means and variances of batch normalisation, as Linen keeps them.
    """

    latent: dict[str, Array]
    rest: dict[str, Array]
    statistics: Any


class NetworkOptimiser(NamedTuple):
    """State of both optimisers, and what the rule of this seed is made from.

    Attributes:
        latent, rest: of the two optimisers.
        learning_rate: of the latent kernels.
        rule_key: for rules with a network of their own.
    """

    latent: Any
    rest: Any
    learning_rate: Array
    rule_key: Array


@dataclasses.dataclass(frozen=True, eq=False)
class DiscretizedTraining(TrainingLoop):
    """Mini-batch training of an image classifier with quantised kernels (and activations).

    Attributes:
        model: a Linen module, ``model.apply(variables, images, train=...)`` -> logits (n, classes).
        policy: which kernels and inputs are quantised.
        rule: (key, learning rate) -> the gradient rule; both may be traced.
        latent_optimiser: learning rate -> optimiser of the latent kernels.
        rest_optimiser: of everything else.
        batch_size: rows of a batch.
        prepare: (key, images as they are stored) -> images, augmented and standardised; without a
            key (None) standardised only.
    """

    model: Any
    policy: Policy
    rule: Callable[[Array, Array], GradientRule]
    latent_optimiser: Callable[[Array], optax.GradientTransformation]
    rest_optimiser: optax.GradientTransformation
    batch_size: int
    prepare: Callable[[Array | None, Array], Images]

    def __post_init__(self) -> None:
        _checks.positive_integer("batch_size", self.batch_size)

    def init(
        self,
        key: Key[Array, ""],
        images: Array,
        learning_rate: float | Array,
        variables: Mapping[str, Any] | None = None,
    ) -> TrainingState:
        """The state of one seed at the start; ``jax.vmap`` over keys and rates makes several.

        Args:
            key: of this seed; initial weights, augmentation and order of the data come from it.
            images: a few of the stored images, for the shapes.
            learning_rate: of the latent kernels.
            variables: ``params`` and ``batch_stats`` to start from, such as those of a network of
                full precision; initialised by the model if left out.

        Raises:
            ValueError: the policy quantises nothing, or parameters of another shape.
        """
        init_key, rule_key, run_key = jax.random.split(key, 3)
        fresh = self.model.init(init_key, self.prepare(None, images), train=False)
        chosen = fresh if variables is None else _fitting(variables, fresh)
        latent, rest = split_kernels(chosen["params"], self.policy)
        rate = jnp.asarray(learning_rate, jnp.float32)
        parameters = NetworkParameters(latent, rest, chosen.get("batch_stats", {}))
        optimiser = NetworkOptimiser(
            self._latent_link(rule_key, rate).init(latent),
            self.rest_optimiser.init(rest),
            rate,
            rule_key,
        )
        return initial_state(run_key, parameters, optimiser)

    def step(self, state: TrainingState, batch: Any) -> tuple[TrainingState, TrainingInfo]:
        """One update: Algorithm 1, with the rule ``rf_dnn`` Algorithm 2.

        Args:
            state: of one seed.
            batch: ``images`` (n, h, w, c) as they are stored and ``labels`` (n,).

        Source: RF 23, RF 32
        """
        now: NetworkParameters = state.parameters
        memory: NetworkOptimiser = state.optimiser
        # not the key that draws the order of an epoch
        key = jax.random.fold_in(jax.random.fold_in(state.key, 1), state.step)
        augment_key, noise_key = jax.random.split(key)
        images = self.prepare(augment_key, batch["images"])
        labels = batch["labels"]
        rule = self.rule(memory.rule_key, memory.learning_rate)

        def seen(latent: Any) -> Any:
            return jax.tree.map(lambda w: rule.training_weights(w, state.step), latent)

        def loss(kernels: Any, rest: Any, images: Array) -> tuple[Array, tuple[Array, Any]]:
            variables = {"params": joined(kernels, rest), "batch_stats": now.statistics}
            with quantized_activations(self.policy):
                logits, updated = self.model.apply(
                    variables,
                    images,
                    train=True,
                    mutable=["batch_stats"],
                    rngs={"dropout": noise_key},
                )
            value = jnp.mean(_cross_entropy(logits, labels))
            return value, (_accuracy(logits, labels), updated.get("batch_stats", {}))

        def translated_gradient(latent: Any, rows: int, columns: int) -> Any:
            moved = translate(images, rows, columns)
            return jax.grad(loss, has_aux=True)(seen(latent), now.rest, moved)[0]

        (value, (accuracy, statistics)), (slope, rest_slope) = jax.value_and_grad(
            loss, argnums=(0, 1), has_aux=True
        )(seen(now.latent), now.rest, images)
        link = self._latent_link(memory.rule_key, memory.learning_rate)
        moved, latent_memory = link.update(
            slope, memory.latent, now.latent, translated_gradient=translated_gradient
        )
        rest_moved, rest_memory = self.rest_optimiser.update(rest_slope, memory.rest, now.rest)
        latent, rest = optax.apply_updates((now.latent, now.rest), (moved, rest_moved))
        info = TrainingInfo(value, {"accuracy": accuracy}, optax.tree.norm(slope))
        after = memory._replace(latent=latent_memory, rest=rest_memory)
        return accepted(state, NetworkParameters(latent, rest, statistics), after, value), info

    def variables(self, parameters: NetworkParameters) -> dict[str, Any]:
        """The discretised network that results: ``params`` with quantised kernels, statistics."""
        rule = self.rule(jax.random.key(0), jnp.float32(1))
        kernels = {path: rule.weights(w) for path, w in parameters.latent.items()}
        return {
            "params": joined(kernels, parameters.rest),
            "batch_stats": parameters.statistics,
        }

    def recalibrated(self, variables: dict[str, Any], images: Array) -> dict[str, Any]:
        """The statistics of batch normalisation that belong to these weights.

        Those kept in training lag behind, and belong to the weights that training saw, which for
        some rules are not the quantised ones.

        Args:
            variables: of the model.
            images: stored images (batches, n, h, w, c); statistics are means over batches.
        """
        found = variables["batch_stats"]
        if not jax.tree.leaves(found):
            return variables
        zero = jax.tree.map(jnp.zeros_like, found)
        one = jax.tree.map(jnp.ones_like, found)

        def of_batch(batch: Array) -> Any:
            def kept(old: Any) -> Any:
                with quantized_activations(self.policy):
                    _, updated = self.model.apply(
                        {**variables, "batch_stats": old},
                        self.prepare(None, batch),
                        train=True,
                        mutable=["batch_stats"],
                        rngs={"dropout": jax.random.key(0)},
                    )
                return updated["batch_stats"]

            # what is kept is m old + (1 - m) new, with a momentum m that only the model knows
            share, momentum = jax.jvp(kept, (zero,), (one,))
            return jax.tree.map(lambda x, m: x / (1 - m), share, momentum)

        means = jax.tree.map(lambda x: jnp.mean(x, axis=0), jax.lax.map(of_batch, images))
        return {**variables, "batch_stats": means}

    def scores(
        self, variables: dict[str, Any], images: Array, labels: Integer[Array, " n"]
    ) -> dict[str, Array]:
        """Sums over the images of loss, hits (``top1``) and hits among five (``top5``)."""
        with quantized_activations(self.policy):
            logits = self.model.apply(variables, self.prepare(None, images), train=False)
        five = min(5, logits.shape[-1])
        best = jax.lax.top_k(logits, five)[1]
        return {
            "loss": jnp.sum(_cross_entropy(logits, labels)),
            "top1": jnp.sum(best[:, 0] == labels),
            "top5": jnp.sum(jnp.any(best == labels[:, None], axis=1)),
        }

    def evaluate(
        self, state: TrainingState, reference: Array, data: Any, *, chunk: Count = 500
    ) -> dict[str, Array]:
        """Means of :meth:`scores` over a data set, with statistics recalibrated; compiled.

        Args:
            state: one seed or several.
            reference: stored training images (batches, n, h, w, c) for the statistics.
            data: ``images`` and ``labels`` (N rows).
            chunk: images at a time.
        """
        return _evaluate(self, state.parameters, bool(state.step.ndim), reference, data, chunk)

    def _latent_link(self, key: Array, rate: Array) -> optax.GradientTransformationExtraArgs:
        rule = self.rule(key, rate)
        return optax.with_extra_args_support(rule.wrap(self.latent_optimiser(rate)))


@functools.partial(jax.jit, static_argnums=(0, 2, 5))
def _evaluate(
    training: DiscretizedTraining,
    parameters: NetworkParameters,
    several: bool,
    reference: Array,
    data: Any,
    chunk: int,
) -> dict[str, Array]:
    def one_seed(parameters: NetworkParameters, reference: Array, data: Any) -> dict[str, Array]:
        variables = training.recalibrated(training.variables(parameters), reference)
        images, labels = data["images"], data["labels"]
        sums = sum_tiles(carrying(training.scores, variables), (images, labels), chunk)
        return jax.tree.map(lambda x: x / len(labels), sums)

    if several:
        lanes = jax.vmap(one_seed, (0, None, None))
        return devices.everywhere(devices.by_rows(lanes, parameters, whole=(reference, data)))
    return one_seed(parameters, reference, data)


def _cross_entropy(logits: Array, labels: Array) -> Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)


def _accuracy(logits: Array, labels: Array) -> Array:
    return jnp.mean(jnp.argmax(logits, axis=-1) == labels)


def _fitting(given: Mapping[str, Any], fresh: Mapping[str, Any]) -> Mapping[str, Any]:
    """The given variables, if they are those of the model."""
    shapes = [
        {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(tree)}
        for tree in (given, fresh)
    ]
    for name in sorted({*shapes[0], *shapes[1]}):
        if shapes[0].get(name) != shapes[1].get(name):
            raise ValueError(
                f"variables: {name} is {shapes[0].get(name, 'missing')} and has to be "
                f"{shapes[1].get(name, 'left out')}; start from a checkpoint of the same model"
            )
    return given
