"""The one file format of gdfast, for models and for training checkpoints: named arrays and JSON metadata.

The layout is exactly that of safetensors, readable with the plain package:

    8 bytes     length of the header, little-endian
    header      {"__metadata__":{"format":"gdfast/1","checksum":"<8 hex digits>","meta":"<JSON>"}, tensors...}, spaces
    data        the bytes of the arrays, little-endian, C order

    checksum = crc32(every byte of the file but the eight digits of the checksum itself)

The canonical form is the file as it is: length, padding and white space are covered too. CRC-32 finds every flipped bit
and every burst of up to 32 with certainty, at about four times the speed of BLAKE2b. It guards against accidents, not
against forgers; a forged file, too, runs no code and takes memory only in proportion to its size.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FORMAT = 1

_Array = npt.NDArray[Any]
_DTYPES = ("float32", "float64", "int64", "int32", "uint8", "bool")
_LARGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors package
_DEEPEST_META = 64  # levels; far below the recursion limit of JSON readers
# Every format, also a later one, opens its header with its number: that is how an older gdfast can name a newer file.
_OPENING = re.compile(rb'\{"__metadata__":\{"format":"gdfast/(\d{1,9})"(?:,"checksum":"([0-9a-f]{8})")?')
_FOREIGN = (
    (b"\x80", "a pickle (of pickle, joblib or an old torch)"),
    (b"PK", "a zip archive (of np.savez or torch.save)"),
    (b"\x93NUMPY", "a NumPy .npy file"),
    ((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"x\x01", b"x^", b"x\x9c", b"x\xda"), "compressed (by joblib, perhaps)"),
    (b"", "not in the safetensors layout"),
)


class CheckpointError(ValueError):
    """A file that cannot be written, or not be trusted: foreign, truncated, altered or of a newer gdfast."""


def save_arrays(path: str | os.PathLike[str], arrays: Mapping[str, _Array], meta: Mapping[str, Any]) -> None:
    """Write `arrays` and `meta` to `path`, which at every moment holds either the old file or the new one, whole.

    arrays: any shape and strides; float32, float64, int64, int32, uint8 or bool. Equal arguments give equal files.
    meta: str, int, finite float, bool, None, list, dict with str keys; exactly these types, because a tuple or a NumPy
        scalar would come back as something else.

    Raises TypeError or ValueError for what cannot be stored, before a file is touched; CheckpointError for a failure
    of the file system (full disk, read-only or missing folder).
    """
    path = Path(path)
    head, data = _encode(arrays, meta)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(head)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path}: {error.strerror or error}. The previous file, if there was one, is untouched. "
            "Check that the folder exists, is writable and has space"
        ) from error
    finally:
        with suppress(OSError):  # gone already after a success
            os.unlink(temporary)
    try:
        _sync_folder(path.parent)
    except OSError as error:
        raise CheckpointError(
            f"{path} is written, but its folder could not be flushed ({error.strerror or error}): "
            "the new file may not survive a power loss. Save again, or elsewhere"
        ) from error


def load_arrays(path: str | os.PathLike[str]) -> tuple[dict[str, _Array], dict[str, Any]]:
    """Read (arrays, sorted by name; meta) from `path`. The arrays are writable and independent of the file.

    Raises CheckpointError for a file that `save_arrays` did not write or that is no longer as it was written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        head, data = _read(path)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        arrays = load(head + data)
        meta = {**json.loads(json.loads(head[8:])["__metadata__"]["meta"])}
    except (SafetensorError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} has a right checksum, but gdfast did not write it: {error}") from error
    return dict(sorted(arrays.items())), meta


