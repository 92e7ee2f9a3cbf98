"""A run is killed at any moment, and continued to the same bits."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from gdfast import (
    Adam,
    Checkpoint,
    CheckpointError,
    DataChangedError,
    ExponentialDecay,
    LogisticRegression,
    ReduceOnPlateau,
    SGDClassifier,
    SGDRegressor,
)
from gdfast.backends import cpu
from gdfast.checkpoint import load_arrays
from gdfast.run_folder import KEPT, RunFolder, fingerprint, identity_of

Array = np.ndarray[Any, Any]

RNG = np.random.default_rng(3)
X = RNG.standard_normal((120_000, 20)).astype(np.float32)
Y = (X @ RNG.standard_normal(20) + 2 * RNG.standard_normal(len(X)) > 0.3).astype(int)
CSR = sp.random_array((60_000, 3000), density=0.004, format="csr", dtype=np.float32, random_state=4)
CSR_Y = (np.asarray(CSR @ RNG.standard_normal(3000).astype(np.float32)) > 0).astype(int)

COMMON: dict[str, Any] = {"loss": "log_loss", "random_state": 5, "max_iter": 12, "tol": None, "n_jobs": 2}
RUNS: dict[str, tuple[dict[str, Any], Any, Array]] = {
    "sgd": ({"optimizer": "sgd", "batch_size": 16, "learning_rate": ExponentialDecay(0.05, 1000, 0.9)}, X, Y),
    "adam": ({"optimizer": "adam", "batch_size": 64, "average": 1000}, X, Y),
    "adam, standardised": ({"optimizer": "adam", "batch_size": 64, "standardize": True}, np.asfortranarray(X), Y),
    "auto rate, early stopping": (
        {"learning_rate": "auto", "batch_size": 64, "early_stopping": True, "n_iter_no_change": 3},
        X,
        Y,
    ),
    "sparse sgd": ({"optimizer": "sgd", "batch_size": 8}, CSR, CSR_Y),
    "sparse adam": ({"optimizer": Adam(0.01, lazy=True), "batch_size": 32, "alpha": 0.0}, CSR, CSR_Y),
}


def model_of(name: str, folder: Path | None, **changed: Any) -> SGDClassifier:
    checkpoint = None if folder is None else Checkpoint(folder, seconds=0.02)
    return SGDClassifier(**{**COMMON, **RUNS[name][0], "checkpoint": checkpoint, **changed})


def fit(name: str, folder: Path | None, **changed: Any) -> SGDClassifier:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged in so few epochs
        return model_of(name, folder, **changed).fit(*RUNS[name][1:])


def bits(model: SGDClassifier) -> tuple[bytes, ...]:
    state = model._state
    average = b"" if state.average is None else state.average.tobytes()
    return model.coef_.tobytes(), model.intercept_.tobytes(), state.w.tobytes(), state.slots.tobytes(), average


def killed(work: Callable[[], object], after: float) -> bool:
    """``work`` in a process of its own, killed after so many seconds; whether it was still at work."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    time.sleep(after)
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
        assert status == 0
        return False
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def storm(name: str, folder: Path, kills: int, seed: int) -> None:
    whole = fit(name, folder / "whole")
    draw, done = random.Random(seed), 0
    run, began = folder / "run", time.perf_counter()
    while done < kills:
        threads = 1 + done % 2
        work = lambda: fit(name, run, n_jobs=threads)  # noqa: B023, E731
        longest = min(0.4, 2 * whole.fit_report_["seconds"])
        if killed(work, draw.uniform(0.01, longest)):
            done += 1
            files = sorted(run.glob("checkpoint-*.gdfast")) if run.exists() else []
            assert len(files) <= KEPT + 1  # killed between the rename and the removal of the oldest
            for file in files:
                load_arrays(file)
        else:
            assert bits(fit(name, run)) == bits(whole)
            shutil.rmtree(run)
        assert time.perf_counter() - began < 20 * kills
    assert bits(fit(name, run, n_jobs=1)) == bits(whole)


