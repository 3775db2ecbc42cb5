"""What the protocol tells of the server and its models."""

from __future__ import annotations

from typing import Any

import msgspec

import deepseek
from deepseek.plugin import ANY, TensorSpec
from deepseek_serving.oip.datatypes import protocol_name
from deepseek_serving.reports import Counts, ModelReport
from deepseek_serving.served import Served

#: The protocol's extensions that work here.
EXTENSIONS = (
    "binary_tensor_data", "classification", "generate", "logging", "model_configuration", "model_repository",
    "schedule_policy", "sequence", "statistics", "system_shared_memory", "trace",
)  # fmt: skip


def server() -> dict[str, Any]:
    """``GET /v2``."""
    return {"name": "deepseek", "version": deepseek.__version__, "extensions": list(EXTENSIONS)}


def tensor(spec: TensorSpec) -> dict[str, Any]:
    """A tensor: -1 where a size is open; one open dimension where the model does not tell its shape."""
    shape = [ANY] if spec.shape is None else list(spec.shape)
    return {"name": spec.name, "datatype": protocol_name(spec), "shape": shape}


def model(served: Served, versions: list[Served]) -> dict[str, Any]:
    """``GET /v2/models/M``."""
    signature = served.signature
    return {
        "name": served.name,
        "versions": [item.version for item in versions],
        "platform": platform(served),
        "inputs": [tensor(spec) for spec in signature.inputs],
        "outputs": [tensor(spec) for spec in signature.outputs],
    }


def report(served: Served, counts: Counts) -> ModelReport:
    """What is told of a model beside its counts."""
    plan = served.pipeline.plan if served.pipeline else None
    inputs = [tensor(spec) for spec in served.signature.inputs]
    outputs = [tensor(spec) for spec in served.signature.outputs]
    return ModelReport(
        served.name, served.version, counts, served.state, served.reason, platform(served),
        plan.device.name if plan else "", served.memory_bytes, len(served.calls),
        sum(call.started == call.queued for call in served.calls), inputs, outputs,
    )  # fmt: skip


def statistics(model: ModelReport) -> dict[str, Any]:
    """As the extension "statistics" has it; of batches the time of inference alone is known."""
    counts, none = model.counts, {"count": 0, "ns": 0}
    spans = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
    return {
        "name": model.name, "version": model.version, "last_inference": counts.last, "inference_count": counts.rows,
        "execution_count": counts.executions,
        "inference_stats": {
            **{span: msgspec.to_builtins(getattr(counts, span)) for span in spans},
            "cache_hit": none, "cache_miss": none,
        },
        "batch_stats": [
            {"batch_size": rows, "compute_input": none, "compute_infer": msgspec.to_builtins(span),
             "compute_output": none}
            for rows, span in sorted(counts.batches.items())
        ],
    }  # fmt: skip


def platform(served: Served) -> str:
    """What executes the model, as the protocol names platforms: ``onnxruntime_onnx``."""
    plan = served.pipeline.plan if served.pipeline else None
    return f"{plan.engine.name}_{plan.format}" if plan else ""


def config(served: Served) -> dict[str, Any]:
    """``GET /v2/models/M/config``: in the words of the extension "model configuration"."""
    signature = served.signature
    plan = served.pipeline.plan if served.pipeline else None
    return {
        "name": served.name,
        "platform": platform(served),
        "backend": plan.engine.name if plan else "",
        "version_policy": {"specific": {"versions": [int(served.version)]}},
        "max_batch_size": 0,
        "input": [{**_config_tensor(spec), "optional": spec.optional} for spec in signature.inputs],
        "output": [_config_tensor(spec) for spec in signature.outputs],
        "instance_group": [{"name": served.name, "kind": _kind(served), "count": 1}],
    }


def _kind(served: Served) -> str:
    plan = served.pipeline.plan if served.pipeline else None
    return "KIND_GPU" if plan and plan.device.kind == "cuda" else "KIND_CPU"


def _config_tensor(spec: TensorSpec) -> dict[str, Any]:
    datatype = protocol_name(spec)
    kind = "STRING" if datatype == "BYTES" else datatype
    return {"name": spec.name, "data_type": f"TYPE_{kind}", "dims": tensor(spec)["shape"]}
