"""Losses whose batch processes share: what each is given, and what comes of it."""

from functools import partial
from unittest.mock import patch

import torch
import torch.distributed as dist

import sogclr.losses.normalizer_sharded
from sogclr import (
    ClipLoss,
    DecoupledClipLoss,
    DecoupledContrastiveLoss,
    GlobalClipLoss,
    GlobalContrastiveLoss,
    IndividualTemperature,
    LearnedTemperature,
    MoCoLoss,
    NTXentLoss,
    SigLipLoss,
)
from sogclr.distributed.exchange import Shares
from sogclr.losses.backends import choose
from sogclr.losses.backends.tiled import Part
from sogclr.losses.normalizer_scalar import ScalarNormalizer
from sogclr.losses.normalizer_scent import ScentNormalizerTable
from sogclr.losses.sample_ids import never_negatives

SAMPLES, WIDTH, BATCH = 30, 6, 12
EACH, FEATURES = 16, 512  # where bytes are counted
# Samples of each process in each step; last batches and failed reads leave them unequal.
COUNTS = {
    1: [(12,), (12,), (12,)],
    2: [(6, 6), (7, 5), (12, 0)],
    4: [(3, 3, 3, 3), (5, 1, 4, 2), (0, 6, 6, 0)],
}
TAUS = {
    "constant": lambda: 0.3,
    "tiny": lambda: 0.004,
    "learned": lambda: LearnedTemperature(0.3),
    "learned with rho": lambda: LearnedTemperature(0.3, rho=1.0),
    "individual": lambda: IndividualTemperature(0.3, rho=1.0),
}


def two_views(loss, a, b, index, group):
    return loss(a, b, index)


def nameless(loss, a, b, index, group):
    return loss(a, b)


def stored_views(loss, a, b, index, group):
    return loss(a, b, index, views=(group % 3, (group + 1) % 3))


def pairs(loss, a, b, index, group):
    return loss(a, b, index, index_b=2 * index + group % 2, group=group)


def keyed(loss, a, b, index, group):
    # Of 30 samples there are 3 in every row.
    return loss(a, b, index % 10, sample_key=index * 2**40)


def keyed_pairs(loss, a, b, index, group):
    text = 2 * index + group % 2
    return loss(
        a,
        b,
        index % 10,
        index_b=text % 20,
        group=group % 50,
        sample_key=index * 2**40,
        sample_key_b=text - 2**62,
    )


def queued(loss, a, b, index, group):
    return loss(a, b, b.detach() + 1, a.detach() - 1, index)


def cases(dtype):
    """Names to a maker of a loss and how it is called."""
    scale = {"scale": "temperature"}
    kept, sizes = {"dtype": dtype, **scale}, (SAMPLES, 2 * SAMPLES)
    made = {}
    for name, tau in TAUS.items():
        one = partial(GlobalContrastiveLoss, SAMPLES, **kept)
        two = partial(GlobalClipLoss, sizes, **kept)
        moco = partial(MoCoLoss, 20, WIDTH, **kept)
        losses = {"sogclr": (one, two_views), "pairs": (two, pairs)}
        if name != "individual":
            simclr, clip = partial(NTXentLoss, **scale), partial(ClipLoss, **scale)
            losses |= {"simclr": (simclr, two_views), "clip": (clip, pairs)}
            losses |= {"moco": (moco, queued)}
        for loss, (make, call) in losses.items():
            made[f"{loss}, {name}"] = (lambda make=make, tau=tau: make(temperature=tau())), call
    made["dcl"] = partial(DecoupledContrastiveLoss, **scale), nameless
    made["dcl of pairs"] = partial(DecoupledClipLoss, scale="cross-entropy"), nameless
    made["siglip"] = SigLipLoss, pairs
    made["siglip, nameless"] = SigLipLoss, nameless
    for key, value in {"effective_negatives": 7.0, "memory_size": 9, "num_stored_views": 3}.items():
        call = stored_views if key == "num_stored_views" else two_views
        made[f"sogclr, {key}"] = partial(one, **{key: value}), call
        if key != "num_stored_views":
            made[f"pairs, {key}"] = partial(two, **{key: value}), pairs
    made["sogclr, level"] = partial(one, level=True), two_views
    made["pairs, level"] = partial(two, level=True), pairs
    scalar = partial(ScalarNormalizer, dtype=dtype, rate=0.4)
    scent = partial(ScentNormalizerTable, dtype=dtype, log_alpha=-1.0)
    made["sogclr, scalar"] = partial(one, normalizer=scalar), nameless
    made["pairs, scalar"] = partial(two, normalizer=scalar, memory_size=9), pairs
    made["sogclr, SCENT"] = partial(one, normalizer=scent), two_views
    made["pairs, SCENT"] = partial(two, normalizer=scent), pairs
    keys = {"sogclr": (one, keyed), "pairs": (two, keyed_pairs)}
    for loss, (make, call) in keys.items():
        own = partial(make, temperature=IndividualTemperature(0.3, rho=1.0))
        made[f"{loss}, keys"] = own, call
        made[f"{loss}, keys, recent"] = partial(make, memory_size=9), call
    apart = [
        "sogclr, effective_negatives",
        "pairs, effective_negatives",
        "pairs, memory_size",
        "sogclr, num_stored_views",
        "sogclr, level",
        "pairs, level",
    ]
    for name in [*apart, "pairs, keys"]:
        made[f"{name}, sharded"] = made[name]
    return made