@pytest.mark.parametrize("name", RUNS)
def test_killed_runs_end_in_the_bits_of_the_undisturbed_one(name: str, tmp_path: Path) -> None:
    storm(name, tmp_path, 5, seed=1)


@pytest.mark.long
@pytest.mark.parametrize("name", RUNS)
def test_two_hundred_kills(name: str, tmp_path: Path) -> None:
    storm(name, tmp_path, 200, seed=2)


FULL: dict[str, tuple[dict[str, Any], Any, Array, str]] = {
    "preconditioned": ({"tol": 1e-7}, X, Y, "subsampled_newton"),
    "sparse L-BFGS": ({"tol": 1e-7, "solver": "lbfgs"}, CSR, CSR_Y, "lbfgs"),
    "softmax": ({"tol": 1e-5}, X[:30_000], Y[:30_000] + (X[:30_000, 0] > 1), "lbfgs"),
}


def full(name: str, folder: Path | None, **changed: Any) -> LogisticRegression:
    settings, rows, labels, _ = FULL[name]
    checkpoint = None if folder is None else Checkpoint(folder, seconds=0)
    return LogisticRegression(**{"n_jobs": 2, **settings, "checkpoint": checkpoint, **changed}).fit(rows, labels)


def full_storm(name: str, folder: Path, kills: int) -> None:
    whole, draw, done = full(name, folder / "whole"), random.Random(7), 0
    assert whole.fit_report_["solver"] == FULL[name][3]
    while done < kills:
        threads = 1 + done % 2
        work = lambda: full(name, folder / "run", n_jobs=threads)  # noqa: B023, E731
        if killed(work, draw.uniform(0.005, 1.5 * whole.fit_report_["seconds"])):
            done += 1
        else:
            shutil.rmtree(folder / "run")
    for resumed in (full(name, folder / "run", n_jobs=1), full(name, None)):
        assert resumed.coef_.tobytes() == whole.coef_.tobytes()
        assert resumed.intercept_.tobytes() == whole.intercept_.tobytes()
        assert resumed.objective_curve_ == whole.objective_curve_


@pytest.mark.parametrize("name", FULL)
def test_killed_full_data_solvers_end_in_the_same_bits(name: str, tmp_path: Path) -> None:
    full_storm(name, tmp_path, 4)


@pytest.mark.long
@pytest.mark.parametrize("name", FULL)
def test_two_hundred_kills_of_full_data_solvers(name: str, tmp_path: Path) -> None:
    full_storm(name, tmp_path, 200)


def test_a_finished_solver_reads_no_row_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = full("preconditioned", tmp_path)

    def refuse(examples: Any, *args: Any) -> Any:
        assert examples.n < len(X), "a pass over all rows"
        return gradient(examples, *args)

    gradient = cpu.gradient
    monkeypatch.setattr(cpu, "gradient", refuse)
    assert full("preconditioned", tmp_path).coef_.tobytes() == whole.coef_.tobytes()


def test_full_data_solvers_refuse_other_runs_and_l1(tmp_path: Path) -> None:
    full("preconditioned", tmp_path)
    with pytest.raises(CheckpointError, match="penalty was"):
        full("preconditioned", tmp_path, C=3.0)
    with pytest.raises(DataChangedError):
        LogisticRegression(checkpoint=tmp_path, tol=1e-7).fit(X[1:], Y[1:])
    with pytest.raises(ValueError, match="L1 part of the penalty is not available"):
        full("preconditioned", tmp_path / "other", l1_ratio=1.0)


@pytest.mark.parametrize("name", [name for name in RUNS if "sparse" not in name])
def test_to_be_saved_changes_no_bit_of_dense_rows(name: str, tmp_path: Path) -> None:
    saved, plain = fit(name, tmp_path / "run"), fit(name, None)
    assert bits(saved) == bits(plain)
    # the sums of an epoch are added in another order
    for here, there in ((saved.loss_curve_, plain.loss_curve_), (saved.history_.loss, plain.history_.loss)):
        np.testing.assert_allclose(here, there, rtol=1e-12)


