"""Promises to the process that calls: sizes beyond 2^31, Ctrl-C, Python threads, equal bits, limits, number format."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from joblib.externals.loky.backend import context
from threadpoolctl import threadpool_info, threadpool_limits

import gdfast
from gdfast import Adam, runtime

Array = np.ndarray[Any, Any]

NAMES = ("LogisticRegression", "LinearRegression", "Ridge", "SGDClassifier", "SGDRegressor")
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
LINUX = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc of Linux")
TWO_CORES = pytest.mark.skipif(CORES < 2, reason="needs two cores")


def run(code: str, *arguments: Any, limit: float = 60, **environment: str) -> Any:
    """Runs `code` in a fresh interpreter; what it prints last is read as JSON."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "LOKY_", "GDFAST_"))}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=limit,
        env=env | environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


# --- n * d beyond 2^31 ------------------------------------------------------------------------------------------------

# 8 GB of address space (16 GB in float64), of which only the last row has memory of its own
HUGE = """
    import json, sys, time
    import numpy as np
    import gdfast
    from gdfast import *

    def status(key):
        line = next(line for line in open("/proc/self/status") if line.startswith(key))
        return int(line.split()[1]) / 1024

    expression, dtype, order = sys.argv[1:4]
    X = np.zeros((65600, 32768), dtype, order=order)
    X[-1, 0], X[-1, 7], X[-1, -1] = 2, 0.5, -1
    y = np.zeros(65600, dtype)
    y[-1] = 1
    model = eval(expression)
    gdfast.runtime.threads()
    before, began = status("VmRSS"), time.perf_counter()
    model.fit(X, y)
    seconds = time.perf_counter() - began
    coef = np.ravel(model.coef_)
    predicted = model.predict(X[-3:])
    print(json.dumps({
        "seconds": seconds,
        "megabytes": status("VmHWM") - before,
        "coef": {int(j): float(coef[j]) for j in np.flatnonzero(coef)},
        "intercept": float(np.ravel(model.intercept_)[0]),
        "predicted": [float(p) for p in predicted],
        "size": X.size,
    }))
"""
STEP = "max_iter=1, tol=None, shuffle=False, fit_intercept=False, penalty=None"


def memory_map_of(gigabytes: int) -> None:
    try:
        np.zeros(gigabytes * 2**30, "u1")
    except MemoryError:
        pytest.skip(f"this process may not map {gigabytes} GB of address space")


@LINUX
@pytest.mark.parametrize(
    ("model", "dtype", "order", "step"),
    [
        # one step for the last row, from weights 0: w = rate * slope * x, with slope 1
        (f"SGDClassifier({STEP}, learning_rate='constant', eta0=0.25)", "f4", "C", 0.25),
        (f"SGDRegressor({STEP}, learning_rate='constant', eta0=0.25)", "f4", "C", 0.25),
        # the mean of the 4096 (65600 - 16 * 4096 = 64 in the last batch) gradients of a batch
        (f"SGDRegressor({STEP}, optimizer=SGD(0.25), batch_size=4096)", "f4", "F", 0.25 / 64),
        (f"SGDRegressor({STEP}, optimizer=SGD(0.25), batch_size=4096)", "f8", "C", 0.25 / 64),
    ],
)
def test_one_epoch_over_two_thousand_million_numbers(model: str, dtype: str, order: str, step: float) -> None:
    memory_map_of(18 if dtype == "f8" else 9)
    found = run(HUGE, model, dtype, order)
    assert found["size"] > 2**31
    expected = {"0": 2 * step, "7": 0.5 * step, "32767": -step}
    assert found["coef"] == pytest.approx(expected, rel=1e-6)
    assert found["intercept"] == 0
    assert found["predicted"][:2] == [0, 0]
    assert found["predicted"][2] == (1 if "Classifier" in model else pytest.approx(5.25 * step, rel=1e-6))
    assert found["megabytes"] < 256
    assert found["seconds"] < 10


