"""Pictures: that of README from the races (`pytest bench --races races.json && python bench/picture.py races.json`), and
that of compare.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure

PANELS = (  # start of the title of a race, what the panel says
    (
        "Adam epoch, float32 2000000 x 28, 1024 rows a batch, in order",
        "mini-batch Adam, one epoch\n2,000,000 x 28, 1,024 rows a batch",
    ),
    ("LogisticRegression().fit, float32 2000000 x 28", "LogisticRegression().fit\n2,000,000 x 28, to the optimum"),
    ("Ridge().fit", "Ridge().fit\n500,000 x 100"),
    ("SGDClassifier, one epoch", "SGDClassifier, one epoch\n500,000 x 28"),
)
LEFT_OUT = ("bare read", "one thread")
COLOURS = {"gdfast": "#0b6e4f", "NumPy": "#4c72b0", "scikit-learn": "#e08e45"}


def main(source: str, target: str = "docs/speed.png") -> None:
    with open(source) as file:
        results = json.load(file)
    figure = Figure(figsize=(13, 2.9))
    for axis, (start, text) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        race = next(medians for title, medians in results["races"].items() if title.startswith(start))
        shown = {name: seconds for name, seconds in race.items() if not any(word in name for word in LEFT_OUT)}
        own = next(iter(shown.values()))
        colours = [next(c for word, c in COLOURS.items() if name.startswith(word)) for name in shown]
        bars = axis.barh(range(len(shown)), [1e3 * s for s in shown.values()], color=colours)
        labels = [f"{1e3 * s:,.0f} ms" + ("" if s == own else f"  ({s / own:.1f}x)") for s in shown.values()]
        axis.bar_label(bars, labels, padding=3, fontsize=8)
        axis.set_yticks(range(len(shown)), [name.replace(", ", "\n") for name in shown], fontsize=8)
        axis.invert_yaxis()
        axis.set_title(text, fontsize=9)
        axis.set_xlim(0, 1.45e3 * max(shown.values()))
        axis.xaxis.set_visible(False)
        axis.spines[["top", "right", "bottom"]].set_visible(False)
    facts = results["facts"]
    figure.text(
        0.995,
        0.01,
        f"medians of interleaved runs; {facts['cores']} cores, {facts['instruction set in use']}, numpy {facts['numpy']}",
        ha="right",
        fontsize=7,
        color="grey",
    )
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(target, dpi=130)


def draw_comparison(tables: list[Any], names: list[str], file: Path) -> None:
    """The tables of compare.py: excess over the best objective against seconds, a line a peer, a point a setting."""
    columns = min(3, len(tables))
    rows = -(-len(tables) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.9 * rows), dpi=110, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    seen: dict[str, Any] = {}
    for table, axes in zip(tables, panels, strict=False):
        for entry in table.entries:
            points = [(c.median, max(c.excess, 1e-12)) for c in entry.contestants]
            if points:
                own, place = entry.name == "gdfast", names.index(entry.name)
                (seen[entry.name],) = axes.plot(
                    *zip(*points, strict=True), color="#d1495b" if own else colormaps["tab20"](place % 20), markersize=4,
                    marker="o" if own else "sv^<>Dph*X"[place % 10], linewidth=2.5 if own else 0.9, zorder=3 if own else 2,
                )  # fmt: skip
        axes.axhline(table.target, color="0.5", linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set(xscale="log", yscale="log", ylim=(1e-10, 10), xlabel="seconds, the whole fit")
        axes.set_ylabel("excess over the best objective")
        axes.set_title(f"{table.name}: {table.title}", fontsize=8)
        axes.grid(color="0.92")
    for axes in panels[len(tables) :]:
        axes.set_visible(False)
    figure.legend(seen.values(), seen.keys(), loc="outside lower center", ncols=3 * columns, fontsize=8, frameon=False)
    figure.savefig(file)


if __name__ == "__main__":
    main(*sys.argv[1:])
