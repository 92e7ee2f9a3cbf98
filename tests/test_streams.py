"""Tables larger than memory: the same bits from memory and from file, and an error that names the place."""

from __future__ import annotations

import _thread
import os
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from sklearn.linear_model import LogisticRegression as ScikitLogisticRegression
from sklearn.preprocessing import StandardScaler
from test_run_folder import bits, killed

from gdfast import (
    ArraySource,
    BatchSource,
    Checkpoint,
    DataChangedError,
    LinearRegression,
    LogisticRegression,
    NpySource,
    ParquetSource,
    Ridge,
    SGDClassifier,
    SGDRegressor,
)
from gdfast.optimizers import ALL as OPTIMIZERS
from gdfast.streams import Source, memory_of, pieces_of

Array = np.ndarray[Any, Any]

N, D = 60_000, 12
LIMIT = 4 * 12_000 * D * 4  # a block of 12,000 rows


@pytest.fixture(scope="module")
def data() -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(17)
    X = (rng.standard_normal((N, D)) * np.linspace(1, 5, D) + 2).astype(np.float32)
    y = ((X - 2) @ rng.standard_normal(D) + rng.standard_normal(N) > 0.8).astype(np.int64)
    return X, y, rng.uniform(0.5, 2, N).astype(np.float32)


def write_parquet(folder: Path, X: Array, y: Array, weight: Array, *, files: int = 3, group: int = 2000) -> Path:
    folder.mkdir(exist_ok=True)
    for number, rows in enumerate(np.array_split(np.arange(len(X)), files)):
        columns = {f"x{j}": X[rows, j] for j in range(X.shape[1])} | {"late": y[rows], "w": weight[rows]}
        parquet.write_table(pa.table(columns), folder / f"part-{number}.parquet", row_group_size=group)
    return folder


def as_parquet(where: Path, X: Array, y: Array, weight: Array) -> Source:
    return ParquetSource(write_parquet(where / "folder", X, y, weight), target="late", weight="w", memory_limit=LIMIT)


def as_npy(where: Path, X: Array, y: Array, weight: Array) -> Source:
    np.save(where / "all.npy", np.column_stack([X, y, weight]).astype(np.float32))
    return NpySource(where / "all.npy", target=D, weight=-1, memory_limit=LIMIT)


class Batches:
    def __init__(self, X: Array, y: Array, weight: Array) -> None:
        self.parts = X, y, weight

    def __iter__(self) -> Iterator[tuple[Array, ...]]:
        for start in range(0, N, 2000):
            yield tuple(a[start : start + 2000] for a in self.parts)


def as_batches(where: Path, X: Array, y: Array, weight: Array) -> Source:
    return BatchSource(Batches(X, y, weight), memory_limit=LIMIT)


SOURCES: dict[str, Callable[..., Source]] = {"parquet": as_parquet, "npy": as_npy, "batches": as_batches}


def in_memory(source: Source, data: tuple[Array, Array, Array]) -> ArraySource:
    same = ArraySource(*data, memory_limit=LIMIT)
    same.rows, same.in_order = source.rows, source.in_order
    same._starts = np.concatenate([[0], np.cumsum(source.rows)])
    return same


def fitted(source: Any, *args: Any, kind: Any = SGDClassifier, **settings: Any) -> Any:
    settings = {"loss": "log_loss", "optimizer": "adam", "random_state": 2, "max_iter": 3, "tol": None, **settings}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kind(**settings).fit(source, *args)


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"standardize": True, "class_weight": "balanced", "average": 100},
        {"early_stopping": True, "learning_rate": "auto", "max_iter": 6},
        {"shuffle": False, "clip_norm": 0.5, "accumulate": 3},
        {"shuffle": "block", "n_jobs": 2, "optimizer": "sgd"},
    ],
    ids=["plain", "standardised and balanced", "early stopping", "in order", "two threads"],
)
def test_the_same_bits_from_memory_and_from_file(
    kind: str, settings: dict[str, Any], data: Any, tmp_path: Path
) -> None:
    source = SOURCES[kind](tmp_path, *data)
    assert not source.fits
    file, memory = fitted(source, **settings), fitted(in_memory(source, data), **settings)
    assert bits(file) == bits(memory)
    assert file.loss_curve_ == memory.loss_curve_
    assert file.history_.validation_score == memory.history_.validation_score
    np.testing.assert_array_equal(file.classes_, [0, 1])
    assert ((data[0] @ file.coef_[0] + file.intercept_ > 0) == data[1]).mean() > 0.85


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_learns_from_blocks(optimizer: str, data: Any, tmp_path: Path) -> None:
    source = as_npy(tmp_path, *data)
    once = fitted(source, optimizer=optimizer, standardize=True, n_jobs=1)
    assert bits(once) == bits(fitted(source, optimizer=optimizer, standardize=True, n_jobs=2))
    assert once.loss_curve_[-1] < once.loss_curve_[0]