@LINUX
@pytest.mark.parametrize(
    ("model", "order"),
    [
        ("SGDClassifier(max_iter=1, tol=None)", "C"),
        # rows in random order, a number from each of 32768 columns: slow by nature
        pytest.param(
            "SGDClassifier(max_iter=1, tol=None, optimizer='sgd', batch_size=4096)", "F", marks=pytest.mark.long
        ),
        ("LogisticRegression(max_iter=2)", "C"),
        pytest.param("LogisticRegression(max_iter=2)", "F", marks=pytest.mark.long),
        pytest.param("LinearRegression()", "C", marks=pytest.mark.long),
        pytest.param("LinearRegression()", "F", marks=pytest.mark.long),
    ],
)
def test_shuffled_rows_and_full_passes_over_two_thousand_million_numbers(model: str, order: str) -> None:
    memory_map_of(9)
    found = run(HUGE, model, "f4", order, limit=120)
    w = found["coef"]
    # all gradients point along the one row that is not empty
    assert set(w) == {"0", "7", "32767"}
    assert w["0"] > 0
    assert w["7"] > 0
    assert w["32767"] < 0
    if model.startswith("LinearRegression"):
        np.testing.assert_allclose(found["predicted"], [0, 0, 1], rtol=0, atol=1e-5)
    assert found["megabytes"] < 256
    assert found["seconds"] < (60 if "batch_size" in model else 10)


# --- the number format of the process ---------------------------------------------------------------------------------

DENORMALS = """
    import json
    import numpy as np
    import threading
    tiny = {"f8": np.array([1e-310]), "f4": np.array([1e-40], "f4")}

    def kept():
        return all(bool(((a * 0.5) != 0).all()) and (a * a.dtype.type(0.5)).tobytes() != bytes(a.nbytes) for a in tiny.values())

    seen = {"before": kept()}
    import gdfast
    seen["after import"] = kept()
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60000, 16), dtype="f4")
    y = (X[:, 0] > 0).astype("f4")
    for model in (gdfast.LogisticRegression(n_jobs=4), gdfast.Ridge(n_jobs=4),
                  gdfast.SGDClassifier(optimizer="adam", batch_size=4096, max_iter=2, tol=None, n_jobs=4)):
        model.fit(X, y)
        model.predict(X)
        seen[f"after {type(model).__name__}"] = kept()
    small = np.full((4, 2), 1e-310)
    seen["inside a kernel"] = bool((gdfast.ops.margins(small, np.array([0.5, 0.0, 0.0])) != 0).all())
    here = []
    thread = threading.Thread(target=lambda: here.append(kept()))
    thread.start()
    thread.join()
    seen["in a new thread"] = here[0]
    print(json.dumps(seen))
"""


def test_denormal_numbers_stay_what_they_are() -> None:
    seen = run(DENORMALS)
    assert all(seen.values()), seen
    assert len(seen) == 7


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------

