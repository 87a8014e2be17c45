"""Device, precision and processes, through Lightning Fabric: the only module that knows them."""

import logging
import os
import warnings

import torch
from lightning_fabric import Fabric

from .errors import UserError
from .settings import ConcretePrecision, Device

__all__ = ["choose_device", "start"]


def choose_device(device: Device) -> str:
    """The device's type: the one asked for, or the fastest there is.

    Raises:
        UserError: the device asked for is not there, or several processes were started.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("several processes were started; this version trains in one")
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next((name for name, available in there.items() if available), "cpu")
    if not there.get(device, True):
        raise UserError(f"device: {device} is not available here; leave out --device")
    return device


def start(device: str, precision: ConcretePrecision) -> Fabric:
    """Fabric on one device, launched."""
    with warnings.catch_warnings():
        # It recommends settings that the plan has weighed already, and repeats them.
        warnings.simplefilter("ignore")
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        fabric = Fabric(accelerator=device, devices=1, precision=precision)
        fabric.launch()
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
    return fabric
