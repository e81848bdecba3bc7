"""What waits for a device."""

import torch
from torch import Tensor


def reads_are_free(device: torch.device) -> bool:
    """Whether reading a number from the device waits for nothing."""
    return device.type == "cpu"


def to_host(tensor: Tensor) -> Tensor:
    """Move a small tensor to the CPU in float64: the only way a step may wait for the device.

    Every call counts in ``num_device_waits`` of the rule.
    """
    return tensor.double().cpu()
