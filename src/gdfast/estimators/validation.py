"""The rows that a fit does not learn from, but is scored on after each epoch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gdfast.layouts import Features, take_rows
from gdfast.plan import Examples

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Held:
    """X, y as in ``Examples``; weight: (n,) or None for ones."""

    X: Features
    y: Array
    weight: Array | None


def hold_out(examples: Examples, fraction: float, random_state: Any, *, stratify: bool) -> tuple[Examples, Held]:
    """The held-out rows get weight 0 instead of being taken out, so that X is not copied."""
    from sklearn.model_selection import train_test_split

    rows = train_test_split(
        np.arange(examples.n),
        test_size=fraction,
        random_state=random_state,
        stratify=examples.y if stratify else None,
    )[1]
    weight = np.ones(examples.n, dtype=examples.dtype) if examples.weight is None else examples.weight.copy()
    held_weight = weight[rows]
    weight[rows] = 0
    if not (weight.any() and held_weight.any()):
        raise ValueError(
            "sample_weight: no weight is left among the rows to train on or among those held out for early stopping; "
            f"drop rows of weight 0 or change validation_fraction={fraction}"
        )
    return replace(examples, weight=weight), Held(take_rows(examples.X, rows), examples.y[rows], held_weight)
