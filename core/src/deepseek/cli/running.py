"""run: items in, answers out."""

from __future__ import annotations

import glob
import os
import sys
from pathlib import Path
from typing import Any

import click

from deepseek.cli import options
from deepseek.cli.progress import Tell, progress
from deepseek.cli.results import open_results
from deepseek.errors import ExecutionError, InputError, InputNotFoundError, OutOfMemoryError
from deepseek.files import exists
from deepseek.pipeline import Pipeline
from deepseek.protocols import Codec


@click.command()
@options.pipeline
@click.argument("inputs", nargs=-1, metavar="INPUT...")
@options.as_json
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to FILE: .json, .jsonl or .npz (tensors).")
@click.option("--keep-going", is_flag=True, help="Report an input that fails and go on with the next.")
@click.option("-v", "--verbose", is_flag=True, help="Show the plan, and what each step of the build took.")
def run(
    pipeline: Path,
    inputs: tuple[str, ...],
    overrides: tuple[str, ...],
    as_json: bool,
    output: Path | None,
    keep_going: bool,
    verbose: bool,
) -> int:
    """Run PIPELINE on each INPUT: files, folders, globs, or - for standard input.

    Files are .jpg .png .webp .bmp .gif .tiff, .npy .npz .json, or .txt with one text per line.
    """
    from deepseek.kernel import assemble, explain

    if not inputs:
        raise click.UsageError("give at least one INPUT: a file, a folder, a glob, or - for standard input")
    plan = explain(pipeline, overrides=overrides)
    if verbose:
        print(plan, file=sys.stderr)
    # Named before the model is loaded: a typing mistake should not cost the loading.
    named, code = _named(inputs, keep_going)
    with assemble(plan) as built:
        if verbose:
            _report(built)
        paths = [found for path in named for found in _unfold(path, built.codec)]
        if not paths and not code:
            hint = f"known types: {' '.join(sorted(built.codec.suffixes))}"
            raise InputNotFoundError("there is no input file", hint=hint)
        # An interrupted or failed run leaves no half-written file: open_results renames at the end.
        with open_results(output, as_json) as results, progress(len(paths), shown=_has_room(as_json, output)) as tell:
            for done, path in enumerate(paths):
                tell(done)
                code = _one(built, path, results, keep_going, tell) or code
            tell(len(paths))
    return code


def _one(pipeline: Pipeline, path: Path | None, results: Any, keep_going: bool, tell: Tell) -> int:
    """Answer every item of one file; its error's exit code when it failed and that is to be passed over."""
    label, none = "", True
    try:
        for label, tensors in pipeline.codec.read(path, None if path else sys.stdin.buffer):
            none = False
            outputs = pipeline.run(tensors)
            results.add(label, outputs, pipeline.codec.decode(outputs))
            tell(None)
        if none:
            raise InputError(f"{path or 'standard input'} holds no item")
    except (InputError, ExecutionError, OutOfMemoryError) as error:
        # What was wrong with a tensor says nothing of the file that it came from.
        name = label or str(path or "standard input")
        known = type(error)(error.what, where=error.where or ("" if name in error.what else name), hint=error.hint)
        if not keep_going:
            raise known from error
        print(f"error: {known}", file=sys.stderr)
        return known.exit_code
    return 0


def _named(inputs: tuple[str, ...], keep_going: bool) -> tuple[list[Path | None], int]:
    """The paths that the arguments stand for, and the exit code for those that stand for none."""
    paths: list[Path | None] = []
    code = 0
    for argument in inputs:
        try:
            paths += expand(argument)
        except InputNotFoundError as error:
            if not keep_going:
                raise
            print(f"error: {error}", file=sys.stderr)
            code = error.exit_code
    return paths, code


def _has_room(as_json: bool, output: Path | None) -> bool:
    """A progress bar has the terminal to itself: not when JSON lines run over it, and not in a pipe."""
    return sys.stderr.isatty() and not (as_json and output is None and sys.stdout.isatty())


def expand(argument: str) -> list[Path | None]:
    """The paths that an argument stands for; None is standard input. Raises InputNotFoundError."""
    if argument == "-":
        return [None]
    if not argument:
        raise InputNotFoundError("an INPUT is empty", hint="is a variable of your shell not set?")
    try:
        path = Path(argument).expanduser()
    except RuntimeError as exc:
        raise InputNotFoundError(f"there is no file {argument}: {exc}", hint="write the whole path") from exc
    if exists(path):
        return [path]
    found = sorted(glob.glob(str(path), recursive=True)) if glob.has_magic(argument) else []
    if not found:
        hint = f"the folder {path.parent} does not exist" if not path.parent.is_dir() else "check the spelling"
        raise InputNotFoundError(f"there is no file {argument}", hint=hint)
    # `**` finds the files in a folder by itself.
    return [Path(name) for name in found if "**" not in argument or not Path(name).is_dir()]


def _unfold(path: Path | None, codec: Codec) -> list[Path | None]:
    """A folder as the files in it that the codec reads; anything else as it is."""
    if path is None or not path.is_dir():
        return [path]
    found: list[Path | None] = []
    for folder, _, names in os.walk(path, onerror=_unreadable):
        found += [Path(folder, name) for name in names if Path(name).suffix.lower() in codec.suffixes]
    return sorted(found, key=str)


def _unreadable(exc: OSError) -> None:
    raise InputError(f"the folder can't be read: {exc.strerror}", where=str(exc.filename), hint="leave it out") from exc


def _report(pipeline: Pipeline) -> None:
    for step in pipeline.steps:
        note = f"  ({step.note})" if step.note else ""
        print(
            f"built      {step.name}: {step.seconds:.2f} s, {step.resident_bytes / 2**20:+.0f} MiB{note}",
            file=sys.stderr,
        )
