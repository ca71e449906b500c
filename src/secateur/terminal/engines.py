"""The commands that make and time engines: arguments only; each calls one public function."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.compiler import targets
from secateur.console import Words
from secateur.errors import UsageError
from secateur.terminal.options import (
    Json,
    Shapes,
    Values,
    chosen,
    input_shapes,
    input_values,
    listed,
)
from secateur.terminal.printing import out, show, show_json, working

if TYPE_CHECKING:
    from secateur.quantization.result import Quantized


def compile_(
    model: Annotated[
        Path, typer.Argument(help="An ONNX file, or a study directory (then give --keep).")
    ],
    out_file: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="What to write.  \\[default: MODEL's name here, and the target's if it is not "
            "native]",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Write over a file that is no engine, even MODEL, or into a folder that holds "
            "other files.",
        ),
    ] = False,
    emit: Annotated[
        str, typer.Option(help="library, or c: a folder of C sources that needs nothing else.")
    ] = "library",
    prefix: Annotated[
        str | None,
        typer.Option(
            help="Of --emit c: what its functions, header and library are called after, so that "
            "several networks fit in one program.  \\[default: secateur]",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        str, typer.Option(help=f"native, or (needs ziglang) {', '.join(targets.CROSS)}.")
    ] = "native",
    values: Annotated[
        str, typer.Option(help="How weights are stored: fp32, fp16 or bf16; fp32 in arithmetic.")
    ] = "fp32",
    input_shape: Shapes = None,
    input_value: Values = None,
    verify_with: Annotated[
        Path | None,
        typer.Option(
            help="Inputs of your own, on which the result is compared with the reference, too: a "
            ".npy file, or .npz with the inputs' names.",
            show_default=False,
        ),
    ] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="Time kernels and tiles here, and choose by that.")
    ] = False,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8", help="Quantise a float network first, on --calibrate; see `quantize`."
        ),
    ] = False,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            help="Of --int8: inputs like those in use, .npy, or .npz with the inputs' names.",
            show_default=False,
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="Of --int8: largest relative error of the outputs, such as 0.02.",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        float | None, typer.Option(help="Of a study: the keep ratio to ship.", show_default=False)
    ] = None,
    criterion: Annotated[
        str | None,
        typer.Option(
            help="Of a study.  \\[default: that of its primary sequence]", show_default=False
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Of a study.  \\[default: its first]", show_default=False),
    ] = None,
    recovery: Annotated[
        str | None,
        typer.Option(
            help="Of a study.  \\[default: that of its primary sequence]", show_default=False
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="FILE.py:NAME or MODULE:NAME of a study's own task; its code is run.",
            show_default=False,
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Compile a pruned network to a library, or to C, that skips the zeros."""
    from secateur.compiler import destination, pipeline, toolchain

    if emit not in ("library", "c"):
        raise UsageError(f"--emit is library or c, not {emit!r}")
    name = model.stem
    if model.is_dir():
        if keep is None:
            raise UsageError(_folder(model))
        name = f"{model.resolve().name}-keep-{keep:g}"
    elif keep is not None or task is not None:
        raise UsageError(
            "--keep and --task are for a study directory; an ONNX file is compiled as it is"
        )
    if not int8 and (calibrate is not None or max_drop is not None):
        raise UsageError("--calibrate and --max-drop are for --int8; give that as well")
    in_c = emit == "c"
    if prefix is not None and not in_c:
        raise UsageError("--prefix is for --emit c; a library is loaded by its file")
    path = out_file or destination.default(name, toolchain.target(target), folder=in_c)
    if in_c:  # before any work
        destination.refuse_folder(path, model, force=force)
    else:
        destination.refuse_file(path, force=force)
    source: Path | bytes = model
    if keep is not None:
        from secateur.study.opening import opened

        own = None if task is None else chosen(task, {})
        with working(f"cutting the study's network to {keep:g}"):
            study = opened(model, task=own)
            source = study.onnx(keep, criterion=criterion, seed=seed, recovery=recovery)
    shapes, fixed = input_shapes(input_shape), input_values(input_value)
    made = _quantised(source, calibrate, max_drop, shapes, fixed) if int8 else None
    source = made.content if made else source
    lines = made.summary().split("\n") if made else []
    more = {"quantized": made.document() if made else None}
    options: dict[str, Any] = {
        "target": target,
        "values": values,
        "input_shapes": shapes,
        "fixed": {} if made else fixed,  # they are constants of what was made
        "name": name,
        "tune": tune,
        "verify_with": verify_with,
    }
    if in_c:
        named: dict[str, Any] = {} if prefix is None else {"prefix": prefix}
        with working(f"compiling {name} to C"):
            pipeline.emit_c(source, path, **options, **named, force=force)
        lines.append(f"wrote {path}: `make` there builds a library and an example")
        show({"kind": "c", "path": str(path), "target": target, **more}, lines, json_=json_)
        return
    with working(f"compiling {name}"):
        compiled = pipeline.compile_network(source, **options)
        compiled.write(path, force=force)
    lines.append(compiled.summary(path))
    show({"kind": "library", **compiled.document(path), **more}, lines, json_=json_)


