"""gdfast's fused steps as optimizers of PyTorch: change ``torch.optim`` to ``gdfast.torch`` and the program keeps working.

Every optimizer that PyTorch has too is a subclass of its class there: the same arguments, groups and ``state_dict``, so
that checkpoints go both ways, and schedulers, hooks and closures work. A step is one native call for all tensors, however
many and however small: gradients are read and parameters written where they are. Two arguments are new:

``max_grad_norm``: all gradients are scaled by min(1, max_grad_norm / |g|), |g| their norm over all groups, inside the step:
what ``clip_grad_norm_`` does before it, but for its 1e-6 beside |g|, with the gradients themselves left as they are.
``optimizer.grad_norm`` is |g| of the last step. ``accumulate``: only every accumulate-th call of ``step`` makes one, by the
mean of the gradients summed since, clipped once; in between, ``zero_grad`` keeps them.

Parameters are float32 or float64 tensors of the CPU, of one type in an optimizer. The state of a group lies in one array, and
what ``state`` holds are views of it: change these in place. Raises TypeError for other tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np

try:
    import torch
    from torch import Tensor
except ImportError as error:
    raise ImportError('gdfast.torch needs PyTorch: pip install "gdfast[torch]"') from error

from gdfast import _core, optimizers, runtime
from gdfast.backends.cpu import rule_of
from gdfast.clipping import ClipNorm
from gdfast.order import keys_of
from gdfast.penalties import ElasticNet

Array = np.ndarray[Any, Any]

__all__ = [
    "FTRL",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "BatchLoader",
    "Lion",
    "NAdam",
    "RMSprop",
]


ONE_THREAD = 1 << 16  # fewer parameters than this are changed by one thread, which need not ask how many there are


def _is_dense(p: Tensor) -> bool:
    """Do its numbers fill the memory between the first and the last one, each in a place of its own?"""
    expected = 1
    for stride, size in sorted(zip(p.stride(), p.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


class Block:
    """The slots of a group in one array (n_slots, numbers), the steps that each tensor has made, and where it lies."""

    def __init__(self, params: list[Tensor], n_slots: int) -> None:
        for p in params:
            if p.device.type != "cpu" or p.layout is not torch.strided or p.dtype not in (torch.float32, torch.float64):
                what = f"{p.dtype} on {p.device}, {p.layout}"
                raise TypeError(f"gdfast.torch takes dense float32 and float64 tensors of the CPU, got {what}")
            if p.dtype != params[0].dtype:
                raise TypeError(
                    f"parameters of one type expected, got {params[0].dtype} and {p.dtype}; use two optimizers"
                )
            if not _is_dense(p):
                raise TypeError(f"a parameter of strides {p.stride()} and shape {tuple(p.shape)} has gaps or overlaps")
        self.params, self.dtype = params, params[0].dtype
        sizes = np.array([p.numel() for p in params], dtype=np.int64)
        self.places = np.stack([sizes, np.cumsum(sizes) - sizes], axis=1)
        self.slots = np.zeros((n_slots, int(sizes.sum())), np.float32 if self.dtype is torch.float32 else np.float64)
        self.steps = np.zeros(len(params), np.float32)
        self.layouts = [(p.shape, p.stride()) for p in params]
        self.in_order = [p.is_contiguous() for p in params]
        self.addresses = np.array([p.data_ptr() for p in params], dtype=np.int64)

    def view(self, slot: int, i: int) -> Tensor:
        size, start = map(int, self.places[i])
        return torch.from_numpy(self.slots[slot, start : start + size]).as_strided(*self.layouts[i])

    def holds(self, i: int, p: Tensor) -> bool:
        same = p.device.type == "cpu" and p.dtype is self.dtype
        return same and (p.shape, p.stride()) == self.layouts[i]

    def rows(self, found: list[tuple[int, Tensor, Tensor]]) -> tuple[Array, list[Tensor]]:
        """A row a tensor for the core, and the gradients that had to be copied into the order of their parameters."""
        index = [i for i, _, _ in found]
        rows = np.empty((len(found), 4), dtype=np.int64)
        rows[:, 0], rows[:, 2:] = [p.data_ptr() for _, p, _ in found], self.places[index]
        moved = np.flatnonzero(rows[:, 0] != self.addresses[index]).tolist()
        for j in moved:
            i, p, _ = found[j]
            if not self.holds(i, p):
                raise TypeError(
                    f"a parameter became {p.dtype} of shape {tuple(p.shape)} on {p.device}; make a new optimizer"
                )
            self.addresses[i] = rows[j, 0]
        in_order, dtype = self.in_order, self.dtype
        odd = [j for j, (i, _, g) in enumerate(found) if not (in_order[i] and g.is_contiguous() and g.dtype is dtype)]
        copies = []
        for j in odd:
            i, p, g = found[j]
            if g.layout is not torch.strided:
                raise TypeError("sparse gradients are not taken; use torch.optim.SparseAdam, or sparse=False")
            if g.stride() != p.stride() or g.dtype is not dtype:
                copies.append(torch.empty_strided(p.shape, p.stride(), dtype=dtype).copy_(g))
                found[j] = i, p, copies[-1]
        rows[:, 1] = [g.data_ptr() for _, _, g in found]
        return rows, copies


class _Fused(torch.optim.Optimizer):
    """What all share; a subclass names its state and says which rule of ``gdfast.optimizers`` a group means."""

    keys: ClassVar[dict[str, str]]  # name of a slot of the rule -> of torch's state
    counts: ClassVar[bool] = True  # is there a "step" in the state?

    def __init__(self, *args: Any, max_grad_norm: float | None = None, accumulate: int = 1, **options: Any) -> None:
        self._clipping = None if max_grad_norm is None else ClipNorm(max_grad_norm)
        self._accumulate = accumulate
        if isinstance(accumulate, bool) or not isinstance(accumulate, int) or accumulate < 1:
            raise ValueError(f"accumulate must be an integer >= 1, got {accumulate!r}")
        for name in ("fused", "foreach", "capturable", "differentiable"):
            if options.get(name):
                raise ValueError(f"{name}=True is for torch's own kernels; leave it out")
        self._forget()
        super().__init__(*args, **options)

    def _forget(self) -> None:
        self._blocks: list[Block] = []
        self._calls = 0
        self._made: dict[int, tuple[list[Any], optimizers.Optimizer, ElasticNet]] = {}
        self._worker = _core.Worker(kept=True)
        self.grad_norm: float | None = None

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_accumulate": self._accumulate, "_clipping": self._clipping}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._forget()
        super().__setstate__(state)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        self._blocks = []

    def _rule(self, group: dict[str, Any]) -> optimizers.Optimizer:
        raise NotImplementedError

    def _l2(self, group: dict[str, Any]) -> float:
        return float(group.get("weight_decay", 0.0))

    def _lr(self, group: dict[str, Any], t: int) -> float:
        return float(group["lr"])

    def _more_state(self, group: dict[str, Any], block: Block, index: Array, t: int) -> None:
        """What the state holds beside steps and slots."""

    def _block(self, number: int, rule: optimizers.Optimizer) -> Block:
        """That of a group, made of its state where there is none for these slots."""
        group = self.param_groups[number]
        if not self._blocks:
            self._blocks = [None] * len(self.param_groups)  # type: ignore[list-item]
        block = self._blocks[number]
        if block is not None and len(block.slots) == rule.n_slots:
            return block
        block = self._blocks[number] = Block(group["params"], rule.n_slots)
        for i, p in enumerate(block.params):
            state = self.state.get(p)
            if not state or not (
                self.counts or any(state.get(self.keys[name]) is not None for name in rule.slot_names)
            ):
                continue
            block.steps[i] = float(state["step"]) if self.counts else 1.0
            self._share(block, i, rule, state)
        return block

    def _share(self, block: Block, i: int, rule: optimizers.Optimizer, state: dict[str, Any]) -> None:
        """The state of a tensor becomes views of the block, and keeps its numbers."""
        for slot, name in enumerate(rule.slot_names):
            view, key = block.view(slot, i), self.keys[name]
            if state.get(key) is not None:
                view.copy_(state[key])
            state[key] = view
        if self.counts:
            state["step"] = torch.from_numpy(block.steps[i : i + 1])[0]

    def _parts(self, number: int) -> Iterator[tuple[tuple[Any, ...], list[Tensor], list[Tensor]]]:
        """The calls for a group, the tensors that each changes, and what has to live until then."""
        group = self.param_groups[number]
        found = [(i, p, g) for i, p in enumerate(group["params"]) if (g := p.grad) is not None]
        if not found:
            return
        rule, penalty = self._rules(number)
        block = self._block(number, rule)
        index = np.array([i for i, _, _ in found])
        steps = block.steps[index] + 1
        for i in index[steps == 1]:
            if rule.n_slots or self.counts:
                self._share(block, i, rule, self._first_state(block.params[i]))
        rows, copies = block.rows(found)
        block.steps[index] = steps
        scale = (-1.0 if group.get("maximize") else 1.0) / self._accumulate
        n, dtype = block.slots.shape[1], block.slots.dtype
        for t in {int(step) for step in steps.tolist()}:
            mine = steps == t
            native = rule_of(rule, rule.coefficients(np.array([float(t)])), penalty, self._clipping, None, n, dtype)
            call = native, self._lr(group, t), scale, block.slots, rows[mine]
            yield call, [p for (_, p, _), chosen in zip(found, mine.tolist(), strict=True) if chosen], copies
            self._more_state(group, block, index[mine], t)

    def _rules(self, number: int) -> tuple[optimizers.Optimizer, ElasticNet]:
        """Made and checked again only where something but the rate has changed."""
        group = self.param_groups[number]
        options = [value for name, value in group.items() if name not in ("params", "lr")]
        made = self._made.get(number)
        if made is None or made[0] != options:
            made = self._made[number] = options, self._rule(group), ElasticNet(self._l2(group))
        return made[1], made[2]

    def _first_state(self, p: Tensor) -> dict[str, Any]:
        return self.state[p]

    def zero_grad(self, set_to_none: bool = True) -> None:
        if self._calls % self._accumulate == 0:
            super().zero_grad(set_to_none)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._calls += 1
        if self._calls % self._accumulate:
            return loss
        parts = [part for number in range(len(self.param_groups)) for part in self._parts(number)]
        if not parts:
            return loss
        if len(kinds := {call[3].dtype for call, _, _ in parts}) > 1:
            raise TypeError(f"parameters of one type expected, got {' and '.join(map(str, kinds))}; use two optimizers")
        calls = [call for call, _, _ in parts]
        if sum(call[3].shape[1] for call in calls) < ONE_THREAD:
            norm = _core.update_tensors(calls, 1)
        else:
            with self._worker:
                norm = _core.update_tensors(calls, min(runtime.threads(), torch.get_num_threads()))
        self.grad_norm = norm if self._clipping else None
        for _, changed, _ in parts:
            torch.autograd.graph.increment_version(changed)
        return loss


class SGD(_Fused, torch.optim.SGD):
    """``torch.optim.SGD`` with fused clipping: momentum, dampening, nesterov, weight_decay as L2."""

    keys: ClassVar[dict[str, str]] = {"velocity": "momentum_buffer"}
    counts = False

    def _rule(self, group: dict[str, Any]) -> optimizers.Optimizer:
        nesterov = bool(group["nesterov"])
        return optimizers.SGD(momentum=group["momentum"], nesterov=nesterov, dampening=group["dampening"])


class Adagrad(_Fused, torch.optim.Adagrad):
    """``torch.optim.Adagrad`` with fused clipping."""

    keys: ClassVar[dict[str, str]] = {"accumulator": "sum"}

    def _rule(self, group: dict[str, Any]) -> optimizers.Optimizer:
        return optimizers.Adagrad(epsilon=group["eps"])

    def _lr(self, group: dict[str, Any], t: int) -> float:
        return float(group["lr"]) / (1 + (t - 1) * float(group["lr_decay"]))


class Adadelta(_Fused, torch.optim.Adadelta):
    """``torch.optim.Adadelta`` with fused clipping."""

    keys: ClassVar[dict[str, str]] = {"v": "square_avg", "u": "acc_delta"}

    def _rule(self, group: dict[str, Any]) -> optimizers.Optimizer:
        return optimizers.Adadelta(rho=group["rho"], epsilon=group["eps"])


class RMSprop(_Fused, torch.optim.RMSprop):
    """``torch.optim.RMSprop`` with fused clipping."""

    keys: ClassVar[dict[str, str]] = {"v": "square_avg", "mean": "grad_avg", "velocity": "momentum_buffer"}

    def _rule(self, group: dict[str, Any]) -> optimizers.Optimizer:
        centered, momentum = bool(group["centered"]), group["momentum"]
        return optimizers.RMSprop(rho=group["alpha"], epsilon=group["eps"], centered=centered, momentum=momentum)


class Adam(_Fused, torch.optim.Adam):
    """``torch.optim.Adam`` with fused clipping; weight_decay is L2 unless ``decoupled_weight_decay``."""

    keys: ClassVar[dict[str, str]] = {"m": "exp_avg", "v": "exp_avg_sq", "v_max": "max_exp_avg_sq"}

    def _rule(self, group: dict[str, Any]) -> optimizers.Optimizer:
        beta_1, beta_2 = map(float, group["betas"])
        decay = group["weight_decay"] if group["decoupled_weight_decay"] else 0.0
        amsgrad, epsilon = bool(group["amsgrad"]), group["eps"]
        return optimizers.Adam(beta_1=beta_1, beta_2=beta_2, epsilon=epsilon, amsgrad=amsgrad, weight_decay=decay)

    def _l2(self, group: dict[str, Any]) -> float:
        return 0.0 if group["decoupled_weight_decay"] else super()._l2(group)


class AdamW(Adam, torch.optim.AdamW):
    """``torch.optim.AdamW`` with fused clipping."""


class NAdam(_Fused, torch.optim.NAdam):
    """``torch.optim.NAdam`` with fused clipping; its products of momenta are those of the betas at hand."""

    keys: ClassVar[dict[str, str]] = {"m": "exp_avg", "v": "exp_avg_sq"}

    def _rule(self, group: dict[str, Any]) -> optimizers.Optimizer:
        decay = group["weight_decay"] if group["decoupled_weight_decay"] else 0.0
        (beta_1, beta_2), momentum_decay = group["betas"], group["momentum_decay"]
        epsilon = group["eps"]
        return optimizers.Nadam(
            beta_1=beta_1, beta_2=beta_2, epsilon=epsilon, momentum_decay=momentum_decay, weight_decay=decay
        )

    def _l2(self, group: dict[str, Any]) -> float:
        return 0.0 if group["decoupled_weight_decay"] else super()._l2(group)

    def _first_state(self, p: Tensor) -> dict[str, Any]:
        state = self.state[p]
        state["mu_product"] = torch.ones(())
        return state

    def _more_state(self, group: dict[str, Any], block: Block, index: Array, t: int) -> None:
        mu = group["betas"][0] * (1 - 0.5 * 0.96 ** (t * group["momentum_decay"]))
        for i in index:
            self.state[block.params[i]]["mu_product"] *= mu


class Adamax(_Fused, torch.optim.Adamax):
    """``torch.optim.Adamax`` with fused clipping."""

    keys: ClassVar[dict[str, str]] = {"m": "exp_avg", "u": "exp_inf"}

    def _rule(self, group: dict[str, Any]) -> optimizers.Optimizer:
        (beta_1, beta_2), epsilon = group["betas"], group["eps"]
        return optimizers.Adamax(beta_1=beta_1, beta_2=beta_2, epsilon=epsilon)


class Lion(_Fused):
    """w -= lr sign(beta_1 m + (1 - beta_1) g), m = beta_2 m + (1 - beta_2) g (Chen et al. 2023); weight_decay is decoupled.
    State: step, exp_avg."""

    keys: ClassVar[dict[str, str]] = {"m": "exp_avg"}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        max_grad_norm: float | None = None,
        accumulate: int = 1,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize}
        optimizers.Lion(lr or 1.0, *betas, weight_decay=weight_decay)  # checks them
        super().__init__(params, defaults, max_grad_norm=max_grad_norm, accumulate=accumulate)

    def _rule(self, group: dict[str, Any]) -> optimizers.Optimizer:
        beta_1, beta_2 = group["betas"]
        return optimizers.Lion(beta_1=beta_1, beta_2=beta_2, weight_decay=group["weight_decay"])

    def _l2(self, group: dict[str, Any]) -> float:
        return 0.0


class FTRL(_Fused):
    """FTRL-Proximal, as ``gdfast.FTRL``, whose arguments these are. State: step, z, n."""

    keys: ClassVar[dict[str, str]] = {"z": "z", "n": "n"}

    def __init__(
        self,
        params: Any,
        lr: float = 0.1,
        beta: float = 1.0,
        l1: float = 0.0,
        l2: float = 0.0,
        initial_accumulator: float = 0.0,
        *,
        maximize: bool = False,
        max_grad_norm: float | None = None,
        accumulate: int = 1,
    ) -> None:
        defaults = {"lr": lr, "beta": beta, "l1": l1, "l2": l2, "initial_accumulator": initial_accumulator}
        optimizers.FTRL(lr or 1.0, beta, l1, l2, initial_accumulator)  # checks them
        super().__init__(params, defaults | {"maximize": maximize}, max_grad_norm=max_grad_norm, accumulate=accumulate)

    def _rule(self, group: dict[str, Any]) -> optimizers.Optimizer:
        return optimizers.FTRL(
            beta=group["beta"], l1=group["l1"], l2=group["l2"], initial_accumulator=group["initial_accumulator"]
        )

    def _first_state(self, p: Tensor) -> dict[str, Any]:
        state, (group,) = self.state[p], (g for g in self.param_groups if any(p is q for q in g["params"]))
        state["n"] = torch.full_like(p, group["initial_accumulator"])
        return state


class BatchLoader:
    """Mini-batches of tensors that lie in memory, in an order of gdfast's: what a ``DataLoader`` over a
    ``TensorDataset`` gives, without a call of Python a row.

    tensors: of any type on the CPU, equal in their first size n; each pass over the loader is an epoch and gives tuples of
    new tensors (one tensor alone where one was given). The order is a pure function of (seed, epoch), every row once; set
    ``epoch`` to repeat one. ``drop_last`` leaves out a last batch that is not full.
    """

    def __init__(
        self, *tensors: Tensor, batch_size: int, shuffle: bool = True, drop_last: bool = False, seed: int = 0
    ) -> None:
        if not tensors or any(not isinstance(a, Tensor) or a.ndim == 0 for a in tensors):
            raise TypeError("BatchLoader expects tensors of one dimension or more")
        if len(sizes := {len(a) for a in tensors}) > 1 or sizes == {0}:
            raise ValueError(f"tensors of equal, non-zero first sizes expected, got {sorted(sizes)}")
        if any(a.device.type != "cpu" for a in tensors):
            raise TypeError("BatchLoader takes tensors of the CPU; move its batches instead")
        if batch_size < 1:
            raise ValueError(f"batch_size must be an integer >= 1, got {batch_size!r}")
        self.tensors = tuple(a.detach() for a in tensors)
        self.batch_size, self.shuffle, self.drop_last, self.seed, self.epoch = batch_size, shuffle, drop_last, seed, 0

    def __len__(self) -> int:
        n = len(self.tensors[0])
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        n, keys = len(self.tensors[0]), keys_of(self.seed, self.epoch)
        self.epoch += 1
        for first in range(0, len(self) * self.batch_size, self.batch_size):
            count = min(self.batch_size, n - first)
            rows = _core.order_rows(n, keys, first, count) if self.shuffle else np.arange(first, first + count)
            index = torch.from_numpy(rows)
            batch = tuple(a.index_select(0, index) for a in self.tensors)
            yield batch if len(batch) > 1 else batch[0]
