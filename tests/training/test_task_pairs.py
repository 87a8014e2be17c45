"""Runs on pairs: what they learn and leave behind, and that an interruption leaves no trace."""

import json
import os
import signal
import statistics
import time
from dataclasses import fields

import numpy as np
import pytest
import torch
from helpers.bits import checkpoint, same
from helpers.interrupting import interrupt_after
from helpers.launching import alone, finished
from helpers.small_tables import read_rows, write_table
from safetensors.torch import load_file
from torch import nn

import sogclr
from sogclr import UserError
from sogclr.common.options import TowerSettings
from sogclr.data.open_pairs import open_pairs
from sogclr.runs.folder import Run
from sogclr.training.loop import Trainer


def _metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def frozen(bert, resnet_weights):
    """Towers that were trained apart, to be joined; settings of a run of a second."""
    return {
        "image_tower": "test_resnet", "image_weights": str(resnet_weights), "image_size": 32,
        "text_tower": str(bert), "width": 8, "batch_size": 8, "epochs": 2, "device": "cpu",
    }  # fmt: skip


@pytest.mark.parametrize(
    "method",
    [
        {"method": "sogclr"}, {"method": "clip"}, {"method": "dcl"}, {"method": "siglip"},
        {"temperature_mode": "learned"}, {"temperature_mode": "learned", "rho": 0.5},
        {"temperature_mode": "individual", "rho": 0.5},
        {"method": "clip", "temperature_mode": "learned"},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)  # fmt: skip
def test_training_lowers_the_objective(pairs, fast, tmp_path, method):
    settings = {**fast, "epochs": 12, "learning_rate": 3e-3, **method}
    result = sogclr.align(pairs, tmp_path / "run", **settings)
    rows = _metrics(tmp_path / "run")
    assert result.complete
    assert result.metrics["step"] == rows[-1]["step"] == 36
    first, last = (statistics.mean(r["objective"] for r in part) for part in (rows[:6], rows[-6:]))
    assert last < first


def test_a_run_leaves_what_it_says(trained, joined):
    always = {
        "settings.json", "checkpoint.pt", "towers.json", "trained.safetensors", "metrics.jsonl",
        "tb", "text", "digests.json",
    }  # fmt: skip
    later = {"embeddings", "search.png", "evaluations.jsonl"}  # of other commands
    names = {path.name for path in trained.iterdir()} - later
    assert names == always
    names = {path.name for path in joined.iterdir()} - later
    assert names == always | {"frozen.safetensors"}
    settings = json.loads((joined / "settings.json").read_text())
    assert settings["kind"] == "pairs"
    assert settings["asked"]["temperature"] is None
    open_still = {
        "columns",
        "image_size",
        "gamma_decay_visits",
        "rho",
        "effective_negatives",
        "memory_size",
    }
    open_still |= {"table_rows", "epoch_samples"}
    open_still |= {f.name for f in fields(TowerSettings)}  # towers.json has what was derived
    assert {k for k, v in settings["resolved"].items() if v is None} <= open_still


def test_the_same_seed_gives_the_same_weights_and_another_does_not(pairs, fast, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        sogclr.align(pairs, tmp_path / name, seed=seed, **fast)
    a, b, c = (load_file(tmp_path / name / "trained.safetensors") for name in "abc")
    assert same(a, b)
    assert not any(torch.equal(a[key], c[key]) for key in a if a[key].ndim > 1)


@pytest.mark.parametrize("freeze", ["image", "text", "image,text", ("text", "image")])
def test_bodies_of_frozen_towers_stay_as_they_were(pairs, frozen, tmp_path, freeze):
    out, start = tmp_path / "run", tmp_path / "start"
    sogclr.align(pairs, out, freeze=freeze, learning_rate=1e-2, **frozen)
    sogclr.align(pairs, start, freeze=freeze, learning_rate=1e-30, weight_decay=0.0, **frozen)
    after, before = (
        {kind: tower.open_clip_state() for kind, tower in sogclr.load(run).towers.items()}
        for run in (out, start)
    )
    for kind, head in (("image", "head"), ("text", "proj")):
        for name, value in after[kind].items():
            if name.startswith(head):
                assert not torch.equal(value, before[kind][name])
            elif kind in freeze:
                assert torch.equal(value, before[kind][name])
        changed = any(not torch.equal(after[kind][n], before[kind][n]) for n in after[kind])
        assert changed
        bodies = [n for n in load_file(out / "trained.safetensors") if f"{kind}.body." in n]
        assert (not bodies) == (kind in freeze)
    stored = load_file(out / "frozen.safetensors")
    assert {name.split(".")[0] for name in stored} == set(
        freeze.split(",") if isinstance(freeze, str) else freeze
    )


def test_a_second_run_takes_features_from_before(make_pairs, frozen, tmp_path, capsys):
    table = make_pairs()
    sogclr.align(table, tmp_path / "one", freeze="image,text", **frozen)
    for file in (table.parent / "img").iterdir():  # nothing to be seen in them any more
        before = file.stat()
        file.write_bytes(bytes(before.st_size))
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    capsys.readouterr()
    sogclr.align(table, tmp_path / "two", freeze="image,text", **frozen)
    said = capsys.readouterr().err
    assert "computing once" not in said
    assert "skipped" not in said
    one, two = (load_file(tmp_path / name / "trained.safetensors") for name in ("one", "two"))
    assert same(one, two)
    sogclr.evaluate(tmp_path / "one", table)
    sogclr.align(table, tmp_path / "two", resume=True)
    assert "computing once" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"accumulate": 2}, {"temperature_mode": "individual"},
        {"temperature_mode": "learned", "method": "clip"},
        {"freeze": "image,text"}, {"freeze": "text"}, {"memory_size": 11},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())) or "plain",
)  # fmt: skip
def test_stopped_and_resumed_is_uninterrupted(pairs, fast, frozen, tmp_path, monkeypatch, changes):
    settings = {**(frozen if "freeze" in changes else fast), **changes, "epochs": 3}
    sogclr.align(pairs, tmp_path / "whole", **settings)
    interrupt_after(monkeypatch, 1, 4)
    first = sogclr.align(pairs, tmp_path / "parts", **settings)
    assert not first.complete
    assert not sogclr.align(pairs, tmp_path / "parts", resume=True).complete
    assert sogclr.align(pairs, tmp_path / "parts", resume=True).complete
    assert same(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts"))
    whole, parts = (
        load_file(tmp_path / name / "trained.safetensors") for name in ("whole", "parts")
    )
    assert same(whole, parts)


@pytest.mark.parametrize("freeze", ["", "image"])
def test_what_dies_before_its_first_checkpoint_keeps_the_weights_it_came_with(
    pairs, frozen, tmp_path, monkeypatch, freeze
):
    settings = {**frozen, "freeze": freeze}
    sogclr.align(pairs, tmp_path / "whole", **settings)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update_weights", lambda self, step: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            sogclr.align(pairs, tmp_path / "parts", **settings)
    assert sogclr.align(pairs, tmp_path / "parts", resume=True).complete
    assert same(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts"))


def test_killed_and_resumed_is_uninterrupted(pairs, tiny, tmp_path):
    """SIGKILL to a real process with a loader worker."""
    settings = {"model": str(tiny), "batch_size": 4, "epochs": 40, "device": "cpu"}
    parts = tmp_path / "parts"
    command = [
        "-m", "sogclr", "align", str(pairs), "--out", str(parts),
        "--model", str(tiny), "--batch-size", "4", "--epochs", "40", "--device", "cpu",
        "--workers", "1", "--checkpoint-seconds", "0.05",
    ]  # fmt: skip
    process = alone(*command)
    while _last_step(parts / "metrics.jsonl") < 30 and process.returncode is None:
        time.sleep(0.005)
    process.kill()
    finished(process, code=-signal.SIGKILL)
    assert 0 < Run(parts).read_checkpoint()["step"] < 240
    assert sogclr.align(pairs, parts, resume=True, workers=0).complete
    sogclr.align(pairs, tmp_path / "whole", **settings)
    assert same(checkpoint(tmp_path / "whole"), checkpoint(parts))


def _last_step(metrics):
    if not metrics.exists():
        return 0
    lines = [line for line in metrics.read_text().split("\n")[:-1] if line]
    return json.loads(lines[-1])["step"] if lines else 0


def _visits(state, side):
    """How often each sample was met, by its id."""
    ids = state["data"][f"_{side}"]["ids"].tolist()
    return dict(zip(ids, state["loss"][f"normalizer_{side}.table"][:, 1].tolist(), strict=False))


def test_a_table_that_grew_keeps_what_is_known_on_both_sides(make_pairs, fast, tmp_path, capsys):
    table, run = make_pairs(), tmp_path / "run"
    sogclr.align(table, run, **fast)
    before = checkpoint(run)
    rows = read_rows(table)
    # One image more, before the others; two captions more; one caption gone.
    make_pairs("more", count=25)
    (tmp_path / "more" / "img" / "24.png").rename(table.parent / "img" / "new.png")
    gone = rows.pop()
    rows = [("img/new.png", "a blue picture 99"), *rows, ("img/00.png", "something else")]
    write_table(table, rows)
    capsys.readouterr()
    assert sogclr.align(table, run, resume=True).complete
    said = capsys.readouterr().err
    assert "24 samples are known and keep their state, 1 are new, 0 are gone" in said
    assert "on the other side 45 samples are known" not in said
    assert "on the other side 44 samples are known and keep their state, 2 are new, 1 are" in said

    after, source = checkpoint(run), open_pairs(table)
    for side in ("a", "b"):
        known, now = _visits(before, side), _visits(after, side)
        assert sum(known.values()) == 48  # two epochs of 24 pairs
        assert now == {id: known.get(id, 0) for id in now}
        log_u = {
            when: dict(
                zip(
                    state["data"][f"_{side}"]["ids"].tolist(),
                    state["loss"][f"normalizer_{side}.table"][:, 0].tolist(),
                    strict=False,
                )
            )
            for when, state in (("before", before), ("after", after))
        }
        for id, value in log_u["after"].items():
            assert value == log_u["before"].get(id, -np.inf)
    assert gone[1] not in source.b.texts


def test_a_table_in_another_order_goes_on_as_it_was(make_pairs, fast, tmp_path):
    """Rows of the tables follow the ids; who is visited, and with which caption, too."""
    table = make_pairs()
    sogclr.align(table, tmp_path / "run", **fast)
    rows = read_rows(table)
    write_table(table, rows[::-1])
    sogclr.align(table, tmp_path / "backwards", **fast)
    one, other = checkpoint(tmp_path / "run"), checkpoint(tmp_path / "backwards")
    for side in ("a", "b"):
        assert _visits(one, side) == _visits(other, side)
    # The order in which a batch is summed is the same, so the weights are as well.
    assert same(one["model"], other["model"])


def test_another_table_is_refused(make_pairs, fast, sentences, tmp_path):
    run = tmp_path / "run"
    table = make_pairs()
    sogclr.align(table, run, **fast)
    rows = [(image, f"other {i}") for i, (image, _) in enumerate(read_rows(table))]
    for other in (write_table(table.parent / "other.csv", rows), sentences):
        with pytest.raises(UserError, match=r"not what .* was trained on"):
            sogclr.align(other, run, resume=True)
    with pytest.raises(UserError, match="holds a run already"):
        sogclr.align(table, run, **fast)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 4}, r"batch-size: .* was started with 8, not 4"),
        ({"method": "clip"}, r"method: .* was started with sogclr, not clip"),
        ({"columns": ["b", "a"]}, r"columns: .* was started with nothing, not b,a"),
        ({"freeze": "text"}, r"freeze: .* was started with nothing, not text"),
    ],
)
def test_resuming_with_other_settings_is_refused(trained, pairs, changes, message):
    with pytest.raises(UserError, match=message):
        sogclr.align(pairs, trained, resume=True, **changes)


