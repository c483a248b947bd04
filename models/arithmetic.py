"""How the networks' arithmetic is done in training: in which precision, by which kernels."""

from __future__ import annotations

import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, cast

import torch
from torch import nn

Precision = Literal["float32", "bfloat16"]


def precise(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """A context for forward passes. Weights, their gradients and optimizers stay in float32."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def compiled(net: nn.Module) -> nn.Module:
    """The network with kernels made for it at its first use."""
    return cast(nn.Module, torch.compile(net, dynamic=True))


def check(precision: Precision, *, compiling: bool, device: torch.device) -> None:
    """Refuses what this machine cannot do, before a training begins.

    Raises:
        ValueError: naming the key and what is missing.
    """
    compiler = os.environ.get("CXX", "g++")
    if compiling and shutil.which(compiler) is None:
        raise ValueError(
            f"train.compile needs a C++ compiler and {compiler} is not there: install g++, name "
            "another in CXX, or leave train.compile out"
        )
    if precision == "bfloat16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ValueError(
            f"train.precision is bfloat16, which {torch.cuda.get_device_name(device)} does not "
            "have: write float32"
        )
