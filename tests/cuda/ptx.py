"""PTX on the CPU: one compiled kernel translated to C and run thread by thread under the checks of interpreter.c.

Found: accesses out of bounds or misaligned, races in global and shared memory, shuffles and barriers that not all threads
reach, reads of shared memory that nobody wrote, kernels that hang. Counted: the 32-byte sectors of every load and store.
Not modelled: values are sequentially consistent (races are found by order, not by odd values); ex2, lg2 and rcp are libm's,
so that results agree with a GPU to rounding, not bit for bit. Instructions that no kernel of ours has are refused.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
RUNTIME = Path(__file__).with_name("interpreter.c")
TYPES = {
    f"{kind}{bits}": f"{name}{bits}_t"
    for kind, name in (("u", "uint"), ("s", "int"), ("b", "uint"))
    for bits in (8, 16, 32, 64)
}
TYPES |= {"f32": "float", "f64": "double", "pred": "uint8_t"}
WIDER = {"u16": "u32", "s16": "s32", "u32": "u64", "s32": "s64"}
SPECIAL = {
    f"%{name}.{axis}": value
    for name, value in (("tid", "t->t"), ("ctaid", "t->b"))
    for axis in "xyz"
    for value in (value + axis,)
}
SPECIAL |= {
    f"%{name}.{axis}": f"{array}[{i}]"
    for name, array in (("ntid", "BD"), ("nctaid", "GD"))
    for i, axis in enumerate("xyz")
}
COMPARE = {
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "lo": "<",
    "ls": "<=",
    "hi": ">",
    "hs": ">=",
}
UNARY = {
    "sqrt": "sqrt{f}({x})",
    "rsqrt": "1/sqrt{f}({x})",
    "rcp": "1/({x})",
    "ex2": "exp2{f}({x})",
    "lg2": "log2{f}({x})",
}
ROUND = {"rni": "rint", "rmi": "floor", "rpi": "ceil", "rzi": "trunc"}
ATOMIC = {"add": "old + {x}", "exch": "{x}", "inc": "(old >= {x} ? 0 : old + 1)", "max": "(old > {x} ? old : {x})"}
SHUFFLE = {"bfly": 0, "down": 1, "up": 2, "idx": 3}


def _size(kind: str) -> int:
    return 1 if kind == "pred" else int(kind[1:]) // 8


def _unsigned(kind: str) -> str:
    return kind if kind[0] in "fp" else "u" + kind[1:]


def _operands(text: str) -> list[str]:
    """Split at the commas that stand outside of brackets."""
    return [part.strip() for part in re.split(r",(?![^\[{(]*[\]})])", text) if part.strip()]


@dataclass(frozen=True)
class Traffic:
    """One load or store of memory: warp requests, bytes asked for, sectors of global memory touched."""

    instruction: str
    requests: int
    bytes: int
    sectors: int


class Kernel:
    """The one kernel of a PTX text. ``launch`` runs it on NumPy arrays, in place."""

    def __init__(self, ptx: str) -> None:
        ptx = re.sub(r"//[^\n]*", "", ptx)
        found = re.search(r"\.entry\s+\S+?\s*\((.*?)\)(.*)", ptx, re.S)
        assert found is not None
        self.parameters = re.findall(r"\.param\s+(?:\.align \d+\s+)?\.(\w+)", found.group(1))
        self.registers: dict[str, str] = {}
        self.shared: dict[str, int] = {}
        self.shared_bytes = 0
        for align, kind, name, count in re.findall(
            r"\.shared\s+\.align\s+(\d+)\s+\.(\w+)\s+([\w$]+)(?:\[(\d+)\])?", ptx
        ):
            self.shared_bytes = -(-self.shared_bytes // int(align)) * int(align)
            self.shared[name] = self.shared_bytes
            self.shared_bytes += _size(kind) * int(count or 1)
        self.text: dict[int, str] = {}
        self.resumes = 0
        self.scope: dict[str, str] = {}  # registers of a block of inline assembly, by the names that they have there
        body = found.group(2)[found.group(2).index("{") + 1 : found.group(2).rindex("}")]
        lines = [self._statement(s.strip()) for s in re.split(r"[;\n]|(?<=:)\s", body)]
        self.lib = self._compile("\n".join(line for line in lines if line))

    # ------------------------------------------------------------------------------------------------------ translation

    def _statement(self, s: str) -> str:
        if not s or s in "{}":
            return ""
        declared = re.match(r"\.reg\s+\.(\w+)\s+(.*)", s)
        if declared:
            for name in declared.group(2).split(","):
                several = re.match(r"\s*%(\w+?)<(\d+)>", name)
                names = (
                    [f"{several.group(1)}{i}" for i in range(int(several.group(2)))] if several else [name.strip(" %")]
                )
                self.registers |= dict.fromkeys(names, declared.group(1))
            return ""
        if s.endswith(":"):
            endless = 'fail(t, 0, "HANG: instructions without end", 0); t->wait = DONE; PAUSE;'
            return f"{_label(s[:-1])}: if (count > BUDGET) {{ {endless} }}"
        if s[0] == ".":
            return ""
        condition = ""
        guarded = re.match(r"@(!?)%(\w+)\s+(.*)", s, re.S)
        if guarded:
            condition, s = f"if ({guarded.group(1)}t->{guarded.group(2)}) ", guarded.group(3)
        op, *rest = s.split(None, 1)
        number = len(self.text) + 1
        self.text[number] = s
        return f"count++; {condition}{{ {self._emit(op, _operands(rest[0] if rest else ''), number)} }}"

    def _value(self, o: str, kind: str) -> str:
        """C expression of an operand as a number of that type."""
        if o.startswith("!"):
            return f"(!{self._value(o[1:], kind)})"
        if o in SPECIAL:
            return SPECIAL[o]
        if re.match(r"0[fF][0-9A-Fa-f]{8}$", o):
            return f"asf(0x{o[2:]}u)"
        if re.match(r"0[dD][0-9A-Fa-f]{16}$", o):
            return f"asd(0x{o[2:]}ull)"
        if o in self.shared:
            return f"{self.shared[o]}ull"
        name = o.lstrip("%")
        if name not in self.registers:
            return f"({TYPES[kind]}){o}{'ll' if kind.endswith('64') else ''}"
        held, r = self.registers[name], f"t->{name}"
        if (held[0] == "f") != (kind[0] == "f"):
            return (
                {"f32": "asu", "f64": "asq"}[held] + f"({r})"
                if held[0] == "f"
                else {"f32": "asf", "f64": "asd"}[kind] + f"({r})"
            )
        return r if kind[0] in "fp" else f"({TYPES[kind]}){r}"

    def _assign(self, o: str, kind: str, e: str) -> str:
        name = o.lstrip("%")
        held = self.registers[name]
        if (held[0] == "f") != (kind[0] == "f"):
            e = (
                {"f32": "asf", "f64": "asd"}[held] if held[0] == "f" else {"f32": "asu", "f64": "asq"}[kind]
            ) + f"({e})"
        elif kind[0] == "s":
            e = f"({TYPES[kind]})({e})"
        return f"t->{name} = {e};"

    def _address(self, o: str) -> str:
        base, _, offset = o.strip("[] ").partition("+")
        return f"({self._value(base, 'u64')} + (int64_t)({offset or 0}))"

    def _pause(self, why: str) -> str:
        """Leave ``step``; the scheduler comes back to this place."""
        self.resumes += 1
        return f"t->pc = {self.resumes}; t->wait = {why}; PAUSE; S{self.resumes}: ;"

    def _emit(self, op: str, a: list[str], number: int) -> str:
        p = op.split(".")
        name, kind = p[0], p[-1]
        flush = "FTZ" if "ftz" in p and kind == "f32" else ""
        real = kind[0] == "f"
        raw = _unsigned(kind) if kind in TYPES else kind

        def v(i: int, as_kind: str = "") -> str:
            return f"{flush}({self._value(a[i], as_kind or kind)})"

        def put(e: str, as_kind: str = "") -> str:
            return self._assign(a[0], as_kind or kind, f"{flush}({e})")

        if name in ("bra", "ret", "exit"):
            return f"goto {_label(a[0])};" if name == "bra" else "t->wait = DONE; PAUSE;"
        if name in ("membar", "fence"):
            return "fence(t);"
        if name in ("bar", "barrier"):
            if "warp" in p:
                return f"t->sh_mask = {self._value(a[0], 'u32')}; {self._pause('BARW')}"
            return self._pause("BAR")
        if name == "shfl":
            given = zip(("val", "b", "c", "mask"), (self._value(o, "b32") for o in a[1:]), strict=True)
            set_up = " ".join(f"t->sh_{field} = {value};" for field, value in given)
            target, _, valid = a[0].partition("|")
            got = self._assign(target, "b32", "t->sh_out") + (self._assign(valid, "pred", "t->sh_p") if valid else "")
            return f"{set_up} t->sh_op = {SHUFFLE[p[2]]}; {self._pause('SHFL')} {got}"
        if name == "ld" and "param" in p:
            found = re.search(r"_param_(\d+)", a[1])
            assert found is not None
            return self._assign(a[0], kind, f"*({TYPES[kind]} *)&P_[{found.group(1)}]")
        if name in ("ld", "st"):
            return self._memory(p, a, number)
        if name in ("atom", "red"):
            return self._atomic(p, a, number)
        if name == "cvta":
            return put(self._value(a[1], "u64"))
        if name == "cvt":
            return self._convert(p, a)
        if name == "mov":
            if a[1].startswith("{"):
                low, high = _operands(a[1][1:-1])
                return put(f"((uint64_t){self._value(high, 'u32')} << 32) | {self._value(low, 'u32')}", "b64")
            if a[0].startswith("{"):
                low, high = _operands(a[0][1:-1])
                targets = [(o, shift) for o, shift in ((low, 0), (high, 32)) if o != "_"]
                return " ".join(
                    self._assign(o, "b32", f"(uint32_t)({self._value(a[1], 'u64')} >> {s})") for o, s in targets
                )
            return put(v(1))
        if name == "setp":
            return self._assign(a[0], "pred", self._compare(p[1], kind, v))
        if name == "selp":
            return put(f"({self._value(a[3], 'pred')} ? {v(1)} : {v(2)})")
        if name in ("and", "or", "xor"):
            sign = {"and": "&", "or": "|", "xor": "^"}[name]
            return put(f"({TYPES[raw]})({v(1, raw)} {sign} {v(2, raw)})", raw)
        if name == "not":
            return put(f"!{v(1)}" if kind == "pred" else f"({TYPES[raw]})~{v(1, raw)}")
        if name in ("shl", "shr"):
            as_kind = kind if name == "shr" and kind[0] == "s" else raw
            x, by, bits = v(1, as_kind), self._value(a[2], "u32"), _size(kind) * 8
            beyond = f"({x} < 0 ? -1 : 0)" if as_kind[0] == "s" else "0"
            return put(f"({by} >= {bits} ? {beyond} : ({TYPES[as_kind]})({x} {'<<' if name == 'shl' else '>>'} {by}))")
        if name == "bfi":
            length, at = self._value(a[4], "u32"), self._value(a[3], "u32")
            mask = f"((({length}) >= {_size(kind) * 8} ? ~({TYPES[raw]})0 : ((({TYPES[raw]})1 << ({length})) - 1)) << ({at}))"
            return put(f"((({v(1, raw)}) << ({at})) & {mask}) | (({v(2, raw)}) & ~{mask})")
        if name in ("min", "max"):
            return put(
                f"f{name}({v(1)}, {v(2)})"
                if real
                else f"({v(1)} {'<' if name == 'min' else '>'} {v(2)} ? {v(1)} : {v(2)})"
            )
        if name == "neg":
            return put(f"-{v(1)}" if real else f"({TYPES[raw]})(0 - {v(1, raw)})")
        if name == "abs":
            return put(f"fabs({v(1)})" if real else f"({v(1)} < 0 ? -{v(1)} : {v(1)})")
        if name in UNARY:
            return put(UNARY[name].format(f="f" if kind == "f32" else "", x=v(1)))
        if name in ("div", "rem"):
            sign = "/" if name == "div" else "%"
            return put(f"{v(1)} {sign} {v(2)}" if real else f"({v(2)} ? {v(1)} {sign} {v(2)} : 0)")
        if name == "fma":
            modes = {"rm": "FE_DOWNWARD", "rp": "FE_UPWARD", "rz": "FE_TOWARDZERO"}
            mode = next((modes[q] for q in p if q in modes), None)
            return put(
                f"fma_rd({v(1)}, {v(2)}, {v(3)}, {mode})"
                if mode
                else f"{'fmaf' if kind == 'f32' else 'fma'}({v(1)}, {v(2)}, {v(3)})"
            )
        if name in ("add", "sub", "mul", "mad"):
            return self._arithmetic(p, a, v, put)
        raise NotImplementedError(f"instruction {self.text[number]!r} is not translated")

    def _arithmetic(self, p: list[str], a: list[str], v: Any, put: Any) -> str:
        name, kind = p[0], p[-1]
        sign = {"add": "+", "sub": "-", "mul": "*", "mad": "*"}[name]
        if kind[0] == "f":
            if "rz" in p:
                return put(f"fma_rd({v(1)}, 1.f, {v(2)}, FE_TOWARDZERO)")
            return put(f"{v(1)} {sign} {v(2)}")
        raw = _unsigned(kind)
        if "wide" in p:
            wide = WIDER[kind]
            product = f"({TYPES[wide]}){v(1)} * ({TYPES[wide]}){v(2)}"
            return put(f"({product}) + {v(3, wide)}" if name == "mad" else product, wide)
        if "hi" in p:
            product = f"(({'__int128' if kind.endswith('64') else 'int64_t'}){v(1)} * {v(2)}) >> {_size(kind) * 8}"
        else:
            product = f"({TYPES[raw]})({v(1, raw)} {sign} {v(2, raw)})"
        return put(f"({product}) + {v(3, raw)}" if name == "mad" else product)

    def _compare(self, how: str, kind: str, v: Any) -> str:
        if kind[0] == "f":
            unordered = f"(isnan({v(1)}) || isnan({v(2)}))"
            if how in ("nan", "num"):
                return unordered if how == "nan" else f"(!{unordered})"
            if how not in COMPARE:  # ltu, geu, ...: true for NaN as well
                return f"({v(1)} {COMPARE[how[:-1]]} {v(2)} || {unordered})"
            return f"({v(1)} {COMPARE[how]} {v(2)} && !{unordered})"
        as_kind = _unsigned(kind) if how in ("eq", "ne", "lo", "ls", "hi", "hs") else kind
        return f"({v(1, as_kind)} {COMPARE[how]} {v(2, as_kind)})"

    def _convert(self, p: list[str], a: list[str]) -> str:
        to, of = p[-2], p[-1]
        x = self._value(a[1], of)
        if of[0] == "f":
            rounding = next((ROUND[q] for q in p if q in ROUND), "" if to[0] == "f" else "trunc")
            x = f"{rounding}({x})"
            x = f"fmin(fmax({x}, 0), 1)" if "sat" in p else x
        return self._assign(a[0], to, f"({TYPES[to]})({x})")

    def _place(self, p: list[str]) -> str:
        return "SM" if any(q.startswith("shared") for q in p) else "GM" if "global" in p else "GEN"

    def _memory(self, p: list[str], a: list[str], number: int) -> str:
        kind, stores = p[-1], p[0] == "st"
        count = 4 if "v4" in p else 2 if "v2" in p else 1
        place, targets = (a[0], a[1]) if stores else (a[1], a[0])
        registers = _operands(targets.strip("{}")) if count > 1 else [targets]
        ordered = any(q in p for q in ("volatile", "relaxed", "acquire", "release"))
        access = 2 if ordered else int(stores)
        pointer = f"{TYPES[kind]} *q = {self._place(p)}(t, {self._address(place)}, {_size(kind) * count}, {access}, {number});"
        if stores:
            before = "fence(t); sync_atom(t);" if "release" in p else ""
            return f"{pointer} {before} " + " ".join(
                f"q[{i}] = {self._value(r, kind)};" for i, r in enumerate(registers)
            )
        got = " ".join(self._assign(r, kind, f"q[{i}]") for i, r in enumerate(registers))
        if ordered:  # others may be awaited: give them their turn
            return (
                f"{self._pause('YIELD')} {'sync_atom(t);' if 'acquire' in p or 'volatile' in p else ''} {pointer} {got}"
            )
        return f"{pointer} {got}"

    def _atomic(self, p: list[str], a: list[str], number: int) -> str:
        kind, what = p[-1], next(q for q in p if q in ATOMIC)
        place, x = (a[1], a[2]) if p[0] == "atom" else (a[0], a[1])
        e = ATOMIC[what].format(x=self._value(x, kind))
        before = "fence(t);" if any(q in p for q in ("release", "acq_rel")) else ""
        pointer = f"{TYPES[kind]} *q = {self._place(p)}(t, {self._address(place)}, {_size(kind)}, 2, {number});"
        got = self._assign(a[0], kind, "old") if p[0] == "atom" and a[0] != "_" else ""
        return f"{before} {pointer} {TYPES[kind]} old = *q; *q = {e}; sync_atom(t); {got}"

    def _compile(self, body: str) -> ctypes.CDLL:
        registers = " ".join(f"{TYPES[kind]} {name};" for name, kind in self.registers.items())
        labels = ", ".join(f"&&S{i}" for i in range(self.resumes + 1))
        code = f"""