def test_a_run_of_pairs_goes_on_to_more_epochs(make_pairs, fast, tmp_path):
    table, run = make_pairs(), tmp_path / "run"
    sogclr.align(table, run, **fast)
    visits = checkpoint(run)["loss"]["normalizer_a.table"][:-1, 1]
    more = fast["epochs"] + 1
    assert sogclr.align(table, run, **{**fast, "epochs": more}, resume=True).complete
    after = checkpoint(run)["loss"]["normalizer_a.table"][:-1, 1]
    assert torch.equal(after * fast["epochs"], visits * more)


def test_runs_of_another_verb_are_not_resumed(trained, pairs, make_folder, tmp_path):
    photos = make_folder()
    with pytest.raises(UserError, match="was not started with sogclr pretrain"):
        sogclr.pretrain(photos, trained, resume=True)
    sogclr.pretrain(
        photos, tmp_path / "images", encoder="small", image_size=8, epochs=1, device="cpu"
    )
    with pytest.raises(UserError, match="was not started with sogclr align"):
        sogclr.align(pairs, tmp_path / "images", resume=True)
    with pytest.raises(UserError, match="does not exist"):
        sogclr.align(pairs, tmp_path / "none", resume=True)


class Own(nn.Module):
    """Somebody's image tower."""

    def __init__(self, width=6):
        super().__init__()
        self.layer = nn.Linear(3 * 8 * 8, width)

    def forward(self, x):
        return self.layer(x.flatten(1))


