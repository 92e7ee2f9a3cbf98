"""checkpoint.py: what is saved comes back bit for bit, and a file that is not as it was saved is never read."""

from __future__ import annotations

import ast
import errno
import io
import json
import os
import pickle
import random
import re
import signal
import stat
import subprocess
import sys
import textwrap
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gdfast import checkpoint
from gdfast.checkpoint import CheckpointError, load_arrays, save_arrays

META: dict[str, Any] = {
    "loss": "log_loss",
    "step": 7,
    "huge": 2**200,
    "rate": 0.1,
    "tiny": 5e-324,
    "minus zero": -0.0,
    "done": False,
    "none": None,
    "text": 'quotes " and \\, é, 中, \ud800, \x00, "checksum":"00000000"',
    "nested": {"list": [1, [2.5, {"": []}]], "dict": {}},
}
ARRAYS = {
    "w": np.array([0.0, -0.0, 5e-324, 1e-310, np.inf, -np.inf, 1 / 3]),
    "nan payloads": np.array([0x7FF8000000000001, 0x7FF0000000000001, 0xFFFFFFFFFFFFFFFF], np.uint64).view(np.float64),
    "nan payloads, 4 bytes": np.array([0x7FC00001, 0x7F800001, 0xFFFFFFFF, 1], np.uint32).view(np.float32),
    "int64": np.array([[-(2**63)], [2**63 - 1]]),
    "int32": np.array([-(2**31), 2**31 - 1], np.int32),
    "uint8": np.arange(256, dtype=np.uint8),
    "bool": np.array([[True, False, True]]),
    "0-d": np.array(2.5, np.float32),
    "empty": np.zeros((3, 0, 2)),
    "empty bool": np.zeros(0, bool),
    'checksum":"00000000': np.zeros(1),
    "format": np.zeros(1, np.int32),
    "": np.ones(2),
    "é中": np.ones(1),
}
# As format 1 was first written; it must load for ever.
FIRST_FORMAT = (
    b'\x88\0\0\0\0\0\0\0{"__metadata__":{"format":"gdfast/1","checksum":"2f572bfe","meta":"{\\"step\\": 3}"},'
    b'"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}\0\0\0?\0\0\x80\xbf'
)


def sealed(content: bytes) -> bytes:
    """`content` with the right checksum in place of the one in its opening."""
    at = content.index(b'"checksum":"') + len('"checksum":"')
    return content[:at] + b"%08x" % zlib.crc32(content[:at] + content[at + 8 :]) + content[at + 8 :]


def forged(meta: str = "{}", tensors: str = "", data: bytes = b"", opening: str = '"format":"gdfast/1"') -> bytes:
    """A file with a right checksum, but with contents that save_arrays does not write."""
    header = f'{{"__metadata__":{{{opening},"checksum":"00000000","meta":{json.dumps(meta)}}}{tensors}}}'.encode()
    return sealed(len(header).to_bytes(8, "little") + header + data)


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def refusal(path: Path, content: bytes) -> str:
    """The sentence with which `content` is refused."""
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_arrays(path)
    return str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gdfast"


@pytest.fixture
def small(path: Path) -> bytes:
    save_arrays(path, {"w": np.array([1.5, -2.5]), "done": np.array([True])}, {"step": 3, "loss": "hinge"})
    return path.read_bytes()


# Round trip