def batch(step, dtype):
    generator = torch.Generator().manual_seed(step)
    a, b = torch.randn(2, BATCH, WIDTH, generator=generator, dtype=torch.float64)
    index = torch.randint(SAMPLES, (BATCH,), generator=generator)
    group = torch.randint(1000, (BATCH,), generator=generator)
    return a.to(dtype), (a + b).to(dtype), index, group


def own_gradient_only(rank):
    """What a gather without backward leaves: nothing of being a negative of others' anchors."""
    return patch.object(choose, "Part", lambda *args, column_side: Part(*args, None))


def divided_twice(rank):
    """The mean over all samples, of which DistributedDataParallel takes the mean once more."""
    return patch.object(Shares, "processes", 1)


def diagonal_of_the_first(rank):
    """Each process takes its rows for the first ones of the batch."""

    def shifted(ids, rows, columns, present):
        start = rows.start - rank * BATCH // 2
        return never_negatives(ids, slice(start, start + rows.stop - rows.start), columns, present)

    return patch.object(choose, "never_negatives", shifted)


MISTAKES = {
    mistake.__name__: mistake
    for mistake in (own_gradient_only, divided_twice, diagonal_of_the_first)
}


def run(name, dtype, rank, processes, steps=None):
    """Value, gradients by this process's features and by the loss's parameters, step by step;
    and the state in the end."""
    make, call = cases(dtype)[name]
    with patch.object(
        sogclr.losses.normalizer_sharded, "MAX_COPIED_ROWS", 0 if "sharded" in name else SAMPLES * 3
    ):
        loss, again = make().to(dtype), make().to(dtype)
    if dtype == torch.float64:
        for module in (*loss.modules(), *again.modules()):
            if isinstance(module, IndividualTemperature):
                module.tau, module.velocity = module.tau.double(), module.velocity.double()
    done = []
    for step, counts in enumerate(COUNTS[processes][:steps]):
        start = sum(counts[:rank])
        own = slice(start, start + counts[rank])
        a, b, index, group = (each[own] for each in batch(step, dtype))
        a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
        loss.zero_grad()
        value = call(loss, a, b, index, group)
        value.backward()
        learned = [p.grad.clone() for p in loss.parameters()]
        done.append((value.detach(), torch.stack([a.grad, b.grad]), learned))
    again.load_state_dict(loss.state_dict())
    return done, again.state_dict()


def received(each, width, **keys):
    """Bytes that a process receives in a step of pairs, `each` of every process, in float32."""
    total = 0

    def counted(parts, own, group=None):
        nonlocal total
        total += sum(part.numel() * part.element_size() for part in parts[1:])
        all_gather(parts, own, group=group)

    all_gather = dist.all_gather
    a, b = torch.randn(2, each, width, requires_grad=True)
    loss = GlobalClipLoss(SAMPLES)
    reduced = AssertionError("features' gradients travel")
    with (
        patch.object(dist, "all_gather", counted),
        patch.object(dist, "reduce_scatter", side_effect=reduced),
        patch.object(dist, "all_reduce", side_effect=reduced),
    ):
        loss(a, b, torch.arange(each), **keys).backward()
    return total


def work(rank, processes, folder):
    """What a process does: all of it, into a file."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", processes)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=processes)
    found = {
        (name, dtype): run(name, dtype, rank, processes)
        for dtype in (torch.float32, torch.float64)
        for name in cases(dtype)
    }
    found["received"] = received(EACH, FEATURES)
    found["received, keys"] = received(EACH, FEATURES, sample_key=torch.arange(EACH))
    for mistake, patched in MISTAKES.items():
        if processes == 2:
            with patched(rank):
                found[mistake] = run("sogclr, constant", torch.float64, rank, processes, steps=1)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