@pytest.mark.parametrize("freeze", ["", "image"])
def test_the_users_own_module_is_a_tower(pairs, bert, tmp_path, freeze):
    run, own = tmp_path / "run", Own()
    before = own.layer.weight.clone()
    settings = {"text_tower": str(bert), "image_size": 8, "batch_size": 8, "device": "cpu"}
    sogclr.align(
        pairs, run, image_tower=own, freeze=freeze, epochs=2, learning_rate=1e-2, **settings
    )
    encoder = sogclr.load(run, Own())
    assert torch.equal(encoder.towers["image"].body.trunk.layer.weight, before) == bool(freeze)
    assert encoder.encode_image(torch.randn(2, 3, 8, 8)).shape == (2, 256)
    vectors = encoder.encode_image(torch.randn(2, 3, 8, 8))
    assert not torch.allclose(vectors[0], vectors[1])
    with pytest.raises(UserError, match="an image tower of your own, which open_clip cannot"):
        encoder.to_open_clip()

    with pytest.raises(UserError, match="an image tower of your own; pass one of the same"):
        sogclr.load(run)
    with pytest.raises(UserError, match=r"the towers of .* do not fit"):
        sogclr.load(run, Own(7))
    with pytest.raises(UserError, match="the run has one of your own; pass it from Python again"):
        sogclr.align(pairs, run, resume=True)
    assert sogclr.align(pairs, run, image_tower=Own(), resume=True).complete
    with pytest.raises(UserError, match=r"image-tower: must map .* to features"):
        sogclr.align(pairs, tmp_path / "bad", image_tower=nn.Conv2d(3, 4, 3), **settings)
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize("freeze", [None, "image"])
def test_unreadable_images_are_skipped_while_training_goes_on(
    make_pairs, fast, frozen, tmp_path, capsys, freeze
):
    table = make_pairs(size=(60, 60))
    victim = table.parent / "img" / "03.png"
    victim.write_bytes(victim.read_bytes()[:500])
    settings = (
        {**fast, "epochs": 3} if freeze is None else {**frozen, "epochs": 3, "freeze": freeze}
    )
    result = sogclr.align(table, tmp_path / "run", **settings)
    assert result.complete
    assert capsys.readouterr().err.count("skipped img/03.png: could not be read (training") == (
        freeze is not None
    )
    visits = _visits(checkpoint(tmp_path / "run"), "a")
    source = open_pairs(table)
    by_name = {
        n: visits[i] for n, i in zip(source.a.names, source.a.ids.view(np.int64), strict=True)
    }
    assert by_name.pop("img/03.png") == 0
    assert set(by_name.values()) == {3}
    found = sogclr.evaluate(tmp_path / "run", table).retrieval
    assert found.a_to_b.queries == 23


