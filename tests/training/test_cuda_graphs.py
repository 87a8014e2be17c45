"""Work that is recorded once and replayed is the work; on a CPU with a recorder that imitates."""

import pytest
import torch
from helpers.bits import checkpoint, same
from helpers.packing import encoded, pack
from torch import nn

import sogclr
from sogclr.training import cuda_graphs as captured
from sogclr.training import loop as training
from sogclr.training.cuda_graphs import GRAPHS, WARM, CapturedWork

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Imitation:
    """As a graph: results of every replay stand in the same memory, inputs are read there."""

    def __init__(self):
        self.recorded = self.replayed = 0

    def pinned(self, inputs):
        return inputs

    def aside(self, work, inputs):
        return work(*inputs)

    def record(self, work, inputs):
        self.recorded += 1
        outputs = []

        def replay():
            self.replayed += 1
            new = [each.detach() for each in work(*inputs)]
            outputs.extend(torch.empty_like(each) for each in new[len(outputs) :])
            for kept, each in zip(outputs, new, strict=True):
                kept.copy_(each)
            return tuple(outputs)

        return replay


def make(work, monkeypatch, recorder=Imitation):
    monkeypatch.setattr(captured, "Recorder", recorder)
    return CapturedWork(work, torch.device("cpu"))


def test_replayed_work_is_the_work_on_new_inputs(monkeypatch):
    work = make(lambda x, y: (x + y, x * y), monkeypatch)
    found = []
    for step in range(WARM + 4):
        x, y = torch.full((3,), float(step)), torch.arange(3.0)
        found.append((work(x, y), (x + y, x * y)))
    # Compared at the end: no later call may overwrite what an earlier one returned.
    for results, expected in found:
        assert same(list(results), list(expected))
    assert work._recorder.recorded == 1
    assert work._recorder.replayed == 4


def test_each_shape_has_a_recording_and_rare_ones_none(monkeypatch):
    work = make(lambda x: (2 * x,), monkeypatch)
    for _ in range(WARM + 2):
        for size in range(1, GRAPHS + 3):
            assert same(list(work(torch.ones(size))), [torch.full((size,), 2.0)])
    assert work._recorder.recorded == GRAPHS


def test_work_that_cannot_be_recorded_is_done_as_it_stands(monkeypatch, capsys):
    class Refuses(Imitation):
        def record(self, work, inputs):
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    work = make(lambda x: (x + 1,), monkeypatch, Refuses)
    for _ in range(WARM + 3):
        assert same(list(work(torch.ones(2))), [torch.full((2,), 2.0)])
    told = capsys.readouterr().err
    assert told.count("not captured") == 1
    assert "not permitted" in told
    assert "more" not in told


# The first steps are as ever; recording begins with the fourth batch of a size.
@pytest.mark.parametrize("changes", [{}, {"accumulate": 2}, {"method": "moco"}, {"memory_size": 7}])
def test_a_captured_run_is_the_run(make_folder, tmp_path, monkeypatch, changes):
    assert_captured_is_plain(make_folder(per_class=11), tmp_path, monkeypatch, changes)


@pytest.mark.parametrize("changes", [{"table_rows": 9}, {"method": "dcl"}], ids=["sogclr", "dcl"])
def test_a_captured_run_of_a_stream_is_the_run(tmp_path, monkeypatch, changes):
    shard = pack(tmp_path / "a.tar", [(f"{i}.png", encoded(i)) for i in range(22)])
    changes = {"epoch_samples": 22, **changes}
    assert_captured_is_plain(shard.as_uri(), tmp_path, monkeypatch, changes)


def assert_captured_is_plain(data, tmp_path, monkeypatch, changes):
    settings = {"encoder": "small", "image_size": 8, "batch_size": 4, "epochs": 3, **changes}
    settings |= {"device": "cpu", "precision": "32-true"}
    sogclr.pretrain(data, tmp_path / "plain", **settings)
    monkeypatch.setattr(training, "can_capture", lambda fabric: True)
    recorder = Imitation()
    monkeypatch.setattr(captured, "Recorder", lambda: recorder)
    sogclr.pretrain(data, tmp_path / "captured", **settings)
    assert recorder.replayed > 5
    plain, replayed = checkpoint(tmp_path / "plain"), checkpoint(tmp_path / "captured")
    assert plain["monitor"]["rows"][-1].keys() == replayed["monitor"]["rows"][-1].keys()
    # Views differ by rounding.
    for name in ("model", "loss"):
        torch.testing.assert_close(replayed[name], plain[name], rtol=1e-3, atol=1e-3)


def test_a_users_own_module_is_not_captured(make_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "can_capture", lambda fabric: True)
    monkeypatch.setattr(captured, "Recorder", lambda: pytest.fail("captured"))
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    sogclr.pretrain(make_folder(), tmp_path / "run", encoder=module, epochs=1, device="cpu")


@GPU
@pytest.mark.parametrize("changes", [{}, {"accumulate": 2}, {"method": "moco"}, {"memory_size": 7}])
def test_a_graph_is_the_run(make_folder, tmp_path, monkeypatch, changes):
    folder = make_folder(per_class=11)
    settings = {"encoder": "small", "image_size": 8, "batch_size": 4, "epochs": 3, **changes}
    settings |= {"device": "cuda", "precision": "32-true"}
    sogclr.pretrain(folder, tmp_path / "graphs", **settings)
    monkeypatch.setattr(training, "can_capture", lambda fabric: False)
    sogclr.pretrain(folder, tmp_path / "plain", **settings)
    graphs, plain = checkpoint(tmp_path / "graphs"), checkpoint(tmp_path / "plain")
    for name in ("model", "loss"):
        torch.testing.assert_close(graphs[name], plain[name], rtol=2e-2, atol=2e-3)


@GPU
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_a_step_waits_for_nothing(make_folder, tmp_path, monkeypatch):
    taken = []

    def strictly(step):
        def run(self, *args):
            torch.cuda.set_sync_debug_mode("error" if self.step > 8 else "default")
            try:
                taken.append(self.step)
                return step(self, *args)
            finally:
                torch.cuda.set_sync_debug_mode("default")

        return run

    for name in ("_accumulate", "_step"):
        monkeypatch.setattr(training.Trainer, name, strictly(getattr(training.Trainer, name)))
    settings = {"encoder": "small", "image_size": 8, "batch_size": 4, "epochs": 3}
    sogclr.pretrain(make_folder(per_class=11), tmp_path / "run", device="cuda", **settings)
    assert max(taken) > 10
