"""What the file of a network is: ONNX, an engine, or a folder of C; as JSON values, and shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from secateur import files
from secateur.compiler import artifact, bundle
from secateur.console import Words

Record = dict[str, Any]

LARGEST = 256 * 2**20
"""Bytes of a bundle.json."""


def engine(path: Path) -> Record:
    """Return what an engine says of itself, as docs/cli.md lists it.

    Raises:
        FileError: it is damaged, or of a later version.
    """
    info = artifact.read(path)
    with files.refusing(path, "compile the network again"):
        return {
            "bytes": info.bytes,
            "target": info.target,
            "features": list(info.features),
            **_network(info.network),
        }


def folder(path: Path) -> Record:
    """Return what a folder of C is, as docs/cli.md lists it.

    Raises:
        FileError: its bundle.json cannot be read.
    """
    with files.refusing(path / bundle.MANIFEST, "write the folder again, with `secateur compile`"):
        manifest = files.read_json(path / bundle.MANIFEST, LARGEST)
        return {
            "bytes": sum((path / name).stat().st_size for name in manifest["files"]),
            "target": str(manifest["target"]),
            "prefix": str(manifest.get("prefix", "secateur")),
            **_network(manifest["network"]),
        }


def onnx(path: Path) -> Record:
    """Return what an ONNX file holds, and raise what `onnx_description.described` says."""
    from secateur.compiler import onnx_description

    return onnx_description.described(path)


def _network(network: Mapping[str, Any]) -> Record:
    """Return what a compiled network says of itself; other versions may say less."""
    batched = bool(network.get("batched"))
    programs = network.get("steps") or [[]]
    return {
        "name": str(network.get("name", "")),
        "secateur": str(network.get("secateur", "")),
        "origin": str(network.get("origin", "")),
        "values": str(network.get("values", "")),
        "precision": str(network.get("precision", "")),
        "inputs": [_port(port, batched) for port in network["inputs"]],
        "outputs": [_port(port, batched) for port in network["outputs"]],
        "tiles": [int(batch) for batch in network.get("batches", ())],
        "steps": len(programs[0]),
        "layers": [_layer(step) for step in programs[0] if "macs" in step],
    }


def _port(port: Mapping[str, Any], batched: bool) -> Record:
    shape: list[Any] = [int(extent) for extent in port["shape"]]
    shape = ["batch", *shape] if batched else shape
    return {"name": str(port["name"]), "dtype": str(port["dtype"]), "shape": shape}


def _layer(step: Mapping[str, Any]) -> Record:
    macs, left = int(step["macs"]), int(step["sparse_macs"])
    return {
        "name": str(step["layer"]),
        "op": str(step["op"]),
        "kernel": str(step.get("kernel", "")),
        "macs": macs,
        "nonzero": int(step["nonzeros"]),
        "sparsity": 1 - left / macs if macs else 0.0,
    }


# Views.


def of_compiled(found: Record) -> RenderableType:
    """Return a view of `engine` or `folder`."""
    made = f"{found['name']}: compiled by secateur {found['secateur']} for {found['target']}"
    if found.get("features"):
        made += f", which needs {', '.join(found['features'])}"
    view = Table("layer", "kind", "kernel", "non-zero", "multiply-adds", header_style="bold")
    for column in view.columns[2:]:
        column.justify = "right"
    for layer in found["layers"]:
        share = f"{100 * (1 - layer['sparsity']):.1f} %"
        cells = (Words(layer["name"]), layer["op"], layer["kernel"])
        view.add_row(*cells, share, f"{layer['macs']:,}")
    macs = sum(layer["macs"] for layer in found["layers"])
    left = sum(layer["macs"] * (1 - layer["sparsity"]) for layer in found["layers"])
    zeros = f", of which {100 * (1 - left / macs):.1f} % meet a zero" if macs else ""
    lines = [
        f"a sample takes {macs:,} multiply-adds{zeros}; {found['steps']} steps",
        f"weights in {found['values']}, computed in {found['precision']}; {found['bytes']:,} bytes",
    ]
    prefix = [f"names in C begin with {found['prefix']}_"] if "prefix" in found else []
    return Group(*map(Words, [made, *_of_ports(found)]), view, *map(Words, [*lines, *prefix]))


def of_onnx(found: Record) -> RenderableType:
    """Return a view of `onnx`; the weights are shown by the caller."""
    used = ", ".join(f"{count} {op}" for op, count in found["operators"].items())
    made = f"written by {found['producer'] or 'an unnamed program'}, operator set {found['opset']}"
    return Group(*map(Words, [made, *_of_ports(found), f"operators: {used}"]))


def _of_ports(found: Record) -> Iterable[str]:
    for kind in ("input", "output"):
        for port in found[f"{kind}s"]:
            shape = port["shape"]
            axes = "?" if shape is None else ", ".join("?" if n is None else str(n) for n in shape)
            yield f"{kind} {port['name']}: {port['dtype']} [{axes}]"
