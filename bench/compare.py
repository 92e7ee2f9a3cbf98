"""gdfast against its peers, on the sets of sets.py: seconds to a given excess over the best objective known.

    python bench/compare.py --json results.json --picture results.png

What is timed is the user's whole call of `fit`. Every peer is first tried once at each of its settings, loose to tight; what
reached a target takes part in the race, where all take turns in one process, and medians count. The objective is that of
best.py: one function, float64, outside the timed part. The excess that counts is the worst of all rounds.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import best
import click
import peers
import sets
from picture import draw_comparison
from threadpoolctl import threadpool_limits

from gdfast import runtime

TARGETS = (1e-3, 1e-4, 1e-6)
PAUSE = 0.03  # seconds; idle threads of BLAS spin for a while, on the cores of whoever comes next
SMALL_SECONDS = 0.02
QUICK, MORE = 0.1, 7  # fits below so many seconds get so many times the rounds


@dataclass
class Contestant:
    """One peer at one setting. memory: the most that a fit added to the process, in MB; passes as the peer tells them."""

    setting: Any
    seconds: list[float] = field(default_factory=list)
    excess: float = 0.0
    memory: float | None = None
    passes: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass
class Entry:
    """One peer on one set; ``note``: why it does not take part, or what was cut."""

    name: str
    contestants: list[Contestant] = field(default_factory=list)
    note: str = ""

    def fastest(self, target: float) -> Contestant | None:
        reached = [c for c in self.contestants if c.excess <= target]
        return min(reached, key=lambda c: c.median, default=None)

    @property
    def closest(self) -> float:
        return min((c.excess for c in self.contestants), default=float("inf"))


@dataclass
class Table:
    """All peers on one set."""

    name: str
    title: str
    target: float
    best: float
    entries: list[Entry]

    def lines(self) -> Iterator[str]:
        own = self.entries[0]
        yield f"{self.name}: {self.title}; best objective known {self.best:.12g}"
        head = "".join(f"{f'to {target:g}':>12}{'':9}" for target in TARGETS)
        yield f"    {'':<33}{head}{'passes':>9}{'memory':>10}  closest"
        for entry in self.entries:
            if not entry.contestants:
                yield f"    {entry.name:<33}{entry.note}"
                continue
            cells, last = "", None
            for target in TARGETS:
                found, ours = entry.fastest(target), own.fastest(target)
                ratio = f"{found.median / ours.median:8.2f}x" if found and ours else " " * 9
                cells += f"{_time(found.median) if found else '-':>12}{ratio}"
                last = found or last
            last = last or entry.contestants[-1]
            memory = "-" if last.memory is None else f"{last.memory:.0f} MB"
            yield f"    {entry.name:<33}{cells}{last.passes:>9}{memory:>10}  {entry.closest:.0e} {entry.note}"
        yield from self.verdicts()

    def verdicts(self) -> Iterator[str]:
        """For each target: how gdfast stands to the fastest peer that gets there, whoever wins."""
        for target in TARGETS:
            ours = self.entries[0].fastest(target)
            rivals = [(c.median, entry.name) for entry in self.entries[1:] if (c := entry.fastest(target))]
            marked = " <- the target of this set" if target == self.target else ""
            if ours and rivals:
                seconds, name = min(rivals)
                first = f"gdfast is first, {seconds / ours.median:.2f} times as fast as {name}"
                other = f"A PEER WINS: {name} is {ours.median / seconds:.2f} times as fast as gdfast"
                yield f"    to {target:g}: {first if ours.median <= seconds else other}{marked}"
            elif ours or rivals:
                who = "only gdfast gets" if ours else f"gdfast does not get there, {min(rivals)[1]} gets"
                yield f"    to {target:g}: {who} there{marked}"

    def as_json(self) -> dict[str, Any]:
        entries = {
            e.name: {"note": e.note, "fits": [{**vars(c), "median": c.median} for c in e.contestants]}
            for e in self.entries
        }
        return {"title": self.title, "target": self.target, "best": self.best, "peers": entries}


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.4g} ms"


def _peak_of(call: Callable[[], Any]) -> tuple[Any, float, float | None]:
    """(what the call returns, seconds, MB that the process grew by at most); Linux tells the last, others None."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what earlier fits left in the heap would hide this one's
    before = None
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        before = _resident("VmRSS")
    time.sleep(PAUSE)
    start = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - start
    return result, seconds, None if before is None else max(0.0, _resident("VmHWM") - before)


