"""Networks on MNIST through gdfast.torch: the losses of the examples follow those of torch.optim within rounding."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra torch is not installed")
for package in ("pureml", "numcodecs"):
    if find_spec(package) is None:
        pytest.skip(f"MNIST needs {package} (see examples/mnist_cnn.py)", allow_module_level=True)

import mnist_cnn  # noqa: E402
import mnist_lstm  # noqa: E402

import gdfast.torch  # noqa: E402

X, y = mnist_cnn.digits(3840)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # small networks, perhaps on a busy machine
    yield
    torch.set_num_threads(before)


def assert_follows(ours: list[float], theirs: list[float]) -> None:
    assert np.mean(theirs[-5:]) < 0.95 * theirs[0]  # it learns something
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["Adam", "RMSprop"])
def test_a_cnn_with_batch_normalisation(name: str) -> None:
    def losses(home: Any) -> list[float]:
        model = mnist_cnn.network()
        optimizer = getattr(home, name)(model.parameters(), lr=0.001)
        return mnist_cnn.train(model, optimizer.step, X, y)[0]

    assert_follows(losses(gdfast.torch), losses(torch.optim))


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_recurrent_network_with_a_clipped_norm(kind: str) -> None:
    def losses(rule: Any, **options: Any) -> list[float]:
        model = mnist_lstm.Reader(kind)
        return mnist_cnn.train(model, rule(model, **options), X, y)[0]

    assert_follows(losses(mnist_lstm.clipped_by_gdfast), losses(mnist_lstm.clipped_by_torch, fused=True))
