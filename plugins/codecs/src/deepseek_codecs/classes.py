"""Scores to class names, and token vectors to one vector per text."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from deepseek.plugin import ConfigError, Size
from deepseek_codecs.settings import ClassesSettings, EmbeddingSettings
from deepseek_codecs.tensors import lines

#: Bytes of the largest label file.
_LONGEST = 64 << 20


class ClassDecoder:
    """Names the k most likely classes of each row.

    Args:
        settings: the section.
        classes: how many the model has; None: not known before it answers.

    Attributes:
        labels: their names, by index; empty: they have none.

    Raises:
        ConfigError: the label file can't be read, or has another number of names.
    """

    def __init__(self, settings: ClassesSettings, classes: int | None = None) -> None:
        self._settings = settings
        self.labels = _labels(settings.labels) if settings.labels else []
        if classes is not None:
            self._check(classes)

    def decode(self, scores: np.ndarray[Any, Any]) -> list[list[dict[str, Any]]]:
        """Best first: ``{"label", "index", "score"}`` for each row of scores ``[rows, classes]`` (or ``[classes]``).

        Raises:
            ConfigError: the label file has another number of names than the model has classes.
        """
        scores = np.asarray(scores)
        if scores.dtype.kind in "OSUMmc":
            raise ConfigError(f"`outputs.classes` needs scores, and the output holds {scores.dtype} values")
        scores = np.atleast_2d(np.asarray(scores, np.float64))
        rows = scores.reshape(len(scores), math.prod(scores.shape[1:]))
        self._check(rows.shape[1])
        if not rows.shape[1]:
            raise ConfigError("`outputs.classes` needs scores, and the output has none")
        if self._settings.softmax:
            rows = softmax(rows)
        order = np.argsort(-rows, axis=1, kind="stable")[:, : self._settings.top_k]
        return [
            [{"label": self._name(int(i)), "index": int(i), "score": float(row[i])} for i in best]
            for row, best in zip(rows, order, strict=True)
        ]

    def _check(self, classes: int) -> None:
        if self.labels and len(self.labels) != classes:
            what = f"{self._settings.labels} names {len(self.labels)} classes, the model has {classes}"
            raise ConfigError(what, hint="one name per line, in the order of the model's classes")

    def _name(self, index: int) -> str:
        return self.labels[index] if self.labels else str(index)


def softmax(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Probabilities along the last axis, shifted by the maximum so that nothing overflows."""
    top = rows.max(axis=-1, keepdims=True)
    # Infinity less infinity is not a number; the largest is 0 after the shift, whatever it was.
    with np.errstate(invalid="ignore"):
        shifted = np.exp(np.where(rows == top, 0.0, rows - top))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def pool(settings: EmbeddingSettings, vectors: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Token vectors ``[rows, tokens, width]`` to one vector per row ``[rows, width]`` (sentence-transformers' way).

    The codec encodes one text at a time without padding, so every token counts.
    """
    pooled = vectors.mean(axis=1) if settings.pooling == "mean" else vectors[:, 0]
    if not settings.normalize:
        return np.asarray(pooled)
    return np.asarray(pooled / np.maximum(np.linalg.norm(pooled, axis=-1, keepdims=True), 1e-12))


def _labels(path: Path) -> list[str]:
    what = f"the label file `outputs.classes.labels` {path}"
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST + 1)
        if len(content) > _LONGEST:
            raise ConfigError(f"{what} is larger than {Size(_LONGEST)}", hint="one name per line, nothing else")
        labels = lines(content)
    except OSError as exc:
        raise ConfigError(f"{what} can't be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{what} is not UTF-8 text: {exc}", hint="save it as UTF-8") from exc
    if not labels:
        raise ConfigError(f"{what} is empty", hint="one name per line, in the order of the model's classes")
    return labels