@pytest.mark.parametrize("kind", SOURCES)
def test_a_table_of_one_block_is_an_array_in_memory(kind: str, data: Any, tmp_path: Path) -> None:
    X, y, weight = data
    source = SOURCES[kind](tmp_path, X, y, weight)
    source.memory_limit = "1G"
    assert source.fits
    assert bits(fitted(source)) == bits(fitted(X, y, None, None, weight))


def test_regression_and_predictions_over_blocks(data: Any, tmp_path: Path) -> None:
    X, _, weight = data
    y = (X @ np.arange(D) + 3).astype(np.float32)
    source = as_parquet(tmp_path, X, y, weight)
    model = fitted(source, kind=SGDRegressor, loss="squared_error", learning_rate="auto", standardize=True, max_iter=30)
    assert list(model.feature_names_in_) == [f"x{j}" for j in range(D)]
    np.testing.assert_allclose(model.coef_, np.arange(D), atol=0.02)
    z = model.predict(source)
    np.testing.assert_allclose(z, X @ model.coef_ + model.intercept_, rtol=1e-4, atol=1e-3)


def test_labels_of_text_and_sorted_files(data: Any, tmp_path: Path) -> None:
    """A file sorted by its labels: as good a model as one whose rows are mixed, and as scikit-learn's."""
    X, y, weight = data
    rows = np.argsort(y, kind="stable")
    names = np.array(["early", "late"])[y]
    source = as_parquet(tmp_path, X[rows], names[rows], np.ones_like(weight))
    model = fitted(source, standardize=True, learning_rate="auto", max_iter=40, alpha=0.0)
    assert list(model.classes_) == ["early", "late"]
    X64, sign = X.astype(float), 2 * y - 1
    standard = StandardScaler().fit_transform(X64)
    best = ScikitLogisticRegression(C=np.inf).fit(standard, names).decision_function(standard)
    loss, least = (np.logaddexp(0, -sign * z).mean() for z in (X64 @ model.coef_[0] + model.intercept_[0], best))
    assert loss < 1.01 * least


@pytest.mark.parametrize("kind", SOURCES)
def test_the_optimum_in_a_few_reads(kind: str, data: Any, tmp_path: Path) -> None:
    """The scan and the passes of the solver; the same bits from memory, the optimum of the whole array."""
    source = SOURCES[kind](tmp_path, *data)
    model = LogisticRegression(C=0.1, class_weight="balanced", n_jobs=2).fit(source)
    assert model.fit_report_["solver"] == "subsampled_newton"
    assert model.fit_report_["passes"] <= 5  # of a Hessian of 3,000 rows, all that so little memory holds
    memory = LogisticRegression(C=0.1, class_weight="balanced", n_jobs=1).fit(in_memory(source, data))
    assert model.coef_.tobytes() == memory.coef_.tobytes()
    X, y, weight = data
    best = ScikitLogisticRegression(C=0.1, class_weight="balanced", tol=1e-10, max_iter=1000).fit(
        X.astype(float), y, weight
    )
    np.testing.assert_allclose(model.coef_, best.coef_, rtol=2e-3, atol=2e-4)


def test_several_classes_and_quantities_to_the_optimum(data: Any, tmp_path: Path) -> None:
    X, y, weight = data
    three = y + (X[:, 0] > 3)
    model = LogisticRegression(tol=1e-6).fit(as_npy(tmp_path, X, three, weight))
    whole = LogisticRegression(tol=1e-6).fit(X, three, weight)
    np.testing.assert_allclose(model.coef_, whole.coef_, rtol=0.01, atol=1e-3)
    target = (X @ np.arange(D)).astype(np.float32) + X[:, 0] ** 2
    for kind in (Ridge, LinearRegression):
        source = as_parquet(tmp_path, X, target, weight)
        np.testing.assert_allclose(kind().fit(source).coef_, kind().fit(X, target, weight).coef_, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="L1 part of the penalty is not available"):
        LogisticRegression(l1_ratio=1.0).fit(as_npy(tmp_path, *data))
    with pytest.raises(ValueError, match="a source holds"):
        Ridge().fit(source, target)


def test_a_solver_killed_while_streaming(data: Any, tmp_path: Path) -> None:
    source = as_parquet(tmp_path, *data)

    def fit(folder: Path, threads: int) -> LogisticRegression:
        return LogisticRegression(tol=1e-9, n_jobs=threads, checkpoint=Checkpoint(folder, 0)).fit(source)

    whole, kills = fit(tmp_path / "whole", 2), 0
    for number in range(6):
        kills += killed(lambda n=number: fit(tmp_path / "run", 1 + n % 2), 0.03 + 0.02 * number)  # type: ignore[misc]
    assert kills > 0
    resumed = fit(tmp_path / "run", 1)
    assert resumed.coef_.tobytes() == whole.coef_.tobytes()


