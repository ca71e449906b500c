"""Folders of the Hub: read by any library, written beside what was there, never left."""

from __future__ import annotations

import copy
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from secateur import Budget, Gates, Masks
from secateur.errors import FileError, UsageError
from secateur.pruning.files.hub import (
    CONFIG,
    DENSE,
    PACKED,
    SHARDS,
    from_pretrained,
    push_to_hub,
    save_pretrained,
)


class Net(nn.Module):
    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.table = nn.Embedding(7, width)
        self.body = nn.Linear(width, width)
        self.head = nn.Linear(width, 7, bias=False)
        self.head.weight = self.table.weight
        self.norm = nn.BatchNorm1d(width)


def net(seed: int = 0, width: int = 12) -> Net:
    torch.manual_seed(seed)
    return Net(width)


def cut(model: Net) -> Masks:
    masks = Masks({"body.weight": torch.rand(12, 12) < 0.1})
    masks.apply(model)
    return masks


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, its = one.state_dict(), other.state_dict()
    return list(mine) == list(its) and all(torch.equal(t, its[name]) for name, t in mine.items())


def config(folder: Path) -> dict[str, Any]:
    given: dict[str, Any] = json.loads((folder / CONFIG).read_text())
    return given


@pytest.mark.parametrize("packed", [False, True])
def test_a_model_comes_back(packed: bool, tmp_path: Path) -> None:
    model = net()
    masks = cut(model)
    save_pretrained(
        model,
        tmp_path,
        packed=packed,
        masks=masks,
        budget=Budget(0.1),
        architecture=(f"{__name__}:Net", {"width": 12}),
        provenance={"seed": 0},
    )
    assert {path.name for path in tmp_path.iterdir()} == {CONFIG, PACKED if packed else DENSE}
    given = from_pretrained(tmp_path, net(1))
    assert same(given, model)
    assert given.head.weight is given.table.weight
    assert same(from_pretrained(tmp_path, factory=Net), model)
    assert same(from_pretrained(tmp_path, trust=True), model)
    with pytest.raises(UsageError, match="trust=True"):
        from_pretrained(tmp_path)
    section = config(tmp_path)["secateur"]
    assert section["achieved"] == masks.keep
    assert section["budget"]["keep"] == 0.1
    assert section["provenance"] == {"seed": 0}


def test_any_library_reads_the_dense_form(tmp_path: Path) -> None:
    model = net()
    Gates.attach(model, ["body.weight"])
    save_pretrained(model, tmp_path)
    other = net(1)
    safetensors.torch.load_model(other, tmp_path / DENSE)
    Gates.of(model).remove()
    assert same(other, model)
    with safetensors.safe_open(tmp_path / DENSE, framework="pt") as file:
        assert file.metadata()["format"] == "pt"
    safetensors.torch.save_model(net(2), str(tmp_path / DENSE))
    (tmp_path / CONFIG).unlink()
    assert same(from_pretrained(tmp_path, net(3)), net(2))  # the other way round


def test_tensors_that_share_memory_are_stored_apart(tmp_path: Path) -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            both = torch.arange(8.0)
            self.register_buffer("one", both[:4])
            self.register_buffer("other", both[2:].view(2, 3).T)

    save_pretrained(Views(), tmp_path)
    state = safetensors.torch.load_file(tmp_path / DENSE)
    assert state["one"].tolist() == [0, 1, 2, 3]
    assert state["other"].tolist() == [[2, 5], [3, 6], [4, 7]]


