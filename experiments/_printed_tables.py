"""What paper RF prints in tables 1 to 4, and its figures 6 and 7 drawn with our numbers beside.

Accuracies in percent, mean and standard deviation over five seeds; rules by our names.
"""

from pathlib import Path

import numpy as np

from experiments import _run

PRINTED: dict[tuple[str, str], dict[str, tuple[float, float]]] = {
    ("cifar10", "resnet20"): {
        "dorefa": (88.28, 0.81),
        "multi_fc_grad": (88.94, 0.46),
        "rf_dnn": (89.83, 0.23),
        "full_precision": (91.50, 0.0),
    },
    ("cifar10", "resnet32"): {
        "dorefa": (90.23, 0.63),
        "multi_fc_grad": (89.63, 0.38),
        "rf_dnn": (90.75, 0.19),
        "full_precision": (92.13, 0.0),
    },
    ("cifar10", "resnet44"): {
        "dorefa": (90.71, 0.58),
        "multi_fc_grad": (90.54, 0.21),
        "rf_dnn": (91.63, 0.11),
        "full_precision": (93.56, 0.0),
    },
    ("cifar100", "resnet56"): {
        "dorefa": (66.71, 2.32),
        "multi_fc_grad": (66.58, 0.37),
        "fc_grad": (66.56, 0.35),
        "rf_dnn": (68.56, 0.32),
        "full_precision": (71.22, 0.0),
    },
    ("cifar100", "resnet110"): {
        "dorefa": (68.15, 0.50),
        "multi_fc_grad": (68.27, 0.14),
        "fc_grad": (68.74, 0.36),
        "rf_dnn": (69.20, 0.28),
        "full_precision": (72.54, 0.0),
    },
    ("imagenet", "resnet18"): {
        "dorefa": (58.34, 2.07),
        "multi_fc_grad": (59.47, 0.02),
        "fc_grad": (59.83, 0.36),
        "rf_dnn": (60.83, 0.41),
        "full_precision": (69.76, 0.0),
    },
}
"""(data, model) -> rule -> (mean, standard deviation), one-bit weights: tables 1 to 3."""


def draw_accuracy_and_spread(result: dict, folder: Path) -> None:
    """Figure 6: accuracy and its spread over seeds and last epochs, by rule and bit width."""
    import matplotlib.pyplot as plt

    columns = [
        (model, bits, rules)
        for model, by_bits in result["models"].items()
        for bits, rules in by_bits.items()
    ]
    names = list(dict.fromkeys(name for _, _, rules in columns for name in rules))
    figure, axis = plt.subplots(
        figsize=(2.5 + 0.45 * len(names) * len(columns) ** 0.8, 4), layout="constrained"
    )
    colours = plt.get_cmap("tab20")
    width = 0.8 / len(names)
    legend: str | None = "printed"
    for place, (model, bits, rules) in enumerate(columns):
        for i, name in enumerate(names):
            if name not in rules:
                continue
            x = place + (i - (len(names) - 1) / 2) * width
            row = rules[name]
            axis.errorbar(
                x,
                100 * row["mean"],
                yerr=100 * row["std_of_seeds_and_last_epochs"],
                fmt="o",
                ms=4,
                capsize=2,
                color=colours(i % 20),
                label=name if place == 0 else None,
            )
            printed = PRINTED.get((result["data"], model), {}).get(name) if bits == "1" else None
            if printed is not None:
                axis.errorbar(
                    x,
                    printed[0],
                    yerr=printed[1],
                    fmt="_",
                    ms=10,
                    color="0.5",
                    capsize=2,
                    lw=0.8,
                    label=legend,
                )
                legend = None  # once
    axis.set_xticks(range(len(columns)), [f"{model}\n{bits} bit" for model, bits, _ in columns])
    axis.set_ylabel("test accuracy (percent)")
    axis.set_title("mean and spread over seeds and last epochs", fontsize=10)
    axis.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    axis.spines[["top", "right"]].set_visible(False)
    _run.save_figure(figure, folder / "accuracy_and_spread.png")


def draw_curves(result: dict, folder: Path) -> None:
    """Figure 7: training and test accuracy over the epochs, mean over seeds, a panel a model."""
    import matplotlib.pyplot as plt

    columns = [
        (model, bits, rules)
        for model, by_bits in result["models"].items()
        for bits, rules in by_bits.items()
    ]
    figure, axes = plt.subplots(
        1, len(columns), figsize=(1.5 + 4.5 * len(columns), 4), layout="constrained", squeeze=False
    )
    colours = plt.get_cmap("tab20")
    for axis, (model, bits, rules) in zip(axes[0], columns, strict=True):
        for i, (name, row) in enumerate(rules.items()):
            epochs = np.arange(1, len(row["test_curve"]) + 1)
            colour = colours(i % 20)
            axis.plot(epochs, 100 * np.array(row["test_curve"]), color=colour, label=name)
            axis.plot(epochs, 100 * np.array(row["train_curve"]), "--", color=colour, lw=0.8)
        axis.set_title(f"{model}, {bits} bit", fontsize=10)
        axis.set_xlabel("epoch")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("accuracy (percent)")
    axes[0, -1].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle(f"{result['data']}: test (lines) and training, augmented (dashed)")
    _run.save_figure(figure, folder / "training_curves.png")
