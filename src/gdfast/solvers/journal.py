"""How a full-data solver is continued: by what its passes over all rows gave.

A solver is a function of its start and of these numbers alone, so that with them it comes, without reading the data, to
where it was stopped, to the same bits.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from gdfast.checkpoint import CheckpointError
from gdfast.run_folder import RunFolder

Array = np.ndarray[Any, Any]


class Journal:
    """The results of the passes up to now, in a folder where one is given."""

    def __init__(self, folder: RunFolder | None = None) -> None:
        self._folder = folder
        found = None if folder is None else folder.newest()
        self._arrays: dict[str, Array] = {} if found is None else found[0]
        self._entries: list[list[Any]] = [] if found is None else found[1]["passes"]  # kind, checksum of w, count
        self._at = 0

    def get(self, kind: str, w: Array, run: Callable[[], tuple[Any, ...]]) -> tuple[Any, ...]:
        """What ``run`` gives, a pass at w; copies of what it gave before where this pass was made."""
        if self._folder is None:
            return run()
        number, key = self._at, [kind, zlib.crc32(np.ascontiguousarray(w).view(np.uint8).data)]
        self._at += 1
        if number < len(self._entries):
            *known, count = self._entries[number]
            if known != key:
                raise CheckpointError(
                    f"{self._folder.path} holds another run: its pass {number + 1} is at other weights than that of this one"
                )
            parts = [self._arrays[f"{number}.{i}"] for i in range(count)]
            return tuple(float(a) if a.ndim == 0 else a.copy() for a in parts)
        result = run()
        self._arrays |= {f"{number}.{i}": np.array(part) for i, part in enumerate(result)}
        self._entries.append([*key, len(result)])
        if self._folder.is_due:
            self.save()
        return result

    def save(self) -> None:
        if self._folder is not None:
            self._folder.save(self._arrays, {"passes": [list(entry) for entry in self._entries]})
