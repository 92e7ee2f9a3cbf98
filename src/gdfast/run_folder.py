"""The folder of a run: its newest checkpoints, and the lock that keeps a second writer out.

A checkpoint is a file of checkpoint.py, written by a thread of its own from a copy while training goes on. The last two
are kept: ``checkpoint-<number>.gdfast``, the higher number being the newer.
"""

from __future__ import annotations

import os
import re
import threading
import time
import warnings
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from gdfast import _core
from gdfast.checkpoint import CheckpointError, load_arrays, save_arrays
from gdfast.layouts import CsrRows, Features, Quantized, Scaled, dtype_of, shape_of

Array = np.ndarray[Any, Any]

KEPT = 2
_NAME = re.compile(r"checkpoint-(\d{1,18})\.gdfast")


class DataChangedError(CheckpointError):
    """The data are not those that a run began with."""


@dataclass(frozen=True)
class Checkpoint:
    """Where and how often a fit is saved, so that it can be killed at any moment and continued to the same bits.

    folder : made where it is missing. A fit continues what it holds, and refuses the run of other data or settings.
    seconds : between two checkpoints; the state is saved at the next of its marks, some milliseconds apart.
    on_error : "raise" ends the fit when a checkpoint cannot be written (full disk, folder removed), "warn" goes on; the
        checkpoint before stays either way.
    """

    folder: str | os.PathLike[str]
    seconds: float = 30.0
    on_error: str = "raise"

    def __post_init__(self) -> None:
        if not (isinstance(self.seconds, (int, float)) and self.seconds >= 0):
            raise ValueError(f"seconds must be a number >= 0, got {self.seconds!r}")
        if self.on_error not in ("raise", "warn"):
            raise ValueError(f"on_error must be 'raise' or 'warn', got {self.on_error!r}")


