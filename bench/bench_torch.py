"""gdfast.torch.Adam(max_grad_norm=1) against clip_grad_norm_ and torch.optim.Adam(fused=True), equal threads, and against Adam
alone; batches of BatchLoader against index_select and a DataLoader."""

from __future__ import annotations

import pytest

from gdfast import runtime

torch = pytest.importorskip("torch", reason="the extra torch is not installed")
gd = pytest.importorskip("gdfast.torch", reason="the extra torch is not installed")


def parameters(sizes: list[int]) -> list:
    made = torch.Generator().manual_seed(0)
    ps = [torch.nn.Parameter(torch.randn(size, generator=made)) for size in sizes]
    for p in ps:
        p.grad = torch.randn(p.shape, generator=made)
    return ps


@pytest.mark.parametrize("sizes", [[10_000_000], [1000] * 2000], ids=["one of 10^7", "2,000 of 1,000"])
def bench_clipped_adam(race, sizes):
    sizes = [1000] * min(len(sizes), 5) if race.small else sizes
    ours, theirs = parameters(sizes), parameters(sizes)
    clipped, plain = gd.Adam(ours, max_grad_norm=1.0), gd.Adam(parameters(sizes))
    fused, fused_plain = torch.optim.Adam(theirs, fused=True), torch.optim.Adam(parameters(sizes), fused=True)
    for p in (*plain.param_groups[0]["params"], *fused_plain.param_groups[0]["params"]):
        p.grad = torch.ones_like(p)

    def torch_clipped():
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        fused.step()

    before = torch.get_num_threads()
    torch.set_num_threads(runtime.threads())
    try:
        race(
            f"Adam through torch, {len(sizes)} tensors of {sizes[0]} float32, {runtime.threads()} threads",
            {
                "gdfast, clipped by norm": clipped.step,
                "torch, clip_grad_norm_ and fused": torch_clipped,
                "gdfast": plain.step,
                "torch, fused": fused_plain.step,
            },
            rounds=31,
        )
    finally:
        torch.set_num_threads(before)


def bench_batches(race):
    n, d, batch = (1000, 10, 100) if race.small else (60_000, 784, 256)
    X, y = torch.ones(n, d), torch.arange(n)
    mine = gd.BatchLoader(X, y, batch_size=batch)

    def by_index_select():
        rows = torch.randperm(n)
        for part in rows.split(batch):
            X.index_select(0, part), y.index_select(0, part)

    theirs = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, y), batch_size=batch, shuffle=True)
    race(
        f"an epoch of shuffled batches, {n} x {d} float32, {batch} a batch",
        {
            "gdfast.torch.BatchLoader": lambda: [None for _ in mine],
            "torch, randperm and index_select": by_index_select,
            "torch, DataLoader": lambda: [None for _ in theirs],
        },
        rounds=5,
    )
