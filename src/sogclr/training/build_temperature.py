"""Build the temperature of a run, for images and for pairs."""

from ..common.options import TemperatureMode
from ..losses.temperature import IndividualTemperature, LearnedTemperature, Temperature

__all__ = ["build_temperature"]


def build_temperature(
    mode: TemperatureMode, initial: float, rho: float | None
) -> float | Temperature:
    """Build the temperature of a loss; a constant one is a number.

    Args:
        mode: "constant", "learned" or "individual".
        initial: the initial tau. It may lie below the usual lower bound, which is then lowered.
        rho: weight of tau in its objective; None for F/tau. Individual temperatures need a weight.
    """
    if mode == "constant":
        return initial
    if mode == "learned":
        return LearnedTemperature(initial, rho=rho, minimum=min(0.01, initial))
    assert rho is not None
    return IndividualTemperature(
        initial, rho=rho, minimum=min(0.005, initial), maximum=max(1.0, initial)
    )
