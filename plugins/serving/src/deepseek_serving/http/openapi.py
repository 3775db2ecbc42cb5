"""The OpenAPI document of the server, at ``/openapi.json``."""

from __future__ import annotations

from typing import Any

import deepseek
from deepseek_serving.oip.datatypes import NUMPY

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_SOME: Schema = {"type": "string", "minLength": 1}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_FLAG: Schema = {"type": "boolean"}


def _object(required: str = "", **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": required.split()}


def _list(items: Schema, *, least: int = 0) -> Schema:
    return {"type": "array", "items": items, "minItems": least}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_PARAMETERS: Schema = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}
_TENSOR = {"name": _TEXT, "datatype": {"enum": list(NUMPY)}, "shape": _list({"type": "integer"})}
_DATA: Schema = {"type": "array", "items": {}}

SCHEMAS: dict[str, Schema] = {
    "Error": _object("error", error=_TEXT),
    "OpenAIError": _object(
        "error",
        error=_object("message type param code", message=_TEXT, type=_TEXT, code={"type": ["string", "null"]}),
    ),
    "Server": _object("name version extensions", name=_TEXT, version=_TEXT, extensions=_list(_TEXT)),
    "Spec": _object("name datatype shape", **_TENSOR),
    "Model": _object(
        "name versions platform inputs outputs",
        name=_TEXT, versions=_list(_TEXT), platform=_TEXT, inputs=_list(_ref("Spec")), outputs=_list(_ref("Spec")),
    ),
    "ModelReady": _object("name ready", name=_TEXT, ready=_FLAG),
    "InferRequest": _object(
        "inputs",
        id=_TEXT, parameters=_PARAMETERS,
        inputs=_list(_object("name datatype shape", **_TENSOR, parameters=_PARAMETERS, data=_DATA), least=1),
        outputs=_list(_object("name", name=_TEXT, parameters=_PARAMETERS)),
    ),
    "InferResponse": _object(
        "model_name model_version outputs",
        model_name=_TEXT, model_version=_TEXT, id=_TEXT, parameters=_PARAMETERS,
        outputs=_list(_object("name datatype shape", **_TENSOR, parameters=_PARAMETERS, data=_DATA)),
    ),
    "Config": _object("name platform backend input output", name=_TEXT, platform=_TEXT, backend=_TEXT),
    "Statistics": _object(
        "model_stats",
        model_stats=_list(_object(
            "name version last_inference inference_count execution_count inference_stats batch_stats",
            name=_TEXT, version=_TEXT, last_inference=_COUNT, inference_count=_COUNT, execution_count=_COUNT,
        )),
    ),
    "Index": _list(_object("name version state reason", name=_TEXT, version=_TEXT, state=_TEXT, reason=_TEXT)),
    "Nothing": {"type": "object", "maxProperties": 0},
    "Settings": {"type": "object"},
    "Generated": _object("model_name model_version", model_name=_TEXT, model_version=_TEXT),
    "Predicted": _object(
        "model_name model_version rows", model_name=_TEXT, model_version=_TEXT, rows=_list({"type": "object"})
    ),
    "Usage": _object("since usage", since={"type": "number"}, usage=_list({"type": "object"})),
    "State": _object("now started ready models", ready=_FLAG, models=_list({"type": "object"})),
    "OpenAIModel": _object("id object created owned_by", id=_TEXT, object=_TEXT, created=_COUNT, owned_by=_TEXT),
    "Models": _object("object data", object=_TEXT, data=_list(_ref("OpenAIModel"))),
    "RegionRequest": _object("key byte_size", key=_TEXT, offset=_COUNT, byte_size=_COUNT),
    "Regions": _list(_object("name key offset byte_size", name=_TEXT, key=_TEXT, offset=_COUNT, byte_size=_COUNT)),
    "EmbeddingRequest": _object(
        "model input",
        model=_TEXT,
        input={"anyOf": [_SOME, _list({"anyOf": [_SOME, _COUNT, _list(_COUNT, least=1)]}, least=1)]},
        encoding_format={"enum": ["float", "base64"]}, dimensions={"type": ["integer", "null"], "minimum": 1},
        user={"type": ["string", "null"]},
    ),
    "Embeddings": _object(
        "object data model usage",
        data=_list(_object("object index embedding", index=_COUNT, embedding={"type": ["array", "string"]})),
    ),
}  # fmt: skip

