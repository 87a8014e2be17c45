"""A recorded and replayed step equals the step; on a CPU, a recorder imitates CUDA graphs."""

import pytest
import torch
from helpers.bits import checkpoint, same
from helpers.packing import encoded, pack
from torch import nn

import sogclr
from sogclr.training import cuda_graphs, loop, task_images
from sogclr.training.cuda_graphs import MOST_GRAPHS, WARM_UP_CALLS, GraphedFunction

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Imitation:
    """Imitates graphs: each replay reads the recorded inputs and overwrites the same results."""

    def __init__(self):
        self.recorded = self.replayed = 0

    def pin(self, inputs):
        return inputs

    def call(self, work, inputs):
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
    monkeypatch.setattr(cuda_graphs, "Recorder", recorder)
    return GraphedFunction(work, torch.device("cpu"))


def imitate_graphs(monkeypatch, make_recorder):
    """Run steps as graphs on the CPU, with the views that graphs can hold."""
    monkeypatch.setattr(loop, "can_use_graphs", lambda fabric: True)
    monkeypatch.setattr(task_images, "uses_static_views", lambda device: True)
    monkeypatch.setattr(cuda_graphs, "Recorder", make_recorder)


def test_a_replay_computes_with_new_inputs(monkeypatch):
    work = make(lambda x, y: (x + y, x * y), monkeypatch)
    found = []
    for step in range(WARM_UP_CALLS + 4):
        x, y = torch.full((3,), float(step)), torch.arange(3.0)
        found.append((work(x, y), (x + y, x * y)))
    # Compared at the end: no later call may overwrite what an earlier one returned.
    for results, expected in found:
        assert same(list(results), list(expected))
    assert work._recorder.recorded == 1
    assert work._recorder.replayed == 4


def test_each_shape_has_a_recording_and_rare_ones_none(monkeypatch):
    work = make(lambda x: (2 * x,), monkeypatch)
    for _ in range(WARM_UP_CALLS + 2):
        for size in range(1, MOST_GRAPHS + 3):
            assert same(list(work(torch.ones(size))), [torch.full((size,), 2.0)])
    assert work._recorder.recorded == MOST_GRAPHS


def test_a_function_that_cannot_be_recorded_is_called_as_it_is(monkeypatch, capsys):
    class Refuses(Imitation):
        def record(self, work, inputs):
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    work = make(lambda x: (x + 1,), monkeypatch, Refuses)
    for _ in range(WARM_UP_CALLS + 3):
        assert same(list(work(torch.ones(2))), [torch.full((2,), 2.0)])
    message = capsys.readouterr().err
    assert message.count("do not run as CUDA graphs") == 1
    assert "not permitted" in message
    assert "more" not in message


# The first three batches of a size run eagerly; the fourth one is recorded.
@pytest.mark.parametrize("changes", [{}, {"accumulate": 2}, {"method": "moco"}, {"memory_size": 7}])
def test_a_run_with_graphs_is_the_run(make_folder, tmp_path, monkeypatch, changes):
    assert_graphs_change_nothing(make_folder(per_class=11), tmp_path, monkeypatch, changes)


@pytest.mark.parametrize("changes", [{"table_rows": 9}, {"method": "dcl"}], ids=["sogclr", "dcl"])
def test_a_run_of_a_stream_with_graphs_is_the_run(tmp_path, monkeypatch, changes):
    shard = pack(tmp_path / "a.tar", [(f"{i}.png", encoded(i)) for i in range(22)])
    changes = {"epoch_samples": 22, **changes}
    assert_graphs_change_nothing(shard.as_uri(), tmp_path, monkeypatch, changes)


def assert_graphs_change_nothing(data, tmp_path, monkeypatch, changes):
    settings = {"encoder": "small", "image_size": 8, "batch_size": 4, "epochs": 3, **changes}
    settings |= {"device": "cpu", "precision": "32-true"}
    sogclr.pretrain(data, tmp_path / "plain", **settings)
    recorder = Imitation()
    imitate_graphs(monkeypatch, lambda: recorder)
    sogclr.pretrain(data, tmp_path / "graphs", **settings)
    assert recorder.replayed > 5
    plain, replayed = checkpoint(tmp_path / "plain"), checkpoint(tmp_path / "graphs")
    assert plain["monitor"]["rows"][-1].keys() == replayed["monitor"]["rows"][-1].keys()
    # Static views differ from others by rounding.
    for name in ("model", "loss"):
        torch.testing.assert_close(replayed[name], plain[name], rtol=1e-3, atol=1e-3)


def test_a_users_own_module_runs_without_graphs(make_folder, tmp_path, monkeypatch):
    imitate_graphs(monkeypatch, lambda: pytest.fail("a graph"))
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    sogclr.pretrain(make_folder(), tmp_path / "run", encoder=module, epochs=1, device="cpu")


@GPU
@pytest.mark.parametrize("changes", [{}, {"accumulate": 2}, {"method": "moco"}, {"memory_size": 7}])
def test_a_graph_is_the_run(make_folder, tmp_path, monkeypatch, changes):
    folder = make_folder(per_class=11)
    settings = {"encoder": "small", "image_size": 8, "batch_size": 4, "epochs": 3, **changes}
    settings |= {"device": "cuda", "precision": "32-true"}
    sogclr.pretrain(folder, tmp_path / "graphs", **settings)
    monkeypatch.setattr(loop, "can_use_graphs", lambda fabric: False)
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

    for name in ("add_gradient", "update_weights"):
        monkeypatch.setattr(loop.Trainer, name, strictly(getattr(loop.Trainer, name)))
    settings = {"encoder": "small", "image_size": 8, "batch_size": 4, "epochs": 3}
    sogclr.pretrain(make_folder(per_class=11), tmp_path / "run", device="cuda", **settings)
    assert max(taken) > 10