def test_the_newest_checkpoint_is_one_interval_old_at_most(tmp_path: Path) -> None:
    """Interval, mark and the writing itself; asked of a run long enough, with room for a busy machine."""
    assert killed(lambda: fit("adam", tmp_path / "run", max_iter=1000), 1.5)
    newest = max(file.stat().st_mtime for file in (tmp_path / "run").glob("checkpoint-*"))
    assert time.time() - newest < 0.5


def test_a_finished_run_is_given_back_and_goes_on_with_a_higher_limit(tmp_path: Path) -> None:
    first = fit("adam", tmp_path / "run", max_iter=2)
    epochs: list[int] = []
    again = fit("adam", tmp_path / "run", max_iter=2, callbacks=lambda epoch: epochs.append(epoch.epoch))
    assert bits(again) == bits(first)
    assert epochs == []
    assert again.history_.loss == first.history_.loss
    longer = fit("adam", tmp_path / "run", max_iter=12, callbacks=lambda epoch: epochs.append(epoch.epoch))
    assert epochs == list(range(3, 13))
    assert bits(longer) == bits(fit("adam", None))
    assert longer.n_iter_ == 12


@pytest.mark.parametrize("limit", [{"max_steps": 2000}, {"max_seconds": 0.02}])
def test_a_run_cut_by_a_limit_goes_on_where_it_was_last_saved(limit: dict[str, Any], tmp_path: Path) -> None:
    cut = fit("adam", tmp_path / "run", **limit)
    assert cut.history_.limit == next(iter(limit))
    assert bits(fit("adam", tmp_path / "run")) == bits(fit("adam", None))