class RunFolder:
    """An open folder, of one run: a context manager that holds its lock.

    identity: what the run is of, by name: the data under "data", the settings under theirs.
    """

    def __init__(self, checkpoint: Checkpoint, identity: Mapping[str, str]) -> None:
        self.path, self._rules, self._identity = Path(checkpoint.folder), checkpoint, dict(identity)
        self._last = time.perf_counter()
        self._thread: threading.Thread | None = None
        self._error: CheckpointError | None = None
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise CheckpointError(f"cannot open the folder {self.path}: {error.strerror or error}") from error
        try:
            _lock(self._lock, self.path)
        except BaseException:
            os.close(self._lock)
            raise
        for left in self.path.glob(".checkpoint-*.tmp"):  # of a writer that was killed
            left.unlink(missing_ok=True)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Waits for what is being written. What went wrong with it is told only where nothing else is."""
        try:
            self._wait()
            if kind is None:
                self._tell()
        finally:
            os.close(self._lock)  # unlocks

    @property
    def is_due(self) -> bool:
        return time.perf_counter() - self._last >= self._rules.seconds and not self._is_writing

    @property
    def _is_writing(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def save(self, arrays: Mapping[str, Array], meta: Mapping[str, Any]) -> None:
        """Begin to write what must not change any more. Raises what went wrong with the checkpoint before."""
        self._wait()
        self._tell()
        self._last = time.perf_counter()
        meta = {"kind": "run", "identity": self._identity, "instruction set": _core.instruction_set(), **meta}
        self._thread = threading.Thread(target=self._write, args=(dict(arrays), meta), name="gdfast checkpoint")
        self._thread.start()

    def newest(self) -> tuple[dict[str, Array], dict[str, Any]] | None:
        """(arrays, meta) of the newest whole checkpoint, or None where there is none.

        Raises CheckpointError where none of those that there are is whole, or they are of other settings;
        DataChangedError where they are of other data.
        """
        broken: list[CheckpointError] = []
        for number in reversed(self._numbers()):
            try:
                arrays, meta = load_arrays(self._file(number))
            except CheckpointError as error:
                broken.append(error)
                continue
            if broken:
                warnings.warn(f"{broken[0]}. The checkpoint before it is used", UserWarning, stacklevel=2)
            self._check(meta, self._file(number))
            return arrays, meta
        if broken:
            raise broken[0]
        return None

    def _check(self, meta: dict[str, Any], file: Path) -> None:
        if meta.get("kind") != "run":
            raise CheckpointError(f"{file} holds {meta.get('kind')!r}, expected the state of a run")
        then = meta["identity"]
        if then.get("data") != self._identity.get("data"):
            raise DataChangedError(
                f"{file} is of other data ({then.get('data')}) than those given ({self._identity.get('data')}): give the "
                "data that the run began with, or another folder"
            )
        names = sorted(name for name in {*then, *self._identity} if then.get(name) != self._identity.get(name))
        if names:
            was = ", ".join(f"{name} was {then.get(name)}, is {self._identity.get(name)}" for name in names)
            raise CheckpointError(
                f"{file} is of a run with other settings: {was}. Set them back, or give another folder"
            )
        if meta["instruction set"] != _core.instruction_set():
            warnings.warn(
                f"{file} was written with the instruction set {meta['instruction set']}, this is "
                f"{_core.instruction_set()}: the run goes on, but not to the same bits",
                UserWarning,
                stacklevel=3,
            )

    def _numbers(self) -> list[int]:
        return sorted(int(found[1]) for file in self.path.iterdir() if (found := _NAME.fullmatch(file.name)))

    def _file(self, number: int) -> Path:
        return self.path / f"checkpoint-{number:06}.gdfast"

    def _write(self, arrays: dict[str, Array], meta: dict[str, Any]) -> None:
        try:
            numbers = self._numbers()
            save_arrays(self._file(numbers[-1] + 1 if numbers else 1), arrays, meta)
            for number in numbers[: 1 - KEPT]:
                with suppress(OSError):
                    self._file(number).unlink()
        except CheckpointError as error:
            self._error = error
        except OSError as error:  # of the folder
            self._error = CheckpointError(f"cannot write into {self.path}: {error.strerror or error}")

    def _wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _tell(self) -> None:
        error, self._error = self._error, None
        if error is not None and self._rules.on_error == "raise":
            raise error
        if error is not None:
            warnings.warn(f"{error}. Training goes on", UserWarning, stacklevel=3)


def _lock(descriptor: int, folder: Path) -> None:
    """Of the process, gone with it however it ends."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        by = f"process {holder}" if holder else "another process"
        raise CheckpointError(f"{folder} is in use by {by}: wait for it, or give another folder") from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)


def identity_of(value: Any) -> str:
    """The same text for equal settings: numbers and text as they are, arrays by their checksum."""
    if is_dataclass(value) and not isinstance(value, type):
        inner = ", ".join(f"{f.name}={identity_of(getattr(value, f.name))}" for f in fields(value))
        return f"{type(value).__name__}({inner})"
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}:{checksum(value):08x}"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(identity_of, value))}]"
    return repr(value.item() if isinstance(value, np.generic) else value)


def fingerprint(X: Features, *others: Array | None) -> str:
    """Of rows and what belongs to them: equal for equal numbers in the same layout. Every byte is read once."""
    n, d = shape_of(X)
    value = 0
    for a in (*_arrays(X), *others):
        value = zlib.crc32(b"-", value) if a is None else checksum(a, value)
    return f"{n} x {d} {dtype_of(X)}, checksum {value:08x}"


def _arrays(X: Features) -> tuple[Array | None, ...]:
    if isinstance(X, Scaled):
        return (*_arrays(X.X), X.offset, X.factor)
    if isinstance(X, CsrRows):
        return X.data, X.indices, X.indptr
    if isinstance(X, Quantized):
        return X.bits, X.scale, X.offset
    return X if isinstance(X, tuple) else (X,)


def checksum(a: Array, value: int = 0) -> int:
    """crc32 of the numbers of an array, whatever its strides; a piece at a time where they are not contiguous."""
    if not a.flags.c_contiguous:
        if a.flags.f_contiguous:
            return checksum(a.T, value)
        for first in range(0, len(a), 4096):
            value = checksum(np.ascontiguousarray(a[first : first + 4096]), value)
        return value
    return zlib.crc32(a.reshape(-1).view(np.uint8).data, value) if a.size else value
