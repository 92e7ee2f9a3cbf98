"""gdfast.torch against torch.optim: the same steps, states that go both ways, what users do with an optimizer."""

from __future__ import annotations

import copy
import io
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra torch is not installed")
gd = pytest.importorskip("gdfast.torch", reason="the extra torch is not installed")

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {"lr": 0.1}),
    "sgd-momentum": ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    "sgd-nesterov": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True}),
    "adagrad": ("Adagrad", {"lr": 0.1, "lr_decay": 0.3, "initial_accumulator_value": 0.2, "weight_decay": 0.1}),
    "adadelta": ("Adadelta", {"lr": 0.5, "rho": 0.8, "weight_decay": 0.1}),
    "rmsprop": ("RMSprop", {"lr": 0.01, "weight_decay": 0.1}),
    "rmsprop-all": ("RMSprop", {"lr": 0.01, "centered": True, "momentum": 0.9, "eps": 1e-3}),
    "adam": ("Adam", {"lr": 0.01, "weight_decay": 0.1, "maximize": True}),
    "adam-amsgrad": ("Adam", {"lr": 0.01, "amsgrad": True, "betas": (0.8, 0.9)}),
    "adamw": ("AdamW", {"lr": 0.01, "weight_decay": 0.1}),
    "nadam": ("NAdam", {"lr": 0.01, "weight_decay": 0.1}),
    "nadam-decoupled": ("NAdam", {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    "adamax": ("Adamax", {"lr": 0.01, "weight_decay": 0.1}),
}
case = pytest.mark.parametrize("name", CASES)
SHAPES = [(3,), (4, 5), (), (2, 3, 2, 2), (5000,)]


def parameters(dtype: Any = torch.float64, seed: int = 0) -> list[Any]:
    made = torch.Generator().manual_seed(seed)
    ps = [torch.nn.Parameter(torch.randn(shape, generator=made, dtype=dtype)) for shape in SHAPES]
    ps[3].data = ps[3].data.to(memory_format=torch.channels_last)
    return ps


def both(name: str, dtype: Any = torch.float64, **more: Any) -> tuple[list[Any], list[Any], Any, Any]:
    kind, options = CASES[name]
    a, b = parameters(dtype), parameters(dtype)
    return a, b, getattr(gd, kind)(a, **options, **more), getattr(torch.optim, kind)(b, **options, foreach=False)


def give_gradients(a: list[Any], b: list[Any], step: int, skip: int = -1) -> None:
    made = torch.Generator().manual_seed(100 + step)
    for i, (p, q) in enumerate(zip(a, b, strict=True)):
        g = torch.randn(p.shape, generator=made, dtype=torch.float64).to(p.dtype)
        p.grad, q.grad = (None, None) if i == skip else (g.clone(), g.clone())


def assert_equal(a: list[Any], b: list[Any], rtol: float = 1e-12, atol: float = 1e-12) -> None:
    for p, q in zip(a, b, strict=True):
        torch.testing.assert_close(p, q, rtol=rtol, atol=atol)


def close(name: str) -> dict[str, float]:
    """torch keeps the product of NAdam's momenta in float32."""
    return {"rtol": 1e-7, "atol": 1e-8} if name.startswith("nadam") else {}


def assert_same_state(ours: Any, theirs: Any) -> None:
    mine, other = ours.state_dict(), theirs.state_dict()
    assert mine["state"].keys() == other["state"].keys()
    for i, state in other["state"].items():
        assert mine["state"][i].keys() == {k for k, v in state.items() if v is not None}
        for key, value in mine["state"][i].items():
            rtol = 1e-5 if "mu_product" in state else 1e-12  # kept in float32
            torch.testing.assert_close(value.double(), torch.as_tensor(state[key]).double(), rtol=rtol, atol=1e-12)
    assert mine["param_groups"][0].keys() == other["param_groups"][0].keys()


@case
def test_steps_and_states_are_those_of_torch(name: str) -> None:
    a, b, ours, theirs = both(name)
    assert isinstance(ours, type(theirs))
    addresses = [p.data_ptr() for p in a]
    for step in range(8):
        give_gradients(a, b, step, skip=step % 4)  # tensors whose numbers of steps differ
        ours.step()
        theirs.step()
        assert_equal(a, b, **close(name))
    assert_same_state(ours, theirs)
    assert [p.data_ptr() for p in a] == addresses


@case
def test_float32_follows_torch_to_rounding(name: str) -> None:
    a, b, ours, theirs = both(name, torch.float32)
    for step in range(5):
        give_gradients(a, b, step)
        ours.step()
        theirs.step()
    assert_equal(a, b, 2e-5, 2e-5)


@case
def test_checkpoints_go_both_ways(name: str) -> None:
    a, b, ours, theirs = both(name)
    for step in range(3):
        give_gradients(a, b, step)
        ours.step()
        theirs.step()
    kind = CASES[name][0]

    def through_a_file(optimizer: Any) -> Any:
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        return torch.load(file, weights_only=True)

    ours_again, theirs_again = getattr(gd, kind)(a, lr=1.0), getattr(torch.optim, kind)(b, lr=1.0)
    ours_again.load_state_dict(through_a_file(theirs))
    theirs_again.load_state_dict(through_a_file(ours))
    for step in range(3, 6):
        give_gradients(a, b, step)
        ours_again.step()
        theirs_again.step()
        assert_equal(a, b, **close(name))
    # and straight from one optimizer to the other, which then share nothing
    direct = getattr(torch.optim, kind)(b, lr=1.0)
    direct.load_state_dict(copy.deepcopy(ours_again.state_dict()))
    give_gradients(a, b, 6)
    ours_again.step()
    direct.step()
    assert_equal(a, b, **close(name))


@case
@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_clipping_is_that_of_clip_grad_norm(name: str, max_norm: float) -> None:
    a, b, ours, theirs = both(name, max_grad_norm=max_norm)
    for step in range(4):
        give_gradients(a, b, step, skip=1)
        before = [None if p.grad is None else p.grad.clone() for p in a]
        ours.step()
        norm = torch.nn.utils.clip_grad_norm_(b, max_norm)
        theirs.step()
        assert ours.grad_norm == pytest.approx(float(norm), rel=1e-12)
        assert all(p.grad is None or torch.equal(p.grad, g) for p, g in zip(a, before, strict=True))
    assert_equal(a, b, 1e-5, 1e-6)  # torch has 1e-6 beside the norm


def test_groups_have_rates_of_their_own_and_one_norm() -> None:
    a, b = parameters(), parameters()
    ours = gd.AdamW([{"params": a[:2], "lr": 0.1}, {"params": a[2:4], "weight_decay": 0.5}], lr=0.01, max_grad_norm=1.0)
    theirs = torch.optim.AdamW([{"params": b[:2], "lr": 0.1}, {"params": b[2:4], "weight_decay": 0.5}], lr=0.01)
    for step in range(6):
        if step == 3:
            ours.add_param_group({"params": a[4:], "lr": 0.2})
            theirs.add_param_group({"params": b[4:], "lr": 0.2})
        give_gradients(a, b, step)
        used = 4 if step < 3 else 5
        ours.step()
        torch.nn.utils.clip_grad_norm_(b[:used], 1.0)
        theirs.step()
        assert_equal(a, b, 1e-5, 1e-6)


@pytest.mark.parametrize("name", ["adam", "sgd-momentum"])
def test_schedulers_and_closures(name: str) -> None:
    a, b, ours, theirs = both(name)
    for optimizer in (ours, theirs):
        optimizer.scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=12)

    def closure(ps: list[Any], optimizer: Any) -> Any:
        def evaluate() -> Any:
            optimizer.zero_grad()
            loss = sum((p.square().sum() * (i + 1) for i, p in enumerate(ps)), torch.zeros((), dtype=torch.float64))
            loss.backward()
            return loss

        return evaluate

    for _ in range(10):
        losses = [opt.step(closure(ps, opt)).item() for opt, ps in ((ours, a), (theirs, b))]
        assert losses[0] == pytest.approx(losses[1], rel=1e-12)
        ours.scheduler.step()
        theirs.scheduler.step()
    assert_equal(a, b)


