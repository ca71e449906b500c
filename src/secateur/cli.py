"""The command line: arguments only; each command calls one public function.

Exit codes: 0 done, 1 a failed or interrupted run, 2 bad usage.
"""

from __future__ import annotations

import functools
import inspect as introspect
import shlex
import sys
import warnings
from collections.abc import Callable
from dataclasses import Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from rich.console import Console

from secateur.errors import SecateurError, UsageError
from secateur.study.spec import Options

if TYPE_CHECKING:
    from secateur.study.task import Task

app = typer.Typer(
    name="secateur",
    help="Train once, prune to any ratio, with proof, and ship it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console()
err = Console(stderr=True)


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option per field of `Options`, with the field's help and default."""
    hints = get_type_hints(Options)

    def parameter(field: Field[Any]) -> introspect.Parameter:
        default: Any = field.default
        several = isinstance(default, tuple)
        if several:
            default = [",".join(map(str, default))]
        option = typer.Option(help=field.metadata["help"], metavar="<list>" if several else None)
        return introspect.Parameter(
            field.name,
            introspect.Parameter.KEYWORD_ONLY,
            default=default,
            # a list, so that --keep 0.5 --keep 0.1 is both, and not silently the last
            annotation=Annotated[list[str] if several else hints[field.name], option],
        )

    @functools.wraps(command)
    def wrapped(**arguments: Any) -> None:
        options = {}
        for field in fields(Options):
            value = arguments.pop(field.name)
            if isinstance(field.default, tuple):
                value = _listed(field.name, ",".join(value), type(field.default[0]))
            options[field.name] = value
        command(options=Options(**options), **arguments)

    own = [
        p.replace(kind=introspect.Parameter.KEYWORD_ONLY)
        for p in introspect.signature(command, eval_str=True).parameters.values()
        if p.name != "options"
    ]
    wrapped.__signature__ = introspect.Signature(  # type: ignore[attr-defined]
        [*own, *map(parameter, fields(Options))]
    )
    return wrapped


def _listed(name: str, text: str, kind: type) -> tuple[Any, ...]:
    try:
        return tuple(kind(part.strip()) for part in text.split(",") if part.strip())
    except ValueError:
        raise UsageError(
            f"--{name.replace('_', '-')} takes values with commas between them, got {text!r}"
        ) from None


@app.command()
@_with_options
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
            help="Network; `secateur doctor` lists them.  \\[default: convnet]", show_default=False
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
) -> None:
    """Train, learn gates, cut at every keep ratio with several seeds, and write a report.

    A study that was stopped goes on where it was when the same command is given again.
    """
    from secateur.doctor import crowded
    from secateur.study.progress import StudyProgress
    from secateur.study.study import Study
    from secateur.study.table import table

    built_in = {"data": data, "net": net, "label_smoothing": label_smoothing, "data_dir": data_dir}
    chosen = _chosen(task, {name: value for name, value in built_in.items() if value is not None})
    job = Study(chosen, options, out=out_dir, device=device)
    out.print(f"study {job.spec.hash[:12]} in {job.directory}", highlight=False)
    if slow := crowded(job.device):
        err.print(f"warning: {slow}", highlight=False, soft_wrap=True)
    try:
        with StudyProgress(job.spec, out) as progress:
            results = job.run(progress)
    except KeyboardInterrupt:
        err.print(
            "\ninterrupted; what is done is kept. To go on where it stopped:\n  "
            + shlex.join(["secateur", *sys.argv[1:]]),
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(1) from None
    out.print(table(results.summary))
    _tell(results.directory, results.files.html)


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
) -> None:
    """Rebuild a study's report, curve and table from its records alone."""
    from secateur.study.study import rebuild
    from secateur.study.table import table

    results = rebuild(directory)
    out.print(table(results.summary))
    _tell(results.directory, results.files.html)


@app.command()
def inspect(
    path: Annotated[
        Path, typer.Argument(help="A study directory, a record, or a safetensors file.")
    ],
) -> None:
    """Show what a study directory, a record, a checkpoint or a masks file holds."""
    from secateur.inspection import inspection

    out.print(inspection(path))