def test_damage_is_refused_where_asked_of_both_tables(make_pairs, pairs, fast, tmp_path):
    table = make_pairs()
    (table.parent / "img" / "05.png").write_bytes(b"not an image")
    message = r"data: damaged: .*train\.csv: .* rows whose image cannot be read \(row .*05\.png"
    for data, val in ((table, None), (pairs, table)):
        with pytest.raises(UserError, match=message):
            sogclr.align(data, tmp_path / "run", val=val, on_damaged="refuse", **fast)
    assert not (tmp_path / "run").exists()


def test_unreadable_images_are_reported_once(make_pairs, fast, tmp_path, capsys):
    table = make_pairs(size=(60, 60))
    victim = table.parent / "img" / "03.png"
    victim.write_bytes(victim.read_bytes()[:500])
    sogclr.align(table, tmp_path / "run", val=table, **{**fast, "epochs": 5})
    said = [line for line in capsys.readouterr().err.splitlines() if "skipped img/03.png" in line]
    assert sum("training goes on, 1 so far" in line for line in said) == 1
    assert len(said) == 2  # once of the training data, once of what is held back


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_accumulated_batches_make_one_step(pairs, fast, tmp_path, accumulate):
    settings = {**fast, "accumulate": accumulate, "epochs": 2}
    sogclr.align(pairs, tmp_path / "run", **settings)
    state = checkpoint(tmp_path / "run")
    assert state["step"] == 2 * -(-3 // accumulate)
    assert set(_visits(state, "a").values()) == {2}
    assert sum(_visits(state, "b").values()) == 48


def test_what_is_loaded_is_what_was_scored_last(trained, joined, on_texts, pairs, sentences):
    """So the files hold the weights at the end, and evaluation feeds towers as training does."""
    for run, table in ((trained, pairs), (joined, pairs), (on_texts, sentences)):
        found = sogclr.evaluate(run, table, protocol="retrieval").retrieval
        mean = (found.a_to_b.recall[1] + found.b_to_a.recall[1]) / 2
        assert mean == pytest.approx(_metrics(run)[-1]["R@1"], abs=1e-9)
        assert found.a_to_b.queries == 24


def test_what_is_held_back_is_scored_with_towers_of_either_kind(make_pairs, fast, frozen, tmp_path):
    table = make_pairs()
    held = write_table(table.parent / "held.csv", read_rows(table)[:9])
    for name, settings in (("whole", fast), ("frozen", {**frozen, "freeze": "image,text"})):
        result = sogclr.align(table, tmp_path / name, val=held, **settings)
        found = sogclr.evaluate(tmp_path / name, held).retrieval
        mean = (found.a_to_b.recall[1] + found.b_to_a.recall[1]) / 2
        assert result.metrics["R@1"] == pytest.approx(mean, abs=1e-9)
        assert found.b_to_a.queries == 9


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        ({}, 0.05), ({"temperature": 0.3}, 0.3), ({"temperature_mode": "learned"}, 0.05),
        ({"temperature_mode": "individual"}, 0.05), ({"method": "siglip"}, 0.1),
    ],
)  # fmt: skip
def test_the_temperature_at_the_end_is_kept_with_the_towers(pairs, fast, tmp_path, changes, start):
    sogclr.align(pairs, tmp_path / "run", learning_rate=1e-2, **fast, **changes)
    encoder = sogclr.load(tmp_path / "run")
    learned = "temperature_mode" in changes or changes.get("method") == "siglip"
    loss = checkpoint(tmp_path / "run")["loss"]
    tau = float(np.exp(encoder.log_temperature))
    assert (tau == pytest.approx(start, rel=1e-6)) == (not learned)
    if changes.get("temperature_mode") == "individual":
        assert tau == pytest.approx(loss["temperature_a.tau"][:24].mean().item(), rel=1e-5)
    if changes.get("temperature_mode") == "learned":
        key = "temperature_a.log_temperature"
        assert encoder.log_temperature == pytest.approx(loss[key].item(), rel=1e-5)
    if "method" in changes:
        assert encoder.log_temperature == pytest.approx(-loss["log_scale"].item(), rel=1e-5)
        assert encoder.bias == pytest.approx(loss["bias"].item())
    else:
        assert encoder.bias is None


