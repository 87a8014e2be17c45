"""Encoders of the user's own that torch wraps, or that share weights: trained, saved and loaded."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import sogclr
from sogclr.models.wrapped import unwrap

# torch.compile looks at .grad of inputs that are no leaves.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
SIZE, WIDTH = 8, 6


class Net(nn.Module):
    """Its name of a part, `module`, is also that of DataParallel."""

    def __init__(self, tied=False):
        super().__init__()
        self.module = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, WIDTH))
        self.one, self.two = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        if tied:
            self.two.weight = self.one.weight

    def forward(self, x):
        return self.two(self.one(self.module(x)).tanh())


def compiled_part():
    net = Net()
    net.one = torch.compile(net.one, backend="eager")
    return net


WRAPPED = {
    "plain": Net,
    "tied": lambda: Net(tied=True),
    "compiled": lambda: torch.compile(Net(), backend="eager"),
    "a compiled part": compiled_part,
    "data parallel": lambda: nn.DataParallel(Net()),
    "compiled data parallel": lambda: torch.compile(nn.DataParallel(Net()), backend="eager"),
    "compiled, tied": lambda: torch.compile(Net(tied=True), backend="eager"),
}
NAMES = set(Net().state_dict())
FAST = {"image_size": SIZE, "batch_size": 8, "device": "cpu", "precision": "32-true"}


def images():
    return np.random.default_rng(0).integers(0, 255, (16, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module", params=WRAPPED)
def trained(request, tmp_path_factory):
    torch.manual_seed(0)
    encoder, out = WRAPPED[request.param](), tmp_path_factory.mktemp("run") / "run"
    sogclr.pretrain(images(), out, encoder=encoder, epochs=1, **FAST)
    return request.param, encoder, out


def test_weights_have_plain_names_and_load_into_any_wrapper(trained):
    name, encoder, out = trained
    x = torch.randn(4, 3, SIZE, SIZE)
    expected = encoder.eval()(x)
    for file in ("encoder.safetensors", "initial.safetensors"):
        assert set(load_file(out / file)) == NAMES
    for other, make in WRAPPED.items():
        if ("tied" in other) == ("tied" in name):
            loaded = sogclr.load(out, encoder=make())
            torch.testing.assert_close(loaded(x), expected)


def test_a_run_goes_on_with_another_wrapper(trained):
    name, _, out = trained
    other = Net(tied="tied" in name)
    result = sogclr.pretrain(images(), out, encoder=other, resume=True, epochs=1, **FAST)
    assert result.complete
    embeddings = sogclr.embed(out, images(), out=out / "x.npz", encoder=WRAPPED[name]())
    assert embeddings.vectors.shape == (16, WIDTH)


@pytest.mark.parametrize("name", WRAPPED)
def test_what_is_wrapped_is_found(name):
    assert isinstance(unwrap(WRAPPED[name]()), Net)
