"""The options of a learned temperature, which `pretrain` and `align` share."""

from dataclasses import dataclass

from ..common.errors import require
from ..common.options import TemperatureMode
from .settings import MethodSettings

__all__ = ["TemperatureSettings", "check_temperature"]


@dataclass(frozen=True, kw_only=True)
class TemperatureSettings(MethodSettings):
    """The temperature, constant or learned."""

    temperature_mode: TemperatureMode = "constant"
    """Whether the temperature is learned, starting from `temperature`. constant: it is not.
    learned: one value, trained with the weights. individual: one value per sample (iSogCLR), with
    sogclr only."""

    rho: float | None = None
    """Weight, in nats and above 0, of the penalty rho tau that a learned temperature tau adds to
    the objective F, which is tau times the cross-entropy. Default: for individual half the
    logarithm of the number of samples, at most 6, as in iSogCLR; for learned none, and F/tau is
    minimized, as in CLIP and FastCLIP v0."""


def check_temperature(settings: TemperatureSettings, method: str) -> None:
    """Refuse a value that is out of range, or that does not go with the mode or the method.

    Args:
        settings: The settings as they were given.
        method: The contrastive method.

    Raises:
        UserError: The value is refused.
    """
    mode, rho = settings.temperature_mode, settings.rho
    if rho is not None:
        require(
            rho > 0,
            "rho",
            f"must be above 0, got {rho:g}: with 0 the learned temperature would grow for ever",
        )
        require(
            mode != "constant",
            "rho",
            "goes with --temperature-mode learned or --temperature-mode individual",
        )
    require(
        mode != "individual" or method == "sogclr",
        "temperature_mode",
        f"individual goes with --method sogclr, not with {method}, which keeps nothing per sample",
    )
    require(
        mode == "constant" or method != "siglip",
        "temperature_mode",
        "siglip always learns its temperature; leave out --temperature-mode",
    )
