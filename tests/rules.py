"""One optimizer of each native kernel, for the tests that are parametrised over all of them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from gdfast import optimizers
from gdfast.optimizers import Optimizer
from gdfast.schedules import Rate


def every_kernel(rate: Rate, **options: Any) -> dict[str, Optimizer]:
    """Kernel -> optimizer, once for each rule and each choice of its options that need a slot; ``options`` for those that
    have them."""
    found: dict[str, Optimizer] = {}
    for kind in optimizers.ALL.values():
        choices: list[dict[str, Any]] = [{f.name: options[f.name] for f in fields(kind) if f.name in options}]
        for option in kind.optional_slots:
            value: Any = 0.9 if option == "momentum" else True
            choices += [choice | {option: value} for choice in choices]
        for choice in choices:
            optimizer = kind(rate, **choice)
            found.setdefault(optimizer.kernel, optimizer)
    return found