def _resident(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name + ":"))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No warnings, and nothing on the terminal: some peers print from native code."""
    saved = os.dup(1), os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1), os.dup2(nowhere, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for number, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, number)
            os.close(copy)
        os.close(nowhere)


def _run(
    problem: sets.Problem, known: float, peer: peers.Peer, data: Any, contestant: Contestant, threads: int
) -> None:
    """One more round of this contestant."""
    with _quiet(), threadpool_limits(threads):
        read, seconds, memory = _peak_of(lambda: peer.fit(data, contestant.setting, threads))
        coef, intercept, contestant.passes = read()
    contestant.seconds.append(seconds)
    contestant.excess = max(contestant.excess, best.objective(problem, coef, intercept) / known - 1)
    if memory is not None:
        contestant.memory = max(contestant.memory or 0.0, memory)


def _sweep(problem: sets.Problem, known: float, peer: peers.Peer, data: Any, threads: int, max_seconds: float) -> Entry:
    """Each setting once, until the tightest target is reached or a fit takes too long."""
    entry = Entry(peer.name)
    for setting in peer.settings:
        contestant = Contestant(setting)
        try:
            if not entry.contestants:
                # a few rows may be singular where all of them are not
                with _quiet(), peer.prepare(peers.few_rows(problem)) as few, contextlib.suppress(Exception):
                    peer.fit(few, setting, threads)
            _run(problem, known, peer, data, contestant, threads)
        except Exception as error:  # whatever a peer throws is a result
            entry.note = f"not available: {type(error).__name__}: {' '.join(str(error).split())[:90]}"
            break
        entry.contestants.append(contestant)
        if contestant.seconds[0] > max_seconds and peer.name != "gdfast":
            entry.note = f"(one fit took over {max_seconds:g} s: run once, tighter settings not tried)"
            break
        if contestant.excess <= min(TARGETS):
            break
    return entry


def compare(
    which: sets.Set,
    *,
    small: bool = False,
    chosen: Callable[[str], bool] = lambda name: True,
    rounds: int = 3,
    threads: int = 2,
    max_seconds: float = 60.0,
    report: Callable[[str], None] = lambda text: None,
) -> Table:
    """Everybody on one set. gdfast takes part always, and comes first."""
    problem = which.load(small)
    report(f"{which.name}: the best objective")
    known = best.best(problem)
    entries, racing = [], []
    with contextlib.ExitStack() as lent:
        for peer in peers.ALL:
            if not peer.handles(problem) or not (peer.name == "gdfast" or chosen(peer.name)):
                continue
            if missing := peer.missing():
                entries.append(Entry(peer.name, note=f"left out: {', '.join(missing)} not installed"))
                continue
            report(f"{which.name}: {peer.name}")
            data = lent.enter_context(peer.prepare(problem))
            entry = _sweep(problem, known, peer, data, threads, max_seconds)
            entries.append(entry)
            wanted = {id(c): c for target in TARGETS if (c := _loosest(entry, target))}.values()
            racing += [(peer, data, c) for c in wanted if c.seconds[0] <= max_seconds or peer.name == "gdfast"]
        for round_ in range(1, 1 if small else rounds * MORE):
            for peer, data, contestant in racing:
                if round_ < (rounds * MORE if contestant.median < QUICK else rounds):
                    report(f"{which.name}: round {round_ + 1}, {peer.name}")
                    _run(problem, known, peer, data, contestant, threads)
    lowest = min([0.0, *(c.excess for entry in entries for c in entry.contestants)])
    for contestant in (c for entry in entries for c in entry.contestants):
        contestant.excess = (1 + contestant.excess) / (1 + lowest) - 1  # somebody went below the best objective known
    shape = f"small: {problem.n} x {problem.d}; otherwise " if small else ""
    return Table(which.name, shape + which.title, which.target, known * (1 + lowest), entries)


def _loosest(entry: Entry, target: float) -> Contestant | None:
    return next((c for c in entry.contestants if c.excess <= target), None)


def _names(context: Any, parameter: Any, value: str | None) -> list[str] | None:
    known = [s.name for s in sets.ALL] if parameter.name == "which" else [p.name for p in peers.ALL]
    if value is None:
        return None
    names = [name.strip() for name in value.split(",")]
    if unknown := [name for name in names if name not in known]:
        raise click.BadParameter(f"unknown: {', '.join(unknown)}; there are: {', '.join(known)}")
    return names


@click.command()
@click.option("--sets", "which", callback=_names, help="Names, with commas between them; all unless given.")
@click.option(
    "--peers", "rivals", callback=_names, help="Names, with commas between them; all that are installed unless given."
)
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Times that everybody runs.")
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1), help="For everybody.")
@click.option("--max-seconds", default=60.0, show_default=True, help="A peer whose fit takes longer runs once.")
@click.option("--small", is_flag=True, help="Tiny data: only shows that everything runs.")
@click.option(
    "--json", "results", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures to this file."
)
@click.option("--picture", type=click.Path(dir_okay=False, path_type=Path), help="Draw excess against seconds.")
def main(which: list[str] | None, rivals: list[str] | None, rounds: int, threads: int, max_seconds: float, small: bool,
         results: Path | None, picture: Path | None) -> None:  # fmt: skip
    """Race gdfast against its peers to 1e-3, 1e-4 and 1e-6 of the best objective known."""
    from tqdm import tqdm

    rounds, max_seconds = (1, SMALL_SECONDS) if small else (rounds, max_seconds)

    facts, tables = runtime.info() | {"threads": threads}, []
    click.echo(
        f"gdfast {facts['gdfast']}, numpy {facts['numpy']}, {facts['instruction set in use']}, {threads} threads"
    )
    chosen = [s for s in sets.ALL if which is None or s.name in which]
    with tqdm(chosen, disable=None, leave=False) as bar:
        for one in bar:
            if missing := one.missing():
                tqdm.write(f"{one.name}: left out: {', '.join(missing)} not installed\n")
                continue
            table = compare(one, small=small, chosen=lambda name: rivals is None or name in rivals, rounds=rounds,
                            threads=threads, max_seconds=max_seconds, report=bar.set_description)  # fmt: skip
            tables.append(table)
            tqdm.write("\n".join(table.lines()) + "\n")
            if results:
                results.write_text(
                    json.dumps({"facts": facts, "sets": {t.name: t.as_json() for t in tables}}, indent=1)
                )
    if picture and tables:
        draw_comparison(tables, [peer.name for peer in peers.ALL], picture)


if __name__ == "__main__":
    main()
