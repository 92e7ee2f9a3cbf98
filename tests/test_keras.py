"""gdfast.keras against keras.optimizers on the torch backend: the same steps, variables, files; the textbook's program."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras", reason="the extra keras is not installed")
gd = pytest.importorskip("gdfast.keras", reason="the extra keras is not installed")

# Keras' variables have the __array__ of NumPy 1
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {}),
    "sgd-momentum": ("SGD", {"momentum": 0.9}),
    "sgd-nesterov": ("SGD", {"momentum": 0.9, "nesterov": True, "global_clipnorm": 0.7}),
    "adagrad": ("Adagrad", {}),
    "adadelta": ("Adadelta", {}),
    "rmsprop": ("RMSprop", {"clipvalue": 0.3}),
    "rmsprop-centered": ("RMSprop", {"centered": True}),
    "adam": ("Adam", {"global_clipnorm": 0.7}),
    "adam-amsgrad": ("Adam", {"amsgrad": True, "clipnorm": 0.5}),
    "adamw": ("AdamW", {"weight_decay": 0.1}),
    "adam-accumulated": ("Adam", {"gradient_accumulation_steps": 3, "global_clipnorm": 0.7}),
    "adam-averaged": ("Adam", {"use_ema": True, "ema_overwrite_frequency": 4}),
    "nadam": ("Nadam", {}),
    "adamax": ("Adamax", {}),
    "lion": ("Lion", {"weight_decay": 0.1}),
}


def decay() -> Any:
    return keras.optimizers.schedules.ExponentialDecay(0.05, decay_steps=3, decay_rate=0.7)


def run(optimizer: Any, variables: list[Any], steps: range) -> None:
    for step in steps:
        rng = np.random.default_rng(step)
        grads = [keras.ops.convert_to_tensor(rng.standard_normal(v.shape), dtype=v.dtype) for v in variables]
        optimizer.apply(grads, variables)


def make(kind: Any, options: dict[str, Any]) -> tuple[Any, list[Any]]:
    rng = np.random.default_rng(7)
    shapes = [(3, 4), (4,), (500,)]
    variables = [keras.Variable(rng.standard_normal(shape), dtype="float64") for shape in shapes]
    return kind(learning_rate=decay(), **options), variables


def assert_equal(a: list[Any], b: list[Any]) -> None:
    for p, q in zip(a, b, strict=True):
        # Keras computes rates and products of momenta in float32
        np.testing.assert_allclose(np.array(p), np.array(q), rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("name", CASES)
def test_steps_and_variables_are_those_of_keras(name: str) -> None:
    kind, options = CASES[name]
    ours, a = make(getattr(gd, kind), options)
    theirs, b = make(getattr(keras.optimizers, kind), options)
    assert isinstance(ours, getattr(keras.optimizers, kind))
    run(ours, a, range(9))
    run(theirs, b, range(9))
    assert_equal(a, b)
    names = [[re.sub(r"\d+", "", v.name) for v in optimizer.variables] for optimizer in (ours, theirs)]
    assert names[0] == names[1]
    assert_equal(ours.variables, theirs.variables)
    # and either goes on from the variables of the other
    theirs_again, c = make(getattr(keras.optimizers, kind), options)
    ours_again, d = make(getattr(gd, kind), options)
    for source, values, target, into in ((ours, a, theirs_again, c), (theirs, b, ours_again, d)):
        target.build(into)
        target.set_weights([np.array(v) for v in source.variables])
        for p, q in zip(into, values, strict=True):
            p.assign(q)
    run(ours_again, d, range(9, 12))
    run(theirs_again, c, range(9, 12))
    run(ours, a, range(9, 12))
    assert_equal(a, c)
    assert_equal(a, d)


def textbook(optimizers: Any) -> tuple[Any, Any, Any, list[float]]:
    keras.utils.set_random_seed(1)
    X = np.random.default_rng(0).standard_normal((400, 10)).astype("float32")
    y = (X[:, :2].sum(axis=1) > 0).astype("float32")
    model = keras.Sequential(
        [
            keras.Input((10,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, decay_steps=1000, decay_rate=0.96, staircase=True)
    model.compile(optimizer=optimizers.Adam(learning_rate=rate), loss="binary_crossentropy")
    history = model.fit(X, y, epochs=3, batch_size=50, shuffle=False, verbose=0)
    return model, X, y, history.history["loss"]


def test_the_textbooks_program_gives_keras_losses(tmp_path: Path) -> None:
    model, X, y, losses = textbook(gd)
    assert losses[-1] < 0.5 * losses[0]
    np.testing.assert_allclose(losses, textbook(keras.optimizers)[3], rtol=1e-3)
    path = tmp_path / "model.keras"
    model.save(path)
    again = keras.models.load_model(path, custom_objects={"Adam": gd.Adam})
    assert type(again.optimizer) is gd.Adam
    more = [m.fit(X, y, epochs=2, shuffle=False, verbose=0).history["loss"] for m in (model, again)]
    np.testing.assert_allclose(*more, rtol=1e-5)


def test_what_is_not_taken_is_named() -> None:
    optimizer, variables = make(gd.RMSprop, {"momentum": 0.9})
    with pytest.raises(NotImplementedError, match="momentum"):
        run(optimizer, variables, range(1))