INTERRUPTED = """
    import copy, json, os, random, signal, sys, threading, time, warnings
    import numpy as np
    import gdfast
    from gdfast import *

    expression, n, d, k, rank, moments = sys.argv[1], *map(int, sys.argv[2:7])
    random.seed(moments)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d), dtype="f4") if rank else np.zeros((n, d), "f4")  # zeros need no memory
    if 0 < rank < d:
        X[:, rank:] = X[:, :rank] @ rng.standard_normal((rank, d - rank), dtype="f4")
    y = (X[:, :k] + rng.standard_normal((n, k), dtype="f4")).argmax(axis=1).astype("f4")
    small = rng.standard_normal((200, 5), dtype="f4")
    few = (small[:, 0] > 0).astype("f4")

    def fit(model, X, y):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return model.fit(X, y)

    fitted = fit(eval(expression), small, few)
    coef, predicted = fitted.coef_.tobytes(), fitted.predict(small).tobytes()
    if hasattr(fitted, "batch_size"):
        endless = {"max_iter": 10**6, "tol": None}
    else:
        endless = {}
    threads = lambda: len(os.listdir("/proc/self/task"))
    before, waits, as_before, usable = threads(), [], [], []
    for _ in range(moments):
        sent = []

        def interrupt():
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

        timer = threading.Timer(random.uniform(0.02, 0.5), interrupt)
        timer.start()
        try:
            while True:  # the moment falls into one fit or another, or between two
                model = copy.deepcopy(fitted).set_params(**endless)
                fit(model, X, y)
        except KeyboardInterrupt:
            waits.append(time.monotonic() - sent[0])
        timer.join()
        end = time.monotonic() + 2  # a thread that was joined may take a moment to leave the table
        while threads() > before and time.monotonic() < end:
            time.sleep(0.01)
        assert threads() <= before, (threads(), before)
        if model.coef_.shape[-1] == d:  # this one had ended
            as_before.append(bool(np.isfinite(model.predict(X[:100])).all()))
        else:
            same = model.coef_.tobytes() == coef and model.n_features_in_ == 5
            as_before.append(same and model.predict(small).tobytes() == predicted)
        usable.append(fit(model.set_params(**fitted.get_params()), small, few).coef_.tobytes() == coef)
    print(json.dumps({"waits": waits, "as_before": as_before, "usable": usable}))
"""
LONG_FITS = {
    "a row a step, one thread": ("SGDClassifier(random_state=0, n_jobs=1)", 100_000, 50, 2, 50),
    "one long epoch after the other": ("SGDRegressor(random_state=0, eta0=1e-4)", 300_000, 150, 2, 150),
    "batches, two threads": (
        "SGDClassifier('log_loss', optimizer=Adam(1e-3), batch_size=4096, n_jobs=2, random_state=0)",
        300_000,
        60,
        2,
        60,
    ),
    "Newton": ("LogisticRegression()", 150_000, 120, 2, 120),
    "L-BFGS": ("LogisticRegression(n_jobs=1)", 80_000, 80, 10, 80),
    "L-BFGS with a large factor": ("LogisticRegression(C=100)", 6_000, 1500, 2, 1500),
    "proximal": ("LogisticRegression(l1_ratio=1, C=1e-3)", 150_000, 80, 2, 80),
    "least squares of a thousand columns": ("Ridge()", 15_000, 1000, 2, 1000),
    "least squares of collinear columns": ("LinearRegression()", 5_000, 1000, 2, 900),
    "8 GB of many columns": ("LinearRegression()", 65_600, 32_768, 2, 0),
}


def interrupt(case: str, moments: int) -> None:
    found = run(INTERRUPTED, *LONG_FITS[case], moments, limit=60 + 3 * moments)
    assert len(found["waits"]) == moments
    assert max(found["waits"]) < 0.2, sorted(found["waits"])
    assert found["as_before"] == [True] * moments
    assert found["usable"] == [True] * moments


@LINUX
@pytest.mark.parametrize("case", LONG_FITS)
def test_ctrl_c_is_answered_at_once_and_leaves_nothing_behind(case: str) -> None:
    interrupt(case, 5)


@LINUX
@pytest.mark.long
@pytest.mark.parametrize("case", LONG_FITS)
def test_ctrl_c_at_twenty_moments(case: str) -> None:
    interrupt(case, 20)