_REGION = "/v2/systemsharedmemory/region/{region}"
#: Verb, path, what it does, what it takes, what it gives. Where there are versions, a second path has them.
_CALLS: list[tuple[str, str, str, str, str]] = [
    ("get", "/v2", "Name, version and extensions of the server", "", "Server"),
    ("get", "/v2/health/live", "Whether the process works", "", "Settings"),
    ("get", "/v2/health/ready", "Whether every model takes requests", "", "Settings"),
    ("get", "/v2/models/{name}", "Inputs and outputs of a model", "", "Model"),
    ("get", "/v2/models/{name}/ready", "Whether a model takes requests", "", "ModelReady"),
    ("get", "/v2/models/{name}/config", "A model's configuration", "", "Config"),
    ("get", "/v2/models/{name}/stats", "What was counted of a model", "", "Statistics"),
    ("post", "/v2/models/{name}/infer", "Inference", "InferRequest", "InferResponse"),
    ("post", "/v2/models/{name}/generate", "Inference on plain values", "Settings", "Generated"),
    ("get", "/v2/models/stats", "What was counted of all models", "", "Statistics"),
    ("post", "/v2/repository/index", "What the repository holds", "Settings", "Index"),
    ("post", "/v2/repository/models/{name}/load", "Load a model", "Settings", "Nothing"),
    ("post", "/v2/repository/models/{name}/unload", "Unload a model", "Settings", "Nothing"),
    ("get", "/v2/logging", "What is logged", "", "Settings"),
    ("post", "/v2/logging", "Change what is logged", "Settings", "Settings"),
    ("get", "/v2/trace/setting", "What is traced", "", "Settings"),
    ("post", "/v2/trace/setting", "Change what is traced", "Settings", "Settings"),
    ("get", "/v2/models/{name}/trace/setting", "What is traced", "", "Settings"),
    ("post", "/v2/models/{name}/trace/setting", "Change what is traced", "Settings", "Settings"),
    ("get", "/v2/systemsharedmemory/status", "The shared memory that is registered", "", "Regions"),
    ("get", _REGION + "/status", "One region of it", "", "Regions"),
    ("post", _REGION + "/register", "Register shared memory", "RegionRequest", "Nothing"),
    ("post", _REGION + "/unregister", "Forget shared memory", "Settings", "Nothing"),
    ("post", "/v2/systemsharedmemory/unregister", "Forget all shared memory", "Settings", "Nothing"),
    ("get", "/usage", "What tenants used", "", "Usage"),
    ("get", "/state", "What the dashboard shows", "", "State"),
    ("get", "/v1/models", "OpenAI: the models", "", "Models"),
    ("get", "/v1/models/{name}", "OpenAI: a model", "", "OpenAIModel"),
    ("post", "/v1/embeddings", "OpenAI: vectors for texts", "EmbeddingRequest", "Embeddings"),
]
#: Errors that a call may answer with.
_ERRORS = ("400", "401", "403", "404", "405", "413", "415", "429", "431", "500", "503")


def document() -> dict[str, Any]:
    """The whole document. Source: OpenAPI Specification 3.1."""
    paths: dict[str, Any] = {}
    for verb, path, meaning, takes, gives in _CALLS:
        paths.setdefault(path, {})[verb] = _operation(path, meaning, takes, gives)
        if path.startswith("/v2/models/{name}") and "/trace/" not in path:
            versioned = path.replace("{name}", "{name}/versions/{version}")
            paths.setdefault(versioned, {})[verb] = _operation(versioned, meaning, takes, gives)
    for prefix in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        paths[prefix + "/predict"] = {"post": _predict(prefix)}
        stream = _operation(prefix, "Inference on plain values, chunk by chunk", "Settings", "Generated")
        paths[prefix + "/generate_stream"] = {"post": _giving(stream, "text/event-stream")}
    metrics = _operation("/metrics", "What Prometheus scrapes", "", "Settings")
    paths["/metrics"] = {"get": _giving(metrics, "text/plain")}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "DeepSeek", "version": deepseek.__version__,
            "description": "The Open Inference Protocol v2, OpenAI's embeddings, and what is told of the server.",
        },
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }  # fmt: skip


def _operation(path: str, meaning: str, takes: str, gives: str) -> dict[str, Any]:
    error = "OpenAIError" if path.startswith("/v1") else "Error"
    ready = path.endswith(("ready", "live"))
    told = {"anyOf": [_ref("Error"), _ref(gives)]} if ready else _ref(error)
    made: dict[str, Any] = {
        "summary": meaning,
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": _TEXT}
            for name in ("name", "version", "region")
            if f"{{{name}}}" in path
        ],
        "responses": {
            "200": {"description": meaning, "content": _content(_ref(gives))},
            **{status: {"description": "an error", "content": _content(told)} for status in _ERRORS},
        },
    }
    if takes:
        made["requestBody"] = {"required": takes.endswith("Request"), "content": _content(_ref(takes))}
    return made


def _giving(operation: dict[str, Any], kind: str) -> dict[str, Any]:
    """An operation whose answer is a text of another kind than JSON."""
    operation["responses"]["200"]["content"] = {kind: {"schema": _TEXT}}
    return operation


def _predict(prefix: str) -> dict[str, Any]:
    made = _operation(prefix + "/predict", "A picture or a text, answered in a reader's terms", "", "Predicted")
    kinds = ("application/octet-stream", "image/png", "image/jpeg", "text/plain")
    binary = {"type": "string", "format": "binary"}
    made["requestBody"] = {"required": True, "content": {kind: {"schema": binary} for kind in kinds}}
    return made


def _content(schema: Schema) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