def test_other_entries_of_config_stay(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text('{"model_type": "mine", "width": 4, "secateur": {"old": 1}}')
    save_pretrained(net(), tmp_path, config={"width": 12, "labels": ["a"]})
    given = config(tmp_path)
    assert (given["model_type"], given["width"], given["labels"]) == ("mine", 12, ["a"])
    assert "old" not in given["secateur"]


class Saving(Net):
    """As transformers' models: saves itself, in several files, with a config.json of its own."""

    def save_pretrained(self, save_directory: Any, state_dict: Any = None) -> None:
        state = dict(state_dict or self.state_dict())
        del state["head.weight"]
        names = sorted(state)
        parts = {"model-1.safetensors": names[:2], "model-2.safetensors": names[2:]}
        index = {"weight_map": {n: file for file, part in parts.items() for n in part}}
        for file, part in parts.items():
            safetensors.torch.save_file({n: state[n] for n in part}, Path(save_directory) / file)
        (Path(save_directory) / SHARDS).write_text(json.dumps(index))
        (Path(save_directory) / CONFIG).write_text('{"model_type": "net", "secateur": "stale"}')


def test_weights_of_an_earlier_save_do_not_stay_beside_the_new_ones(tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside.safetensors"
    save_pretrained(Saving(), folder)
    (folder / "adapter.safetensors").write_bytes(b"another's")
    outside.write_bytes(b"kept")
    given = config(folder)
    given["secateur"]["files"][f"../{outside.name}"] = "0" * 64
    (folder / CONFIG).write_text(json.dumps(given))
    assert {"model-1.safetensors", SHARDS} <= {path.name for path in folder.iterdir()}
    model = net(3)
    save_pretrained(model, folder, packed=True, masks=cut(model))
    assert {path.name for path in folder.iterdir()} == {CONFIG, PACKED, "adapter.safetensors"}
    assert outside.read_bytes() == b"kept"
    assert same(from_pretrained(folder, net(4)), model)
    save_pretrained(model, folder)
    assert {path.name for path in folder.iterdir()} == {CONFIG, DENSE, "adapter.safetensors"}
    assert same(from_pretrained(folder, net(4)), model)


def test_models_that_save_themselves_do(tmp_path: Path) -> None:
    model = Saving()
    Gates.attach(model, ["body.weight"])
    save_pretrained(model, tmp_path)
    assert config(tmp_path)["model_type"] == "net"
    assert set(config(tmp_path)["secateur"]["files"]) == {
        "model-1.safetensors",
        "model-2.safetensors",
    }
    Gates.of(model).remove()
    assert same(from_pretrained(tmp_path, net(1)), model)
    (tmp_path / CONFIG).unlink()  # then the index says what there is
    assert same(from_pretrained(tmp_path, net(2)), model)
    save_pretrained(model, tmp_path / "packed", packed=True)
    assert same(from_pretrained(tmp_path / "packed", net(3)), model)


def test_models_whose_way_of_saving_does_not_do_are_refused(tmp_path: Path) -> None:
    class Stubborn(Net):
        def save_pretrained(self, place: Path) -> None:
            torch.save(self.state_dict(), Path(place) / "pytorch_model.bin")

    model = Stubborn()
    with pytest.raises(UsageError, match="wrote no safetensors"):
        save_pretrained(model, tmp_path)
    Gates.attach(model, ["body.weight"])
    with pytest.raises(UsageError, match="saves itself, and its gates too"):
        save_pretrained(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_leaves_no_trace(tmp_path: Path) -> None:
    model = net()
    masks = cut(copy.deepcopy(model))
    for wrong, message in (
        ({"masks": masks}, "apply the masks"),
        ({"dtype": torch.float16}, "packed=True"),
        ({"config": {"x": {1}}}, "config cannot be written as JSON"),
        ({"architecture": "x"}, "architecture is 'x'"),
        ({"provenance": 3}, "provenance cannot be"),
    ):
        with pytest.raises(UsageError, match=message):
            save_pretrained(model, tmp_path / "folder", **wrong)  # type: ignore[arg-type]
    model.register_buffer("wave", torch.ones(2, dtype=torch.complex128))
    with pytest.raises(UsageError, match=r"'wave'.*packed=True"):
        save_pretrained(model, tmp_path / "folder")
    assert not list(tmp_path.glob("folder/*"))
    save_pretrained(model, tmp_path / "folder", packed=True)
    for broken in ("{", "[]"):
        (tmp_path / "folder" / CONFIG).write_text(broken)
        with pytest.raises(FileError, match=r"config\.json"):
            save_pretrained(net(), tmp_path / "folder")
        assert not (tmp_path / "folder" / DENSE).exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot write into"):
        save_pretrained(net(), tmp_path / "file")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_pretrained(net(), tmp_path / "saved")
    return tmp_path / "saved"


def test_files_that_are_not_those_of_the_config_are_refused(folder: Path) -> None:
    content = bytearray((folder / DENSE).read_bytes())
    content[-1] ^= 1
    (folder / DENSE).write_bytes(content)
    model = net(1)
    with pytest.raises(FileError, match=r"is not the file that config\.json was written for"):
        from_pretrained(folder, model)
    assert same(model, net(1))
    (folder / DENSE).unlink()
    with pytest.raises(FileError, match=r"cannot read .*model\.safetensors"):
        from_pretrained(folder, model)


def test_other_models_are_refused(folder: Path) -> None:
    other = net(1, width=5)
    with pytest.raises(FileError, match=r"another model .* \(7, 12\), but in the model \(7, 5\)"):
        from_pretrained(folder, other)
    assert same(other, net(1, width=5))


def by_section(folder: Path, name: str) -> None:
    given = config(folder)
    given["secateur"]["files"] = {name: "0" * 64}
    (folder / CONFIG).write_text(json.dumps(given))


def by_index(folder: Path, name: str) -> None:
    (folder / CONFIG).unlink()
    (folder / DENSE).unlink()
    (folder / SHARDS).write_text(json.dumps({"weight_map": {"body.weight": name}}))


@pytest.mark.parametrize("put", [by_section, by_index])
@pytest.mark.parametrize(
    "name",
    ["../model", "/etc/passwd", "a/../../model", "..\\model", "C:\\model", "link", "ring", "a\0b"],
)
def test_names_that_leave_the_folder_are_refused(
    name: str, put: Callable[[Path, str], None], folder: Path
) -> None:
    (folder.parent / "model").write_bytes((folder / DENSE).read_bytes())
    (folder / "link").symlink_to(folder.parent / "model")
    (folder / "ring").symlink_to(folder / "ring")
    put(folder, name)
    with pytest.raises(FileError, match=r"leads out of|cannot read"):
        from_pretrained(folder, net(1))


def test_links_out_of_the_folder_are_refused_even_under_usual_names(folder: Path) -> None:
    (folder / DENSE).replace(folder.parent / "model")
    (folder / DENSE).symlink_to(folder.parent / "model")
    with pytest.raises(FileError, match="leads out of"):
        from_pretrained(folder, net(1))


def test_the_cache_of_the_hub_is_read(folder: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "cache" / "snapshots" / "abc", tmp_path / "cache" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name in (CONFIG, DENSE):
        (folder / name).replace(blobs / f"of-{name}")
        (snapshot / name).symlink_to(Path("..") / ".." / "blobs" / f"of-{name}")
    assert same(from_pretrained(snapshot, net(1)), net())


@pytest.mark.parametrize(
    "section", ["x", 3, [], {"files": 3}, {"files": {DENSE: ""}, "architecture": 3}, {"no": 1}]
)
def test_hostile_sections_are_refused(section: Any, folder: Path) -> None:
    given = {**config(folder), "secateur": section}
    (folder / CONFIG).write_text(json.dumps(given))
    if section == []:  # says nothing
        assert same(from_pretrained(folder, net(1)), net())
        return
    with pytest.raises(FileError, match=r"config\.json.*section 'secateur'"):
        from_pretrained(folder, net(1))


def test_folders_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"no model\.safetensors"):
        from_pretrained(tmp_path, net())
    torch.save(net().state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(FileError, match="pickle"):
        from_pretrained(tmp_path, net())
    torch.save(net().state_dict(), tmp_path / DENSE)
    with pytest.raises(FileError, match="pickle"):
        from_pretrained(tmp_path, net())
    (tmp_path / DENSE).write_bytes(b"x" * 99)
    with pytest.raises(FileError, match=r"cannot read .*model\.safetensors"):
        from_pretrained(tmp_path, net())
    (tmp_path / DENSE).unlink()
    (tmp_path / SHARDS).write_text("{}")
    with pytest.raises(FileError, match="weight_map"):
        from_pretrained(tmp_path, net())


class Api:
    """Stands for huggingface_hub's, and remembers what it was told."""

    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]]

    def __init__(self) -> None:
        Api.calls = []

    def create_repo(self, *given: Any, **named: Any) -> None:
        Api.calls.append(("create_repo", given, named))

    def upload_folder(self, *given: Any, **named: Any) -> str:
        Api.calls.append(("upload_folder", given, named))
        return "https://example.invalid/me/model"


def push(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    fake = ModuleType("huggingface_hub")
    fake.HfApi = Api  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    return push_to_hub(folder, "me/model", private=True, token="t", commit_message="cut")


def test_pushing_is_a_thin_call(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert push(folder, monkeypatch) == "https://example.invalid/me/model"
    (_, made, how), (_, _, up) = Api.calls
    assert (made, how) == (("me/model",), {"exist_ok": True, "private": True, "token": "t"})
    assert up == {
        "repo_id": "me/model",
        "folder_path": str(folder),
        "token": "t",
        "commit_message": "cut",
    }


def test_the_call_is_one_that_huggingface_hub_takes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    real = hub.HfApi
    push(folder, monkeypatch)
    for name, given, named in Api.calls:
        inspect.signature(getattr(real, name)).bind(None, *given, **named)


def test_pushing_needs_a_folder_and_the_package(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match="pip install huggingface_hub"):
        push_to_hub(folder, "me/model")
    with pytest.raises(FileError, match=r"no config\.json"):
        push_to_hub(folder.parent, "me/model")


def test_ties_of_a_file_are_those_of_the_model(tmp_path: Path) -> None:
    apart = net()
    apart.head.weight = nn.Parameter(apart.head.weight + 1)
    save_pretrained(apart, tmp_path)
    tied: Net = net(1)
    with pytest.raises(FileError, match="are one tensor in the model"):
        from_pretrained(tmp_path, tied)
    save_pretrained(net(), tmp_path)
    untied = net(1)
    untied.head.weight = nn.Parameter(torch.zeros(7, 12))
    from_pretrained(tmp_path, untied)
    head: Tensor = untied.head.weight
    assert head is untied.table.weight
