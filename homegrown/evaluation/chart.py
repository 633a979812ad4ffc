"""The picture of an evaluation: what each variant costs and how well it predicts."""

from collections.abc import Sequence
from io import BytesIO

from matplotlib.figure import Figure


def draw(names: Sequence[str], bits_per_byte: Sequence[float], megabytes: Sequence[float]) -> bytes:
    """Return a PNG with two bars for each variant: bits per byte, and megabytes on disk; both axes begin at 0."""
    figure = Figure(figsize=(9, 1.2 + 0.42 * len(names)), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    panels = (
        (left, bits_per_byte, "Bits per byte of held-out text (less is better)", "#3b6ea5", "%.4f"),
        (right, megabytes, "Size on disk, MB", "#8a9a5b", "%.1f"),
    )
    for axes, values, title, colour, digits in panels:
        bars = axes.barh(range(len(names)), values, color=colour, height=0.65)
        axes.bar_label(bars, fmt=digits, padding=4, fontsize=9)
        axes.set_title(title, fontsize=10, loc="left")
        axes.margins(x=0.18)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    picture = BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()
