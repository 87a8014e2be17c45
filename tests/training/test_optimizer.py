"""An encoder that processes train together, against one process with the whole batch."""

import pytest
import torch
from helpers.launching import spread
from helpers.shared_training import TRAINED, WRAPS, trained, work

TOLERANCE = {  # of Adam's steps, which divide by gradients
    torch.float32: {"rtol": 1e-4, "atol": 1e-6},
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
}


@pytest.fixture(scope="module", params=[2, 4])
def found(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    spread(request.param, work, request.param, str(folder))
    return [torch.load(folder / f"{rank}.pt") for rank in range(request.param)]


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", TRAINED, ids=", ".join)
def test_an_encoder_ends_with_the_same_weights(found, case, dtype, wrap):
    expected = trained(*case, dtype, 0, 1)
    for each in found:
        torch.testing.assert_close(each[case, dtype, wrap], expected, **TOLERANCE[dtype])