def test_round_trip_is_bit_equal(path: Path) -> None:
    save_arrays(path, ARRAYS, META)
    arrays, meta = load_arrays(path)
    assert list(arrays) == sorted(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype, name
        assert arrays[name].shape == array.shape, name
        assert arrays[name].tobytes() == array.tobytes(), name
    assert meta == META
    assert json.dumps(meta) == json.dumps(META)  # order of keys, 1 against True, 0.0 against -0.0


def test_nothing_is_a_file_too(path: Path) -> None:
    save_arrays(path, {}, {})
    assert load_arrays(path) == ({}, {})


BASE = np.random.default_rng(0).normal(size=(6, 8))


LAYOUTS = {
    "fortran": np.asfortranarray(BASE),
    "strided": BASE[::2, 1::3],
    "negative strides": BASE[::-1, ::-1],
    "broadcast, read-only": np.broadcast_to(BASE[0], (4, 8)),
    "byte-swapped": BASE.astype(">f8"),
    "unaligned": np.frombuffer(b"\0" + BASE.tobytes(), np.float64, offset=1),
}


@pytest.mark.parametrize("array", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_any_layout_is_stored_as_its_values(path: Path, array: np.ndarray) -> None:
    before = array.tobytes()
    save_arrays(path, {"a": array}, {})
    loaded = load_arrays(path)[0]["a"]
    assert loaded.dtype == np.float64
    assert loaded.dtype.isnative
    assert loaded.shape == array.shape
    assert loaded.tobytes() == np.asarray(array, np.float64).tobytes()
    assert array.tobytes() == before


def test_loaded_arrays_are_writable_and_independent(path: Path, small: bytes) -> None:
    first, _ = load_arrays(path)
    second, _ = load_arrays(path)
    for name, array in first.items():
        assert array.flags.writeable
        assert array.flags.aligned
        array[...] = 0
        assert second[name].any()
    assert path.read_bytes() == small
    path.unlink()
    assert second["w"].tolist() == [1.5, -2.5]


def test_equal_arguments_give_equal_files(path: Path, small: bytes) -> None:
    for _ in range(5):  # the package draws a new order of its metadata at every call
        save_arrays(path, {"done": np.array([True]), "w": np.array([1.5, -2.5])}, {"step": 3, "loss": "hinge"})
        assert path.read_bytes() == small


def test_plain_safetensors_reads_the_file(path: Path, small: bytes) -> None:
    safetensors = pytest.importorskip("safetensors", reason="needs the package safetensors")
    from safetensors.numpy import load_file

    assert load_file(path)["w"].tolist() == [1.5, -2.5]
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    assert sorted(metadata) == ["checksum", "format", "meta"]
    assert metadata["format"] == f"gdfast/{checkpoint.FORMAT}"
    assert json.loads(metadata["meta"]) == {"step": 3, "loss": "hinge"}


def test_checksum_is_the_crc_of_all_other_bytes(small: bytes) -> None:
    assert sealed(small) == small


def test_the_first_format_still_loads(path: Path) -> None:
    path.write_bytes(FIRST_FORMAT)
    arrays, meta = load_arrays(path)
    assert arrays["w"].tolist() == [0.5, -1.0]
    assert arrays["w"].dtype == np.float32
    assert meta == {"step": 3}


# What cannot be stored


OTHER_DTYPES = ("O", "U1", "S1", "f2", "c16", "u8", "M8[s]", [("a", "f4")])


@pytest.mark.parametrize(
    "array", [*(np.zeros(1, dtype) for dtype in OTHER_DTYPES), np.ma.masked_array([1.0], [True]), np.float64(1), [1.0]]
)
def test_unsupported_arrays_are_named(path: Path, array: Any) -> None:
    with pytest.raises(TypeError, match=r"arrays\['bad'\]"):
        save_arrays(path, {"good": np.zeros(1), "bad": array}, {})
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize("name", ["__metadata__", 3, None])
def test_unsupported_names(path: Path, name: Any) -> None:
    with pytest.raises(TypeError, match="arrays has the name"):
        save_arrays(path, {name: np.zeros(1)}, {})


@pytest.mark.parametrize(
    ("value", "error", "where"),
    [
        ((1, 2), TypeError, "meta['a'] is tuple"),
        ({1}, TypeError, "meta['a'] is set"),
        (b"x", TypeError, "meta['a'] is bytes"),
        (1j, TypeError, "meta['a'] is complex"),
        (np.float64(1), TypeError, "meta['a'] is float64"),
        (np.int64(1), TypeError, "meta['a'] is int64"),
        (np.bool_(True), TypeError, "meta['a'] is bool"),
        (np.zeros(1), TypeError, "meta['a'] is ndarray"),
        (print, TypeError, "meta['a'] is builtin_function_or_method"),
        ([0, {"b": object()}], TypeError, "meta['a'][1]['b'] is object"),
        ({"b": {3: 1}}, TypeError, "meta['a']['b'] has the key 3 of type int"),
        (float("nan"), ValueError, "meta['a'] is nan"),
        ([1.0, float("-inf")], ValueError, "meta['a'][1] is -inf"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_meta_is_json_and_nothing_else(path: Path, value: Any, error: type[Exception], where: str) -> None:
    with pytest.raises(error) as caught:
        save_arrays(path, {}, {"a": value})
    assert where in str(caught.value)
    assert os.listdir(path.parent) == []


def test_endless_meta_is_refused(path: Path) -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="nested deeper"):
        save_arrays(path, {}, {"a": endless})
    deep: Any = 1
    for _ in range(64):
        deep = [deep]
    with pytest.raises(ValueError, match="nested deeper"):
        save_arrays(path, {}, {"a": deep})
    save_arrays(path, {}, {"a": deep[0]})
    assert load_arrays(path)[1] == {"a": deep[0]}


def test_a_header_that_no_reader_takes_is_not_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checkpoint._LARGEST_HEADER <= 100_000_000  # the limit of the safetensors package
    monkeypatch.setattr(checkpoint, "_LARGEST_HEADER", 1000)
    with pytest.raises(ValueError, match=r"names and meta take 10.. bytes of at most 1000"):
        save_arrays(path, {}, {"a": "b" * 930})
    assert os.listdir(path.parent) == []


# Damage


def test_every_truncation_is_refused(path: Path, small: bytes) -> None:
    for length in range(len(small)):
        refusal(path, small[:length])


@pytest.mark.parametrize("more", [b"\0", b" ", b"\n", bytes(8), b"x" * 1000])
def test_trailing_bytes_are_refused(path: Path, small: bytes, more: bytes) -> None:
    refusal(path, small + more)


def test_every_flipped_bit_is_refused(path: Path, small: bytes) -> None:
    assert b"}} " in small  # bits of the padding are among them
    for bit in range(8 * len(small)):
        refusal(path, flipped(small, bit))


@pytest.mark.parametrize("flips", [500, pytest.param(10_000, marks=pytest.mark.long)])
def test_random_flipped_bits_are_refused(path: Path, flips: int) -> None:
    save_arrays(path, {"w": np.random.default_rng(1).normal(size=1000)}, META)
    good, rng = path.read_bytes(), random.Random(2)
    for bit in rng.sample(range(8 * len(good)), flips):
        refusal(path, flipped(good, bit))


@pytest.mark.parametrize(
    ("old", "new"), [(b'":{', b'": {'), (b"[2]", b"[1,2]"), (b"F64", b"I64"), (b'"w"', b'"v"'), (b"hinge", b"log")]
)
def test_an_edited_header_is_refused(path: Path, small: bytes, old: bytes, new: bytes) -> None:
    end = 8 + int.from_bytes(small[:8], "little")
    header = small[8:end].replace(old, new)
    assert header != small[8:end]
    refusal(path, len(header).to_bytes(8, "little") + header + small[end:])


def test_a_page_of_zeros_is_refused(path: Path) -> None:
    save_arrays(path, {"w": np.arange(2048.0)}, {})
    refusal(path, path.read_bytes()[:-8192] + bytes(8192))


# Foreign, newer and forged files


class Canary:
    """Unpickled, it makes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def written(write: Callable[[Any, Any], Any], value: Any) -> bytes:
    write(buffer := io.BytesIO(), value)
    return buffer.getvalue()


def write_joblib(compress: Any) -> Callable[[Any, Any], Any]:
    def write(file: Any, value: Any) -> None:
        joblib = pytest.importorskip("joblib", reason="needs the package joblib")
        joblib.dump(value, file, compress=compress)

    return write


def write_torch(file: Any, value: Any) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(value))


FOREIGN = {
    **{f"pickle {p}": (lambda file, value, p=p: pickle.dump(value, file, p), "is a pickle") for p in (2, 3, 4, 5)},
    **{f"pickle {p}": (lambda file, value, p=p: pickle.dump(value, file, p), "not in the safetensors") for p in (0, 1)},
    "joblib": (write_joblib(0), "is a pickle"),
    **{f"joblib {c}": (write_joblib(c), "is compressed") for c in (1, 9, "gzip", "bz2", "xz")},
    "torch": (write_torch, "is a zip archive"),
    "npz": (lambda file, value: np.savez(file, a=np.array([value], object)), "is a zip archive"),
    "npy": (lambda file, value: np.save(file, np.array([value], object)), "is a NumPy .npy file"),
    "parquet": (lambda file, value: file.write(b"PAR1" + bytes(100)), "not in the safetensors layout"),
    "empty": (lambda file, value: None, "is empty"),
    "short": (lambda file, value: file.write(bytes(8)), "not in the safetensors layout"),
}


@pytest.mark.parametrize(("write", "sentence"), FOREIGN.values(), ids=FOREIGN.keys())
def test_foreign_files_are_named_and_not_run(path: Path, write: Any, sentence: str) -> None:
    canary = path.with_name("canary")
    content = written(write, Canary(str(canary)))
    assert sentence in refusal(path, content)
    assert not canary.exists()


def test_the_canary_sings(path: Path) -> None:
    canary = path.with_name("canary")
    pickle.loads(pickle.dumps(Canary(str(canary))))
    assert canary.exists()


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"checksum": "00000000", "meta": "{}"}])
def test_plain_safetensors_files_have_no_checksum(path: Path, metadata: dict[str, str] | None) -> None:
    from safetensors.numpy import save

    assert "no checksum of gdfast" in refusal(path, save({"w": np.zeros(3)}, metadata))


def test_a_format_number_without_a_checksum_is_refused(path: Path) -> None:
    header = b'{"__metadata__":{"format":"gdfast/1","meta":"{}"}}'
    assert "its checksum does not match" in refusal(path, len(header).to_bytes(8, "little") + header)


@pytest.mark.parametrize("number", ["2", "10", "999999999"])
def test_newer_files_are_named(path: Path, number: str) -> None:
    for opening in (f'"format":"gdfast/{number}"', f'"format":"gdfast/{number}","digest":"of another kind"'):
        sentence = refusal(path, forged(opening=opening))
        assert f"newer gdfast (format {number}, here at most {checkpoint.FORMAT}): upgrade" in sentence


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read .*absent") as caught:
        load_arrays(tmp_path / "absent")
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    with pytest.raises(CheckpointError, match="cannot read"):
        load_arrays(tmp_path)


def tensor(dtype: str, shape: str, begin: int, end: int) -> str:
    return f',"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}'


def test_forged_is_held_back_by_its_contents_only(path: Path) -> None:
    path.write_bytes(forged('{"a": 1}', tensor("F32", "[1]", 0, 4), b"\0\0\x80?"))
    arrays, meta = load_arrays(path)
    assert (arrays["w"].tolist(), meta) == ([1.0], {"a": 1})


FORGED = {
    "meta is a list": forged("[]"),
    "meta is a number": forged("3"),
    "meta is broken": forged("{"),
    "meta is deep": forged("[" * 100_000),
    "header is deep": forged(tensors="," + "[" * 100_000),
    "shape too large": forged(tensors=tensor("F32", "[1000000000000000000]", 0, 8), data=bytes(8)),
    "shape overflows": forged(tensors=tensor("F32", "[4294967296,4294967296,4]", 0, 0)),
    "empty but endless": forged(tensors=tensor("F32", "[0,18446744073709551615]", 0, 0)),
    "negative shape": forged(tensors=tensor("F32", "[-1]", 0, 4), data=bytes(4)),
    "hole": forged(tensors=tensor("F32", "[1]", 4, 8), data=bytes(8)),
    "data left over": forged(tensors=tensor("F32", "[1]", 0, 4), data=bytes(8)),
    "data missing": forged(tensors=tensor("F32", "[2]", 0, 8), data=bytes(4)),
    "unknown dtype": forged(tensors=tensor("Q32", "[1]", 0, 4), data=bytes(4)),
    "dtype not of NumPy": forged(tensors=tensor("BF16", "[1]", 0, 2), data=bytes(2)),
    "header of 0 bytes": bytes(8) + b"{}",
    **{f"header of {n} bytes": n.to_bytes(8, "little") + b"{" + bytes(50) for n in (52, 10**8, 10**18, 2**64 - 1)},
}


@pytest.mark.parametrize("content", FORGED.values(), ids=FORGED.keys())
def test_forged_files_are_refused_in_little_memory(path: Path, content: bytes) -> None:
    refusal(path, content)  # loads the safetensors package before memory is counted
    tracemalloc.start()
    try:
        refusal(path, content)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40 * len(content) + 200_000


@pytest.mark.parametrize("mutations", [1000, pytest.param(10_000, marks=pytest.mark.long)])
def test_mutated_files_with_a_right_checksum_raise_nothing_else(path: Path, small: bytes, mutations: int) -> None:
    rng = random.Random(3)
    first, outcomes = small.index(b'"meta"'), {True: 0, False: 0}
    for _ in range(mutations):
        content = bytearray(small)
        for _ in range(rng.randint(1, 3)):
            content[rng.randrange(first, len(content))] = rng.choice(b'0123456789-eE{}[]",:\\ uFIBwd\0\xff')
        path.write_bytes(sealed(bytes(content)))
        try:
            load_arrays(path)
            outcomes[True] += 1
        except CheckpointError:
            outcomes[False] += 1
    assert min(outcomes.values()) > mutations // 20  # both ways were tried


def test_no_code_can_be_loaded() -> None:
    banned = {"pickle", "marshal", "joblib", "eval", "exec", "__import__", "importlib", "allow_pickle"}
    tree = ast.parse(Path(checkpoint.__file__).read_text(encoding="utf-8"))
    words: set[str | None] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            words |= {part for alias in node.names for part in alias.name.split(".")}
            words |= set((getattr(node, "module", None) or "").split("."))
        elif isinstance(node, ast.Name):
            words.add(node.id)
        elif isinstance(node, ast.Attribute):
            words.add(node.attr)
        elif isinstance(node, ast.keyword):
            words.add(node.arg)
    assert {"safetensors", "zlib", "crc32"} <= words  # the walk sees imports, also inside functions, and calls
    assert not banned & words


def test_import_is_light() -> None:
    code = "import sys; from gdfast import checkpoint; assert 'safetensors' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# Failures of the file system


def raising(error: BaseException) -> Any:
    def fails(*args: Any, **kwargs: Any) -> Any:
        raise error

    return fails


def assert_untouched(path: Path, content: bytes) -> None:
    assert path.read_bytes() == content
    assert os.listdir(path.parent) == [path.name]
    load_arrays(path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("point", ["open", "os.fsync", "os.replace"])
def test_a_failed_save_leaves_the_previous_file(
    path: Path, small: bytes, monkeypatch: pytest.MonkeyPatch, point: str, number: int
) -> None:
    with monkeypatch.context() as patch:
        if point == "open":
            patch.setattr(checkpoint, "open", raising(OSError(number, os.strerror(number))), raising=False)
        else:
            patch.setattr(point, raising(OSError(number, os.strerror(number))))
        with pytest.raises(CheckpointError) as caught:
            save_arrays(path, {"w": np.zeros(10)}, {})
    assert os.strerror(number) in str(caught.value)
    assert "previous file, if there was one, is untouched" in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)
    assert_untouched(path, small)


def test_an_interrupted_save_leaves_the_previous_file(
    path: Path, small: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", raising(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            save_arrays(path, {"w": np.zeros(10)}, {})
    assert_untouched(path, small)


def test_a_full_disk_leaves_the_previous_file(path: Path, small: bytes) -> None:
    pytest.importorskip("resource", reason="needs limits on the size of files")
    code = """
        import resource, sys
        import numpy as np
        from gdfast.checkpoint import CheckpointError, save_arrays
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        save_arrays(sys.argv[1] + ".fits", {}, {})
        for size in (600, 100_000):
            try:
                save_arrays(sys.argv[1], {"w": np.zeros(size)}, {})
            except CheckpointError as error:
                assert "File too large" in str(error) and "is untouched" in str(error), error
            else:
                raise SystemExit("was written")
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(path)], check=True, timeout=60)
    path.with_name(path.name + ".fits").unlink()
    assert_untouched(path, small)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs permissions of folders")
def test_a_read_only_folder(path: Path, small: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)  # the folders above are closed to the user that root becomes
    path.parent.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)  # permissions do not bind root
    try:
        with pytest.raises(CheckpointError, match="Permission denied"):
            save_arrays(path.name, {"w": np.zeros(10)}, {})
    finally:
        if root:
            os.seteuid(0)
        path.parent.chmod(0o755)
    assert_untouched(path, small)


def test_a_missing_folder_and_a_folder_in_place_of_the_file(path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        save_arrays(path / "absent" / "model", {}, {})
    path.mkdir()
    with pytest.raises(CheckpointError, match="cannot write"):
        save_arrays(path, {}, {})
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.skipif(os.name == "nt", reason="needs folders that can be opened")
def test_a_folder_that_cannot_be_flushed(path: Path, small: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    flush = os.fsync

    def only_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        flush(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", only_files)
        with pytest.raises(CheckpointError, match="is written, but its folder could not be flushed"):
            save_arrays(path, {"w": np.ones(1)}, {})
    assert load_arrays(path)[0]["w"].tolist() == [1.0]
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.skipif(os.name == "nt", reason="needs folders that can be opened")
def test_order_of_write_flush_rename_flush(path: Path, small: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[str, int]] = []
    flush, rename = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        state = os.fstat(descriptor)
        steps.append(("flush folder", 0) if stat.S_ISDIR(state.st_mode) else ("flush file", state.st_size))
        flush(descriptor)

    def replace(source: Path, target: Path) -> None:
        assert source.parent == target.parent
        assert re.fullmatch(rf"\.model\.gdfast\.{os.getpid()}\.[0-9a-f]+\.tmp", source.name)
        steps.append(("rename", source.stat().st_size))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    save_arrays(path, {"w": np.zeros(10)}, {})  # small enough to wait in a buffer
    size = path.stat().st_size
    assert steps == [("flush file", size), ("rename", size), ("flush folder", 0)]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("kills", [3, pytest.param(60, marks=pytest.mark.long)])
def test_a_killed_writer_leaves_a_whole_file(path: Path, kills: int) -> None:
    code = """
        import itertools, sys
        import numpy as np
        from gdfast.checkpoint import save_arrays
        for step in itertools.count():
            save_arrays(sys.argv[1], {"w": np.full(100_000, float(step))}, {"step": step})
    """
    rng = random.Random(4)
    for _ in range(kills):
        path.unlink(missing_ok=True)
        with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), str(path)]) as writer:
            limit = time.monotonic() + 60
            while not path.exists() and writer.poll() is None and time.monotonic() < limit:
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.1))
            writer.kill()
        assert writer.returncode == -signal.SIGKILL
        arrays, meta = load_arrays(path)
        assert (arrays["w"] == meta["step"]).all()
        assert len(arrays["w"]) == 100_000
