"""The command line: ``gdfast train``, ``resume``, ``watch``, ``predict``, ``info``, ``demo``.

A table is read whole, its text columns become one 0/1 column a level, and what was fitted is written with the list of
(column, level) pairs, so that ``predict`` builds the same features from any other table with these columns. A table that may
be larger than memory is read in blocks, and its features are numbers.
"""

from __future__ import annotations

import csv
import json
import os
import time
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from gdfast import __version__, optimizers, runtime
from gdfast.jobs import Job, picture, read_job, read_log
from gdfast.streams import READERS, Source
from gdfast.tables import Features, column_of, features_of, is_text, matrix_of, numbers_of, read_table, text_of

Array = np.ndarray[Any, Any]

MOST_CLASSES = 20  # a column of more distinct integers is a quantity, not a class
ROWS_A_WRITE = 100_000
KNOBS = {
    "logistic": ("C", "max_iter"),
    "linear": (),
    "ridge": ("alpha", "max_iter"),
    "sgd": ("alpha", "loss", "optimizer", "learning_rate", "batch_size", "max_iter"),
}
# what files, readers, solvers and missing packages raise; anything else is a fault of ours and shows its traceback
_EXPECTED: tuple[type[Exception], ...] = (ValueError, OSError, ArithmeticError, MemoryError, ModuleNotFoundError)
_EXPECTED += (EOFError, zipfile.BadZipFile, zlib.error)


class UserError(click.ClickException):
    """One line for the user, exit code 2."""

    exit_code = 2


