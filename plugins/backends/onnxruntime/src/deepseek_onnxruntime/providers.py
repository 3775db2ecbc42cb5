"""Which execution provider runs on which device. Named ones are used or refused, never replaced.

On a card whose providers are not named the CPU comes second, as the plan says: every card leaves some operators to it
(those that compute sizes, above all). Which ones, `deepseek_onnxruntime.session` reports.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from deepseek.plugin import Device, DeviceError

CPU = "CPUExecutionProvider"
#: Device kind -> execution provider.
PROVIDERS = {"cpu": CPU, "cuda": "CUDAExecutionProvider", "rocm": "ROCMExecutionProvider"}


def find_devices(wanted: str) -> list[Device]:
    """The accelerator that the pipeline asks for, when this build of ONNX Runtime can drive it.

    ONNX Runtime does not tell a card's memory: 0 stands for "not known".
    """
    kind, _, index = wanted.partition(":")
    if kind not in PROVIDERS or kind == "cpu" or not (index or "0").isdigit() or find_spec("onnxruntime") is None:
        return []
    import onnxruntime

    if PROVIDERS[kind] not in onnxruntime.get_available_providers():
        return []
    return [Device(f"{kind}:{index or 0}", kind, 0, 0, {"onnxruntime": PROVIDERS[kind]})]


def choose_providers(named: list[str], device: Device) -> list[Any]:
    """Providers for a session on `device`.

    Raises:
        DeviceError: a provider is not part of the installed ONNX Runtime.
    """
    import onnxruntime

    available = onnxruntime.get_available_providers()
    chosen = named or list(dict.fromkeys([PROVIDERS.get(device.kind, device.kind), CPU]))
    for name in chosen:
        if name not in available:
            hint = f"this build offers {', '.join(available)}; onnxruntime-gpu brings CUDA"
            raise DeviceError(f"ONNX Runtime {onnxruntime.__version__} has no {name}", hint=hint)
    index = device.name.partition(":")[2]
    own = PROVIDERS.get(device.kind)
    return [(name, {"device_id": index}) if index and name == own else name for name in chosen]