def test_accumulation_is_one_step_by_the_mean() -> None:
    a, b = parameters(), parameters()
    ours, theirs = gd.Adam(a, 0.1, max_grad_norm=1.0, accumulate=3), torch.optim.Adam(b, 0.1)
    X = torch.randn(24, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def loss(ps: list[Any], rows: Any) -> Any:
        return ((rows @ ps[1].reshape(-1)).square() + ps[0].sum() ** 2).mean()

    for epoch in range(3):
        for part in X.chunk(3):
            ours.zero_grad()
            loss(a, part).backward()
            ours.step()
        theirs.zero_grad()
        loss(b, X).backward()
        torch.nn.utils.clip_grad_norm_(b, 1.0)
        theirs.step()
        assert_equal(a, b, 1e-5, 1e-6)
        assert ours.state[a[0]]["step"] == epoch + 1


@case
def test_copies_and_pickles_go_on(name: str) -> None:
    a, b, ours, _ = both(name, max_grad_norm=0.5)
    give_gradients(a, b, 0)
    ours.step()
    twin = copy.deepcopy((a, ours))
    assert twin[1]._accumulate == ours._accumulate
    give_gradients(a, twin[0], 1)
    ours.step()
    twin[1].step()
    assert_equal(a, twin[0])
    assert ours.grad_norm == twin[1].grad_norm > 0


@pytest.mark.parametrize("kind", ["Lion", "FTRL"])
def test_rules_that_torch_does_not_have(kind: str) -> None:
    from gdfast import ops, optimizers

    (p,) = [torch.nn.Parameter(torch.linspace(-1, 1, 7, dtype=torch.float64))]
    options = {"Lion": {}, "FTRL": {"l1": 0.1, "initial_accumulator": 0.3}}[kind]
    optimizer, rule = getattr(gd, kind)([p], 0.05, **options), getattr(optimizers, kind)(0.05, **options)
    w = p.detach().numpy().copy()
    slots = rule.initial_slots(w)
    for t in range(1, 6):
        p.grad = torch.sin(p.detach() * 3 + t)
        ops.step_(rule, w, p.grad.numpy(), slots, t)
        optimizer.step()
        np.testing.assert_allclose(p.detach().numpy(), w, rtol=1e-12)
    other = getattr(gd, kind)([p], 1.0)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    p.grad = torch.ones_like(p)
    ops.step_(rule, w, np.ones(7), slots, 6)
    other.step()
    np.testing.assert_allclose(p.detach().numpy(), w, rtol=1e-12)


def test_the_same_bits_for_any_number_of_threads() -> None:
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            ps = [torch.nn.Parameter(torch.ones(size)) for size in (300_000, 7, 5000) * 3]
            optimizer = gd.Adam(ps, 0.01, max_grad_norm=1.0)
            for step in range(3):
                give_gradients(ps, ps, step)
                optimizer.step()
            results.append([p.detach() for p in ps])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(p, q) for p, q in zip(*results, strict=True))


