"""The one place where torchvision is imported.

A torchvision built for CUDA beside a CPU build of torch fails to import for want of two operators
that its own library would define. Declaring their schemas first is enough: nothing here ever calls
them.
"""

from types import ModuleType

import torch

SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def torchvision() -> ModuleType:
    """The package torchvision. ImportError if it is not installed."""
    try:
        import torchvision as package
    except RuntimeError:
        for name, schema in SCHEMAS.items():
            if not hasattr(torch.ops.torchvision, name):
                torch.library.define(f"torchvision::{name}", schema)
        import torchvision as package
    return package
