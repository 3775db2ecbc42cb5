"""Texts to token ids, with the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepseek.plugin import ConfigError, InputError, MissingLibraryError, Signature, library_missing
from deepseek_codecs.settings import TextSettings


class TextCoder:
    """Tokenizes one text at a time into the inputs that the model takes."""

    def __init__(self, settings: TextSettings, model: Path, signature: Signature) -> None:
        if missing := library_missing("tokenizers", "deepseek-codecs", "text"):
            raise MissingLibraryError(f"text inputs: {missing.reason}")
        path = settings.tokenizer or (model / "tokenizer.json" if model.is_dir() else model.parent / "tokenizer.json")
        self._tokenizer = _open(path)
        self._tokenizer.enable_truncation(settings.max_length)
        if settings.pad_to:
            self._tokenizer.enable_padding(length=settings.pad_to)
        else:
            self._tokenizer.no_padding()
        self._names = [spec.name for spec in signature.inputs]
        self._width = settings.pad_to or 0
        self._most, self._known = settings.max_length, self._tokenizer.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> dict[str, Any]:
        """``input_ids``, ``attention_mask`` and ``token_type_ids``, int64[1, tokens], where the model takes them."""
        try:
            text.encode()
        except UnicodeEncodeError as exc:
            raise InputError(f"the text is no Unicode: {exc}", hint="decode it from its bytes anew") from exc
        encoding = self._tokenizer.encode(text)
        if not encoding.ids:
            raise InputError("the text holds no token")
        return self._named(encoding.ids, encoding.attention_mask, encoding.type_ids)

    def encode_tokens(self, ids: Sequence[int]) -> dict[str, Any]:
        """The same from the ids of a text's tokens. Raises InputError for those that the model does not know."""
        if not 0 < len(ids) <= self._most:
            raise InputError(f"{len(ids)} tokens are too few or too many", hint=f"1 to {self._most} are taken")
        if not 0 <= min(ids) <= max(ids) < self._known:
            raise InputError(f"there is no token {max(ids, key=abs)}", hint=f"tokens are 0 to {self._known - 1}")
        # As the tokenizer does with a text.
        padding = [0] * max(0, self._width - len(ids))
        return self._named([*ids, *padding], [1] * len(ids) + padding, [0] * len(ids) + padding)

    def _named(self, ids: Sequence[int], mask: Sequence[int], types: Sequence[int]) -> dict[str, Any]:
        found = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        return {name: np.asarray([found[name]], np.int64) for name in self._names if name in found}


def _open(path: Path) -> Any:
    import tokenizers

    if not path.is_file():
        hint = "set `inputs.text.tokenizer` to the model's tokenizer.json"
        raise ConfigError(f"there is no tokenizer at {path}", hint=hint)
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    # The Rust library raises plain Exception.
    except Exception as exc:
        raise ConfigError(f"the tokenizer can't be read: {exc}", where=str(path)) from exc
