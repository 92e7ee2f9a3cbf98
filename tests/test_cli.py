"""cli.py: what the commands print, write and refuse."""

from __future__ import annotations

import csv
import gzip
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.testing import assert_allclose, assert_array_equal

import gdfast
from gdfast import LogisticRegression, Ridge, cli, runtime, tables
from gdfast.models import load, read, save

N = 200
RNG = np.random.default_rng(0)
SIZE, COLOUR, SHAPE = RNG.normal(5, 3, N), RNG.choice(["red", "green", "blue"], N), RNG.choice(["é, cube", "ball"], N)
PRICE = 2 * SIZE + 3 * (COLOUR == "red") + RNG.normal(0, 0.1, N)
CHEAP = np.where(PRICE + RNG.normal(0, 3, N) < np.median(PRICE), "cheap", "dear")
TABLE: dict[str, Any] = {
    "size": SIZE,
    "colour": COLOUR,
    "shape": SHAPE,
    "count": RNG.integers(1, 4, N),
    "weight": RNG.uniform(0.5, 2, N),
    "price": PRICE,
    "class": CHEAP,
    "kind": RNG.integers(0, 3, N),
}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def ok(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def refusal(*arguments: object) -> str:
    """The one line that a command ends with; exit code 2."""
    result = run(*arguments)
    last = result.output.splitlines()[-1]
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)  # no traceback
    assert last.startswith("Error: ")
    assert sum(line.startswith("Error: ") for line in result.output.splitlines()) == 1
    return last


