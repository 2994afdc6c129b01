"""The reliability plot: what share is right, by confidence."""

from pathlib import Path

from edge_model.training.metrics import Bin, wilson


def plot_reliability(bins: list[Bin], ece: float, title: str, target: Path) -> None:
    """Writes a small plot, as PNG or SVG by the ending: accuracy over confidence, with 95 % intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    confidence = [found.confidence for found in bins]
    right = [found.accuracy for found in bins]
    ends = [wilson(found.accuracy, found.messages) for found in bins]
    below = [max(0.0, middle - low) for middle, (low, _) in zip(right, ends, strict=True)]
    above = [max(0.0, high - middle) for middle, (_, high) in zip(right, ends, strict=True)]
    with pyplot.rc_context({"svg.hashsalt": "trivium", "font.size": 9}):
        figure, axes = pyplot.subplots(figsize=(4.4, 4.2), layout="constrained")
        axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, label="perfectly calibrated")
        axes.errorbar(
            confidence, right, (below, above), fmt="o", color="C0", capsize=3, label="measured, 95 % interval"
        )
        for found, (low, _) in zip(bins, ends, strict=True):
            told = f"{found.messages}"
            axes.annotate(
                told, (found.confidence, low), (0, -5), textcoords="offset points", ha="center", va="top"
            )
        axes.set(xlabel="confidence (numbers: messages)", ylabel="share that is right", title=title)
        axes.set(xlim=(0, 1.04), ylim=(-0.02, 1.03))
        axes.legend(loc="lower right", frameon=False, title=f"ECE {ece:.3f}")
        figure.savefig(target, dpi=100)
        pyplot.close(figure)