@contextmanager
def _in_one_line() -> Iterator[None]:
    """Turn what the library says about its input into a ``UserError``, and its warnings into lines on stderr."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        except BrokenPipeError:  # the reader of our output has had enough, as in `gdfast predict ... | head`
            raise
        except _EXPECTED as error:
            raise UserError(" ".join(str(error).split()) or type(error).__name__) from error
        finally:
            for text in dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, UserWarning)):
                click.echo(f"Warning: {' '.join(text.split())}", err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gdfast", message="%(prog)s %(version)s")
def main() -> None:
    """Linear and logistic models by gradient descent, as fast as the memory bus allows."""


@main.command()
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def info(as_json: bool) -> None:
    """Print the version, instruction sets, cores, OpenMP and devices."""
    facts = runtime.info()
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else value
        click.echo(f"{name:<24}{'yes' if value is True else 'no' if value is False else text}")


@main.command()
@click.option(
    "--folder", type=click.Path(path_type=Path), default="gdfast-demo", show_default=True, help="For results."
)
@click.option("--rows", type=click.IntRange(min=1000), help="Use only so many flights, drawn at random.")
def demo(folder: Path, rows: int | None) -> None:
    """Train on the flights from New York in 2013, beside the NumPy reference."""
    from gdfast.demo import run

    with _in_one_line():
        run(folder, rows)


def _rate(context: click.Context, option: click.Parameter, text: str | None) -> float | str | None:
    """A number, or "auto"."""
    if text is None or text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither a number nor 'auto'", context, option) from None


@main.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--target", required=True, help="The column to predict; in .npy files its number, from 0.")
@click.option("--weight", help="A column of row weights.")
@click.option("--exclude", multiple=True, help="A column to leave out; may be repeated.")
@click.option("--model", "file", type=click.Path(path_type=Path), help="Where to write the model (.gdfast).")
@click.option("--task", type=click.Choice(["auto", "classification", "regression"]), default="auto", show_default=True)
@click.option(
    "--estimator",
    type=click.Choice(["auto", "logistic", "linear", "ridge", "sgd"]),
    default="auto",
    show_default=True,
    help="auto: logistic for classes, ridge for quantities.",
)
@click.option("--C", "C", type=float, help="Inverse strength of the penalty (logistic).  [default: 1]")
@click.option("--alpha", type=float, help="Strength of the penalty (ridge: default 1, sgd: default 0.0001).")
@click.option("--loss", help="Loss (sgd).  [default: softmax or squared_error]")
@click.option("--optimizer", type=click.Choice(list(optimizers.ALL)), help="Optimizer (sgd).  [default: adam]")
@click.option("--learning-rate", callback=_rate, help="Rate of the optimizer, or auto: found from the data (sgd).")
@click.option("--batch-size", type=click.IntRange(min=1), help="Rows a step (sgd).  [default: 256]")
@click.option("--max-iter", type=click.IntRange(min=1), help="Most iterations, or epochs (sgd).")
@click.option("--standardize/--no-standardize", default=True, show_default=True, help="Fit on columns of mean 0, sd 1.")
@click.option(
    "--test-fraction",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.25,
    show_default=True,
    help="Rows held out for the metrics.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the split and of the order of rows.")
@click.option("--jobs", type=int, help="Threads; -1 for all cores.")
@click.option(
    "--memory-limit", help="Read the files in blocks, in so much memory: 512M, 2G.  [default for folders: 1G]"
)
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), help="Folder to save the run in as it goes (with blocks)."
)
@click.option("--max-seconds", type=click.FloatRange(0, min_open=True), help="Stop after so long (with blocks).")
@click.option("--verbose", is_flag=True, help="Print the plan: blocks, buffers, threads (with blocks).")
def train(
    data: Path,
    target: str,
    weight: str | None,
    exclude: tuple[str, ...],
    file: Path | None,
    task: str,
    estimator: str,
    standardize: bool,
    test_fraction: float,
    seed: int,
    jobs: int | None,
    memory_limit: str | None,
    checkpoint: Path | None,
    max_seconds: float | None,
    verbose: bool,
    **chosen: Any,
) -> None:
    """Fit a model to a table: .csv, .csv.gz, .csv.zip, .parquet or .npy.

    A folder or a pattern of .parquet files, or any of --memory-limit, --checkpoint and --max-seconds, trains in blocks with
    the sgd estimator: data may be larger than memory, all features are numbers.
    """
    with _in_one_line():
        pattern = any(sign in str(data) for sign in "*?[") and not data.exists()
        if data.is_dir() or pattern or any(given is not None for given in (memory_limit, checkpoint, max_seconds)):
            if estimator not in ("auto", "sgd"):
                raise UserError(f"--estimator {estimator} reads the whole table; in blocks there is sgd")
            given = {name: value for name, value in chosen.items() if value is not None}
            _check_knobs("sgd", given)
            folder, limit = None if checkpoint is None else str(checkpoint), memory_limit or "1G"
            job = Job(
                str(data), target, task == "classification", weight, list(exclude), limit, folder, max_seconds, standardize,
                test_fraction, seed, jobs, given,
            )  # fmt: skip
            source = job.source()
            if task == "auto":
                job = replace(job, classes=_holds_classes(source, target))
            job.write()
            _run_job(job, source, file, verbose)
            return
        if file is not None and not os.access(file.absolute().parent, os.W_OK):
            raise UserError(f"--model: the folder {file.absolute().parent} does not exist or cannot be written to")
        table = read_table(data)
        y, classes = _target(table, target, task)
        w = None if weight is None else numbers_of(table, weight)
        for name in exclude:
            column_of(table, name)
        features = features_of(table, [name for name in table.columns if name not in {target, weight, *exclude}])
        X = matrix_of(table, features)
        click.echo(f"{len(X):,} rows, {X.shape[1]} features as {X.dtype}")
        levels = Counter(name for name, level in features if level is not None)
        if levels:
            shown = ", ".join(f"{name} ({count})" for name, count in levels.items())
            click.echo(f"text is one-hot encoded, one feature a level: {shown}")
        model = _estimator(estimator, classes, seed, jobs, {k: v for k, v in chosen.items() if v is not None})
        kept, held = _split(y, test_fraction, seed, classes)
        X, X_held = X[kept], X[held]
        _fit(model, X, y[kept], None if w is None else w[kept], standardize)
        _print_metrics(model, X_held, y[held], None if w is None else w[held])
        _write(model, features, target, file)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--model", "file", type=click.Path(path_type=Path), help="Where to write the model (.gdfast).")
@click.option("--max-seconds", type=click.FloatRange(0, min_open=True), help="Stop after so long.")
@click.option("--verbose", is_flag=True, help="Print the plan: blocks, buffers, threads.")
def resume(folder: Path, file: Path | None, max_seconds: float | None, verbose: bool) -> None:
    """Go on with what gdfast train --checkpoint FOLDER began."""
    with _in_one_line():
        job = replace(read_job(folder), max_seconds=max_seconds)
        _run_job(job, job.source(), file, verbose)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--every", type=click.FloatRange(0.1), help="Look again after so many seconds, until Ctrl-C.")
def watch(folder: Path, every: float | None) -> None:
    """Draw the curves of a run, going on or over."""
    with _in_one_line():
        click.echo(picture(read_log(folder)))
        while every is not None:
            time.sleep(every)
            click.clear()
            click.echo(picture(read_log(folder)))


@main.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--model", "file", type=click.Path(path_type=Path), required=True, help="Written by gdfast train.")
@click.option("--output", default="-", help="CSV file to write.  [default: standard output]")
@click.option("--proba", is_flag=True, help="Probabilities, one column a class.")
def predict(data: Path, file: Path, output: str, proba: bool) -> None:
    """Predict a value or class for every row of a table, as CSV."""
    from tqdm import tqdm

    from gdfast.models import read

    with _in_one_line():
        model, extra = read(file)
        if "features" not in extra:
            raise UserError(f"{file} was not written by gdfast train: use gdfast.load in Python")
        if proba and not hasattr(model, "predict_proba"):
            raise UserError(f"--proba: {type(model).__name__} in {file} gives no probabilities")
        X = matrix_of(read_table(data), [(name, level) for name, level in extra["features"]])
        del model.feature_names_in_  # X has the features in their order, but no names to check
        header = [f"proba_{label}" for label in model.classes_] if proba else ["prediction"]
        values = model.predict_proba(X) if proba else model.predict(X)[:, None]
        with click.open_file(output, "w", encoding="utf-8") as out:
            writer = csv.writer(out, lineterminator="\n")
            writer.writerow(header)
            for first in tqdm(range(0, len(X), ROWS_A_WRITE), desc="writing", disable=None, delay=1):
                # astype(str): the shortest text that reads back as the same number
                writer.writerows(values[first : first + ROWS_A_WRITE].astype(str))


def _target(table: Any, name: str, task: str) -> tuple[Array, bool]:
    """(y, whether it is classes), saying how that was decided."""
    if is_text(column_of(table, name)):
        if task == "regression":
            raise UserError(f"--task regression: the target {name!r} holds text, expected numbers")
        y, classes, held = text_of(table[name]), True, "text"
    else:
        y = numbers_of(table, name)
        distinct = np.unique(y)
        whole = bool((distinct == np.floor(distinct)).all())
        if task == "classification" and not whole:
            raise UserError(f"--task classification: the target {name!r} holds fractions, expected text or integers")
        classes = task == "classification" or (task == "auto" and whole and len(distinct) <= MOST_CLASSES)
        y = y.astype(np.int64) if classes else y
        held = f"{len(distinct):,} distinct {'integers' if whole else 'numbers'}"
    click.echo(f"target {name!r} holds {held}: {'classification' if classes else 'regression'}")
    return y, classes


def _holds_classes(source: Source, target: str) -> bool:
    """Text, and few whole numbers, from the first rows."""
    y, _ = source.read(0, np.empty((int(source.rows[0]), source.d), source.dtype))
    distinct = np.unique(y)
    whole = y.dtype.kind not in "f" or bool((distinct == np.floor(distinct)).all())
    classes = whole and len(distinct) <= MOST_CLASSES
    kind = "classification" if classes else "regression"
    click.echo(f"target {target!r} holds {len(distinct):,} values in the first {len(y):,} rows: {kind}")
    return classes


def _run_job(job: Job, source: Source, file: Path | None, verbose: bool) -> None:
    from tqdm import tqdm

    names = source.names or [str(j) for j in range(source.d)]
    click.echo(f"{source.n:,} rows, {source.d} features as {source.dtype}")
    if verbose:
        blocks, size = len(source.divided()), source.rows_of_block * source.d * source.dtype.itemsize
        read = f"{READERS} readers" if blocks > 1 else "read once"
        click.echo(
            f"plan: {len(source.rows):,} pieces in {blocks:,} blocks of at most {source.rows_of_block:,} rows "
            f"({size / 2**20:.0f} MiB, two at a time), {read}, {runtime.threads(job.jobs)} threads, "
            f"memory limit {job.memory_limit}"
        )
    with tqdm(total=job.chosen.get("max_iter"), desc="epochs", disable=None, delay=1) as bar:

        def advance(epoch: Any) -> None:
            shown = {"loss": f"{epoch.loss:.5g}", "rows/s": f"{epoch.rows_per_second:,.0f}"}
            shown |= {} if epoch.validation_score is None else {"score": f"{epoch.validation_score:.4f}"}
            bar.set_postfix(shown, refresh=False)
            bar.update(epoch.epoch - bar.n)

        model = job.model(advance).fit(source)
    report, history = model.fit_report_, model.history_
    work = f"{report['epochs']} epochs in {report['seconds']:.2f} s, {report['rows_per_second']:,.0f} rows/s"
    click.echo(
        f"fitted {type(model).__name__}: {work} ({report['solver']}; {report['threads']} threads); {history.reason}"
    )
    score = f", score of the held-out rows {max(history.validation_score):.4f}" if history.validation_score else ""
    click.echo(f"loss {history.loss[-1]:.6g}{score}")
    _write(model, [(name, None) for name in names], job.target, file)


def _check_knobs(name: str, chosen: dict[str, Any]) -> None:
    for knob in chosen:
        if knob not in KNOBS[name]:
            owners = " or ".join(owner for owner, knobs in KNOBS.items() if knob in knobs)
            raise UserError(f"--{knob.replace('_', '-')} is for --estimator {owners}, not for {name}")


def _estimator(name: str, classes: bool, seed: int, jobs: int | None, chosen: dict[str, Any]) -> Any:
    from gdfast.estimators import LinearRegression, LogisticRegression, Ridge, SGDClassifier, SGDRegressor

    name = ("logistic" if classes else "ridge") if name == "auto" else name
    if name != "sgd" and classes != (name == "logistic"):
        fit = "classification: use logistic or sgd" if classes else "regression: use ridge, linear or sgd"
        raise UserError(f"--estimator {name} is not for {fit}, or set --task")
    _check_knobs(name, chosen)
    if name != "sgd":
        return {"logistic": LogisticRegression, "linear": LinearRegression, "ridge": Ridge}[name](n_jobs=jobs, **chosen)
    kind = optimizers.ALL[chosen.pop("optimizer", "adam")]
    optimizer = kind(chosen.pop("learning_rate")) if "learning_rate" in chosen else kind()
    chosen.setdefault("loss", "softmax" if classes else "squared_error")
    return (SGDClassifier if classes else SGDRegressor)(optimizer=optimizer, random_state=seed, n_jobs=jobs, **chosen)


def _split(y: Array, fraction: float, seed: int, classes: bool) -> tuple[Array, Array]:
    """Rows to fit and rows to hold out, every class in both."""
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(y))
    if fraction == 0:
        return rows, rows[:0]
    try:
        kept, held = train_test_split(rows, test_size=fraction, random_state=seed, stratify=y if classes else None)
    except ValueError as error:
        raise UserError(f"--test-fraction {fraction:g}: {error} 0 holds no rows out.") from error
    return kept, held


def _fit(model: Any, X: Array, y: Array, weight: Array | None, standardize: bool) -> None:
    """Fit on standardised columns (X is overwritten), then put their means and scales into the weights: the model
    predicts from the columns as they are in the file."""
    from sklearn.preprocessing import StandardScaler
    from tqdm import tqdm

    scaler = StandardScaler(copy=False).fit(X) if standardize else None
    X = X if scaler is None else scaler.transform(X)
    with tqdm(total=getattr(model, "max_iter", None), desc="fitting", disable=None, delay=1) as bar:

        def advance(iteration: int, objective: float) -> None:
            bar.update(iteration - bar.n)

        model._callback = advance
        try:
            model.fit(X, y, sample_weight=weight)
        finally:
            del model._callback
    if scaler is not None:
        coef = model.coef_ / scaler.scale_
        model.coef_ = coef.astype(X.dtype)
        model.intercept_ = (model.intercept_ - coef @ scaler.mean_).astype(X.dtype)
        model.__dict__.pop("_state", None)  # what partial_fit would continue from, in standardised units
    report = model.fit_report_
    passes = report["passes"] if "passes" in report else report["epochs"]
    rate = passes * len(X) / report["seconds"]
    work = f"{len(X):,} rows, {passes} passes in {report['seconds']:.2f} s, {rate:,.0f} rows/s"
    click.echo(f"fitted {type(model).__name__}: {work} ({report['solver']}; {report['threads']} threads)")


def _print_metrics(model: Any, X: Array, y: Array, weight: Array | None) -> None:
    from sklearn import metrics

    if len(X) == 0:
        click.echo("no rows held out, no metrics")
        return
    found = {}
    if hasattr(model, "classes_"):
        found["accuracy"] = metrics.accuracy_score(y, model.predict(X), sample_weight=weight)
        two, p = len(model.classes_) == 2, model.predict_proba(X) if hasattr(model, "predict_proba") else None
        if p is not None:
            found["log-loss"] = metrics.log_loss(y, p, sample_weight=weight, labels=model.classes_)
        if two or p is not None:
            z = model.decision_function(X) if two else p
            found["AUC"] = metrics.roc_auc_score(y, z, sample_weight=weight, multi_class="ovr", labels=model.classes_)
    else:
        found["R2"] = metrics.r2_score(y, model.predict(X), sample_weight=weight)
        found["RMSE"] = metrics.root_mean_squared_error(y, model.predict(X), sample_weight=weight)
    click.echo(f"on {len(X):,} held-out rows: " + ", ".join(f"{name} {value:.4f}" for name, value in found.items()))


def _write(model: Any, features: Features, target: str, file: Path | None) -> None:
    from gdfast.models import save

    if file is None:
        click.echo("model not written: give --model FILE.gdfast to keep it")
        return
    names = [name if level is None else f"{name}={level}" for name, level in features]
    model.feature_names_in_ = np.array(names, dtype=object)
    save(model, file, extra={"features": [list(pair) for pair in features], "target": target})
    click.echo(f"model written to {file}")
