"""The curated plugin sets: what a pipeline's ``version:`` selects and ``pip install deepseek[vN]`` installs.

This is the one table. The root distribution's build reads it to make the extras, `deepseek versions`
prints it, and a test compares it with the folders of the repository. It imports nothing, so that the
build can load it by path.
"""

from __future__ import annotations

#: The version of the contract in `deepseek.plugin`. Majors must match; a plugin's minor may not be newer.
API = (1, 0)

#: plugin name -> (folder in the repository, extras that bring the CPU flavour of its library; "" = no library)
PLUGINS: dict[str, tuple[str, str]] = {
    "codecs": ("plugins/codecs", "text"),
    "onnxruntime": ("plugins/backends/onnxruntime", "cpu"),
    "serving": ("plugins/serving", ""),
    "tensorflow": ("plugins/backends/tensorflow", "cpu"),
    "torch": ("plugins/backends/torch", "cpu"),
}

#: version -> (what it stands for, plugins that it adds to the version before it)
VERSIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "v1": ("model loading, three engines, plain inference", ("codecs", "onnxruntime", "tensorflow", "torch")),
    "v2": ("dynamic batching, quantization, serving", ("batching", "openvino", "quant", "serving")),
    "v3": ("tensor and pipeline parallelism", ("parallel",)),
    "v4": ("Kubernetes and serverless autoscaling", ("k8s",)),
    "v5": ("compilation and hardware-aware scheduling", ("tvm",)),
    "v6": ("mixed NVIDIA, AMD and Intel pools, dynamic depth, energy", ("amd", "intel", "nvidia")),
}


def members(version: str) -> tuple[str, ...]:
    """All plugins of a version, those of the versions below it included. Raises KeyError."""
    VERSIONS[version]
    names: list[str] = []
    for name, (_, added) in VERSIONS.items():
        names += added
        if name == version:
            break
    return tuple(sorted(names))


def unwritten(version: str) -> tuple[str, ...]:
    """The plugins of a version that do not exist yet."""
    return tuple(name for name in members(version) if name not in PLUGINS)


def distribution(plugin: str) -> str:
    """The distribution that carries a curated plugin."""
    return f"deepseek-{plugin}"
