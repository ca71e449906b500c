"""The files that docs/scale.md gives for clusters hold together, as far as can be seen here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from secateur.terminal.application import app

ROOT = Path(__file__).parents[1]
FILES = ROOT / "examples" / "ray"


def words(text: str) -> list[str]:
    """Return the options of the study that a file starts."""
    return text.split("secateur study ")[1].split()


def known() -> set[str]:
    import typer

    import secateur.terminal.commands  # noqa: F401

    command: Any = typer.main.get_command(app)
    return {name for each in command.commands["study"].params for name in each.opts}


def test_the_slurm_script_is_shell_and_starts_a_study() -> None:
    script = FILES / "slurm.sbatch"
    if bash := shutil.which("bash"):
        subprocess.run([bash, "-n", str(script)], check=True)
    options = {word for word in words(script.read_text()) if word.startswith("--")}
    assert options <= known()
    assert "--executor" in options


def test_the_kubernetes_file_is_a_job_that_starts_a_study() -> None:
    yaml = pytest.importorskip("yaml")
    claim, job = yaml.safe_load_all((FILES / "kubernetes.yaml").read_text())
    assert (claim["kind"], job["kind"], job["apiVersion"]) == (
        "PersistentVolumeClaim", "RayJob", "ray.io/v1"
    )  # fmt: skip
    spec = job["spec"]
    assert {word for word in words(spec["entrypoint"]) if word.startswith("--")} <= known()
    cluster = spec["rayClusterSpec"]
    head = cluster["headGroupSpec"]["template"]["spec"]
    (volume,) = head["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    (mount,) = head["containers"][0]["volumeMounts"]
    assert spec["entrypoint"].split("--out ")[1].startswith(mount["mountPath"] + "/")
    images = [head["containers"][0]["image"]]
    images += [
        group["template"]["spec"]["containers"][0]["image"] for group in cluster["workerGroupSpecs"]
    ]
    assert len(set(images)) == 1
    pinned = (ROOT / "constraints.txt").read_text().split("ray==")[1].split()[0]
    assert cluster["rayVersion"] == pinned
    assert f"ray:{pinned}-" in (FILES / "Dockerfile").read_text()
