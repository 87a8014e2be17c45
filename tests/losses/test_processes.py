"""A batch that processes share, against one process with all of it."""

import pytest
import torch
from helpers.launching import spread
from helpers.process_cases import (
    COUNTS,
    EACH,
    FEATURES,
    MISTAKES,
    cases,
    run,
    work,
)

SHARED = [k for k in COUNTS if k > 1]
TOLERANCE = {
    torch.float32: {"rtol": 1e-5, "atol": 1e-6},
    torch.float64: {"rtol": 1e-11, "atol": 1e-12},
}


@pytest.fixture(scope="module", params=SHARED)
def found(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    spread(request.param, work, request.param, str(folder))
    return [torch.load(folder / f"{rank}.pt") for rank in range(request.param)]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", cases(torch.float32))
def test_as_one_process(found, name, dtype):
    exact = TOLERANCE[dtype]
    expected, state = run(name, dtype, 0, 1)
    shared = [each[name, dtype] for each in found]
    for step, (value, by_features, by_parameters) in enumerate(expected):
        here = [steps[step] for steps, _ in shared]
        for other, _, learned in here:
            torch.testing.assert_close(other, value, **exact)
            torch.testing.assert_close(learned, by_parameters, **exact)
        # The mean over processes is what DistributedDataParallel makes of them.
        together = torch.cat([gradient for _, gradient, _ in here], dim=1) / len(found)
        torch.testing.assert_close(together, by_features, **exact)
    for _, kept in shared:
        torch.testing.assert_close(kept, state, **exact)
        for key, numbers in kept.items():
            assert torch.equal(numbers, shared[0][1][key]), key


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_is_wrong_elsewhere_is_found_here(found, mistake):
    if len(found) > 2:
        pytest.skip("two processes suffice")
    [(_, expected, _)], _ = run("sogclr, constant", torch.float64, 0, 1, steps=1)
    wrong = [each[mistake][0][0][1] for each in found]
    together = torch.cat(wrong, dim=1) / len(found)
    assert (together - expected).norm() > 0.05 * expected.norm()


@pytest.mark.parametrize(("told", "ids"), [("received", 3), ("received, keys", 5)])
def test_features_travel_once_and_their_gradients_never(found, told, ids):
    others, features = len(found) - 1, 2 * EACH * FEATURES * 4
    # Ids and, of either side, a log-sum-exp and a count; how many samples there are.
    numbers = EACH * (ids * 8 + 2 * 2 * 4) + 8
    assert {each[told] for each in found} == {others * (features + numbers)}
    gather_with_gradient = others * 2 * features
    assert others * (features + numbers) <= 0.55 * gather_with_gradient