STREAM = """
    import copy, json, os, signal, sys, threading, time
    import numpy as np
    import gdfast

    rng = np.random.default_rng(0)
    X = rng.standard_normal((400_000, 100), dtype="f4")
    y = (X[:, 0] > 0).astype("f4")
    model = gdfast.SGDClassifier("log_loss", random_state=0, optimizer=sys.argv[1] or None, batch_size=int(sys.argv[2]))
    model.partial_fit(X[:1000], y[:1000], classes=[0, 1])
    waits, equal, interrupted = [], [], 0
    for wait in (0.02, 0.05, 0.08):
        twin = copy.deepcopy(model)
        sent = []

        def interrupt():
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

        timer = threading.Timer(wait, interrupt)
        timer.start()
        try:
            model.partial_fit(X, y)
            while True:
                time.sleep(0.001)
        except KeyboardInterrupt:
            waits.append(time.monotonic() - sent[0])
        timer.join()
        if model.t_ == twin.t_:  # it fell into the epoch
            interrupted += 1
            equal.append(model.decision_function(X[:100]).tobytes() == twin.decision_function(X[:100]).tobytes())
            model.partial_fit(X[:1000], y[:1000])
            twin.partial_fit(X[:1000], y[:1000])
            equal.append(model.coef_.tobytes() == twin.coef_.tobytes())
    print(json.dumps({"waits": waits, "equal": equal, "interrupted": interrupted}))
"""


@LINUX
@pytest.mark.parametrize(("optimizer", "batch_size"), [("", 1), ("adam", 512)])
def test_an_interrupted_part_of_a_stream_is_as_if_it_had_not_come(optimizer: str, batch_size: int) -> None:
    found = run(STREAM, optimizer, batch_size)
    assert max(found["waits"]) < 0.2
    assert found["interrupted"] >= 1
    assert all(found["equal"]), found


# --- Python threads ---------------------------------------------------------------------------------------------------


def large(seed: int = 0, n: int = 40_000, d: int = 16, dtype: Any = np.float32) -> tuple[Array, Array]:
    """More than a megabyte, so that a team works on it."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)).astype(dtype)
    return X, (X[:, 0] + rng.standard_normal(n) > 0).astype(dtype)


def make(name: str, *, seed: int = 0, n_jobs: int | None = None) -> Any:
    if name == "Ridge":
        return gdfast.Ridge(n_jobs=n_jobs)
    if not name.startswith("SGD"):
        return getattr(gdfast, name)(n_jobs=n_jobs)
    loss = "log_loss" if name == "SGDClassifier" else "huber"
    return getattr(gdfast, name)(
        loss, optimizer=Adam(0.01), batch_size=4096, max_iter=2, tol=None, random_state=seed, n_jobs=n_jobs
    )


def bits(model: Any, X: Array) -> tuple[bytes, ...]:
    curve = model.loss_curve_ if hasattr(model, "loss_curve_") else model.objective_curve_
    return (
        model.coef_.tobytes(),
        np.asarray(model.intercept_).tobytes(),
        model.predict(X).tobytes(),
        np.array(curve).tobytes(),
    )


def test_sixty_four_fits_on_eight_python_threads_are_those_of_one() -> None:
    data = [large(seed, n=20_000) for seed in range(4)]

    def work(i: int) -> tuple[bytes, ...]:
        X, y = data[i % 4]
        return bits(make(NAMES[i % 5], seed=i, n_jobs=1 + i % 3).fit(X, y), X)

    serial = [work(i) for i in range(64)]
    for _ in range(2):
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(work, range(64))) == serial


def test_small_fits_on_eight_python_threads_are_those_of_one() -> None:
    data = [large(seed, n=300, dtype=np.float64) for seed in range(64)]

    def work(i: int) -> tuple[bytes, ...]:
        return bits(make(NAMES[i % 5], seed=i).fit(*data[i]), data[i][0])

    serial = [work(i) for i in range(64)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(64))) == serial


def test_predictions_during_a_stream_come_from_whole_weights() -> None:
    X, y = large(n=5_000)
    model = make("SGDClassifier").partial_fit(X, y, classes=[0, 1])
    known, torn, done = {model.decision_function(X[:50]).tobytes()}, [], threading.Event()
    seen: list[bytes] = []

    def read() -> None:
        while not done.is_set():
            seen.append(model.decision_function(X[:50]).tobytes())

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for _ in range(100):
        model.partial_fit(X, y)
        known.add(model.decision_function(X[:50]).tobytes())
    done.set()
    for reader in readers:
        reader.join()
    torn = [found for found in seen if found not in known]
    assert not torn
    assert len(seen) > 20


HEARTBEAT = """
    import json, sys, threading, time, warnings
    import numpy as np
    import gdfast
    from gdfast import *

    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400_000, 60), dtype="f4")
    y = (X[:, 0] > 0).astype("f4")
    model = eval(sys.argv[1])
    model.fit(X[:1000], y[:1000])
    ticks, done = [], threading.Event()

    def beat():
        while not done.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.005)

    heart = threading.Thread(target=beat)
    heart.start()
    began = time.monotonic()
    while time.monotonic() < began + 0.5:
        model.fit(X, y)
        model.predict(X)
    done.set()
    heart.join()
    print(json.dumps([len(ticks), float(np.diff(ticks).max()), time.monotonic() - began]))