#define REGISTERS {registers}
#define INSTRUCTIONS {len(self.text) + 1}
#define SHARED_BYTES {max(self.shared_bytes, 16)}
#define LOG_ENTRIES {1 << 18}
#define PAUSE do {{ icount += count; return 0; }} while (0)
#include "{RUNTIME}"
static int step(T *t) {{
  static const void *places[] = {{{labels}}};
  uint64_t count = 0;
  t->wait = RUN;
  goto *places[t->pc];
S0: ;
{body}
  t->wait = DONE;
  PAUSE;
}}
"""
        with tempfile.TemporaryDirectory() as folder:
            source, library = Path(folder) / "kernel.c", Path(folder) / "kernel.so"
            source.write_text(code)
            flags = ["-O1", "-w", "-ffp-contract=off", "-frounding-math", "-shared", "-fPIC"]
            subprocess.run(["gcc", *flags, "-o", str(library), str(source), "-lm"], check=True)
            return ctypes.CDLL(str(library))

    # ------------------------------------------------------------------------------------------------------------- running

    def launch(self, blocks: int, threads: int, *arguments: Any, seed: int = 1, cooperative: bool = False) -> list[str]:
        """Runs the kernel. arguments: 1-D NumPy arrays (see ``aligned``) and numbers; returns what was found, a line each.

        seed: of the order in which warps and blocks go on. Sets ``traffic`` and ``instructions``, the number executed.
        """
        values: list[int] = []
        buffers: list[Array] = []
        for x in arguments:
            if isinstance(
                x, np.ndarray
            ):  # as Numba passes an array: parent, meminfo, size, itemsize, data, shape, strides
                values += [0, 0, x.size, x.itemsize, x.ctypes.data, x.size, x.itemsize]
                buffers.append(x)
            elif isinstance(x, np.floating):
                values.append(int(x.view(f"u{x.itemsize}")))
            else:
                values.append(int(x))
        assert len(values) == len(self.parameters), "arguments do not fit the signature"
        memory = [n for x in buffers for n in (x.ctypes.data, x.nbytes)]
        said = ctypes.create_string_buffer(5000)
        stats = (ctypes.c_uint64 * (5 * (len(self.text) + 1)))()
        executed = ctypes.c_uint64()
        written = [np.zeros(x.nbytes // 4 + 2, np.uint8) for x in buffers]
        self.lib.run(
            blocks, threads, (ctypes.c_int * 3)(blocks, 1, 1), (ctypes.c_int * 3)(threads, 1, 1),
            (ctypes.c_uint64 * len(values))(*values), len(buffers), (ctypes.c_uint64 * len(memory))(*memory),
            int(cooperative), seed, said, stats, ctypes.byref(executed),
            (ctypes.c_void_p * len(buffers))(*(w.ctypes.data for w in written)),
        )  # fmt: skip
        rows = np.array(stats, dtype=np.uint64).reshape(-1, 5)
        self.traffic = [Traffic(self.text[i], *map(int, row[:3])) for i, row in enumerate(rows) if i and row[0]]
        self.instructions = executed.value
        found = said.value.decode().splitlines()
        return [f"{line} | {self._source(line)}" for line in found]

    def _source(self, line: str) -> str:
        at = re.search(r"ptx line (\d+)", line)
        return self.text.get(int(at.group(1)), "") if at else ""


def _label(name: str) -> str:
    return re.sub(r"\W", "_", name)


def aligned(a: Array, alignment: int = 256) -> Array:
    """A flat copy that begins at a multiple of 256 bytes, as allocations on a device do."""
    a = np.ascontiguousarray(a)
    memory = np.empty(a.nbytes + alignment, np.uint8)
    start = -memory.ctypes.data % alignment
    copy = memory[start : start + a.nbytes].view(a.dtype)
    copy[:] = a.ravel()
    return copy
