"""The loop: what it learns, and that an interruption leaves no trace."""

import json
import random
import signal
import time

import numpy as np
import pytest
import torch
from helpers.bits import checkpoint, same
from helpers.interrupting import interrupt_after
from helpers.launching import alone, finished
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import nn

import sogclr
from sogclr import MoCoLoss, UserError
from sogclr.data.images.arrays import ArraySource
from sogclr.data.open_images import open_images
from sogclr.runs.folder import Run
from sogclr.training.loop import Trainer

SHORT = {"encoder": "small", "image_size": 8, "batch_size": 8, "device": "cpu"}


TEMPERATURES = {
    "learned": {"temperature_mode": "learned"},
    "learned-rho": {"temperature_mode": "learned", "rho": 1.0},
    "individual": {"temperature_mode": "individual"},
    "simclr-learned": {"method": "simclr", "temperature_mode": "learned"},
    "moco-learned": {"method": "moco", "temperature_mode": "learned"},
}


@pytest.mark.parametrize("settings", TEMPERATURES.values(), ids=TEMPERATURES)
def test_a_temperature_that_is_not_constant_is_trained(
    make_folder, tmp_path, monkeypatch, settings
):
    photos, run = make_folder(), tmp_path / "run"
    sogclr.pretrain(photos, run, epochs=3, **settings, **SHORT)
    if settings["temperature_mode"] == "individual":
        tau = checkpoint(run)["loss"]["temperature.tau"][:-1]
        assert len(set(tau.tolist())) > 1
    else:
        tau = checkpoint(run)["loss"]["temperature.log_temperature"].exp()
    assert ((tau / 0.2 - 1).abs() > 1e-5).all()
    assert tau.isfinite().all()
    interrupt_after(monkeypatch, 2)
    sogclr.pretrain(photos, tmp_path / "parts", epochs=3, **settings, **SHORT)
    assert sogclr.pretrain(photos, tmp_path / "parts", resume=True).complete
    assert same(checkpoint(run)["loss"], checkpoint(tmp_path / "parts")["loss"])


@pytest.mark.parametrize("method", ["sogclr", "moco"])
def test_activations_that_are_computed_twice_change_no_bit(make_folder, tmp_path, method):
    photos = make_folder()
    for name, saving in (("kept", False), ("computed", True)):
        settings = {"method": method, "epochs": 2, "checkpoint_activations": saving}
        sogclr.pretrain(photos, tmp_path / name, **settings, **SHORT)
    assert same(checkpoint(tmp_path / "kept")["model"], checkpoint(tmp_path / "computed")["model"])


@pytest.mark.parametrize("method", ["sogclr", "simclr", "dcl", "moco"])
def test_training_lowers_the_objective(tmp_path, method):
    digits = load_digits()
    data = ((digits.images[:256] / 16).astype(np.float32), digits.target[:256])
    views = sogclr.Augmentation(crop_min=0.5, flip=0.0)
    result = sogclr.pretrain(data, tmp_path / "run", method=method, epochs=6, views=views, **SHORT)
    rows = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert result.complete
    assert result.metrics["step"] == rows[-1]["step"] == 192
    assert rows[-1]["objective"] < rows[0]["objective"]
    assert 0 <= rows[-1]["knn"] <= 1


def test_a_run_leaves_what_it_says(make_folder, tmp_path):
    sogclr.pretrain(make_folder(), tmp_path / "run", epochs=1, **SHORT)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "settings.json", "checkpoint.pt", "encoder.safetensors", "initial.safetensors",
        "encoder.json", "metrics.jsonl", "tb", "views.png", "digests.json",
    }  # fmt: skip
    assert any((tmp_path / "run" / "tb").iterdir())


def test_the_same_seed_gives_the_same_weights_and_another_does_not(make_folder, tmp_path):
    photos = make_folder()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        sogclr.pretrain(photos, tmp_path / name, epochs=2, seed=seed, **SHORT)
    a, b, c = (load_file(tmp_path / name / "encoder.safetensors") for name in "abc")
    assert same(a, b)
    assert not same(a, c)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("changes", [{}, {"memory_size": 11}, {"method": "moco"}])
