"""Tables larger than the memory they may take: rates against the bare reader, the peak of memory, and other learners.

GDFAST_STREAM_GB=8 makes the files of 8 GB; 1 without it. The files are in the cache of the system where they fit.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import dataset, parquet

from gdfast import Adam, NpySource, ParquetSource, SGDClassifier

D, GROUP, LIMIT = 100, 10_000, 256 * 2**20
SECONDS = 600


@pytest.fixture
def tables(race):
    """(folder of Parquet files, .npy file, rows)"""
    n = 40_000 if race.small else int(float(os.environ.get("GDFAST_STREAM_GB", "1")) * 1e9) // (4 * D)
    folder = Path(tempfile.mkdtemp())
    if shutil.disk_usage(folder).free < 3 * n * D * 4:
        pytest.skip("the disk has no room for the files")
    try:
        write(folder, n)
        yield folder / "parts", folder / "all.npy", n
    finally:
        shutil.rmtree(folder)


def write(folder: Path, n: int) -> None:
    (folder / "parts").mkdir()
    rng = np.random.default_rng(0)
    coef = rng.standard_normal(D).astype(np.float32)
    whole = np.lib.format.open_memmap(folder / "all.npy", mode="w+", dtype=np.float32, shape=(n, D + 1))
    for number, start in enumerate(range(0, n, 10 * GROUP)):
        X = rng.standard_normal((min(10 * GROUP, n - start), D), dtype=np.float32)
        y = (X @ coef + 10 * rng.standard_normal(len(X), dtype=np.float32) > 0).astype(np.float32)
        whole[start : start + len(X), :D], whole[start : start + len(X), D] = X, y
        columns = {f"x{j}": X[:, j] for j in range(D)} | {"y": y}
        file = folder / "parts" / f"{number:04}.parquet"
        # plain pages: random numbers have no dictionary, and do not compress
        parquet.write_table(pa.table(columns), file, row_group_size=GROUP, use_dictionary=False, compression="none")
    whole.flush()


def adam(source, epochs=1):
    return SGDClassifier(
        "log_loss", optimizer=Adam(0.003), batch_size=1024, max_iter=epochs, tol=None, random_state=0
    ).fit(source)


def read_bare(npy):
    buffer = np.empty(2**25, np.uint8)
    with open(npy, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


@pytest.mark.parametrize("name", ["Parquet", ".npy"])
def bench_streams(race, tables, name):
    folder, npy, n = tables
    limit = LIMIT if not race.small else 20_000_000
    kinds = {
        "Parquet": (lambda: ParquetSource(folder, target="y", memory_limit=limit),
                    lambda: sum(batch.num_rows for batch in dataset.dataset(folder).to_batches())),
        ".npy": (lambda: NpySource(npy, target=D, memory_limit=limit), lambda: read_bare(npy)),
    }  # fmt: skip
    source, bare = kinds[name]
    medians = race(
        f"Adam, 1,024 rows a batch, {n:,} x {D} float32, {name}: the scan and one epoch are two reads",
        {"gdfast, two reads": lambda: adam(source()), "bare reader, twice": lambda: (bare(), bare())},
        rounds=3, work=2 * n * (D + 1) * 4,
    )  # fmt: skip
    race.note(f"of the bare reader's rate: {medians['bare reader, twice'] / medians['gdfast, two reads']:.2f}")
    race.note(f"peak of memory above that of the imports: {growth(name, folder, npy, limit) / 2**20:.0f} MiB")


def growth(name: str, folder: Path, npy: Path, limit: int) -> int:
    """Bytes that a fit adds to a fresh process."""
    source = (
        f"ParquetSource({str(folder)!r}, target='y', memory_limit={limit})"
        if name == "Parquet"
        else f"NpySource({str(npy)!r}, target={D}, memory_limit={limit})"
    )
    script = f"""
        import numpy as np
        import pyarrow.parquet
        from gdfast import Adam, NpySource, ParquetSource, SGDClassifier
        model = lambda: SGDClassifier("log_loss", optimizer=Adam(0.003), batch_size=1024, max_iter=1, tol=None, random_state=0)
        model().fit(np.eye(8), np.arange(8) % 2)
        # of this process alone: ru_maxrss is also that of the process that started it
        peak = lambda: 1024 * int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
        before = peak()
        model().fit({source})
        print(peak() - before)
    """
    run = [sys.executable, "-c", textwrap.dedent(script)]
    return int(subprocess.run(run, check=True, capture_output=True, text=True, timeout=SECONDS).stdout)


def bench_streams_beside_others(race, tables):
    """The same rows once, in batches of 1,024, and the mean log-loss of the last of them."""
    _, npy, n = tables
    from sklearn.linear_model import SGDClassifier as ScikitSGD

    data = np.load(npy, mmap_mode="r")
    last = data[-min(n, 20_000) :]
    X, sign = last[:, :D].astype(float), 2 * last[:, D].astype(float) - 1

    def loss(margins) -> float:
        return float(np.logaddexp(0, -sign * margins).mean())

    found: dict[str, float] = {}

    def ours() -> None:
        model = adam(NpySource(npy, target=D, memory_limit=LIMIT if not race.small else 20_000_000))
        found["gdfast"] = loss(X @ model.coef_[0] + model.intercept_[0])

    def theirs() -> None:
        model = ScikitSGD("log_loss", alpha=1e-4)
        for start in range(0, n, 1024 * 64):
            rows = np.asarray(data[start : start + 1024 * 64])
            model.partial_fit(rows[:, :D], rows[:, D], classes=[0, 1])
        found["scikit-learn partial_fit"] = loss(X @ model.coef_[0] + model.intercept_[0])

    contestants = {"gdfast Adam, scan and epoch": ours, "scikit-learn partial_fit": theirs}
    race(f"one epoch of {n:,} x {D} float32 from .npy", contestants, rounds=3)
    for name, value in found.items():
        race.note(f"{name}: log-loss {value:.4f}")