"""


@pytest.mark.parametrize(
    "model",
    [
        "LogisticRegression()",
        "Ridge()",
        "SGDClassifier(max_iter=3, tol=None)",
        "SGDRegressor(optimizer='adam', batch_size=4096, max_iter=10, tol=None)",
    ],
)
def test_other_python_threads_run_during_a_fit(model: str) -> None:
    ticks, longest, seconds = run(HEARTBEAT, model)
    assert longest < 0.25
    assert ticks > seconds / 0.1


# --- the same bits for any number of threads --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    "model",
    [
        *(make(name) for name in NAMES),
        gdfast.LogisticRegression(l1_ratio=0.5, C=1e-3),
        gdfast.LogisticRegression(solver="lbfgs"),
        gdfast.Ridge(solver="lbfgs"),
        gdfast.SGDClassifier(random_state=0, max_iter=1, tol=None, average=True),
        gdfast.SGDRegressor(random_state=0, batch_size=1000, max_iter=2, tol=None, clip_norm=1.0, accumulate=3),
    ],
    ids=lambda model: f"{type(model).__name__} {getattr(model, 'solver', '')}{getattr(model, 'batch_size', '')}",
)
def test_any_number_of_threads_gives_the_same_bits(model: Any, order: str, dtype: Any) -> None:
    X, y = large(dtype=dtype)
    X = np.asarray(X, order=order)  # type: ignore[call-overload]
    found = {}
    for n_jobs in (1, 2, 3, 4, 7, 16):
        model.set_params(n_jobs=n_jobs).fit(X, y)
        assert model.fit_report_["threads"] == n_jobs
        found[n_jobs] = bits(model, X)
    assert len(set(found.values())) == 1


@pytest.mark.parametrize("name", ["LogisticRegression", "SGDClassifier"])
def test_many_classes_give_the_same_bits_for_any_number_of_threads(name: str) -> None:
    X, _ = large()
    y = np.abs(X[:, :5]).argmax(axis=1)
    model = make(name).set_params(**({"loss": "softmax"} if name == "SGDClassifier" else {}))
    assert len({bits(model.set_params(n_jobs=n_jobs).fit(X, y), X) for n_jobs in (1, 2, 3, 4, 7, 16)}) == 1


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_blocks_give_the_same_bits_for_any_number_of_threads(threads: int) -> None:
    X, y = large()
    w = np.random.default_rng(0).standard_normal(17).astype("f4")
    one = gdfast.ops.loss_and_gradient(X, y, w, loss="log_loss", threads=1)
    many = gdfast.ops.loss_and_gradient(X, y, w, loss="log_loss", threads=threads)
    assert isinstance(one, tuple)
    assert isinstance(many, tuple)
    assert (one[0], one[1].tobytes()) == (many[0], many[1].tobytes())
    assert gdfast.ops.margins(X, w, threads=threads).tobytes() == gdfast.ops.margins(X, w).tobytes()


# --- limits on threads ------------------------------------------------------------------------------------------------

THREADS = """
    import json, os, sys, threading, time
    import numpy as np
    import gdfast
    from gdfast import runtime

    rng = np.random.default_rng(0)
    X = rng.standard_normal((200_000, 60), dtype="f4")
    y = (X[:, 0] > 0).astype("f4")
    gdfast.SGDClassifier(max_iter=1, tol=None).fit(X[:10], y[:10])  # the libraries that it loads begin threads of their own
    found = []
    for n_jobs in json.loads(sys.argv[1]):
        most, done = [], threading.Event()

        def watch():
            while not done.is_set():
                most.append(len(os.listdir("/proc/self/task")))
                time.sleep(0.001)

        watcher = threading.Thread(target=watch)
        watcher.start()
        time.sleep(0.2)  # workers that rest end themselves
        idle = len(os.listdir("/proc/self/task"))
        model = gdfast.SGDClassifier("log_loss", optimizer="adam", batch_size=20_000, max_iter=20, tol=None, n_jobs=n_jobs)
        model.fit(X, y)
        done.set()
        watcher.join()
        found.append([runtime.threads(n_jobs), model.fit_report_["threads"], max(most) - idle])
    print(json.dumps(found))
