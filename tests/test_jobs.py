"""jobs.py and its commands: train in blocks, resume, watch."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from test_cli import ok, refusal

from gdfast import load
from gdfast.jobs import BARS, LOG, Job, curve, picture, read_job, read_log

Array = np.ndarray[Any, Any]

N, D = 30_000, 6
FAST = ("--batch-size", 64, "--test-fraction", 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(1)
    X = rng.standard_normal((N, D)).astype(np.float32)
    y = (X @ np.arange(D) + rng.standard_normal(N) > 0).astype(np.int64)
    where = tmp_path_factory.mktemp("clicks")
    for number, rows in enumerate(np.array_split(np.arange(N), 3)):
        columns = {f"x{j}": X[rows, j] for j in range(D)} | {
            "clicked": y[rows],
            "size": X[rows] @ np.ones(D, np.float32),
        }
        parquet.write_table(pa.table(columns), where / f"{number}.parquet", row_group_size=1000)
    return where


def train(folder: Any, *more: object) -> str:
    return ok("train", folder, "--target", "clicked", "--exclude", "size", "--memory-limit", "1M", *FAST, *more)


def test_a_folder_is_trained_in_blocks_and_predicted_from_a_table(folder: Path, tmp_path: Path) -> None:
    said = train(folder, "--model", tmp_path / "m.gdfast", "--max-iter", 3, "--verbose")
    assert "30,000 rows, 6 features as float32" in said
    assert "3 epochs" in said
    assert re.search(r"plan: 30 pieces in \d+ blocks of at most \d+,\d+ rows .* memory limit 1M", said)
    table = parquet.read_table(folder / "0.parquet")
    predicted = ok("predict", folder / "0.parquet", "--model", tmp_path / "m.gdfast").split()[1:]
    assert (np.array(predicted) == table["clicked"].to_numpy().astype(str)).mean() > 0.9
    again = train(f"{folder}/*.parquet", "--model", tmp_path / "n.gdfast", "--max-iter", 3)
    assert "3 epochs" in again
    models = [load(tmp_path / name) for name in ("m.gdfast", "n.gdfast")]
    assert models[0].coef_.tobytes() == models[1].coef_.tobytes()


def test_stopped_resumed_and_watched(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(folder, "--checkpoint", run, "--max-iter", 40, "--max-seconds", 0.02)
    assert "epoch" in ok("watch", run)
    said = ok("resume", run, "--model", tmp_path / "resumed.gdfast")
    train(folder, "--model", tmp_path / "whole.gdfast", "--max-iter", 40)
    resumed, whole = (load(tmp_path / f"{name}.gdfast") for name in ("resumed", "whole"))
    assert resumed.coef_.tobytes() == whole.coef_.tobytes()
    assert resumed.n_iter_ == whole.n_iter_
    assert f"{whole.n_iter_} epochs" in said
    entries = read_log(run)
    assert [entry["epoch"] for entry in entries] == list(range(1, whole.n_iter_ + 1))
    assert re.search(rf"loss .*[{BARS}]+", ok("watch", run))


def test_a_quantity_from_npy_with_held_out_rows(tmp_path: Path) -> None:
    X = np.random.default_rng(0).standard_normal((20_000, 5)).astype(np.float32)
    np.save(tmp_path / "a.npy", np.column_stack([X, X @ np.arange(5, dtype=np.float32)]))
    said = ok(
        "train",
        tmp_path / "a.npy",
        "--target",
        5,
        "--memory-limit",
        "700K",
        "--learning-rate",
        0.01,
        "--test-fraction",
        0.1,
    )
    assert "regression" in said
    score = re.search(r"score of the held-out rows ([\d.]+)", said)
    assert score is not None
    assert float(score[1]) > 0.99


def test_refusals(folder: Path, tmp_path: Path) -> None:
    assert "reads the whole table" in refusal("train", folder, "--target", "clicked", "--estimator", "ridge")
    assert "--C is for --estimator logistic" in refusal("train", folder, "--target", "clicked", "--C", 2)
    assert "there is no column 'nope'" in refusal("train", folder, "--target", "nope")
    assert "holds no job" in refusal("resume", tmp_path)
    assert "holds no log" in refusal("watch", tmp_path)
    assert "memory_limit must be" in refusal("train", folder, "--target", "clicked", "--memory-limit", "much")
    (tmp_path / "job.json").write_text("[1]")
    with pytest.raises(ValueError, match="holds no job"):
        read_job(tmp_path)


def test_a_job_is_read_as_it_was_written(tmp_path: Path) -> None:
    job = Job(str(tmp_path / "data"), "y", True, folder=str(tmp_path), exclude=["a"], chosen={"batch_size": 3})
    job.write()
    assert read_job(tmp_path) == job


def test_logs_and_curves(tmp_path: Path) -> None:
    lines = [{"epoch": e, "loss": 1 / e, "step": e, "seconds": 1.0, "rows_per_second": 5.0} for e in (1, 2, 3, 2)]
    lines[-1]["loss"] = 9.0
    text = "\n".join(map(json.dumps, lines)) + '\n{"epoch": 4, "lo'
    (tmp_path / LOG).write_text(text)
    assert [(entry["epoch"], entry["loss"]) for entry in read_log(tmp_path)] == [(1, 1.0), (2, 9.0), (3, 1 / 3)]
    assert curve([0.0, 1.0]) == BARS[0] + BARS[-1]
    assert curve([2.0] * 500) == BARS[0] * 60
    assert curve([]) == ""
    assert picture([]) == "no epoch is over yet"
    assert "epoch 3, step 3, 5 rows/s" in picture(read_log(tmp_path))
