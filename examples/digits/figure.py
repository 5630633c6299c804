"""The picture of the study: six panels on one page."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.figure import Figure

from examples.digits.curvature import Curvature
from examples.digits.data import Digits
from examples.digits.influence import Influence
from examples.digits.newton import Fit

BLUE, RED, GREY = "#2166ac", "#b2182b", "#7f7f7f"
STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "font.size": 9,
    "legend.frameon": False,
}


def save(
    path: Path,
    digits: Digits,
    history: list[tuple[float, float]],
    influence: Influence,
    fit: Fit,
    curvature: Curvature,
) -> None:
    """Draw all panels into one file."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(15, 8.5), layout="constrained", dpi=110)
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
        top, bottom = figure.subfigures(2, 1)
        panels = [*top.subfigures(1, 3), *bottom.subfigures(1, 3)]
        draw_training(panels[0], history)
        draw_norms(panels[1], digits, influence)
        draw_neighbours(panels[2], digits, influence)
        draw_newton(panels[3], fit)
        draw_saliency(panels[4], digits, curvature)
        draw_spectrum(panels[5], curvature)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


def draw_training(panel: Any, history: list[tuple[float, float]]) -> None:
    """Loss and test accuracy by epoch."""
    axes = panel.subplots()
    epochs = range(1, len(history) + 1)
    axes.plot(epochs, [loss for loss, _ in history], color=BLUE)
    axes.set(title="Training the CNN", xlabel="epoch")
    axes.set_ylabel("training loss", color=BLUE)
    other = axes.twinx()
    other.spines["right"].set_visible(True)
    other.plot(epochs, [100 * score for _, score in history], color=RED)
    other.set_ylabel("test accuracy, %", color=RED)


def draw_norms(panel: Any, digits: Digits, influence: Influence) -> None:
    """Histogram of the per-sample gradient norms, wrong labels apart."""
    axes = panel.subplots()
    norms = influence.norms.clamp_min(1e-6).log10()
    bins = torch.linspace(norms.min().item(), norms.max().item() + 1e-6, 41).tolist()
    parts = [norms[~digits.wrong].tolist(), norms[digits.wrong].tolist()]
    labels = ["right label", "wrong label"]
    axes.hist(parts, bins, stacked=True, color=[BLUE, RED], label=labels)
    axes.set(
        title="Per-sample gradient norms",
        xlabel="log10 of the norm",
        ylabel="training samples",
        yscale="symlog",
    )
    axes.legend(loc="upper left")


def draw_neighbours(panel: Any, digits: Digits, influence: Influence) -> None:
    """The test image of largest loss and the training images that matter to it."""
    count = min(3, len(influence.helpful))
    panel.suptitle("Most influential training images", x=0.02, ha="left", weight="bold")
    grid = panel.add_gridspec(2, count + 1)
    target = influence.target
    own = panel.add_subplot(grid[:, 0])
    show(own, digits.test_images[target], f"test image: {digits.test_labels[target]}")
    rows = ((influence.helpful, "for", BLUE), (influence.harmful, "against it", RED))
    for line, (indices, word, color) in enumerate(rows):
        for column, index in enumerate(indices[:count].tolist()):
            axes = panel.add_subplot(grid[line, column + 1])
            mark = " (wrong)" if digits.wrong[index] else ""
            title = f"{word}: {digits.labels[index]}{mark}"
            show(axes, digits.images[index], title, color)


def show(axes: Any, image: Any, title: str, color: str = "black") -> None:
    """One digit without axes."""
    axes.imshow(image.squeeze().numpy(), cmap="gray_r", vmin=0, vmax=1)
    axes.set_title(title, fontsize=9, loc="center", weight="normal", color=color)
    axes.axis("off")


def draw_newton(panel: Any, fit: Fit) -> None:
    """Gradient norm by Newton step, with the products that each step took."""
    axes = panel.subplots()
    axes.semilogy(fit.gradient_norms, "o-", color=BLUE)
    for step, count in enumerate(fit.products):
        axes.annotate(
            f"{count}",
            (step, fit.gradient_norms[step]),
            textcoords="offset points",
            xytext=(6, 5),
            color=GREY,
        )
    axes.text(
        0.03,
        0.05,
        "grey: Hessian-vector products",
        transform=axes.transAxes,
        color=GREY,
    )
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(
        title="Newton-CG on a softmax regression",
        xlabel="Newton step",
        ylabel="gradient norm",
    )


def draw_saliency(panel: Any, digits: Digits, curvature: Curvature) -> None:
    """The images nearest to a border, and the pixels that would move them over it."""
    order = curvature.distance.argsort()[:4].tolist()
    axes = panel.subplots(2, len(order))
    panel.suptitle(
        "Nearest to a border, and the margin's gradient",
        x=0.02,
        ha="left",
        weight="bold",
    )
    for column, index in enumerate(order):
        away = f"{curvature.distance[index]:.3f} away"
        show(axes[0][column], digits.test_images[index], away)
        saliency = curvature.saliency[index]
        limit = saliency.abs().max().item()
        axes[1][column].imshow(saliency.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes[1][column].axis("off")


def draw_spectrum(panel: Any, curvature: Curvature) -> None:
    """Eigenvalues of the last layer's Hessian, largest first."""
    axes = panel.subplots()
    values = curvature.eigenvalues.flip(0)
    positive = values[values > values[0] * 1e-12].tolist()
    axes.semilogy(range(1, len(positive) + 1), positive, ".", color=BLUE, ms=3)
    axes.set(
        title="Hessian of the last layer",
        xlabel="index",
        ylabel="eigenvalue",
    )
