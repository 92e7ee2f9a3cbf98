"""The border: arrays are taken as they are or refused by name, never copied or changed behind the caller's back; the GIL
is free while native code runs; many Python threads and nested workers give the serial result."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from gdfast import _core
from gdfast.order import keys_of

Array = np.ndarray[Any, Any]
N, D, K = 6, 4, 1


def rule(**changes: Any) -> _core.Rule:
    """Adam without penalties or clipping, but for the changes."""
    plain = {
        "optimizer": "adam", "parameters": (0.9, 0.999), "coefficients": np.array([[10.0, 1000.0, 1e-8]]), "l1": 0.0,
        "l2": 0.0, "decay": 0.0, "factor": 1.0, "lower": -np.inf, "upper": np.inf, "min_norm": 0.0, "max_norm": np.inf,
        "clip_value": np.inf,
    }  # fmt: skip
    return _core.Rule(**plain | changes)


OF_A_MODEL = {
    "w", "slots", "average", "rule", "rates", "norms", "losses", "first_step", "average_from", "mean_weight", "held_out",
}  # fmt: skip


def epoch(**arguments: Any) -> tuple[float, int, bool]:
    """An epoch of one model."""
    model = _core.Model(**{name: value for name, value in arguments.items() if name in OF_A_MODEL})
    return _core.epoch(models=[model], **{name: a for name, a in arguments.items() if name not in OF_A_MODEL})[0]


def shared_arguments() -> dict[str, Any]:
    return {name: value for name, value in good("epoch").items() if name not in OF_A_MODEL}


def several(outputs: int) -> list[_core.Model]:
    """Two models of so many outputs each."""
    a = good("epoch")
    a |= {"w": np.zeros((D + 1, outputs)), "slots": np.zeros((2, D + 1, outputs)), "average": None}
    return [_core.Model(**{name: a[name] for name in OF_A_MODEL & a.keys()}) for _ in range(2)]


def native(function: str) -> Callable[..., Any]:
    return epoch if function == "epoch" else getattr(_core, function)


def good(function: str, dtype: Any = np.float64) -> dict[str, Any]:
    """Arguments that the function takes."""
    rng = np.random.default_rng(0)
    X, y, weight = rng.standard_normal((N, D)).astype(dtype), np.ones(N, dtype), np.ones(N, dtype)
    w, z, slots = np.zeros(D + 1, dtype), np.zeros(N, dtype), np.zeros((2, D + 1), dtype)
    every: dict[str, dict[str, Any]] = {
        "margins": {"X": X, "w": w, "z": z, "threads": 1},
        "gradient": {
            "X": X, "y": y, "weight": weight, "w": w, "g": np.zeros(D + 1), "H": np.zeros((D + 1, D + 1)),
            "loss": "huber", "parameters": (1.35,), "intercept": True, "threads": 1,
        },
        "epoch": {
            "X": X, "y": y, "weight": weight, "fold": weight.copy(), "w": w, "slots": slots, "average": w.copy(),
            "loss": "huber", "loss_parameters": (1.35,), "rule": rule(),
            "rates": np.full(3, 0.1), "norms": np.zeros(3), "losses": np.zeros(3), "steps": 3,
            "seconds": np.inf, "keys": keys_of(0, 0), "block": 1, "batch": 2, "first_step": 0,
            "average_from": 1, "mean_weight": 1.0, "intercept": True, "held_only": False, "threads": 1,
        },
        "update": {
            "w": w, "g": np.ones(D + 1, dtype), "slots": slots, "rule": rule(), "lr": 0.1, "n_penalized": D, "threads": 1,
        },
        "norm": {"a": w},
        "scale_to_norm": {"g": w, "min_norm": 0.0, "max_norm": 1.0},
        "find_non_finite": {"a": X},
        "cholesky": {"A": np.eye(3), "smallest": 0.0},
        "cholesky_solve": {"L": np.eye(3), "b": np.ones(3)},
        "order_rows": {"n": 10, "keys": keys_of(0, 0), "first": 0, "count": 10},
    }  # fmt: skip
    return every[function]


FUNCTIONS = (
    "margins",
    "gradient",
    "epoch",
    "update",
    "norm",
    "scale_to_norm",
    "find_non_finite",
    "cholesky",
    "cholesky_solve",
    "order_rows",
)
WRITTEN = {
    "margins": {"z"},
    "gradient": {"g", "H"},
    "epoch": {"w", "slots", "average", "norms", "losses"},
    "update": {"w", "slots"},
    "scale_to_norm": {"g"},
    "cholesky": {"A"},
    "cholesky_solve": {"b"},
}
# Of these the function takes any size: it is what the others are measured by.
ANY_SIZE = {
    ("norm", "a"),
    ("scale_to_norm", "g"),
    ("find_non_finite", "a"),
    ("update", "w"),
    ("margins", "X"),
    ("epoch", "X"),
}
ANY_SIZE |= {("gradient", "X")}
# Views along rows or columns are among the layouts.
ANY_STRIDE = {("margins", "X"), ("gradient", "X"), ("epoch", "X"), ("find_non_finite", "a")}
ARRAYS = [(f, name) for f in FUNCTIONS for name, value in good(f).items() if isinstance(value, np.ndarray)]


def misaligned(a: Array) -> Array:
    out = np.empty(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    out[...] = a
    assert not out.flags.aligned
    return out


def strided(a: Array) -> Array:
    out = np.repeat(np.repeat(a, 2, axis=0), 2, axis=-1) if a.ndim == 2 else np.repeat(a, 2)
    return out[::2, ::2] if a.ndim == 2 else out[::2]


def refused(function: str, argument: str, value: Any, message: str = "") -> None:
    arguments = good(function) | {argument: value}
    before = {name: a.copy() for name, a in arguments.items() if isinstance(a, np.ndarray) and name != argument}
    with pytest.raises(ValueError, match=f"^{message or argument}: "):
        native(function)(**arguments)
    for name, a in before.items():  # refused before anything was written
        assert np.array_equal(arguments[name], a), name


@pytest.mark.parametrize("function", FUNCTIONS)
def test_good_arguments_are_taken(function: str) -> None:
    native(function)(**good(function))
    if function not in ("cholesky", "cholesky_solve", "order_rows"):
        native(function)(**good(function, np.float32) | ({"g": np.zeros(D + 1)} if function == "gradient" else {}))


@pytest.mark.parametrize(("function", "argument"), ARRAYS)
def test_another_type_is_refused_and_not_converted(function: str, argument: str) -> None:
    a = good(function)[argument]
    for dtype in (np.int32, np.complex128, np.float16, object):
        refused(function, argument, np.ones_like(a, dtype))
    if argument != "X" and (function, argument) not in ANY_SIZE:
        refused(function, argument, a.astype(np.float32 if a.dtype == np.float64 else np.float64))


@pytest.mark.parametrize(("function", "argument"), ARRAYS)
def test_another_byte_order_is_refused(function: str, argument: str) -> None:
    a = good(function)[argument]
    refused(function, argument, a.astype(a.dtype.newbyteorder()))


@pytest.mark.parametrize(("function", "argument"), ARRAYS)
def test_misaligned_memory_is_refused(function: str, argument: str) -> None:
    refused(function, argument, misaligned(good(function)[argument]))


@pytest.mark.parametrize(("function", "argument"), ARRAYS)
def test_strided_memory_is_refused(function: str, argument: str) -> None:
    a = strided(good(function)[argument])
    refused(function, argument, a)
    if a.ndim == 2 and (function, argument) not in ANY_STRIDE:
        refused(function, argument, np.asfortranarray(good(function)[argument]))


@pytest.mark.parametrize(("function", "argument"), [pair for pair in ARRAYS if pair not in ANY_SIZE])
def test_another_size_is_refused(function: str, argument: str) -> None:
    a = good(function)[argument]
    refused(function, argument, a[:-1].copy())
    refused(function, argument, np.concatenate([a, a[:1]]))
    if not function.startswith("cholesky"):  # there is a matrix of size 0
        refused(function, argument, a[:0].copy())


@pytest.mark.parametrize("function", ["epoch", "update"])
@pytest.mark.parametrize("name", ["coefficients", "factor", "lower", "upper"])
def test_the_arrays_of_a_rule_are_refused_by_name(function: str, name: str) -> None:
    a = np.ones((1, 3)) if name == "coefficients" else np.ones(D)
    native(function)(**good(function) | {"rule": rule(**{name: a})})
    swapped = a.astype(a.dtype.newbyteorder())
    short, long, other = a[..., :-1].copy(), np.append(a, 1.0), a.astype(np.float32)
    for spoilt in (swapped, misaligned(a), strided(a), short, long, other, a.astype(object), a[:0].copy()):
        refused(function, "rule", rule(**{name: spoilt}), name)
    a.flags.writeable = False
    native(function)(**good(function) | {"rule": rule(**{name: a})})
    for wrong in ("1", None, [1.0] * D):
        with pytest.raises((TypeError, ValueError), match=name):
            native(function)(**good(function) | {"rule": rule(**{name: wrong})})


@pytest.mark.parametrize(("function", "argument"), ARRAYS)
def test_outputs_must_be_writable_and_inputs_need_not(function: str, argument: str) -> None:
    a = good(function)[argument]
    a.flags.writeable = False
    if argument in WRITTEN.get(function, ()):
        refused(function, argument, a)
    else:
        native(function)(**good(function) | {argument: a})


@pytest.mark.parametrize("function", ["margins", "gradient", "epoch"])
@pytest.mark.parametrize(
    ("X", "words"),
    [
        (np.zeros((N, D, 1)), "2 dimensions"),
        (np.zeros(N), "2 dimensions"),
        (np.zeros((N, 2 * D))[:, ::2], "unit stride"),
        (np.zeros((2 * N, D)).T[::2].T[:, ::-1], "unit stride"),
        ((np.zeros(N), np.zeros(N - 1)), "expected 6 numbers"),
        ((np.zeros(N), np.zeros(2 * N)[::2]), "C-contiguous"),
        ((np.zeros(N), np.zeros(N, np.float32)), "float64"),
    ],
    ids=["3-d", "1-d", "strided", "reversed columns", "ragged", "strided column", "two types"],
)
def test_other_layouts_are_refused(function: str, X: Any, words: str) -> None:
    with pytest.raises(ValueError, match=f"^X: .*{words}"):
        native(function)(**good(function) | {"X": X})


@pytest.mark.parametrize(
    "call",
    [
        "_core.margins((np.zeros(3), [0.0, 0.0, 0.0]), np.zeros(3), np.zeros(3), 1)",
        "_core.margins(([0.0, 0.0, 0.0], np.zeros(3)), np.zeros(3), np.zeros(3), 1)",
        "_core.margins((), np.zeros(3), np.zeros(3), 1)",
        "_core.margins([[0.0, 0.0]] * 3, np.zeros(3), np.zeros(3), 1)",
        "_core.gradient(np.ones((3, 2)), np.zeros(3), [1.0] * 3, np.zeros(3), np.zeros(3), None, 'hinge', (), True, 1)",
        "_core.gradient(np.ones((3, 2)), np.zeros(3), None, np.zeros(3), np.zeros(3), [[0.0] * 3] * 3, 'hinge', (), True, 1)",
    ],
    ids=["list as second column", "list as first column", "no columns", "list as X", "list as weight", "list as H"],
)
def test_what_is_no_array_is_refused_before_its_memory_is_touched(call: str) -> None:
    # in a process of its own: memory that is not an array's ends it
    code = "import numpy as np\nfrom gdfast import _core\n"
    code += f"try:\n    {call}\nexcept (TypeError, ValueError):\n    print('refused')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "refused"), done.stderr[-500:]


def test_other_values_are_refused() -> None:
    with pytest.raises(ValueError, match="no native kernel is named 'hinges'"):
        _core.gradient(**good("gradient") | {"loss": "hinges"})
    with pytest.raises(ValueError, match="huber: expected 1 parameters, got 2"):
        _core.gradient(**good("gradient") | {"parameters": (1.0, 2.0)})
    with pytest.raises(ValueError, match="no native kernel is named 'adamw'"):
        _core.update(**good("update") | {"rule": rule(optimizer="adamw")})
    with pytest.raises(ValueError, match="adam: expected 2 parameters, got 0"):
        epoch(**good("epoch") | {"rule": rule(parameters=())})
    with pytest.raises(ValueError, match="batch: expected at least 1 row"):
        epoch(**good("epoch") | {"batch": 0})
    with pytest.raises(ValueError, match="models: expected at least one"):
        _core.epoch(**shared_arguments(), models=[])
    with pytest.raises(ValueError, match="models: expected one output each"):
        _core.epoch(**shared_arguments(), models=several(2))
    softmax = shared_arguments() | {"loss": "softmax", "loss_parameters": ()}
    with pytest.raises(ValueError, match="softmax is of all outputs"):
        _core.epoch(**softmax, models=several(1))
    for steps in (-1, 4):
        with pytest.raises(ValueError, match="steps: expected at most the number of batches"):
            epoch(**good("epoch") | {"steps": steps})
    for block in (0, 7):
        with pytest.raises(ValueError, match="block: expected 1 to n rows"):
            epoch(**good("epoch") | {"block": block})
    with pytest.raises(ValueError, match="block: expected 1 to n rows"):
        _core.order_rows(**good("order_rows") | {"block": 11})
    with pytest.raises(ValueError, match="w: expected"):
        _core.margins(**good("margins") | {"w": np.zeros((D + 1, 0))})
    with pytest.raises(ValueError, match="instruction set 'sse9' is not available on this machine; available: "):
        _core.use_instruction_set("sse9")
    for first, count in ((-1, 2), (5, 6), (11, 0), (0, -1)):
        with pytest.raises(ValueError, match=r"first: expected positions in \[0, n\)"):
            _core.order_rows(**good("order_rows") | {"first": first, "count": count})


@pytest.mark.parametrize("name", [*_core.instruction_sets(), "sse9"])
def test_the_environment_forces_an_instruction_set_or_says_what_there_is(name: str) -> None:
    code = "from gdfast import runtime; print(runtime.instruction_set())"
    environment = os.environ | {"GDFAST_ISA": name}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    if name in _core.instruction_sets():
        assert done.stdout.strip() == name
    else:
        assert done.returncode == 1
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("ValueError: instruction set 'sse9' is not available on this machine; available: ")
        assert last.endswith(", ".join(_core.instruction_sets()))


def test_x_of_every_layout_is_read_in_place(
    isa: str, dtype: Any, layout: Callable[[Array], Any], rng: np.random.Generator
) -> None:
    X = rng.standard_normal((37, 5)).astype(dtype)
    w = rng.standard_normal(6).astype(dtype)
    laid = layout(X)
    for a in laid if isinstance(laid, tuple) else (laid,):
        a.flags.writeable = False
    z = np.zeros(37, dtype)
    _core.margins(laid, w, z, 1)
    np.testing.assert_allclose(z, X @ w[:-1] + w[-1], rtol=0, atol=1e-5)
    assert np.array_equal(np.column_stack(laid) if isinstance(laid, tuple) else laid, X)
    # what is read is the memory of the caller, with no copy between
    seen = laid[0] if isinstance(laid, tuple) else laid
    owner = seen if seen.base is None else seen.base
    owner.flags.writeable = True
    owner[...] = 0
    _core.margins(laid, w, z, 1)
    still = np.column_stack(laid) if isinstance(laid, tuple) else laid
    np.testing.assert_allclose(z, still @ w[:-1] + w[-1], rtol=0, atol=1e-5)
    assert not still[:, 0].any()


def test_broadcast_rows_are_a_layout(dtype: Any) -> None:
    row = np.arange(3, dtype=dtype)
    z = np.zeros(100, dtype)
    _core.margins(np.broadcast_to(row, (100, 3)), np.array([1, 10, 100, 0.5], dtype), z, 1)
    assert (z == 210.5).all()


# ------------------------------------------------------------------------------------------------------------- threads


def longest_pause(work: Callable[[], object]) -> tuple[float, float]:
    """(how long another Python thread stood still, how long the work took), in seconds."""
    pause, running = 0.0, True
    ready = threading.Event()

    def count() -> None:
        nonlocal pause
        last = time.perf_counter()
        ready.set()
        while running:
            now = time.perf_counter()
            pause, last = max(pause, now - last), now
            time.sleep(0)

    counter = threading.Thread(target=count)
    counter.start()
    ready.wait()
    begin = time.perf_counter()
    work()
    duration = time.perf_counter() - begin
    running = False
    counter.join()
    return pause, duration


@pytest.mark.parametrize(
    "name", ["gradient", "margins", "epoch", "update", "norm", "find_non_finite", "cholesky", "order_rows"]
)
def test_the_gil_is_free_while_native_code_runs(name: str) -> None:
    X, y = np.ones((1_000_000, 16)), np.ones(1_000_000)
    w, long = np.zeros(17), np.ones(8_000_000)
    slots = np.zeros((2, 8_000_000)) if name == "update" else None
    calls: dict[str, Callable[[], object]] = {
        "gradient": lambda: _core.gradient(X, y, None, w, np.zeros(17), np.zeros((17, 17)), "poisson", (), True, 1),
        "margins": lambda: [_core.margins(X, w, y, 1) for _ in range(1)],
        "epoch": lambda: epoch(
            **good("epoch")
            | {"X": X, "y": y, "weight": None, "fold": None, "w": w, "slots": np.zeros((2, 17)), "average": None}
            | {"rates": np.full(1000, 1e-3), "norms": np.zeros(1000), "losses": np.zeros(1000), "steps": 1000}
            | {"batch": 1000, "average_from": 0}
        ),
        "update": lambda: _core.update(**good("update") | {"w": long, "g": long.copy(), "slots": slots}),
        "norm": lambda: _core.norm(long),
        "find_non_finite": lambda: _core.find_non_finite(long),
        "cholesky": lambda: _core.cholesky(1000 * np.eye(900) + 1, 0.0),
        "order_rows": lambda: _core.order_rows(4_000_000, keys_of(0, 0), 0, 4_000_000),
    }
    # a busy machine makes a thread wait too, but not for all of the call, ten times in a row
    pauses = [longest_pause(calls[name]) for _ in range(10)]
    assert any(pause < 0.5 * duration for pause, duration in pauses), pauses


def train_alone(seed: int) -> tuple[Array, float]:
    rng = np.random.default_rng(seed)
    n, d = 4000 + 100 * seed, 40 + seed
    X, y = rng.standard_normal((n, d)), rng.integers(0, 2, n).astype(float)
    w, slots, norms = np.zeros(d + 1), np.zeros((2, d + 1)), np.zeros(-(-n // 256))
    for number in range(3):
        arguments = good("epoch") | {
            "X": X,
            "y": y,
            "weight": None,
            "fold": None,
            "w": w,
            "slots": slots,
            "average": None,
        }
        arguments |= {"loss": "log_loss", "loss_parameters": (), "rates": np.full(len(norms), 0.01), "norms": norms}
        arguments |= {"losses": np.zeros(len(norms)), "steps": len(norms)}
        epoch(**arguments | {"keys": keys_of(seed, number), "batch": 256, "average_from": 0, "threads": 2})
    g = np.zeros(d + 1)
    loss = _core.gradient(X, y, None, w, g, None, "log_loss", (), True, 2)
    return np.concatenate([w, g]), loss


@pytest.mark.parametrize("shared_worker", [False, True])
def test_many_python_threads_give_the_serial_result(shared_worker: bool) -> None:
    def work(seed: int) -> tuple[Array, float]:
        if not shared_worker:
            return train_alone(seed)
        with _core.Worker():
            return train_alone(seed)

    serial = [train_alone(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(2):
            for (a, loss), (b, same) in zip(serial, pool.map(work, range(8)), strict=True):
                assert np.array_equal(a, b)
                assert loss == same


def test_workers_can_be_nested_reused_and_left_by_an_error() -> None:
    expected = train_alone(1)

    def check() -> None:
        w, loss = train_alone(1)
        assert np.array_equal(w, expected[0])
        assert loss == expected[1]

    worker = _core.Worker()
    for _ in range(3):
        with worker:
            check()
            with _core.Worker():
                check()
            check()
            with worker:
                check()
            check()
    check()
    with pytest.raises(ValueError, match=r"^w: "), worker:
        _core.margins(np.zeros((9, 2)), np.zeros(5), np.zeros(9), 1)
    with worker:
        check()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc, which this platform has not")
def test_workers_leave_no_thread_behind() -> None:
    code = """
import os, time
import numpy as np
from gdfast import _core

def threads():
    return len(os.listdir("/proc/self/task"))

X, y, w, g = np.ones((40_000, 16)), np.ones(40_000), np.zeros(17), np.zeros(17)
before = threads()
inside = []
with _core.Worker():
    for _ in range(3):
        _core.gradient(X, y, None, w, g, None, "log_loss", (), True, 4)
        inside.append(threads())
after = threads()
for _ in range(3):
    _core.gradient(X, y, None, w, g, None, "log_loss", (), True, 4)
deadline = time.monotonic() + 5
while threads() > before and time.monotonic() < deadline:  # one that nobody calls ends itself
    time.sleep(0.01)
print(inside[0] > before, len(set(inside)) == 1, after == before, threads() == before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["True"] * 4, (done.stdout, done.stderr)
