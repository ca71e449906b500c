"""The commands: arguments only; each calls one public function."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.status import Status

from secateur.console import Words, console, spinner
from secateur.errors import UsageError
from secateur.study.options import Options
from secateur.terminal.options import listed, shape, with_options

if TYPE_CHECKING:
    from secateur.study.study import Results
    from secateur.study.task import Task

app = typer.Typer(
    name="secateur",
    help="Train once, prune to any ratio, with proof, and ship it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = console()
err = console(stderr=True)


@app.callback()
def _options_of_all(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    pass  # `cli.main` answers --version, without importing what commands need


def _say(text: str) -> None:
    out.print(Words(text), soft_wrap=True)


def _warn(text: str) -> None:
    err.print(Words(text, lines=True), soft_wrap=True)


def _working(text: str) -> Status:
    return err.status(Words(text), spinner=spinner(err))


@app.command()
@with_options
def study(
    *,
    options: Options,
    task: Annotated[
        str | None,
        typer.Argument(
            help="Your own task, FILE.py:NAME or PACKAGE.MODULE:NAME (from the current folder): a "
            "secateur.Task, or a function without arguments that returns one. Without it, a "
            "built-in one of --data and --net.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Data set: cifar10, or digits (needs no network).  \\[default: cifar10]",
            show_default=False,
        ),
    ] = None,
    net: Annotated[
        str | None,
        typer.Option(
            help="Network; `secateur doctor` lists them.  \\[default: dctnet]", show_default=False
        ),
    ] = None,
    label_smoothing: Annotated[
        float | None,
        typer.Option(help="Of the training loss, in [0, 1).  \\[default: 0.1]", show_default=False),
    ] = None,
    out_dir: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Study directory.  \\[default: studies/<task>-<hash>]", show_default=False
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="Where the data's files are already; by default they are fetched and cached.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes that do it side by side, with one thread each; the numbers do not "
            "depend on it.  \\[default: one a physical core]",
            show_default=False,
        ),
    ] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="Print every row, not only those of the claim.")
    ] = False,
    json_: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; progress goes to stderr.")
    ] = False,
    measure: Annotated[
        bool | None,
        typer.Option(
            help="Compile each level's network and measure it here, beside other engines that are "
            "installed; or not.  \\[default: once; again with --price]",
            show_default=False,
        ),
    ] = None,
    price: Annotated[
        float | None,
        typer.Option(
            help="Of an hour of this machine, in US dollars; gives the cost of a million examples.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Train, cut at every keep ratio with several seeds, compare, certify, and write a report.

    A study that was stopped goes on where it was when the same command is given again.
    """
    from secateur.study.study import Study
    from secateur.terminal.doctor import crowded
    from secateur.terminal.measuring import check_price, measured
    from secateur.terminal.progress import StudyProgress

    if price is not None:
        check_price(price, measure)
    built_in = {"data": data, "net": net, "label_smoothing": label_smoothing, "data_dir": data_dir}
    chosen = _chosen(task, {name: value for name, value in built_in.items() if value is not None})
    job = Study(chosen, options, out=out_dir, device=device)
    shown = err if json_ else out
    number, why = job.workers(workers)
    if why:
        _warn(why)
    shown.print(Words("\n".join(job.announcement(number)), lines=True), soft_wrap=True)
    if slow := crowded(job.device):
        _warn(f"warning: {slow}")
    try:
        with StudyProgress(job.spec, shown, workers=number) as progress:
            results = job.run(progress, workers=number)
        if measure or price is not None or (measure is None and not job.shipped):
            asked = measure is True or price is not None
            results = measured(job, price, asked=asked, console=err) or results
    except KeyboardInterrupt:
        again = shlex.join(["secateur", *sys.argv[1:]])
        _warn(f"\ninterrupted; what is done is kept. To go on where it stopped:\n  {again}")
        raise typer.Exit(1) from None
    _show(results, everything=all_, json_=json_)


def _show(results: Results, *, everything: bool, json_: bool) -> None:
    """Print what a study found: a verdict, then the rows of its claim; or all of it."""
    from secateur.terminal import tables

    if json_:
        print(json.dumps(results.document(), allow_nan=False))
        return
    for text in results.verdict():
        _say(text)
    out.print((tables.everything if everything else tables.primary)(results.summary))
    if missing := tables.unfinished(results.summary):
        _warn(missing)
    _say(f"report: {results.files.html.resolve()}")