def test_stopped_and_resumed_is_uninterrupted(
    make_folder, tmp_path, monkeypatch, changes, accumulate
):
    photos = make_folder(per_class=20)
    settings = dict(epochs=3, accumulate=accumulate, **changes, **SHORT)
    sogclr.pretrain(photos, tmp_path / "whole", **settings)

    interrupt_after(monkeypatch, 2, 4)
    first = sogclr.pretrain(photos, tmp_path / "parts", **settings)
    assert not first.complete
    assert not sogclr.pretrain(photos, tmp_path / "parts", resume=True).complete
    assert sogclr.pretrain(photos, tmp_path / "parts", resume=True).complete
    assert same(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts"))


@pytest.mark.parametrize("method", ["sogclr", pytest.param("moco", marks=pytest.mark.slow)])
def test_killed_at_random_steps_and_resumed_is_uninterrupted(make_folder, tmp_path, method):
    """SIGKILL to real processes, three times, with a loader worker."""
    photos = make_folder(per_class=40)
    command = [
        "-m", "sogclr", "pretrain", str(photos), "--epochs", "12",
        "--encoder", "small", "--image-size", "16", "--batch-size", "8", "--workers", "1",
        "--checkpoint-seconds", "0.2", "--device", "cpu", "--method", method,
    ]  # fmt: skip
    finished(alone(*command, "--out", tmp_path / "whole"))

    parts = tmp_path / "parts"
    metrics = parts / "metrics.jsonl"
    for victim, step in enumerate(sorted(random.Random(0).sample(range(15, 110), 3))):
        resume = ["--resume"] if victim else []
        process = alone(*command, "--out", parts, *resume)
        while _last_step(metrics) < step and process.returncode is None:
            time.sleep(0.005)
        process.kill()
        finished(process, code=-signal.SIGKILL)
    finished(alone(*command, "--out", parts, "--resume"))
    assert same(checkpoint(tmp_path / "whole"), checkpoint(parts))


def _last_step(metrics):
    if not metrics.exists():
        return 0
    lines = [line for line in metrics.read_text().split("\n")[:-1] if line]
    return json.loads(lines[-1])["step"] if lines else 0


def test_a_folder_that_grew_keeps_what_is_known(make_folder, tmp_path, capsys):
    photos = make_folder()
    run = tmp_path / "run"
    sogclr.pretrain(photos, run, epochs=2, **SHORT)
    before = Run(run).read_checkpoint()
    visits = dict(
        zip(
            before["data"][""]["ids"].tolist(),
            before["loss"]["normalizer.table"][:, 1],
            strict=False,
        )
    )
    Image.new("RGB", (12, 10), (9, 90, 9)).save(photos / "blue" / "0000.png")
    sogclr.pretrain(photos, run, resume=True)
    assert "16 samples are known and keep their state, 1 are new" in capsys.readouterr().err
    after = Run(run).read_checkpoint()
    for id, count in zip(
        after["data"][""]["ids"].tolist(), after["loss"]["normalizer.table"][:, 1], strict=False
    ):
        assert count == visits.get(id, 0)


def test_rows_of_earlier_batches_are_forgotten_where_samples_moved(make_folder, tmp_path):
    photos, run = make_folder(), tmp_path / "run"
    sogclr.pretrain(photos, run, memory_size=7, epochs=2, **SHORT)
    assert Run(run).read_checkpoint()["loss"]["memory.filled"].all()
    sogclr.pretrain(photos, run, resume=True)
    assert Run(run).read_checkpoint()["loss"]["memory.filled"].all()
    Image.new("RGB", (12, 10), (9, 90, 9)).save(photos / "blue" / "0000.png")  # moves all behind
    sogclr.pretrain(photos, run, resume=True)
    assert not Run(run).read_checkpoint()["loss"]["memory.filled"].any()


def test_keys_in_the_queue_follow_their_samples_in_a_folder_that_changed(make_folder, tmp_path):
    photos, run = make_folder(), tmp_path / "run"
    sogclr.pretrain(photos, run, method="moco", queue_size=23, epochs=2, **SHORT)
    before = Run(run).read_checkpoint()
    Image.new("RGB", (12, 10), (9, 90, 9)).save(photos / "blue" / "0000.png")  # moves all behind
    (photos / "red" / "003.png").unlink()
    sogclr.pretrain(photos, run, resume=True)
    after = Run(run).read_checkpoint()
    assert after["step"] == before["step"]  # at the end before: nothing but the rows has changed
    queues = [
        {k: state["loss"][f"queue.{k}"] for k in ("keys", "ids")} for state in (before, after)
    ]
    assert torch.equal(queues[0]["keys"], queues[1]["keys"])
    # By stable ids; -1 is nobody's.
    then, now = ([*state["data"][""]["ids"].tolist(), -1] for state in (before, after))
    gone = set(then) - set(now)
    assert len(gone) == 1
    whose = [then[row] for row in queues[0]["ids"].tolist()]
    assert gone & set(whose)
    assert [now[row] for row in queues[1]["ids"].tolist()] == [
        -1 if i in gone else i for i in whose
    ]


def test_the_first_keys_are_what_the_primed_encoder_makes_of_each_view(
    make_folder, tmp_path, monkeypatch
):
    calls, original = [], MoCoLoss.forward

    def record(self, *sides):
        calls.append([side.detach() for side in sides])
        return original(self, *sides)

    monkeypatch.setattr(MoCoLoss, "forward", record)
    sogclr.pretrain(make_folder(), tmp_path / "run", method="moco", epochs=1, **SHORT)
    query1, query2, key1, key2, index = calls[0]
    assert len(index) == 8
    for query, own, other in ((query1, key1, key2), (query2, key2, key1)):
        assert torch.cosine_similarity(query, own).min() > 0.99
        assert torch.cosine_similarity(query, other).min() < 0.99


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_key_encoder_moves_once_an_optimizer_step(
    make_folder, tmp_path, monkeypatch, accumulate
):
    moved, original = [], Trainer.update_weights

    def step_and_average(self, step):
        if not moved:
            moved.append({k: v.clone() for k, v in self.task.model.key.module.state_dict().items()})
        original(self, step)
        new = self.task.model.query.state_dict()
        moved.append(
            {k: 0.7 * v + 0.3 * new[k] if v.is_floating_point() else new[k].clone()
             for k, v in moved[-1].items()}
        )  # fmt: skip

    monkeypatch.setattr(Trainer, "update_weights", step_and_average)
    sogclr.pretrain(
        make_folder(), tmp_path / "run", method="moco", momentum=0.7, epochs=3, norm="batch",
        accumulate=accumulate, **(SHORT | {"batch_size": 4}),
    )  # fmt: skip
    model = Run(tmp_path / "run").read_checkpoint()["model"]
    key = {k.removeprefix("key.module."): v for k, v in model.items() if k.startswith("key.")}
    query = {k.removeprefix("query."): v for k, v in model.items() if k.startswith("query.")}
    assert len(moved) - 1 == 12 // accumulate
    assert query["projector.1.num_batches_tracked"] == 12 + 1  # and the one that primed them
    torch.testing.assert_close(key, moved[-1])
    assert not same(key, query)
    # What is kept for use is what was trained.
    kept = load_file(tmp_path / "run" / "encoder.safetensors")
    assert same(kept, {k: query[f"encoder.{k}"] for k in kept})


def test_a_folder_that_grew_keeps_what_was_derived(make_folder, tmp_path):
    """More images would mean larger batches, and larger ones another image size."""
    photos, run = make_folder(per_class=20), tmp_path / "run"
    sogclr.pretrain(photos, run, epochs=1, encoder="small", device="cpu")
    before = json.loads((run / "settings.json").read_text())["resolved"]
    weights = load_file(run / "encoder.safetensors")
    for i in range(50):
        Image.new("RGB", (30, 40), (i, 90, 9)).save(photos / "blue" / f"new{i}.png")
    with pytest.raises(UserError, match="not what"):
        sogclr.pretrain(photos / "red", run, resume=True)
    assert sogclr.pretrain(photos, run, resume=True, device="cpu").complete
    assert json.loads((run / "encoder.json").read_text())["image_size"] == before["image_size"]
    assert load_file(run / "encoder.safetensors").keys() == weights.keys()


def test_another_data_set_is_refused(make_folder, tmp_path):
    sogclr.pretrain(make_folder(), tmp_path / "run", epochs=1, **SHORT)
    other = make_folder("other", classes=("cat", "dog"))
    with pytest.raises(UserError, match=r"not what .* was trained on"):
        sogclr.pretrain(other, tmp_path / "run", resume=True)


def test_resuming_with_other_settings_is_refused(make_folder, tmp_path):
    photos = make_folder()
    sogclr.pretrain(photos, tmp_path / "run", epochs=1, **SHORT)
    with pytest.raises(UserError, match=r"batch-size: .* was started with 8, not 16"):
        sogclr.pretrain(photos, tmp_path / "run", batch_size=16, resume=True)


def test_a_finished_run_goes_on_to_more_epochs(make_folder, tmp_path, monkeypatch, capsys):
    """Learning rates are those of a run that had so many epochs from the start."""
    photos = make_folder(per_class=20)
    long, run, parts = (tmp_path / name for name in ("long", "run", "parts"))
    sogclr.pretrain(photos, long, epochs=5, **SHORT)
    for each in (run, parts):
        sogclr.pretrain(photos, each, epochs=2, **SHORT)
    before = checkpoint(run)["step"]
    capsys.readouterr()
    assert sogclr.pretrain(photos, run, epochs=5, resume=True).complete
    assert "5 epochs instead of 2: the learning rate goes on at" in capsys.readouterr().err
    rates = [
        {row["step"]: row["learning_rate"] for row in checkpoint(each)["monitor"]["rows"]}
        for each in (run, long)
    ]
    assert rates[0].keys() == rates[1].keys()
    assert all(rate == rates[1][step] for step, rate in rates[0].items() if step > before)
    assert checkpoint(run)["loss"]["normalizer.table"][:-1, 1].tolist() == [5] * 40

    interrupt_after(monkeypatch, before + 3)
    assert not sogclr.pretrain(photos, parts, epochs=5, resume=True).complete
    assert sogclr.pretrain(photos, parts, resume=True).complete  # it remembers its epochs
    assert same(checkpoint(run), checkpoint(parts))
    with pytest.raises(UserError, match=r"epochs: .* was started with 5, not 3"):
        sogclr.pretrain(photos, run, epochs=3, resume=True)


def test_a_run_goes_on_to_more_epochs_with_more_images(make_folder, tmp_path):
    photos, run = make_folder(per_class=8), tmp_path / "run"
    sogclr.pretrain(photos, run, epochs=2, **SHORT)
    make_folder(per_class=16)
    sogclr.pretrain(photos, run, epochs=3, resume=True)
    visits = checkpoint(run)["loss"]["normalizer.table"][:-1, 1].tolist()
    assert sorted(visits) == [1] * 16 + [3] * 16  # new images are seen in the third epoch alone


def test_a_run_is_not_overwritten(make_folder, tmp_path):
    sogclr.pretrain(make_folder(), tmp_path / "run", epochs=1, **SHORT)
    with pytest.raises(UserError, match="holds a run already"):
        sogclr.pretrain(make_folder(), tmp_path / "run", epochs=1, **SHORT)


class Explodes(nn.Module):
    """An encoder that gives NaN for black images."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.LazyLinear(16))

    def forward(self, x):
        dark = x.std(dim=(2, 3)).amax(dim=1, keepdim=True) < 1e-3
        return torch.where(dark, torch.nan, self.body(x))


def test_nan_names_the_step_and_the_sample(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), dtype=np.uint8)
    encoder = Explodes()
    encoder.body(torch.zeros(2, 3, 8, 8))
    settings = {"encoder": encoder, "epochs": 2, "batch_size": 8, "device": "cpu"}
    sogclr.pretrain(images, tmp_path / "good", **settings)
    images[5] = 0
    with pytest.raises(UserError, match=r"step \d: features of sample 5 \(5\) are not finite"):
        sogclr.pretrain(images, tmp_path / "bad", **settings)


def test_a_good_checkpoint_survives_nan(make_folder, tmp_path, monkeypatch):
    photos, run = make_folder(), tmp_path / "run"
    original = Trainer.update_weights

    def poison(self, step):
        original(self, step)
        if step == 2:
            with torch.no_grad():
                self.task.model.projector[0].weight.fill_(torch.nan)

    monkeypatch.setattr(Trainer, "update_weights", poison)
    with pytest.raises(UserError, match=r"step 4: .* not finite"):
        sogclr.pretrain(photos, run, epochs=3, checkpoint_seconds=0, **SHORT)
    state = Run(run).read_checkpoint()
    assert state["step"] < 4
    encoder = load_file(run / "encoder.safetensors")
    assert all(value.isfinite().all() for value in encoder.values())


def test_truncated_files_are_skipped_while_training_goes_on(tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (10, 40, 40, 3), dtype=np.uint8)
    (tmp_path / "photos").mkdir()
    for i in range(10):
        Image.fromarray(pixels[i]).save(tmp_path / "photos" / f"{i}.jpg")
    victim = tmp_path / "photos" / "3.jpg"
    victim.write_bytes(victim.read_bytes()[:900])
    result = sogclr.pretrain(tmp_path / "photos", tmp_path / "run", epochs=3, **SHORT)
    assert result.complete
    assert capsys.readouterr().err.count("skipped 3.jpg") == 1
    visits = Run(tmp_path / "run").read_checkpoint()["loss"]["normalizer.table"][:, 1]
    assert visits[:10].tolist() == [3, 3, 3, 0, 3, 3, 3, 3, 3, 3]


def test_accumulated_gradients_are_those_of_the_step(make_folder, tmp_path):
    """Without batch norm and with a loss that is linear in batches, k micro-batches of a step
    give the mean of their gradients, weighted by size."""
    source = open_images(make_folder(per_class=11))
    plan_sizes = []

    class Recorder(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3 * 8 * 8, 4)

        def forward(self, x):
            plan_sizes.append(len(x) // 2)
            return self.linear(x.flatten(1))

    sogclr.pretrain(
        source, tmp_path / "run", encoder=Recorder(), image_size=8, batch_size=4,
        accumulate=3, epochs=1, device="cpu",
    )  # fmt: skip
    state = Run(tmp_path / "run").read_checkpoint()
    assert state["step"] == 2
    assert state["loss"]["normalizer.table"][:, 1][:22].tolist() == [1] * 22


def test_the_users_own_module_is_trained_and_loaded(make_folder, tmp_path):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3 * 8 * 8, 6)

        def forward(self, x):
            return self.layer(x.flatten(1))

    sogclr.pretrain(
        make_folder(), tmp_path / "run", encoder=Own(), image_size=8, batch_size=8, epochs=1,
        device="cpu",
    )  # fmt: skip
    model = sogclr.load(tmp_path / "run", Own())
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 6)
    with pytest.raises(UserError, match="pass one of the same architecture"):
        sogclr.load(tmp_path / "run")


@pytest.mark.parametrize("method", ["sogclr", "moco"])
def test_two_images_are_enough_and_one_is_not(tmp_path, method):
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    settings = {"method": method, "encoder": "small", "epochs": 2}
    assert sogclr.pretrain(images, tmp_path / "two", **settings).complete
    with pytest.raises(UserError, match="one image"):
        sogclr.pretrain(ArraySource(images[:1]), tmp_path / "one", **settings)
