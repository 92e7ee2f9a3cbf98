"""Training from files larger than memory, as a job that can be stopped, continued and watched.

The folder of a job holds its checkpoints, ``job.json`` (what it is) and ``log.jsonl`` (one line an epoch).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gdfast import optimizers
from gdfast.arrow_files import ParquetSource
from gdfast.run_folder import Checkpoint
from gdfast.solvers.stopping import Epoch
from gdfast.streams import NpySource, Source

Array = np.ndarray[Any, Any]

DESCRIPTION, LOG = "job.json", "log.jsonl"
BARS = "▁▂▃▄▅▆▇█"
WIDTH = 60  # columns of a curve


@dataclass(frozen=True)
class Job:
    """chosen: parameters of the estimator by name; learning_rate is that of the optimizer."""

    data: str
    target: str
    classes: bool
    weight: str | None = None
    exclude: list[str] = field(default_factory=list)
    memory_limit: str = "1G"
    folder: str | None = None
    max_seconds: float | None = None
    standardize: bool = True
    test_fraction: float = 0.0
    seed: int = 0
    jobs: int | None = None
    chosen: dict[str, Any] = field(default_factory=dict)

    def source(self) -> Source:
        if self.data.endswith(".npy"):
            weight = None if self.weight is None else int(self.weight)
            return NpySource(self.data, target=int(self.target), weight=weight, memory_limit=self.memory_limit)
        exclude, limit = self.exclude, self.memory_limit
        return ParquetSource(self.data, target=self.target, weight=self.weight, exclude=exclude, memory_limit=limit)

    def model(self, *callbacks: Callable[[Epoch], object]) -> Any:
        from gdfast.estimators import SGDClassifier, SGDRegressor

        chosen = dict(self.chosen)
        kind = optimizers.ALL[chosen.pop("optimizer", "adam")]
        optimizer = kind(chosen.pop("learning_rate")) if "learning_rate" in chosen else kind()
        chosen.setdefault("loss", "softmax" if self.classes else "squared_error")
        chosen |= {"standardize": self.standardize, "max_seconds": self.max_seconds, "random_state": self.seed}
        if self.test_fraction:
            chosen |= {"early_stopping": True, "validation_fraction": self.test_fraction}
        if self.folder is not None:
            chosen["checkpoint"] = Checkpoint(self.folder)
            callbacks = (*callbacks, Log(Path(self.folder) / LOG))
        estimator = SGDClassifier if self.classes else SGDRegressor
        return estimator(optimizer=optimizer, n_jobs=self.jobs, callbacks=list(callbacks), **chosen)

    def write(self) -> None:
        """Into its folder, for ``read_job``; data by their full path."""
        if self.folder is not None:
            Path(self.folder).mkdir(parents=True, exist_ok=True)
            text = json.dumps({**asdict(self), "data": os.path.abspath(self.data)}, indent=1)
            (Path(self.folder) / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def read_job(folder: Path) -> Job:
    """The job of a folder. Raises ValueError where it holds none."""
    try:
        found = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        return Job(**{**found, "folder": str(folder)})
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"{folder} holds no job: gdfast train --checkpoint {folder} begins one ({error})") from error


class Log:
    """A callback that adds a line of JSON an epoch to a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, epoch: Epoch) -> None:
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(epoch)) + "\n")


def read_log(folder: Path) -> list[dict[str, Any]]:
    """One entry an epoch, in their order: the last one written, where an epoch was made again after a kill."""
    try:
        lines = (folder / LOG).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"{folder} holds no log: {error.strerror}") from error
    entries = {}
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:  # the line that is being written, or was when the job was killed
            continue
        entries[entry["epoch"]] = entry
    return [entries[number] for number in sorted(entries)]


def curve(values: list[float]) -> str:
    """A line of bars, the means of what falls on each."""
    finite = np.array([v for v in values if math.isfinite(v)])
    if len(finite) == 0:
        return ""
    means = np.array([part.mean() for part in np.array_split(finite, min(WIDTH, len(finite)))])
    low, high = means.min(), means.max()
    heights = (
        np.zeros(len(means), int)
        if low == high
        else ((means - low) / (high - low) * (len(BARS) - 1)).round().astype(int)
    )
    return "".join(BARS[height] for height in heights)


def picture(entries: list[dict[str, Any]]) -> str:
    """The curves of a log, a line each, with the last numbers."""
    if not entries:
        return "no epoch is over yet"
    last, lines = entries[-1], []
    for name in ("loss", "validation_score", "learning_rate"):
        values = [entry[name] for entry in entries if entry.get(name) is not None]
        if values:
            lines.append(f"{name:<17}{values[-1]:<12.6g}{curve(values)}")
    rate = f"{last['rows_per_second']:,.0f} rows/s, {last['seconds']:.1f} s an epoch"
    return "\n".join([f"epoch {last['epoch']}, step {last['step']:,}, {rate}", *lines])