def test_autograd_notices_the_change() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = gd.SGD([p], 0.1)
    loss = p.square().sum()
    p.grad = torch.ones(3)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_gradients_in_another_order_are_copied() -> None:
    p, q = (torch.nn.Parameter(torch.randn(4, 6, generator=torch.Generator().manual_seed(0))) for _ in range(2))
    ours, theirs = gd.Adam([p], 0.1), torch.optim.Adam([q], 0.1)
    p.grad = torch.arange(24.0).reshape(6, 4).t()
    q.grad = p.grad.clone()
    ours.step()
    theirs.step()
    torch.testing.assert_close(p, q)


def test_what_is_not_taken_is_named() -> None:
    half = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    half.grad = torch.ones_like(half)
    with pytest.raises(TypeError, match="bfloat16"):
        gd.Adam([half]).step()
    strided = torch.nn.Parameter(torch.ones(4)[::2])
    strided.grad = torch.ones(2)
    with pytest.raises(TypeError, match="gaps"):
        gd.Adam([strided]).step()
    table = torch.nn.Embedding(5, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(TypeError, match="SparseAdam"):
        gd.Adam(table.parameters()).step()
    p = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="fused"):
        gd.Adam([p], fused=True)
    with pytest.raises(ValueError, match="accumulate"):
        gd.Adam([p], accumulate=0)
    with pytest.raises(ValueError, match="max_norm"):
        gd.Adam([p], max_grad_norm=0.0)
    mixed = [p, torch.nn.Parameter(torch.ones(2, dtype=torch.float64))]
    for q in mixed:
        q.grad = torch.ones_like(q)
    with pytest.raises(TypeError, match="one type"):
        gd.Adam(mixed).step()
    optimizer = gd.Adam([{"params": mixed[:1]}, {"params": mixed[1:]}])
    with pytest.raises(TypeError, match="one type"):
        optimizer.step()
    optimizer = gd.Adam([p])
    optimizer.step()
    p.data = torch.ones(2, dtype=torch.float64)
    p.grad = None
    p.grad = torch.ones(2, dtype=torch.float64)
    with pytest.raises(TypeError, match="became"):
        optimizer.step()


@pytest.mark.parametrize("drop_last", [False, True])
def test_the_loader_gives_every_row_once(drop_last: bool) -> None:
    X = torch.randn(103, 3, 5, generator=torch.Generator().manual_seed(0))
    y, z = torch.arange(103), (torch.arange(103) % 2).bool()
    loader = gd.BatchLoader(X, y, z, batch_size=20, drop_last=drop_last, seed=3)
    epochs = []
    for _ in range(2):
        batches = list(loader)
        assert len(batches) == len(loader) == (5 if drop_last else 6)
        rows = torch.cat([b[1] for b in batches])
        assert len(set(rows.tolist())) == (100 if drop_last else 103)
        assert torch.equal(torch.cat([b[0] for b in batches]), X[rows])
        assert torch.equal(torch.cat([b[2] for b in batches]), z[rows])
        epochs.append(rows)
    assert not torch.equal(*epochs)
    loader.epoch = 0
    assert torch.equal(torch.cat([b[1] for b in loader]), epochs[0])
    in_order = gd.BatchLoader(y, batch_size=20, shuffle=False)
    assert torch.equal(torch.cat(list(in_order)), y)


def test_the_loader_refuses_what_does_not_fit() -> None:
    X = torch.ones(3, 2)
    with pytest.raises(ValueError, match="first sizes"):
        gd.BatchLoader(X, torch.ones(4), batch_size=2)
    with pytest.raises(TypeError, match="tensors"):
        gd.BatchLoader(np.ones(3), batch_size=2)
    with pytest.raises(ValueError, match="batch_size"):
        gd.BatchLoader(X, batch_size=0)
