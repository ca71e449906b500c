"""The command that quantises a model: arguments only; it calls one public function."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secateur.console import Words
from secateur.terminal.options import Json, Shapes, Values, input_shapes, input_values
from secateur.terminal.printing import show, working


def quantize(
    model: Annotated[Path, typer.Argument(help="An ONNX file of a float network.")],
    calibrate: Annotated[
        Path,
        typer.Option(
            help="A few hundred inputs like those in use, without labels: a .npy file, or .npz "
            "with the inputs' names."
        ),
    ],
    out_file: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="What to write.  \\[default: MODEL's name here, with -int8]",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Write over a file that is no quantised model, even MODEL."),
    ] = False,
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="Largest relative error of the outputs, such as 0.02; layers go back to float32 "
            "until it holds.  \\[default: none goes back]",
            show_default=False,
        ),
    ] = None,
    keep_float: Annotated[
        list[str] | None,
        typer.Option(help="A layer that stays in float32. Repeats.", show_default=False),
    ] = None,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact", help="Functions such as GELU in float32, not from a table: nearer, slower."
        ),
    ] = False,
    input_shape: Shapes = None,
    input_value: Values = None,
    json_: Json = False,
) -> None:
    """Quantise a network after training: int8 weights, 8-bit values, a QDQ ONNX file."""
    from secateur.quantization import call, inputs, result

    path = out_file or Path(f"{model.stem}-int8.onnx")
    result.refuse_file(path, force=force)  # before any work
    data = inputs.read_data(calibrate)
    with working("quantising") as status:
        made = call.quantize(
            model,
            data,
            max_drop=max_drop,
            keep_float=keep_float or (),
            exact=exact,
            input_shapes=input_shapes(input_shape),
            fixed=input_values(input_value),
            progress=lambda text: status.update(Words(text)),
        )
        made.save(path, force=force)
    first, *others = made.summary().split("\n")
    lines = [f"{path}: {len(made.content):,} bytes; {first}", *others]
    show({"path": str(path), **made.document()}, lines, json_=json_)
