"""Who answers: one codec for the pipeline's edge, put together from the sections `inputs` and `outputs`."""

from __future__ import annotations

from deepseek.plugin import Codec, Coding, Config, Settings, Signature, Source, hookimpl
from deepseek_codecs.settings import InputsSettings, OutputsSettings


@hookimpl
def sections() -> dict[str, type[Settings]]:
    return {"inputs": InputsSettings, "outputs": OutputsSettings}


@hookimpl
def codec(source: Source, config: Config) -> Coding:
    def make(signature: Signature) -> Codec:
        from deepseek_codecs.edge import EdgeCodec

        return EdgeCodec(signature, source, config)

    return Coding("codecs", make, describe(config))


def describe(config: Config) -> dict[str, object]:
    """What the plan says of the codec."""
    inputs, outputs = config[InputsSettings], config[OutputsSettings]
    facts: dict[str, object] = {}
    if inputs.image:
        facts["image"] = f"{inputs.image.layout} {inputs.image.dtype}, crop {inputs.image.crop or 'none'}"
    if inputs.text:
        facts["text"] = f"at most {inputs.text.max_length} tokens"
    if outputs.classes:
        facts["classes"] = f"top {outputs.classes.top_k}"
    return facts
