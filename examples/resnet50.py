"""ResNet-50 v1.5 with seeded weights, in PyTorch and (same weights) in Keras: a model to measure speed with.

He et al. 2015 (arXiv:1512.03385); v1.5 puts the stride of a downsampling block on its 3x3 convolution.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

#: blocks, width, stride of the four stages
STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))
EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1, around a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * EXPANSION
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32[N, inputs, H, W] to float32[N, 4 width, H / stride, W / stride]."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        result: torch.Tensor = self.relu(y + self.downsample(x))
        return result


class ResNet50(nn.Module):
    """float32[N, 3, 224, 224] to logits float32[N, 1000]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        layers, inputs = [], 64
        for blocks, width, stride in STAGES:
            for index in range(blocks):
                layers.append(Bottleneck(inputs, width, 1 if index else stride))
                inputs = width * EXPANSION
        self.layers = nn.Sequential(*layers)
        self.fc = nn.Linear(inputs, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layers(x)
        result: torch.Tensor = self.fc(x.mean((2, 3)))
        return result


def build(seed: int = 0) -> nn.Module:
    """The network with random weights that are the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ResNet50().eval()


def save_safetensors(path: Path) -> None:
    """The weights, for a pipeline with ``torch: {factory: resnet50.py:build}``."""
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in build().state_dict().items()}, path)


def save_onnx(path: Path) -> None:
    """The network as ONNX: ``image`` to ``logits``, any batch size."""
    torch.onnx.export(
        build(), (torch.zeros(2, 3, 224, 224),), path, dynamo=True, external_data=False, verbose=False,
        dynamic_shapes=({0: torch.export.Dim("batch")},), input_names=["image"], output_names=["logits"],
    )  # fmt: skip


def save_saved_model(path: Path) -> None:
    """The network for TensorFlow: NHWC, the same weights."""
    import tensorflow as tf

    network = _keras()

    @tf.function(input_signature=[tf.TensorSpec([None, 224, 224, 3], tf.float32, name="image")])
    def serve(image: Any) -> dict[str, Any]:
        return {"logits": network(image, training=False)}

    module = tf.Module()
    module.network = network
    tf.saved_model.save(module, str(path), signatures={"serving_default": serve})


def _keras() -> Any:
    import keras

    state = {name: tensor.numpy() for name, tensor in build().state_dict().items()}

    def convolution(x: Any, name: str, stride: int = 1) -> Any:
        kernel = state[f"{name}.weight"].transpose(2, 3, 1, 0)
        pad = kernel.shape[0] // 2
        x = keras.layers.ZeroPadding2D(pad)(x) if pad else x
        layer = keras.layers.Conv2D(kernel.shape[3], kernel.shape[0], stride, "valid", use_bias=False)
        y = layer(x)
        layer.set_weights([kernel])
        return y

    def normalise(x: Any, name: str) -> Any:
        layer = keras.layers.BatchNormalization(epsilon=1e-5)
        y = layer(x)
        layer.set_weights([state[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")])
        return y

    relu = keras.layers.ReLU
    image = keras.Input((224, 224, 3), name="image")
    x = relu()(normalise(convolution(image, "conv1", 2), "bn1"))
    # Padding with zeros is right after ReLU: no value is below.
    x = keras.layers.MaxPooling2D(3, 2)(keras.layers.ZeroPadding2D(1)(x))
    index = 0
    for blocks, _, first in STAGES:
        for number in range(blocks):
            name, stride = f"layers.{index}", 1 if number else first
            y = relu()(normalise(convolution(x, f"{name}.conv1"), f"{name}.bn1"))
            y = relu()(normalise(convolution(y, f"{name}.conv2", stride), f"{name}.bn2"))
            y = normalise(convolution(y, f"{name}.conv3"), f"{name}.bn3")
            if number == 0:
                x = normalise(convolution(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
            x = relu()(keras.layers.Add()([x, y]))
            index += 1
    head = keras.layers.Dense(1000)
    logits = head(keras.layers.GlobalAveragePooling2D()(x))
    head.set_weights([state["fc.weight"].T, state["fc.bias"]])
    return keras.Model(image, logits)
