"""The commands around studies: arguments only; each calls one public function."""

from __future__ import annotations

import shlex
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secateur.console import Words
from secateur.study.options import Options
from secateur.terminal.options import Json, chosen
from secateur.terminal.printing import err, out, say, show_json, warn
from secateur.terminal.study_options import with_options

if TYPE_CHECKING:
    from secateur.study.results import Results


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
            help="Data set: cifar10, digits (needs no network), or fashion_mnist (of Debian's "
            "package dataset-fashion-mnist, or in --data-dir).  \\[default: cifar10]",
            show_default=False,
        ),
    ] = None,
    net: Annotated[
        str | None,
        typer.Option(
            help="Network; `secateur doctor` lists them.  \\[default: dctnet]", show_default=False
        ),
    ] = None,
    finetune: Annotated[int | None, typer.Option(hidden=True)] = None,  # of 0.1.0
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
    grow: Annotated[
        Path | None,
        typer.Option(
            help="A directory of the same study with fewer seeds: those that are complete are "
            "taken over, and the report says so.  \\[default: one beside it, without --out]",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes that do it side by side, with one thread each; the numbers do not "
            "depend on it.  \\[default: one a physical core; on Ray as many as fit]",
            show_default=False,
        ),
    ] = None,
    executor: Annotated[
        str,
        typer.Option(help="local: processes of this machine; or ray: the nodes of a Ray cluster."),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            help="Of a Ray cluster: HOST:PORT of its head, or auto for the one that this machine "
            "is of.  \\[default: RAY_ADDRESS, or auto, or a new one here]",
            show_default=False,
        ),
    ] = None,
    cpus: Annotated[
        float | None,
        typer.Option(
            help="CPUs that an item takes on Ray; it has one thread.  \\[default: 1]",
            show_default=False,
        ),
    ] = None,
    gpus: Annotated[
        float | None,
        typer.Option(
            help="GPUs that an item takes on Ray, or the part of one, such as 0.25.  "
            "\\[default: 0]",
            show_default=False,
        ),
    ] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="Print every row, not only those of the claim.")
    ] = False,
    json_: Json = False,
    measure: Annotated[
        bool | None,
        typer.Option(
            help="Compile each level's network and measure it here, beside other engines that are "
            "installed; or not.  \\[default: once; again with --price]",
            show_default=False,
        ),
    ] = None,
    track: Annotated[
        list[str] | None,
        typer.Option(
            help="Follow it elsewhere, too: mlflow, on the server of MLFLOW_TRACKING_URI, or "
            "tensorboard, in files in the study directory. Repeats.",
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
    from secateur.study.tracking.observer import Tracking
    from secateur.study.withdrawn import without_withdrawn
    from secateur.terminal.doctor import crowded
    from secateur.terminal.measuring import check_price, measured
    from secateur.terminal.running import completed
    from secateur.terminal.scaling import described, place

    if price is not None:
        check_price(price, measure)
    if finetune is not None:
        without_withdrawn({"finetune": finetune}, warn)
    built_in = {"data": data, "net": net, "label_smoothing": label_smoothing, "data_dir": data_dir}
    given = {name: value for name, value in built_in.items() if value is not None}
    where = place(executor, address=address, cpus=cpus, gpus=gpus, workers=workers, device=device)
    here = "cpu" if executor == "ray" else device  # on Ray this process trains nothing
    job = Study(chosen(task, given), options, out=out_dir, device=here, grow=grow)
    tracking = Tracking(job, track or (), lambda text: warn(f"warning: {text}"))
    shown = err if json_ else out
    try:
        with tracking:
            # with --json, standard output is for one object, and Ray prints there what it sees die
            with redirect_stdout(sys.stderr if json_ else sys.stdout), where as cluster:
                number, why = job.workers(workers) if cluster is None else (cluster.slots, "")
                by = "" if cluster is None else described(cluster)
                if why:
                    warn(why)
                measures = measure or price is not None or (measure is None and not job.shipped)
                said = "\n".join(job.announcement(number, by, measured=measures))
                shown.print(Words(said, lines=True), soft_wrap=True)
                if cluster is None and (slow := crowded(job.device)):
                    warn(f"warning: {slow}")
                results = completed(
                    job,
                    tracking,
                    shown=shown,
                    console=err,
                    workers=number,
                    cluster=cluster,
                    measures=measures,
                )
            if measures:
                asked = measure is True or price is not None
                results = measured(job, price, asked=asked, console=err) or results
            tracking.results(results)
    except KeyboardInterrupt:
        again = shlex.join(["secateur", *sys.argv[1:]])
        warn(f"\ninterrupted; what is done is kept. To go on where it stopped:\n  {again}")
        raise typer.Exit(1) from None
    _show(results, everything=all_, json_=json_)


def _show(results: Results, *, everything: bool, json_: bool) -> None:
    """Print what a study found: a verdict, then the rows of its claim; or all of it."""
    from secateur.study.report.findings import grown
    from secateur.terminal import tables

    if json_:
        show_json(results.document())
        return
    for text in results.verdict():
        say(text)
    out.print((tables.everything if everything else tables.primary)(results.summary))
    if missing := tables.unfinished(results.summary):
        warn(missing)
    for text in results.summary.mixed:
        warn(f"warning: {text}")
    if results.summary.grown:
        warn(f"warning: the number of seeds was grown. {grown(results.summary, results.spec)}")
    say(f"report: {results.files.html.resolve()}")


def report(
    directory: Annotated[Path, typer.Argument(help="A study directory.")],
    all_: Annotated[
        bool, typer.Option("--all", help="Print every row, not only those of the claim.")
    ] = False,
    json_: Json = False,
) -> None:
    """Rebuild a study's report, curve and table from its records alone."""
    from secateur.study.results import rebuild

    _show(rebuild(directory), everything=all_, json_=json_)