def _folder(path: Path) -> str:
    """Return why a folder is not compiled, without a keep ratio, and what to give."""
    from secateur.compiler import bundle
    from secateur.study.checking import SPEC

    if (path / SPEC).exists():
        return f"{path} is a study: give --keep, the keep ratio to compile"
    if (path / bundle.MANIFEST).exists():
        return f"{path} is a folder of C, compiled already: run `make` in it"
    return (
        f"{path} is a folder, and holds no study (no spec.json); give an ONNX file, or the "
        "directory that `secateur study` wrote to and --keep"
    )


def _quantised(
    source: Path | bytes,
    calibrate: Path | None,
    max_drop: float | None,
    shapes: dict[str, tuple[int, ...]],
    fixed: dict[str, Any],
) -> Quantized | None:
    """Return a float network quantised; None for one that is quantised already."""
    from secateur.quantization import call, inputs, result

    if calibrate is None:
        if isinstance(source, Path) and source.is_file() and result.is_quantised(source):
            return None
        raise UsageError(
            "--int8 of a float model needs inputs to calibrate on: give --calibrate FILE.npz, a "
            "few hundred of them"
        )
    data = inputs.read_data(calibrate)
    with working("quantising") as status:
        return call.quantize(
            source,
            data,
            max_drop=max_drop,
            input_shapes=shapes,
            fixed=fixed,
            progress=lambda text: status.update(Words(text)),
        )


def bench(
    model: Annotated[
        Path, typer.Argument(help="An ONNX file, which is compiled first, or a compiled network.")
    ],
    against: Annotated[
        str,
        typer.Option(
            help="Peers, with commas: onnxruntime, openvino (at its default precision), "
            "openvino-f32, deepsparse; onnxruntime-int8 and openvino-int8 quantise the network."
        ),
    ] = "onnxruntime",
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="Samples for int8 peers: a .npy file, or .npz with the inputs' names. "
            "\\[default: random; only speed is meaningful then]",
            show_default=False,
        ),
    ] = None,
    onnx: Annotated[
        Path | None,
        typer.Option(help="What peers load, of a compiled network.", show_default=False),
    ] = None,
    batch: Annotated[str, typer.Option(help="Batch sizes, with commas.")] = "1,64",
    threads: Annotated[
        int | None, typer.Option(help="\\[default: one a physical core]", show_default=False)
    ] = None,
    rounds: Annotated[int, typer.Option(help="Turns of every engine.")] = 20,
    layers: Annotated[
        bool, typer.Option("--layers", help="Time every step, against the roofline.")
    ] = False,
    price: Annotated[
        float | None,
        typer.Option(
            help="Of an hour of this machine; gives the cost of a million inferences.",
            show_default=False,
        ),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(
            help="PEER=FOLDER, a virtual environment to use. Repeats.", show_default=False
        ),
    ] = None,
    input_shape: Shapes = None,
    input_value: Values = None,
    values: Annotated[str, typer.Option(help="Of weights, when compiling.")] = "fp32",
    json_: Json = False,
) -> None:
    """Measure a network on secateur and on other engines, side by side."""
    from secateur.bench import calibration as samples
    from secateur.bench import run, view

    with working("measuring") as status:
        result = run(
            model,
            against,
            onnx=onnx,
            calibrate=samples.read(calibration) if calibration else None,
            batches=listed("batch", batch, int),
            threads=threads,
            rounds=rounds,
            layers=layers,
            price=price,
            env=env or (),
            input_shapes=input_shapes(input_shape),
            fixed=input_values(input_value),
            values=values,
            progress=lambda text: status.update(Words(text)),
        )
    if json_:
        show_json(result.document())
    else:
        out.print(view(result))