def _encode(arrays: Mapping[str, _Array], meta: Mapping[str, Any]) -> tuple[bytes, memoryview]:
    """The file in two parts: length and header, data."""
    from safetensors.numpy import save

    meta = dict(meta)
    _check_json(meta, "meta")
    plain = memoryview(save({name: _storable(name, array) for name, array in arrays.items()}))
    start = 8 + int.from_bytes(plain[:8], "little")
    # The package writes metadata in random order; added here, equal arguments give equal files.
    ours = {"format": f"gdfast/{FORMAT}", "checksum": "0" * 8, "meta": json.dumps(meta, allow_nan=False)}
    header = json.dumps({"__metadata__": ours, **json.loads(bytes(plain[8:start]))}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    if len(header) > _LARGEST_HEADER:
        raise ValueError(f"names and meta take {len(header)} bytes of at most {_LARGEST_HEADER}: store lists as arrays")
    head = len(header).to_bytes(8, "little") + header
    at = head.index(b"0" * 8)  # the first thing in the header that could be eight zeros
    return head[:at] + b"%08x" % _checksum(head, at, plain[start:]) + head[at + 8 :], plain[start:]


def _read(path: str | os.PathLike[str]) -> tuple[bytes, bytes]:
    """(Length and header, data), checked against the checksum; a foreign file is refused from its first bytes."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(9)
        if start[8:] != b"{":
            kind = next(kind for magic, kind in _FOREIGN if start.startswith(magic)) if start else "empty"
            raise CheckpointError(f"{path} is {kind}: gdfast reads only what it wrote, and never unpickles")
        length = int.from_bytes(start[:8], "little")
        if length > min(size - 8, _LARGEST_HEADER):
            raise CheckpointError(f"{path} is truncated or altered: {size} bytes, of which the header claims {length}")
        head = start + file.read(length - 1)
        opening = _OPENING.match(head, 8)
        if opening is None:
            raise CheckpointError(f"{path} has no checksum of gdfast: altered, or another program's safetensors file")
        if int(opening[1]) > FORMAT:
            newer = f"was written by a newer gdfast (format {int(opening[1])}, here at most {FORMAT})"
            raise CheckpointError(f"{path} {newer}: upgrade gdfast")
        data = file.read()
    if opening[2] is None or int(opening[2], 16) != _checksum(head, opening.start(2), data):
        raise CheckpointError(f"{path} is truncated or altered: its checksum does not match. Restore it from a copy")
    return head, data


def _checksum(head: bytes, at: int, data: bytes | memoryview) -> int:
    """crc32 of `head` and `data` without the eight digits at head[at]."""
    return zlib.crc32(data, zlib.crc32(head[at + 8 :], zlib.crc32(head[:at])))


def _storable(name: str, array: _Array) -> _Array:
    """`array` in C order, itself where it already is; the package sees to the order of bytes."""
    if not isinstance(name, str) or name == "__metadata__":
        raise TypeError(f"arrays has the name {name!r}, expected a str other than '__metadata__'")
    if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"arrays[{name!r}] is {type(array).__name__}, expected a plain NumPy array: use np.asarray")
    if array.dtype.name not in _DTYPES:
        raise TypeError(f"arrays[{name!r}] has dtype {array.dtype}, expected one of {', '.join(_DTYPES)}: convert it")
    return np.asarray(array, order="C")  # ascontiguousarray makes 0-d 1-d


def _check_json(value: Any, where: str, depth: int = 0) -> None:
    """Refuse what JSON would not give back as it was; `where` names the value."""
    if depth > _DEEPEST_META:
        raise ValueError(f"{where} is nested deeper than {_DEEPEST_META} levels: flatten it")
    if type(value) is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise TypeError(f"{where} has the key {key!r} of type {type(key).__name__}, expected str")
            _check_json(item, f"{where}[{key!r}]", depth + 1)
    elif type(value) is list:
        for index, item in enumerate(value):
            _check_json(item, f"{where}[{index}]", depth + 1)
    elif type(value) is float and not math.isfinite(value):
        raise ValueError(f"{where} is {value}, expected a finite float: store it in an array")
    elif value is not None and type(value) not in (str, int, float, bool):
        raise TypeError(f"{where} is {type(value).__name__}, expected str, int, float, bool, None, list or dict")


def _sync_folder(folder: Path) -> None:
    """Make a rename outlast a power loss. Windows cannot open a folder and does without."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
