import pytest

from sogclr import IndividualTemperature, LearnedTemperature
from sogclr.training.build_temperature import build_temperature


@pytest.mark.parametrize("initial", [0.001, 0.07, 3.0])
def test_every_mode_starts_from_the_given_value(initial):
    assert build_temperature("constant", initial, None) == initial
    for rho in (None, 0.5):
        learned = build_temperature("learned", initial, rho)
        assert isinstance(learned, LearnedTemperature)
        assert learned(None).item() == pytest.approx(initial)
        assert learned.rho == rho
    own = build_temperature("individual", initial, 2.0)
    assert isinstance(own, IndividualTemperature)
    assert own.for_rows(3).tau.tolist() == pytest.approx([initial] * 4)
    assert own.rho == 2.0
    assert own.minimum <= initial <= own.maximum