@app.command(name="compile")
def compile_(
    model: Annotated[
        Path, typer.Argument(help="An ONNX file, or a study directory (then give --keep).")
    ],
    out_file: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="What to write.  \\[default: MODEL's name here]", show_default=False
        ),
    ] = None,
    emit: Annotated[
        str, typer.Option(help="library, or c: a folder of C sources that needs nothing else.")
    ] = "library",
    target: Annotated[
        str, typer.Option(help="native, or a name that an unknown one lists (secateur[cross]).")
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
    criterion: Annotated[str, typer.Option(help="Of a study.")] = "gate",
    seed: Annotated[int, typer.Option(help="Of a study: which of its seeds.")] = 0,
    task: Annotated[
        str | None,
        typer.Option(
            help="FILE.py:NAME or MODULE:NAME of a study's own task; its code is run.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Compile a pruned network to a library, or to C, that skips the zeros."""
    from secateur.compiler import pipeline

    if emit not in ("library", "c"):
        raise UsageError(f"--emit is library or c, not {emit!r}")
    source: Path | bytes = model
    name = model.stem
    if model.is_dir():
        if keep is None:
            raise UsageError(f"{model} is a study: give --keep, the keep ratio to compile")
        from secateur.study.study import opened

        own = None if task is None else _chosen(task, {})
        with err.status(f"cutting the study's network to {keep:g}"):
            source = opened(model, task=own).onnx(keep, criterion=criterion, seed=seed)
        name = f"{model.resolve().name}-keep-{keep:g}"
    elif keep is not None or task is not None:
        raise UsageError(
            "--keep and --task are for a study directory; an ONNX file is compiled as it is"
        )
    options: dict[str, Any] = {
        "target": target,
        "values": values,
        "input_shapes": dict(map(_shape, input_shape or ())),
        "name": name,
        "tune": tune,
    }
    if emit == "c":
        folder = out_file or Path(name)
        with err.status(f"compiling {name} to C"):
            pipeline.emit_c(source, folder, **options)
        out.print(f"wrote {folder}: `make` there builds a library and an example", highlight=False)
        return
    with err.status(f"compiling {name}"):
        compiled = pipeline.compile_network(source, **options)
        path = out_file or Path(name + compiled.target.suffix)
        compiled.write(path)
    out.print(compiled.summary(path), highlight=False, soft_wrap=True)


@app.command()
def bench(
    model: Annotated[
        Path, typer.Argument(help="An ONNX file, which is compiled first, or a compiled network.")
    ],
    against: Annotated[
        str, typer.Option(help="Peers: onnxruntime, openvino, deepsparse; with commas.")
    ] = "onnxruntime",
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
    from secateur.bench import run, view

    with err.status("measuring") as status:
        result = run(
            model,
            against,
            onnx=onnx,
            batches=_listed("batch", batch, int),
            threads=threads,
            rounds=rounds,
            layers=layers,
            price=price,
            env=env or (),
            input_shapes=dict(map(_shape, input_shape or ())),
            values=values,
            progress=status.update,
        )
    if json_:
        print(result.json())
    else:
        out.print(view(result))


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, extents = text.rpartition("=")
    try:
        return name, tuple(int(extent) for extent in extents.split(","))
    except ValueError:
        name = ""
    raise UsageError(f"--input-shape is NAME=1,3,32,32, not {text!r}")


@app.command()
def doctor() -> None:
    """Say what this machine can do: cores, bf16, CUDA, compiler, cache, data present."""
    from rich.table import Table
    from rich.text import Text

    from secateur.doctor import examine

    view = Table("", "check", "found", "hint", box=None)
    for check in examine():
        mark = {True: "[green]ok[/]", False: "[red]no[/]", None: "-"}[check.ok]
        view.add_row(mark, Text(check.name), Text(check.value), Text(check.hint))
    out.print(view)


def _tell(directory: Path, page: Path) -> None:
    out.print(f"report: {page.resolve()}", highlight=False, soft_wrap=True)
    out.print(
        f"records, curve.svg, curve.png, results.csv: {directory.resolve()}",
        highlight=False,
        soft_wrap=True,
    )


def main() -> None:
    """Run the command line; turn errors into one line and an exit code."""
    warnings.showwarning = lambda message, *_: err.print(f"warning: {message}", highlight=False)
    try:
        app()
    except UsageError as error:
        err.print(f"secateur: {error}", highlight=False, markup=False, soft_wrap=True)
        raise SystemExit(2) from None
    except SecateurError as error:
        err.print(f"secateur: {error}", highlight=False, markup=False, soft_wrap=True)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        err.print("interrupted")
        raise SystemExit(1) from None
