"""`toprung predict`: classify image files with an exported model."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toprung.cli.options import Storage, echo_err, exported_folder, find_sweep
from toprung.errors import UserError, pluralize

if TYPE_CHECKING:
    from toprung.export.predict import Prediction

STANDARD_INPUT = "-"

app = typer.Typer()


class Backend(StrEnum):
    """What runs the model."""

    ONNXRUNTIME = "onnxruntime"
    TORCH = "torch"


@app.command(epilog="Example: toprung predict runs/photos-20261123-141200/export holiday/ --top 3 --csv")
def predict(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder of an exported model, or a sweep.")],
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE...",
            help="Image files, folders, or patterns such as 'photos/**/*.jpg'; - reads file names from standard input.",
        ),
    ],
    top: Annotated[int, typer.Option(min=1, help="Number of classes for each image.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line for each image.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with one row for each image.")] = False,
    backend: Annotated[
        Backend | None,
        typer.Option(help="What runs the model.", show_default="onnxruntime, if the model has an ONNX file"),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per call of the model.")] = 32,
    threads: Annotated[int | None, typer.Option(min=1, help="Number of CPU threads of the model.")] = None,
    storage: Storage = "runs",
) -> None:
    """Classify image files with an exported model. Exit with 1 if a file could not be read."""
    from toprung.export.predict import find_files, predict_files
    from toprung.export.predictor import Predictor

    if as_json and as_csv:
        raise UserError("--json and --csv are mutually exclusive. Give only one of them.")
    predictor = Predictor(
        find_exported(model, storage=storage), backend=None if backend is None else backend.value, num_threads=threads
    )
    top = min(top, len(predictor.classes))
    write = _json_lines if as_json else _csv_rows(top) if as_csv else _text_lines
    num_files = num_failed = 0
    predictions = predict_files(predictor, find_files(_names(images)), top=top, batch_size=batch_size)
    try:
        for prediction in _with_progress(predictions):
            num_files += 1
            if prediction.error:
                num_failed += 1
                echo_err(printable(f"{prediction.file}: {prediction.error}"))
            write(prediction)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes stdout once more at exit
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    if num_failed:
        echo_err(f"{num_failed} of {pluralize(num_files, 'file')} could not be read.")
        sys.exit(1)


def find_exported(model: str, *, storage: str) -> Path:
    """Return the exported folder that a path, or the id or name of a sweep, stands for."""
    if (folder := exported_folder(model)) is not None:
        return folder
    sweep_dir = find_sweep(model, storage)
    if not sweep_dir.export_folder.is_dir():
        raise UserError(f"{sweep_dir.sweep_id} has no exported model. Type: toprung export {sweep_dir.sweep_id}")
    return sweep_dir.export_folder


def _names(images: Sequence[str]) -> Iterator[str]:
    for name in images:
        if name == STANDARD_INPUT:
            yield from (line.rstrip("\r\n") for line in sys.stdin if line.strip())
        else:
            yield name


def _with_progress(predictions: Iterator[Prediction]) -> Iterator[Prediction]:
    """Show how many files are done on stderr, if the results themselves do not go to the terminal."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    if sys.stdout.isatty() or not sys.stderr.isatty():
        yield from predictions
        return
    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} images"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)
        for prediction in predictions:
            progress.advance(task)
            yield prediction


def printable(text: str) -> str:
    """Return a text with control characters escaped, which could change what a terminal shows."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def _text_lines(prediction: Prediction) -> None:
    if not prediction.error:
        labels = "  ".join(f"{label.name} {label.probability:.4f}" for label in prediction.labels)
        print(printable(f"{prediction.file}  {labels}"))


def _json_lines(prediction: Prediction) -> None:
    content = {"file": prediction.file}
    if prediction.error:
        result: dict[str, object] = {**content, "error": prediction.error}
    else:
        labels = [{"label": label.name, "probability": label.probability} for label in prediction.labels]
        result = {**content, "predictions": labels}
    print(json.dumps(result, ensure_ascii=False))


def _csv_rows(top: int) -> Callable[[Prediction], None]:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    header = [f"{name}_{rank}" for rank in range(1, top + 1) for name in ("label", "probability")]
    writer.writerow(["file", *(header if top > 1 else ("label", "probability")), "error"])

    def write(prediction: Prediction) -> None:
        cells = [cell for label in prediction.labels for cell in (label.name, f"{label.probability:.6g}")]
        writer.writerow([prediction.file, *(cells or [""] * 2 * top), prediction.error])

    return write
