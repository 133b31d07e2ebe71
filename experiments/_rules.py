"""What comparisons of gradient rules share: rules by name, paired differences, their figure."""

from pathlib import Path

import jax
import numpy as np
import scipy.stats

from experiments import _run
from metricflow import discretize, optim

FULL_PRECISION = "full_precision"
_WHOLE = ("hidden", "every")  # options of rules that are whole numbers


def parse_rule(spec: str) -> tuple[str, dict[str, float | None]]:
    """``name:option=value,...`` as a name and options.

    Raises:
        ValueError: an unknown rule, an option it has not, or a value that is no number.
    """
    name, _, rest = spec.partition(":")
    options: dict[str, float | None] = {}
    for item in filter(None, rest.split(",")):
        option, _, value = item.partition("=")
        try:
            # none: no limit, as in lne_weak:tau=1,max_q=none
            kind = int if option in _WHOLE else float
            number = None if value == "none" else kind(value)
            options[option] = number
        except ValueError:
            raise ValueError(
                f"--rules {spec}: expected option=number or option=none, got {item!r}"
            ) from None
    if name == FULL_PRECISION:
        if options:
            raise ValueError(f"--rules {spec}: {FULL_PRECISION} has no options")
        return name, options
    setting = optim.RuleSetting(discretize.binary, 1, 0.1, jax.random.key(0))
    optim.gradient_rule(name, setting, **options)
    return name, options


def compared(found: dict[str, dict]) -> dict[str, dict]:
    """Paired differences to the straight-through estimator, with 95 % intervals."""
    base = np.array(found["ste"]["accuracy"])
    for row in found.values():
        difference = np.array(row["accuracy"]) - base
        count = len(difference)
        error = float(difference.std(ddof=1) / count**0.5) if count > 1 else 0.0
        reach = float(scipy.stats.t.ppf(0.975, count - 1)) * error if count > 1 else 0.0
        mean = float(difference.mean())
        row["paired_difference_to_ste"] = mean
        row["paired_standard_error"] = error
        row["paired_interval_95"] = [mean - reach, mean + reach]
    return found


def draw_comparison(rules: dict[str, dict], title: str, path: Path) -> None:
    """Accuracy with paired intervals, tuning curves, training curves."""
    import matplotlib.pyplot as plt

    names = sorted(rules, key=lambda name: rules[name]["mean"])
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(14, 0.32 * len(names) + 2.2), layout="constrained"
    )
    place = np.arange(len(names))
    mean = np.array([100 * rules[n]["paired_difference_to_ste"] for n in names])
    low, high = (100 * np.array([rules[n]["paired_interval_95"] for n in names])).T
    left.errorbar(mean, place, xerr=[mean - low, high - mean], fmt="o", capsize=2)
    left.axvline(0, color="0.6", lw=0.8)
    left.set_yticks(place, [f"{n}  {100 * rules[n]['mean']:.2f}" for n in names])
    left.set_xlabel("accuracy minus straight-through (points), 95 % interval")
    left.set_title("test accuracy in percent, paired by seed", fontsize=10)
    colours = plt.get_cmap("tab20")
    for i, name in enumerate(rules):
        if rules[name]["tuning"]:  # nothing with one rate only
            rate, score = np.array(rules[name]["tuning"]).T
            middle.semilogx(rate, 100 * score, "o-", ms=3, color=colours(i % 20), label=name)
        loss = rules[name]["train_loss"]
        right.semilogy(np.arange(1, len(loss) + 1), loss, color=colours(i % 20), label=name)
    scores = [100 * score for row in rules.values() for _, score in row["tuning"]]
    if scores:
        middle.set_ylim(max(scores) - 8, max(scores) + 0.5)
    middle.set_xlabel("latent learning rate")
    middle.set_ylabel("validation accuracy (percent)")
    middle.set_title("tuning", fontsize=10)
    right.set_xlabel("epoch")
    right.set_ylabel("training loss, mean over seeds")
    right.set_title("training at the chosen rate", fontsize=10)
    right.legend(frameon=False, fontsize=7, ncol=2)
    for axis in (left, middle, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    _run.save_figure(figure, path)