def test_plateaus_and_history_go_on(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"optimizer": "sgd", "max_iter": 12, "random_state": 0, "tol": None, "batch_size": 32}
    settings["learning_rate"] = ReduceOnPlateau(0.5, patience=1, threshold=0.1)
    z = X[:8000, 0] + RNG.standard_normal(8000).astype(np.float32)

    def model(**more: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return SGDRegressor(**{**settings, **more}).fit(X[:8000], z)

    class StopError(Exception):
        pass

    def stop(epoch: Any) -> None:
        if epoch.epoch == 7:
            raise StopError

    with pytest.raises(StopError):
        model(checkpoint=Checkpoint(tmp_path, seconds=0), callbacks=stop)
    resumed, whole = model(checkpoint=tmp_path), model()
    assert resumed.coef_.tobytes() == whole.coef_.tobytes()
    assert resumed._state.plateau == whole._state.plateau
    assert resumed.history_.learning_rate == whole.history_.learning_rate
    assert len(set(whole.history_.learning_rate)) > 1
    assert resumed.history_.epoch == list(range(1, 13))


# ------------------------------------------------------------------------------------------------------------- refusals


def test_other_data_are_refused(tmp_path: Path) -> None:
    fit("adam", tmp_path, max_iter=1)
    changed = X.copy()
    changed[77, 3] = np.nextafter(changed[77, 3], np.float32(9))
    for rows, labels in ((changed, Y), (X[:-1], Y[:-1]), (X[::-1], Y[::-1]), (X, np.roll(Y, 1))):
        with pytest.raises(DataChangedError, match=r"is of other data .* than those given"):
            model_of("adam", tmp_path).fit(rows, labels)


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    fit("adam", tmp_path, max_iter=1)
    for changed, message in (
        ({"batch_size": 65}, "batch_size was 64, is 65"),
        ({"alpha": 0.3}, "penalty was ElasticNet"),
        ({"optimizer": Adam(0.5)}, "optimizer was Adam"),
        ({"random_state": 6}, "seed was"),
        ({"tol": 1e-3}, "stopping was"),
    ):
        with pytest.raises(CheckpointError, match=message):
            model_of("adam", tmp_path, **changed).fit(X, Y)


def test_a_random_order_cannot_be_continued(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="checkpoint needs an integer random_state"):
        model_of("adam", tmp_path, random_state=None).fit(X, Y)
    with pytest.raises(ValueError, match="checkpoint must be None, a folder"):
        model_of("adam", None, checkpoint=7).fit(X, Y)
    with pytest.raises(ValueError, match="checkpoint is for fit"):
        model_of("adam", tmp_path).partial_fit(X, Y, classes=[0, 1])
    with pytest.raises(ValueError, match="seconds must be"):
        Checkpoint(tmp_path, seconds=-1)
    with pytest.raises(ValueError, match="on_error must be"):
        Checkpoint(tmp_path, on_error="ignore")


def test_a_second_writer_is_refused_and_a_dead_one_is_not_waited_for(tmp_path: Path) -> None:
    with (
        RunFolder(Checkpoint(tmp_path), {}),
        pytest.raises(CheckpointError, match=f"is in use by process {os.getpid()}"),
        RunFolder(Checkpoint(tmp_path), {}),
    ):
        pass
    assert killed(lambda: fit("adam", tmp_path, max_iter=1000), 0.7)
    with RunFolder(Checkpoint(tmp_path), {}):
        pass


def test_truncated_and_flipped_checkpoints(tmp_path: Path) -> None:
    model = SGDClassifier(loss="log_loss", optimizer="adam", max_iter=2, tol=None, random_state=0, checkpoint=tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X[:500, :2], Y[:500])
    file = max(tmp_path.glob("checkpoint-*.gdfast"))
    for other in tmp_path.glob("checkpoint-*.gdfast"):
        if other != file:
            other.unlink()
    whole, folder, draw = file.read_bytes(), Checkpoint(tmp_path), random.Random(6)

    def refused(content: bytes) -> None:
        file.write_bytes(content)
        with RunFolder(folder, {}) as run, pytest.raises(CheckpointError):
            run.newest()

    for length in range(0, len(whole), 7):
        refused(whole[:length])
    for bit in draw.sample(range(8 * len(whole)), 1000):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        refused(bytes(flipped))


def test_of_a_broken_newest_checkpoint_the_one_before_is_used(tmp_path: Path) -> None:
    whole = fit("adam", tmp_path / "run", checkpoint=Checkpoint(tmp_path / "run", seconds=0))
    older, newer = sorted((tmp_path / "run").glob("checkpoint-*.gdfast"))
    newer.write_bytes(newer.read_bytes()[:-5])
    with pytest.warns(UserWarning, match="truncated or altered.*The checkpoint before it is used"):
        again = model_of("adam", tmp_path / "run").fit(X, Y)
    assert bits(again) == bits(whole)
    assert older.name < newer.name


def test_an_error_of_the_folder_ends_the_fit_or_is_told(tmp_path: Path) -> None:
    def remove(epoch: Any) -> None:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)

    with pytest.raises(CheckpointError, match="cannot write"):
        fit("adam", tmp_path / "run", callbacks=remove, max_iter=50)
    warned = model_of("adam", None, callbacks=remove, checkpoint=Checkpoint(tmp_path / "run", 0.02, on_error="warn"))
    with pytest.warns(UserWarning, match="Training goes on"):
        warned.fit(X, Y)
    assert bits(warned) == bits(fit("adam", None))


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit("adam", tmp_path, max_iter=1)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match="No space left on device"):
            fit("adam", tmp_path, max_iter=30)
    assert bits(fit("adam", tmp_path, max_iter=1)) == bits(whole)
    assert not list(tmp_path.glob("*.tmp"))


def test_fingerprints_see_every_number_and_no_strides() -> None:
    a = np.arange(30_000, dtype=np.float32).reshape(10_000, 3)
    wide = np.zeros((10_000, 5), np.float32)
    wide[:, :3] = a
    assert fingerprint(wide[:, :3], a[:, 0]) == fingerprint(a, a[:, 0])
    changed = a.copy()
    changed[9_999, 2] += 1
    assert fingerprint(changed) != fingerprint(a)
    assert identity_of(a) != identity_of(changed)