# ---------------------------------------------------------------------------------------------------- killed, interrupted


@pytest.mark.parametrize("kind", ["parquet", "npy"])
def test_killed_while_streaming(kind: str, data: Any, tmp_path: Path) -> None:
    source = SOURCES[kind](tmp_path, *data)
    settings: dict[str, Any] = {"batch_size": 16, "max_iter": 12, "n_jobs": 2}
    whole, kills = fitted(source, checkpoint=Checkpoint(tmp_path / "whole", 0.02), **settings), 0
    for number in range(8):
        again = lambda n=number: fitted(  # noqa: E731
            source, checkpoint=Checkpoint(tmp_path / "run", 0.02), **{**settings, "n_jobs": 1 + n % 2}
        )
        kills += killed(again, 0.05 + 0.02 * number)
    assert kills > 0
    resumed = fitted(source, checkpoint=Checkpoint(tmp_path / "run", 0.02), **{**settings, "n_jobs": 1})
    assert bits(resumed) == bits(whole) == bits(fitted(source, **settings))


def test_an_interrupt_ends_within_half_a_second_and_can_be_resumed(data: Any, tmp_path: Path) -> None:
    source = as_parquet(tmp_path, *data)
    settings: dict[str, Any] = {"checkpoint": Checkpoint(tmp_path / "run", 0.05)}
    pressed: list[float] = []

    def press() -> None:
        pressed.append(time.perf_counter())
        _thread.interrupt_main()

    timer = threading.Timer(1.0, press)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        fitted(source, max_iter=10_000, **settings)
    assert time.perf_counter() - pressed[0] < 0.5
    timer.join()
    epochs: list[int] = []
    fitted(source, max_iter=10_000, callbacks=lambda epoch: epochs.append(epoch.epoch) or len(epochs) == 2, **settings)
    assert epochs[0] > 1


# -------------------------------------------------------------------------------------------------------------- bad input


def change(file: Path, how: str) -> None:
    content = file.read_bytes()
    if how == "truncated":
        os.truncate(file, len(content) // 2)
    elif how == "appended to":
        file.write_bytes(content + b"more")
    elif how == "replaced":
        shutil.copy(file, file.with_suffix(".tmp"))
        os.replace(file.with_suffix(".tmp"), file)
    elif how == "reordered":
        file.write_bytes(content[:4000] + content[4000:][::-1])
    else:
        file.unlink()


@pytest.mark.parametrize("how", ["truncated", "appended to", "replaced", "reordered", "removed"])
@pytest.mark.parametrize("kind", ["parquet", "npy"])
def test_a_file_that_changes_while_it_is_learned_from(kind: str, how: str, data: Any, tmp_path: Path) -> None:
    source = SOURCES[kind](tmp_path, *data)
    file = tmp_path / ("all.npy" if kind == "npy" else "folder/part-1.parquet")

    def callback(epoch: Any) -> None:
        if epoch.epoch == 1:
            change(file, how)

    with pytest.raises(DataChangedError, match=file.name):
        fitted(source, callbacks=callback)


@pytest.mark.parametrize("kind", ["parquet", "npy"])
def test_a_file_that_changes_before_a_resume(kind: str, data: Any, tmp_path: Path) -> None:
    X, y, weight = data
    fitted(SOURCES[kind](tmp_path, X, y, weight), checkpoint=tmp_path / "run", max_iter=1)
    other = SOURCES[kind](tmp_path, X[::-1], y[::-1], weight[::-1])
    with pytest.raises(DataChangedError, match="is of other data"):
        fitted(other, checkpoint=tmp_path / "run")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none_are_named(value: float, data: Any, tmp_path: Path) -> None:
    X, y, weight = (a.copy() for a in data)
    X[25_000, 3] = value
    with pytest.raises(ValueError, match=r"part-1.parquet: row group 2, row 1000 of it, column 'x3' is (NaN|infinity)"):
        fitted(as_parquet(tmp_path, X, y, weight))
    with pytest.raises(ValueError, match=r"all.npy: row 25000, column 3 is (NaN|infinity)"):
        fitted(as_npy(tmp_path, X, y, weight))
    with pytest.raises(ValueError, match=r"batch 12: row 1000, column 3 is (NaN|infinity)"):
        fitted(as_batches(tmp_path, X, y, weight))


def test_bad_parquet_files_are_named(data: Any, tmp_path: Path) -> None:
    folder = write_parquet(tmp_path / "folder", *data)
    file = folder / "part-1.parquet"
    good = parquet.read_table(file)

    def refused(table: Any, message: str) -> None:
        parquet.write_table(table, file, row_group_size=2000)
        with pytest.raises(ValueError, match=message):
            fitted(ParquetSource(folder, target="late", memory_limit=LIMIT))

    refused(good.drop(["x5"]), r"part-1.parquet: there is no column 'x5'")
    refused(
        good.set_column(5, "x5", good["x5"].cast(pa.float64())),
        r"part-1.parquet: column 'x5' is double, in .* it is float",
    )
    holes = pa.array([None if i == 4500 else 1.0 for i in range(len(good))], pa.float32())
    refused(good.set_column(5, "x5", holes), r"part-1.parquet: row group 2, column 'x5' has 1 nulls")
    file.write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(ValueError, match=r"part-1.parquet is no whole Parquet file"):
        ParquetSource(folder, target="late")
    file.unlink()
    with pytest.raises(ValueError, match="there is no column 'nope'"):
        ParquetSource(folder, target="nope")
    with pytest.raises(ValueError, match="there is no such file"):
        ParquetSource(tmp_path / "*.nothing", target="late")
    parquet.write_table(pa.table({"a": ["x", "y"], "late": [0, 1]}), file)
    with pytest.raises(ValueError, match="column 'a' holds string, expected numbers"):
        ParquetSource(file, target="late")


def test_bad_npy_files_are_named(tmp_path: Path) -> None:
    for array, message in (
        (np.zeros(5), "shape"),
        (np.zeros((5, 3), order="F"), "columns one after the other"),
        (np.zeros((5, 3), complex), "Complex"),
    ):
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(ValueError, match=message):
            NpySource(tmp_path / "a.npy", target=0)
    np.save(tmp_path / "a.npy", np.zeros((500, 3)))
    os.truncate(tmp_path / "a.npy", 1000)
    with pytest.raises(ValueError, match="truncated"):
        NpySource(tmp_path / "a.npy", target=0)
    (tmp_path / "a.npy").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"no \.npy file"):
        NpySource(tmp_path / "a.npy", target=0)


