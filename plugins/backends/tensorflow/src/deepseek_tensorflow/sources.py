"""What a file or folder is, found by looking at it; TensorFlow is not imported for that."""

from __future__ import annotations

from pathlib import Path

from deepseek.plugin import HOST, Config, Decline, Device, Loader, Model, Source, library_missing


def offer(source: Source, device: Device, config: Config) -> Loader | Decline | None:
    """A loader for SavedModels and .keras files; Decline where something is lacking, None for anything else."""
    kind = recognise(source.path)
    if kind is None:
        return None
    if kind == "hdf5 file":
        return Decline(f"{source.path.name} is in Keras' old HDF5 format; save it again: model.save('model.keras')")
    missing = library_missing("tensorflow", "deepseek-tensorflow", "cpu", "gpu")
    if missing:
        return missing

    def load() -> Model:
        from deepseek_tensorflow import loading

        # Variables stay where they are loaded; another engine gets them converted, which the host does.
        place = device if config.kernel.engine in ("", "tensorflow") else HOST
        read = loading.saved_model if kind == "saved model" else loading.keras_file
        return read(source, place, config)

    return Loader(kind, "tensorflow", load, source.size_bytes)


def recognise(path: Path) -> str | None:
    """``saved model``, ``keras file``, ``hdf5 file`` or None."""
    if path.is_dir():
        return "saved model" if (path / "saved_model.pb").is_file() or (path / "saved_model.pbtxt").is_file() else None
    return {".keras": "keras file", ".h5": "hdf5 file", ".hdf5": "hdf5 file"}.get(path.suffix.lower())