def as_csv(table: dict[str, Any]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(table)
    writer.writerows(zip(*(np.asarray(column).tolist() for column in table.values()), strict=True))
    return text.getvalue().encode()


def write(path: Path, table: dict[str, Any]) -> Path:
    if path.suffix == ".parquet":
        arrow = pytest.importorskip("pyarrow", reason="Parquet is written by pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet is written by pyarrow")
        parquet.write_table(arrow.table(table), path)
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("data.csv", as_csv(table))
    else:
        path.write_bytes(gzip.compress(as_csv(table)) if path.suffix == ".gz" else as_csv(table))
    return path


def without(*missing: str) -> Callable[[str], Any]:
    """A find_spec for which some packages are not installed."""
    from importlib.util import find_spec

    return lambda name: None if name in missing else find_spec(name)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    pytest.importorskip("pyarrow", reason="tables are read by pyarrow or pandas")
    return write(tmp_path / "data.csv", TABLE)


# info, version


def test_version_and_help() -> None:
    assert ok("--version") == f"gdfast {gdfast.__version__}\n"
    for command in ("train", "predict", "info", "demo"):
        assert command in ok("--help")
        assert "Usage:" in ok(command, "-h")


def test_info_for_people_and_for_machines() -> None:
    text, facts = ok("info"), json.loads(ok("info", "--json"))
    assert facts == runtime.info()
    assert len(text.splitlines()) == len(facts)
    for line, (name, value) in zip(text.splitlines(), facts.items(), strict=True):
        expected = ", ".join(value) if isinstance(value, list) else "yes" if value is True else str(value)
        assert (line.startswith(name), line[24:]) == (True, expected)


def test_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gdfast", "--version"], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == f"gdfast {gdfast.__version__}\n"


def test_an_error_in_a_process_is_one_line_without_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gdfast", "train", str(tmp_path / "no.csv"), "--target", "y"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "No such file" in done.stderr


def test_import_of_the_package_is_not_the_command_line() -> None:
    code = "import sys, gdfast; assert not {'click', 'tqdm', 'pandas', 'pyarrow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    code = "import sys, gdfast.cli; assert not {'tqdm', 'pandas', 'pyarrow', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# train and predict


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".csv.zip", ".CSV", ".parquet"])
@pytest.mark.parametrize("hidden", [(), ("pandas",)])
def test_every_kind_of_file_gives_the_same_model(
    suffix: str, hidden: Any, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hidden:
        pytest.importorskip("pandas", reason="CSV read by pandas")
    monkeypatch.setattr(tables, "find_spec", without(*hidden))
    path = write(tmp_path / f"again{suffix}", TABLE)
    output = ok("train", path, "--target", "price", "--exclude", "class", "--model", tmp_path / "m.gdfast")
    monkeypatch.undo()
    ok("train", data, "--target", "price", "--exclude", "class", "--model", tmp_path / "n.gdfast")
    assert_array_equal(load(tmp_path / "m.gdfast").coef_, load(tmp_path / "n.gdfast").coef_)
    assert "target 'price' holds 200 distinct numbers: regression" in output
    assert "200 rows, 9 features as float64" in output
    assert "text is one-hot encoded, one feature a level: colour (3), shape (2)" in output
    assert "fitted Ridge: 150 rows, 1 passes in" in output
    assert "on 50 held-out rows: R2 0.9" in output
    assert f"model written to {tmp_path / 'm.gdfast'}" in output


@pytest.mark.parametrize("options", [[], ["--no-standardize"]])
def test_the_model_is_that_of_the_library(options: list[str], data: Path, tmp_path: Path) -> None:
    ok("train", data, "--target", "price", *options, "--weight", "weight", "--exclude", "class", "--exclude", "kind",
       "--test-fraction", 0, "--alpha", 3, "--model", tmp_path / "m.gdfast")  # fmt: skip
    levels = [("colour", level) for level in ("blue", "green", "red")] + [
        ("shape", level) for level in ("ball", "é, cube")
    ]
    X = np.column_stack([SIZE, *(TABLE[name] == level for name, level in levels), TABLE["count"]]).astype(float)
    scaled = X if options else (X - X.mean(axis=0)) / X.std(axis=0)
    expected = Ridge(alpha=3.0).fit(scaled, PRICE, sample_weight=TABLE["weight"])
    model, extra = read(tmp_path / "m.gdfast")
    assert_allclose(X @ model.coef_ + model.intercept_, expected.predict(scaled), rtol=1e-9)
    assert model.feature_names_in_.tolist() == ["size", *(f"{name}={level}" for name, level in levels), "count"]
    pairs = [["size", None], *([name, level] for name, level in levels), ["count", None]]
    assert extra == {"features": pairs, "target": "price"}
    assert model.alpha == 3.0


def predicted(output: str) -> Any:
    return list(csv.reader(io.StringIO(output)))


@pytest.mark.parametrize("target", ["price", "class", "kind"])
def test_predictions_are_those_of_the_model(target: str, data: Path, tmp_path: Path) -> None:
    file, excluded = tmp_path / "m.gdfast", {"price", "class", "kind"} - {target}
    ok("train", data, "--target", target, "--exclude", excluded.pop(), "--exclude", excluded.pop(), "--model", file)
    header, *rows = predicted(ok("predict", data, "--model", file))
    model, extra = read(file)
    X = np.column_stack([TABLE[name] if level is None else TABLE[name] == level for name, level in extra["features"]])
    del model.feature_names_in_
    assert header == ["prediction"]
    expected = model.predict(X.astype(float))
    assert_array_equal(np.array([row[0] for row in rows]).astype(expected.dtype), expected)  # exact, also for floats
    if target == "price":
        return
    header, *rows = predicted(ok("predict", data, "--model", file, "--proba"))
    assert header == [f"proba_{label}" for label in model.classes_]
    assert_array_equal(np.array(rows, dtype=float), model.predict_proba(X.astype(float)))


def test_the_target_is_not_needed_and_unseen_levels_are_zeros(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "m.gdfast"
    ok("train", data, "--target", "price", "--exclude", "class", "--model", file)
    few = {name: TABLE[name][:2].copy() for name in ("count", "weight", "kind", "shape", "size", "colour")}
    few["colour"] = np.array(["violet", "red"])
    rows = predicted(ok("predict", write(tmp_path / "few.csv", few), "--model", file))[1:]
    model, extra = read(file)
    x = np.array(
        [float(few[name][0]) if level is None else float(few[name][0] == level) for name, level in extra["features"]]
    )
    assert not x[[j for j, (name, _) in enumerate(extra["features"]) if name == "colour"]].any()
    assert_allclose(float(rows[0][0]), x @ model.coef_ + model.intercept_, rtol=1e-12)


def test_output_to_a_file(data: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "m.gdfast", tmp_path / "out.csv"
    ok("train", data, "--target", "price", "--model", file)
    assert ok("predict", data, "--model", file, "--output", out) == ""
    assert out.read_text() == ok("predict", data, "--model", file)
    assert len(out.read_text().splitlines()) == N + 1


def test_a_failed_prediction_leaves_the_output_as_it_was(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out = tmp_path / "m.gdfast", tmp_path / "out.csv"
    ok("train", data, "--target", "price", "--model", file)
    out.write_text("before")

    def fail(self: Any, X: Any) -> Any:
        raise ValueError("in the\nmiddle")

    monkeypatch.setattr(Ridge, "predict", fail)
    assert refusal("predict", data, "--model", file, "--output", out) == "Error: in the middle"
    assert out.read_text() == "before"


@pytest.mark.parametrize(
    ("options", "kind", "metrics"),
    [
        (["--target", "class"], "LogisticRegression", ("accuracy 0.", "log-loss 0.", "AUC 0.")),
        (["--target", "kind", "--C", 0.5], "LogisticRegression", ("accuracy 0.", "log-loss ", "AUC 0.")),
        (["--target", "class", "--estimator", "sgd", "--weight", "weight"], "SGDClassifier", ("log-loss 0.", "AUC 0.")),
        (["--target", "class", "--estimator", "sgd", "--loss", "hinge"], "SGDClassifier", ("accuracy 0.", "AUC 0.")),
        (["--target", "kind", "--estimator", "sgd", "--loss", "hinge"], "SGDClassifier", ("accuracy 0.",)),
        (["--target", "kind", "--estimator", "sgd", "--optimizer", "sgd"], "SGDClassifier", ("log-loss 1.", "AUC 0.")),
        (["--target", "kind", "--task", "regression"], "Ridge", ("R2 ", "RMSE 0.")),
        (["--target", "price", "--estimator", "linear", "--jobs", 1], "LinearRegression", ("R2 0.", "RMSE ")),
        (
            ["--target", "price", "--estimator", "sgd", "--learning-rate", 0.1, "--batch-size", 8],
            "SGDRegressor",
            ("R2 0.",),
        ),
        (["--target", "price", "--estimator", "sgd", "--learning-rate", "auto"], "SGDRegressor", ("R2 0.",)),
    ],
)
def test_estimators_and_their_metrics(options: list[Any], kind: str, metrics: tuple[str, ...], data: Path) -> None:
    others = {"class", "kind", "price"} - set(options)
    output = ok("train", data, *options, *(word for name in others for word in ("--exclude", name)))
    assert f"fitted {kind}: 150 rows, " in output
    line = next(line for line in output.splitlines() if line.startswith("on 50 held-out rows: "))
    assert all(metric in line for metric in metrics)
    assert len(line.split(", ")) == (
        3 if "AUC" in line and "log-loss" in line else 2 if len(metrics) > 1 or "R2" in line else 1
    )
    assert output.endswith("model not written: give --model FILE.gdfast to keep it\n")


def test_knobs_reach_the_estimator(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "m.gdfast"
    ok("train", data, "--target", "price", "--exclude", "class", "--estimator", "sgd", "--alpha", 0.01, "--loss", "huber",
       "--optimizer", "adam", "--learning-rate", 0.5, "--batch-size", 32, "--max-iter", 700, "--seed", 5, "--jobs", 2,
       "--model", file)  # fmt: skip
    found = load(file).get_params()
    expected = {"alpha": 0.01, "loss": "huber", "optimizer": gdfast.Adam(0.5), "batch_size": 32, "max_iter": 700}
    assert {name: found[name] for name in expected} == expected
    assert (found["random_state"], found["n_jobs"]) == (5, 2)
    ok("train", data, "--target", "class", "--exclude", "price", "--C", 0.25, "--max-iter", 90, "--model", file)
    assert (load(file).C, load(file).max_iter) == (0.25, 90)


def test_the_seed_makes_runs_identical(data: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        ok("train", data, "--target", "price", "--estimator", "sgd", "--seed", seed, "--model", tmp_path / name)
    files = [(tmp_path / name).read_bytes() for name in "abc"]
    assert files[0] == files[1] != files[2]


def test_nothing_held_out(data: Path) -> None:
    output = ok("train", data, "--target", "price", "--test-fraction", 0)
    assert "fitted Ridge: 200 rows" in output
    assert "no rows held out, no metrics" in output


def test_a_warning_is_one_line(data: Path) -> None:
    output = ok("train", data, "--target", "price", "--estimator", "sgd", "--max-iter", 2)
    (line,) = (line for line in output.splitlines() if "SGDRegressor stopped after 2 epochs" in line)
    assert line.startswith("Warning: ")


def test_float32_of_parquet_stays(tmp_path: Path) -> None:
    table = {"a": SIZE.astype(np.float32), "b": TABLE["count"] > 1, "c": COLOUR, "y": PRICE.astype(np.float32)}
    with_levels = write(tmp_path / "t.parquet", {**table, "b": table["b"].astype(np.float32)})
    output = ok("train", with_levels, "--target", "y", "--model", tmp_path / "m.gdfast")
    assert "5 features as float32" in output
    assert load(tmp_path / "m.gdfast").coef_.dtype == np.float32
    assert len(predicted(ok("predict", with_levels, "--model", tmp_path / "m.gdfast"))) == N + 1
    assert "5 features as float64" in ok("train", write(tmp_path / "t.parquet", table), "--target", "y")


def test_categories_and_the_index_of_pandas_in_parquet(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas", reason="needs a frame with categories and an index")
    pytest.importorskip("pyarrow", reason="needs Parquet")
    frame = pd.DataFrame({"a": SIZE, "c": pd.Categorical(COLOUR), "y": PRICE}).iloc[::-1]
    frame.to_parquet(tmp_path / "t.parquet")
    output = ok("train", tmp_path / "t.parquet", "--target", "y")
    assert "200 rows, 4 features" in output
    assert "c (3)" in output


def test_arrays_of_numpy(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="tables are read by pyarrow or pandas")
    a = np.column_stack([SIZE, TABLE["count"], PRICE])
    np.save(tmp_path / "a.npy", a)
    ok("train", tmp_path / "a.npy", "--target", 2, "--model", tmp_path / "m.gdfast")
    rows = predicted(ok("predict", tmp_path / "a.npy", "--model", tmp_path / "m.gdfast"))[1:]
    model = load(tmp_path / "m.gdfast")
    assert_allclose([float(row[0]) for row in rows], a[:, :2] @ model.coef_ + model.intercept_)


def test_progress_is_shown_only_on_terminals(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tqdm

    shown: dict[str, list[Any]] = {}

    class Recorder(tqdm.tqdm):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            assert (kwargs.pop("disable"), kwargs.pop("delay")) == (None, 1)
            super().__init__(*args, **kwargs, file=io.StringIO(), disable=False)
            shown[kwargs["desc"]] = [self]

    monkeypatch.setattr(tqdm, "tqdm", Recorder)
    ok(
        "train",
        write(tmp_path / "z.csv.zip", TABLE),
        "--target",
        "price",
        "--estimator",
        "sgd",
        "--model",
        tmp_path / "m",
    )
    ok("predict", data, "--model", tmp_path / "m")
    bars = {name: bar for name, (bar,) in shown.items()}
    assert set(bars) == {
        "reading z.csv.zip",
        "collecting levels",
        "encoding",
        "fitting",
        "reading data.csv",
        "writing",
    }
    assert bars["reading data.csv"].n == bars["reading data.csv"].total == data.stat().st_size
    assert bars["reading z.csv.zip"].n >= (tmp_path / "z.csv.zip").stat().st_size // 2
    assert bars["fitting"].n == load(tmp_path / "m").n_iter_
    assert bars["fitting"].total == 1000


# What is refused


def changed(**columns: Any) -> dict[str, Any]:
    return {**TABLE, **columns}


GAP = [None, *SIZE[1:]]
REFUSED: dict[str, tuple[dict[str, Any], list[Any], str]] = {
    "no target": (TABLE, ["--target", "cost"], "there is no column 'cost'; the table has size, colour, shape, count, "),
    "no weight": (TABLE, ["--target", "price", "--weight", "w"], "there is no column 'w'; the table has size"),
    "no exclude": (TABLE, ["--target", "price", "--exclude", "x"], "there is no column 'x'; the table has size"),
    "gap": (changed(size=GAP), ["--target", "price"], "column 'size' has 1 missing values of 200: fill them or drop"),
    "gap in text": (
        changed(colour=["NA", *COLOUR[1:]]),
        ["--target", "price"],
        "column 'colour' has 1 missing values of 200: fill them or drop their rows; a feature can be left out with --exclude",
    ),
    "gap in target": (changed(price=GAP), ["--target", "price"], "column 'price' has 1 missing values"),
    "infinity": (changed(size=[np.inf, *SIZE[1:]]), ["--target", "price"], "column 'size' holds infinity: replace it"),
    "identities": (
        changed(shape=[f"id {i}" for i in range(N)], colour=[f"{i}" * 3 + "x" for i in range(N)]),
        ["--target", "price"],
        "column 'colour' holds 200 different texts, of which at most 100 are encoded: leave it out with --exclude colour",
    ),
    "nothing left": ({"a": SIZE}, ["--target", "a"], "no column is left to learn from"),
    "regression of text": (
        TABLE,
        ["--target", "class", "--task", "regression"],
        "--task regression: the target 'class' holds text, expected numbers",
    ),
    "classes of fractions": (
        TABLE,
        ["--target", "price", "--task", "classification"],
        "--task classification: the target 'price' holds fractions, expected text or integers",
    ),
    "ridge of classes": (
        TABLE,
        ["--target", "class", "--estimator", "ridge"],
        "--estimator ridge is not for classification: use logistic or sgd, or set --task",
    ),
    "logistic of numbers": (
        TABLE,
        ["--target", "price", "--estimator", "logistic"],
        "--estimator logistic is not for regression: use ridge, linear or sgd, or set --task",
    ),
    "knob of another": (
        TABLE,
        ["--target", "class", "--alpha", 1],
        "--alpha is for --estimator ridge or sgd, not for logistic",
    ),
    "knob of sgd": (
        TABLE,
        ["--target", "price", "--batch-size", 1],
        "--batch-size is for --estimator sgd, not for ridge",
    ),
    "unknown loss": (TABLE, ["--target", "price", "--estimator", "sgd", "--loss", "log_loss"], "loss must be one of "),
    "no rate": (
        TABLE,
        ["--target", "price", "--estimator", "sgd", "--learning-rate", "fast"],
        "'fast' is neither a number nor 'auto'",
    ),
    "bad rate": (TABLE, ["--target", "price", "--estimator", "sgd", "--learning-rate", -1], "learning_rate must be "),
    "bad C": (TABLE, ["--target", "class", "--C", 0], "C must be a number > 0, got 0.0"),
    "bad jobs": (TABLE, ["--target", "class", "--jobs", 0], "n_jobs must be None, a positive number of threads"),
    "one class": (changed(kind=[1] * N), ["--target", "kind"], "needs samples of at least 2 classes"),
    "lonely class": (
        changed(kind=[1] * (N - 1) + [2]),
        ["--target", "kind"],
        "--test-fraction 0.25: The least populated class",
    ),
    "too few rows": ({"a": [1.5], "b": [2.5]}, ["--target", "a"], "--test-fraction 0.25: With n_samples=1"),
    "no rows": ({"a": [], "b": []}, ["--target", "a"], "t.csv holds no rows"),
    "negative weight": (
        changed(weight=-SIZE),
        ["--target", "price", "--weight", "weight"],
        "contains the negative weight",
    ),
}


@pytest.mark.parametrize(("table", "options", "sentence"), REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("reader", ["pandas", "pyarrow"])
def test_refusals_of_train(
    reader: str, table: Any, options: list[Any], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(reader, reason=f"CSV read by {reader}")
    monkeypatch.setattr(tables, "find_spec", without(*({"pandas"} - {reader})))
    monkeypatch.setattr(tables, "MOST_LEVELS", 100)
    assert sentence in refusal("train", write(tmp_path / "t.csv", table), *options, "--model", tmp_path / "m.gdfast")
    assert not (tmp_path / "m.gdfast").exists()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("t.txt", b"a,b", "t.txt: unknown kind of file, expected one of .csv, .csv.gz, .csv.zip, .parquet, .npy"),
        ("t.xlsx", b"a,b", "t.xlsx: unknown kind of file"),
        ("t.csv", b"", "No columns to parse"),
        ("t.csv", b"\xff\xfea\0", "codec can't decode"),
        ("t.csv.gz", b"a,b\n1,2\n", "Not a gzipped file"),
        ("t.csv.gz", gzip.compress(as_csv(TABLE))[:-1000], "end-of-stream marker"),
        ("t.csv.zip", b"a,b\n1,2\n", "File is not a zip file"),
        ("t.parquet", b"a,b\n1,2\n", "Parquet"),
        ("t.npy", b"a,b\n1,2\n", "the magic string is not correct"),
    ],
)
def test_refusals_of_files(name: str, content: bytes, sentence: str, tmp_path: Path) -> None:
    for package in ("pandas", "pyarrow"):
        pytest.importorskip(package, reason="the sentences are those of pandas and pyarrow")
    (tmp_path / name).write_bytes(content)
    assert sentence in refusal("train", tmp_path / name, "--target", "a")


def test_refusals_of_archives(tmp_path: Path, data: Path) -> None:
    with zipfile.ZipFile(tmp_path / "two.csv.zip", "w") as archive:
        archive.writestr("a.csv", as_csv(TABLE))
        archive.writestr("b.csv", as_csv(TABLE))
    assert "two.csv.zip holds 2 .csv files, expected one" in refusal("train", tmp_path / "two.csv.zip", "--target", "a")


@pytest.mark.parametrize("a", [np.zeros(3), np.zeros((2, 2, 2)), np.array([["a"]]), np.zeros((2, 2), complex)])
def test_refusals_of_arrays(a: Any, tmp_path: Path, data: Path) -> None:
    np.save(tmp_path / "a.npy", a)
    assert "expected rows and columns of real numbers" in refusal("train", tmp_path / "a.npy", "--target", "0")


def test_refusal_of_dates(tmp_path: Path) -> None:
    table = {"when": np.arange(N).astype("datetime64[D]"), "y": PRICE}
    sentence = refusal("train", write(tmp_path / "t.parquet", table), "--target", "y")
    assert (
        "column 'when' holds Date, expected numbers: turn it into numbers, or leave it out with --exclude when"
        in sentence
    )


def test_missing_packages(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    advice = 'needs pyarrow, which is not installed: pip install "gdfast[io]"'
    parquet = write(tmp_path / "t.parquet", TABLE)
    monkeypatch.setattr(tables, "find_spec", without("pyarrow"))
    assert refusal("train", parquet, "--target", "price") == f"Error: reading t.parquet {advice}"
    monkeypatch.setattr(tables, "find_spec", without("pyarrow", "pandas"))
    assert refusal("train", data, "--target", "price") == f"Error: reading data.csv {advice}"


def test_a_folder_that_does_not_exist_is_refused_before_training(data: Path, tmp_path: Path) -> None:
    output = run("train", data, "--target", "price", "--model", tmp_path / "no" / "m.gdfast").output
    assert output == f"Error: --model: the folder {tmp_path / 'no'} does not exist or cannot be written to\n"


def test_refusals_of_predict(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "m.gdfast"
    assert "cannot read" in refusal("predict", data, "--model", file)
    file.write_bytes(b"\x80\x04N.")
    assert "is a pickle" in refusal("predict", data, "--model", file)
    save(LogisticRegression().fit(SIZE[:, None], CHEAP), file)
    assert "was not written by gdfast train: use gdfast.load in Python" in refusal("predict", data, "--model", file)
    ok("train", data, "--target", "price", "--exclude", "class", "--model", file)
    assert f"--proba: Ridge in {file} gives no probabilities" in refusal("predict", data, "--model", file, "--proba")
    small = {name: column for name, column in TABLE.items() if name != "size"}
    no_size = write(tmp_path / "t.csv", small)
    assert "there is no column 'size'; the table has colour" in refusal("predict", no_size, "--model", file)
    numbers = write(tmp_path / "t.csv", changed(colour=SIZE))
    expected = "column 'colour' holds numbers, but held text when the model was trained"
    assert expected in refusal("predict", numbers, "--model", file)
    text = write(tmp_path / "t.csv", changed(size=COLOUR))
    assert "column 'size' holds String, expected numbers" in refusal("predict", text, "--model", file)
    out = tmp_path / "no" / "out.csv"
    assert "No such file" in refusal("predict", data, "--model", file, "--output", out)


def test_faults_of_ours_keep_their_traceback(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*args: Any) -> Any:
        raise KeyError("a fault")

    monkeypatch.setattr(cli, "features_of", fault)
    assert isinstance(run("train", data, "--target", "price").exception, KeyError)


def test_the_reader_of_the_output_may_stop_reading(data: Path, tmp_path: Path) -> None:
    big = write(tmp_path / "big.csv", {name: np.tile(column, 100) for name, column in TABLE.items()})
    ok("train", data, "--target", "price", "--model", tmp_path / "m.gdfast")
    command = [sys.executable, "-m", "gdfast", "predict", str(big), "--model", str(tmp_path / "m.gdfast")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"prediction\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