"""


def teams(*n_jobs: int | None, **environment: str) -> list[int]:
    """How many threads fits in a fresh interpreter say they have, and really have beside those that were there."""
    found = run(THREADS, json.dumps(n_jobs), **environment)
    assert all(len(set(row)) == 1 for row in found), found
    return [row[0] for row in found]


@LINUX
@TWO_CORES
def test_threads_by_default_and_on_request() -> None:
    assert teams(None, -1, 1, 2, 3, -CORES, 1) == [CORES, CORES, 1, 2, 3, 1, 1]


@LINUX
@TWO_CORES
@pytest.mark.parametrize(("setting", "expected"), [("1", 1), ("2", 2), ("64", CORES)])
def test_omp_num_threads_is_respected(setting: str, expected: int) -> None:
    assert teams(None, 3, OMP_NUM_THREADS=setting) == [expected, 3]


@LINUX
@TWO_CORES
def test_omp_thread_limit_is_respected() -> None:
    (found,) = run(THREADS, "[2]", OMP_THREAD_LIMIT="1")
    assert found[2] == 1


@LINUX
@TWO_CORES
@pytest.mark.parametrize("when", ["before the import", "after the import"])
def test_affinity_is_respected(when: str) -> None:
    pin = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code = textwrap.dedent(THREADS)
    code = pin + code if when == "before the import" else code.replace("found =", pin + "found =")
    assert run(code, "[null, -1]") == [[1, 1, 1]] * 2


@LINUX
@TWO_CORES
def test_affinity_is_not_changed() -> None:
    before = os.sched_getaffinity(0)
    X, y = large()
    make("SGDClassifier", n_jobs=2).fit(X, y)
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("quota", [1, 2])
def test_the_quota_of_the_control_group_is_respected(quota: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "_cpu_count_cgroup", lambda count: quota)
    assert runtime.cores() == min(quota, CORES)
    assert runtime.threads() == min(quota, CORES)
    assert runtime.threads(-1) == min(quota, CORES)
    X, y = large()
    assert make("LogisticRegression").fit(X, y).fit_report_["threads"] == min(quota, CORES)


@TWO_CORES
@pytest.mark.parametrize("name", NAMES)
def test_threadpoolctl_is_respected(name: str) -> None:
    X, y = large()
    assert any("libgomp" in row["filepath"] or "libomp" in row["filepath"] for row in threadpool_info())
    free = make(name).fit(X, y)
    with threadpool_limits(1):
        assert runtime.threads() == 1
        limited = make(name).fit(X, y)
    with threadpool_limits(1, user_api="openmp"):
        assert runtime.threads() == 1
    assert limited.fit_report_["threads"] == 1
    assert free.fit_report_["threads"] == make(name).fit(X, y).fit_report_["threads"] == CORES
    assert bits(free, X) == bits(limited, X)


def threads_of_a_fit(n_jobs: int | None = None) -> tuple[int, int]:
    X, y = large()
    return runtime.threads(n_jobs), gdfast.LogisticRegression(n_jobs=n_jobs).fit(X, y).fit_report_["threads"]


@pytest.mark.parametrize("n_jobs", [None, 2, -1])
@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
def test_one_thread_inside_a_joblib_worker(backend: str, n_jobs: int | None) -> None:
    with joblib.parallel_config(backend=backend):
        found = joblib.Parallel(n_jobs=2)(joblib.delayed(threads_of_a_fit)(n_jobs) for _ in range(4))
    assert found == [(1, 1)] * 4
    assert threads_of_a_fit(2) == (2, 2)


@pytest.fixture(scope="module")
def openmp_library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """A user of OpenMP that is not ours: calls back from inside a parallel region, or only makes a team."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("openmp")
    (folder / "region.c").write_text(
        """
        void inside(void (*call)(void)) {
            #pragma omp parallel num_threads(2)
            {
                #pragma omp master
                call();
            }
        }
        """
    )
    command = [compiler, "-fopenmp", "-shared", "-fPIC", "-o", str(folder / "region.so"), str(folder / "region.c")]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("needs a C compiler with OpenMP")
    return ctypes.CDLL(str(folder / "region.so"))