def test_small_towers_are_trained_where_none_are_named(pairs, tmp_path):
    result = sogclr.align(
        {name: [row[i] for row in read_rows(pairs)] for i, name in ((1, "caption"),)}
        | {"image": [str(pairs.parent / row[0]) for row in read_rows(pairs)]},
        tmp_path / "run", epochs=1, batch_size=12, device="cpu",
    )  # fmt: skip
    assert result.complete
    encoder = sogclr.load(tmp_path / "run")
    assert encoder.spec.image_size == 20
    assert encoder.encode_text(["a red picture"]).shape == (1, 128)


def test_a_run_without_weights_says_so(pairs, tmp_path):
    Run(tmp_path).write_settings({"kind": "pairs"})
    with pytest.raises(UserError, match="has saved no towers yet"):
        sogclr.load(tmp_path)


def test_damaged_towers_say_so(pairs, fast, tmp_path):
    sogclr.align(pairs, tmp_path / "run", **{**fast, "epochs": 1})
    weights = tmp_path / "run" / "trained.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"trained.safetensors is not the file that was written"):
        sogclr.load(tmp_path / "run")


def test_recent_pairs_are_derived_where_towers_are_frozen(pairs, fast, frozen, tmp_path, capsys):
    heads = {**frozen, "freeze": "image,text"}
    runs = {"heads": heads, "towers": fast, "none": {**heads, "memory_size": 0}}
    found = {}
    for name, settings in runs.items():
        sogclr.align(pairs, tmp_path / name, **{**settings, "epochs": 1, "batch_size": 8})
        state = torch.load(tmp_path / name / "checkpoint.pt")["loss"]
        found[name] = len(state["memory.filled"]) if "memory.filled" in state else 0
    assert found == {"heads": 16, "towers": 0, "none": 0}  # of 24 pairs
    assert "256 pairs with the batch" in capsys.readouterr().err