def test_integers_halves_and_decimals_are_converted(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n = 400
    columns = {
        "i": pa.array(rng.integers(0, 9, n), pa.int16()), "h": pa.array(rng.standard_normal(n).astype(np.float16)),
        "b": pa.array(rng.random(n) > 0.5), "m": pa.array(rng.integers(0, 99, n)).cast(pa.decimal128(21, 2)),
        "late": pa.array(rng.integers(0, 2, n)),
    }  # fmt: skip
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=100)
    X, _, _ = ParquetSource(tmp_path / "a.parquet", target="late").load()
    expected = np.column_stack([np.array(columns[name].to_pylist(), dtype=float) for name in "ihbm"])
    assert X.dtype == np.float64
    np.testing.assert_array_equal(X, expected)


def test_batches_that_can_be_read_once_or_change(data: Any) -> None:
    X, y, _ = data
    with pytest.raises(TypeError, match="can be iterated once only"):
        BatchSource((X, y) for _ in range(3))
    with pytest.raises(TypeError, match=r"batch 0 is list, expected a tuple \(X, y\)"):
        BatchSource([[X, y]])
    with pytest.raises(ValueError, match="batch 1 has 3 columns, batch 0 has 12"):
        BatchSource([(X, y), (X[:, :3], y)])
    with pytest.raises(ValueError, match="no batches"):
        BatchSource([])
    batches = [(X[:2000], y[:2000])] * 30
    source = BatchSource(batches, memory_limit=LIMIT)
    batches[7] = (X[:1000], y[:1000])
    with pytest.raises(DataChangedError, match="batch 7 has the shape"):
        fitted(source)


def test_memory_limits() -> None:
    assert [memory_of(x) for x in (1000, "512M", "2G", "1.5 K", "3MiB")] == [1000, 2**29, 2**31, 1536, 3 * 2**20]
    for bad in ("many", "-3", -3, True):
        with pytest.raises(ValueError, match="memory_limit must be"):
            memory_of(bad)
    source = ArraySource(np.zeros((1000, 10)), np.arange(1000) % 2, piece_rows=10, memory_limit=1000)
    with pytest.raises(ValueError, match="memory_limit=1000 is too small"):
        fitted(source)
    with pytest.raises(ValueError, match="a step takes"):
        fitted(
            ArraySource(np.zeros((90_000, 10)), np.arange(90_000) % 2, piece_rows=10, memory_limit=80_000),
            batch_size=2000,
        )
    with pytest.raises(ValueError, match="a source holds labels"):
        fitted(source, np.zeros(1000))
    assert pieces_of(10, 2**21, 2**30).tolist() == [1] * 10
