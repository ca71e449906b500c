"""Where a study runs, from the options of the command line."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from secateur.errors import UsageError
from secateur.study.executors.cluster import Cluster
from secateur.study.report.units import counted

EXECUTORS = ("local", "ray")


def place(
    executor: str,
    *,
    address: str | None,
    cpus: float | None,
    gpus: float | None,
    workers: int | None,
    device: str,
) -> AbstractContextManager[Cluster | None]:
    """Return the cluster that a study is to run on, to be entered; None: this machine.

    Raises:
        UsageError: there is no such executor, or options do not go together.
    """
    if executor not in EXECUTORS:
        raise UsageError(f"--executor is {executor!r}; choose one of {', '.join(EXECUTORS)}")
    if executor == "local":
        of_ray = {"--address": address, "--cpus": cpus, "--gpus": gpus}
        if given := [name for name, value in of_ray.items() if value is not None]:
            raise UsageError(f"{', '.join(given)} goes with --executor ray; add that, or leave out")
        return nullcontext()
    if device not in ("auto", "cpu") or (device == "cpu" and gpus):
        raise UsageError(
            f"--device {device} does not go with --executor ray, where --gpus says whether items "
            "compute on a GPU; leave --device out"
        )
    return Cluster(
        address,
        cpus=1.0 if cpus is None else cpus,
        gpus=0.0 if gpus is None else gpus,
        workers=workers,
    )


def described(cluster: Cluster) -> str:
    """Say where a study runs."""
    names = sorted({node.name for node in cluster.nodes})
    few = f" ({', '.join(names)})" if len(names) <= 8 else ""
    return f"tasks on {counted(len(cluster.nodes), 'node')}{few}, {cluster.slots} at a time"
