"""Races: contestants take turns in one process, medians are compared, and the ratios are printed at the end.

`pytest bench` measures; `pytest bench --benchmark-disable` runs everything once, on small data, so that nothing rots.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from gdfast import runtime

PAUSE = 0.03  # seconds; the threads of BLAS go on spinning for a while, on the cores of whoever comes next
LINES = pytest.StashKey[list[str]]()
RESULTS = pytest.StashKey[dict[str, dict[str, float]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--races", metavar="FILE", help="write the medians of all races to FILE as JSON (see picture.py)")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LINES] = []
    config.stash[RESULTS] = {}


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if config.getoption("--races"):
        results = {"facts": runtime.info(), "races": config.stash[RESULTS]}
        with open(config.getoption("--races"), "w") as file:
            json.dump(results, file, indent=1)
    if config.stash[LINES]:
        terminalreporter.section("races (interleaved, medians)")
        facts = runtime.info()
        terminalreporter.write_line(
            f"gdfast {facts['gdfast']}, numpy {facts['numpy']}, {facts['instruction set in use']}, {facts['cores']} cores"
        )
        for line in config.stash[LINES]:
            terminalreporter.write_line(line)


@dataclass
class Race:
    benchmark: Any
    lines: list[str]
    results: dict[str, dict[str, float]]

    @property
    def small(self) -> bool:
        """Is this the run that only proves that the bench works?"""
        return bool(self.benchmark.disabled)

    def __call__(
        self, title: str, contestants: dict[str, Callable[[], Any]], *, rounds: int = 11, work: float | None = None
    ) -> dict[str, float]:
        """Median seconds of each contestant; the first one is what `pytest-benchmark` tracks. ``work``: bytes a run."""
        first = next(iter(contestants.values()))
        if self.small:
            for run in contestants.values():
                run()
            self.benchmark(first)
            return dict.fromkeys(contestants, 1.0)
        times: dict[str, list[float]] = {name: [] for name in contestants}
        turns = list(contestants.items())
        for _ in range(rounds):
            turns.reverse()  # so that no one always follows the same one
            for name, run in turns:
                time.sleep(PAUSE)
                start = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - start)
        medians = {name: statistics.median(t) for name, t in times.items()}
        self.benchmark.pedantic(first, rounds=5, warmup_rounds=1)
        own = next(iter(medians.values()))
        self.lines.append(title)
        for name, seconds in medians.items():
            rate = "" if work is None else f"{work / seconds / 1e9:8.1f} GB/s"
            self.lines.append(f"    {name:<34}{seconds * 1e3:10.3f} ms{rate}{seconds / own:10.2f} x")
        self.benchmark.extra_info.update(medians)
        self.results[title] = medians
        return medians

    def note(self, text: str) -> None:
        if not self.small:
            self.lines.append(f"    {text}")


@pytest.fixture
def race(benchmark: Any, request: pytest.FixtureRequest) -> Race:
    return Race(benchmark, request.config.stash[LINES], request.config.stash[RESULTS])