def test_one_thread_inside_another_parallel_region(openmp_library: ctypes.CDLL) -> None:
    X, y = large()
    found: list[Any] = []

    def call() -> None:
        found.append((runtime.threads(), runtime.threads(4)))
        found.append(bits(make("LogisticRegression").fit(X, y), X))
        found.append(make("SGDClassifier", n_jobs=4).fit(X, y).fit_report_["threads"])

    openmp_library.inside(ctypes.CFUNCTYPE(None)(call))
    assert found[0] == (1, 1)
    assert found[1] == bits(make("LogisticRegression").fit(X, y), X)
    assert found[2] == 1
    assert runtime.threads(4) == 4


LEFT = """
    import json, os, sys, time
    import numpy as np
    import gdfast
    tasks = lambda: sorted(os.listdir("/proc/self/task"))
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60_000, 16), dtype="f4")
    y = (X[:, 0] > 0).astype("f4")
    gdfast.SGDClassifier(max_iter=1, tol=None).fit(X[:10], y[:10])
    before = tasks()
    for _ in range(20):
        gdfast.LogisticRegression(n_jobs=4).fit(X, y).predict(X)
        gdfast.SGDClassifier(optimizer="adam", batch_size=4096, max_iter=2, tol=None, n_jobs=4).fit(X, y)
        gdfast.ops.loss_and_gradient(X, y, np.zeros(17, "f4"), threads=3)
    end = time.monotonic() + 2
    while tasks() != before and time.monotonic() < end:
        time.sleep(0.01)
    print(json.dumps([before, tasks()]))
"""


@LINUX
def test_no_thread_is_left_after_a_call() -> None:
    before, after = run(LEFT)
    assert after == before


MEMORY = """
    import json, os, pickle
    import numpy as np
    import gdfast
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20_000, 16), dtype="f4")
    y = (X[:, 0] > 0).astype("f4")

    def rss():
        return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    sizes = []
    for i in range(90):
        model = gdfast.LogisticRegression(n_jobs=2).fit(X, y)
        pickle.loads(pickle.dumps(model)).predict(X)
        gdfast.SGDClassifier(max_iter=2, tol=None, n_jobs=2, batch_size=4096, optimizer="adam").fit(X, y)
        sizes.append(rss())
    print(json.dumps([sizes[30], sizes[-1]]))
"""


@LINUX
def test_memory_does_not_grow_with_the_number_of_fits() -> None:
    early, late = run(MEMORY)
    assert late - early < 5