def _chosen(reference: str | None, built_in: dict[str, Any]) -> Task:
    """Return the user's own task, or the built-in one that the given options name."""
    from secateur.study.loading import load_task
    from secateur.study.task import classification

    if reference is None:
        return classification(**built_in)
    if built_in:
        given = ", ".join("--" + name.replace("_", "-") for name in built_in)
        raise UsageError(
            f"{given} belong to a built-in task, and {reference!r} is one of your own with its own "
            "data and network; leave out one or the other"
        )
    return load_task(reference)


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(help="A study directory.")],
    all_: Annotated[
        bool, typer.Option("--all", help="Print every row, not only those of the claim.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Rebuild a study's report, curve and table from its records alone."""
    from secateur.study.study import rebuild

    _show(rebuild(directory), everything=all_, json_=json_)


@app.command()
def inspect(
    path: Annotated[
        Path, typer.Argument(help="A study directory, a record, or a safetensors file.")
    ],
) -> None:
    """Show what a study directory, a record, a checkpoint or a masks file holds."""
    from secateur.terminal.inspection import inspection

    out.print(inspection(path))


@app.command(name="compile")
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
    target: Annotated[
        str, typer.Option(help="native, or a name that an unknown one lists (needs ziglang).")
    ] = "native",
    values: Annotated[
        str, typer.Option(help="How weights are stored: fp32, fp16 or bf16; fp32 in arithmetic.")
    ] = "fp32",
    input_shape: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=1,3,32,32 fixes an input's shape; -1 first leaves the batch free. Repeats.",
            show_default=False,
        ),
    ] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="Time kernels and tiles here, and choose by that.")
    ] = False,
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
    task: Annotated[
        str | None,
        typer.Option(
            help="FILE.py:NAME or MODULE:NAME of a study's own task; its code is run.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Compile a pruned network to a library, or to C, that skips the zeros."""
    from secateur.compiler import destination, pipeline, toolchain

    if emit not in ("library", "c"):
        raise UsageError(f"--emit is library or c, not {emit!r}")
    name = model.stem
    if model.is_dir():
        if keep is None:
            raise UsageError(f"{model} is a study: give --keep, the keep ratio to compile")
        name = f"{model.resolve().name}-keep-{keep:g}"
    elif keep is not None or task is not None:
        raise UsageError(
            "--keep and --task are for a study directory; an ONNX file is compiled as it is"
        )
    in_c = emit == "c"
    path = out_file or destination.default(name, toolchain.target(target), folder=in_c)
    if in_c:  # before any work
        destination.refuse_folder(path, model, force=force)
    else:
        destination.refuse_file(path, force=force)
    source: Path | bytes = model
    if keep is not None:
        from secateur.study.study import opened

        own = None if task is None else _chosen(task, {})
        with _working(f"cutting the study's network to {keep:g}"):
            source = opened(model, task=own).onnx(keep, criterion=criterion, seed=seed)
    options: dict[str, Any] = {
        "target": target,
        "values": values,
        "input_shapes": dict(map(shape, input_shape or ())),
        "name": name,
        "tune": tune,
    }
    if in_c:
        with _working(f"compiling {name} to C"):
            pipeline.emit_c(source, path, **options, force=force)
        _say(f"wrote {path}: `make` there builds a library and an example")
        return
    with _working(f"compiling {name}"):
        compiled = pipeline.compile_network(source, **options)
        compiled.write(path, force=force)
    _say(compiled.summary(path))


@app.command()
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
    input_shape: Annotated[
        list[str] | None, typer.Option(help="NAME=1,3,32,32. Repeats.", show_default=False)
    ] = None,
    values: Annotated[str, typer.Option(help="Of weights, when compiling.")] = "fp32",
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a network on secateur and on other engines, side by side."""
    from secateur.bench import calibration as samples
    from secateur.bench import run, view

    with _working("measuring") as status:
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
            input_shapes=dict(map(shape, input_shape or ())),
            values=values,
            progress=lambda text: status.update(Words(text)),
        )
    if json_:
        print(result.json())
    else:
        out.print(view(result))


@app.command()
def doctor() -> None:
    """Say what this machine can do: cores, bf16, CUDA, compiler, cache, data present."""
    from rich.table import Table

    from secateur.terminal.doctor import examine

    view = Table("", "check", "found", "hint", box=None)
    for check in examine():
        mark = {True: Words("ok", "green"), False: Words("no", "red"), None: Words("-")}[check.ok]
        view.add_row(mark, check.name, Words(check.value), Words(check.hint))
    out.print(view)
