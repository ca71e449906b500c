"""`secateur verify` names every file that is not what was written, and no other."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import secateur
from secateur.compiler import artifact, bundle
from secateur.compiler.targets import Target
from secateur.errors import StudyError
from secateur.files import Finding
from secateur.pruning.files import stage_file
from secateur.study.results import rebuild
from secateur.study.study import Study
from secateur.study.task import Task
from secateur.terminal.verification import Verified, verify
from test_cli import run

pytestmark = pytest.mark.usefixtures("undrawn")

OLD = Path(__file__).parent / "data" / "study-0.1.0"
PLAN = {
    "keep": (0.5,), "seeds": 1, "epochs": 1, "gate_epochs": 1, "calibration": 64,
    "criteria": ("magnitude",), "device": "cpu",
}  # fmt: skip
STAGE, TRIAL = "seed-0_magnitude_rung-0.5", "seed-0_magnitude_keep-0.5_ladder"


def flipped(content: bytes) -> bytes:
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def halved(content: bytes) -> bytes:
    return content[: len(content) // 2]


def emptied(content: bytes) -> bytes:
    return b""


DAMAGE: list[Callable[[bytes], bytes]] = [flipped, halved, emptied]


@pytest.fixture(scope="module")
def finished(undrawn: None, digits: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that was run, measured and failed in parts, so that it has files of every kind."""
    out = tmp_path_factory.mktemp("verify") / "study"
    study = Study(digits, out=out, **PLAN)
    study.run()
    content = {"spec": study.spec.hash, "measured": [], "notes": [], "machine": {}, "date": ""}
    text = json.dumps({**content, "sha256": digest(content)})
    (out / "shipped.json").write_text(text)
    content = {"spec": study.spec.hash, "failed": TRIAL, "why": "it rained", "traceback": ""}
    (out / "failures" / f"{TRIAL}.json").write_text(
        json.dumps({**content, "sha256": digest(content)})
    )
    rebuild(out)
    return out


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "study"))


def digest(content: dict[str, object]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def faults(found: Verified) -> list[tuple[str, str]]:
    return [(finding.state, finding.path) for finding in found.findings if finding.fault]


def contents(folder: Path) -> list[str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [path.relative_to(folder).as_posix() for path in files if path.name != ".lock"]


def test_a_whole_study_passes(finished: Path) -> None:
    found = verify(finished)
    assert found.whole
    assert sorted(finding.path for finding in found.findings) == contents(finished)
    assert {finding.state for finding in found.findings} == {"whole"}
    assert len(found.lines()) == 1


def test_every_damage_to_every_file_of_a_study_is_named(copy: Path) -> None:
    names = contents(copy)
    assert len(names) > 15
    for name in names:
        path, content = copy / name, (copy / name).read_bytes()
        for damage in DAMAGE:
            path.write_bytes(damage(content))
            found = faults(verify(copy))
            if name == "SHA256SUMS":  # one that is wrong in it is seen as a file that is
                assert len(verify(copy).lines()) > 1, damage
            else:
                assert found == [("damaged", name)], (name, damage)
        path.unlink()
        found = faults(verify(copy))
        if name == "SHA256SUMS":
            assert {f.state for f in verify(copy).findings} == {"whole", "not hashed"}
        elif name.startswith("failures"):  # its item was done all the same
            assert found == []
        else:
            assert found == [("missing", name)], name
        path.write_bytes(content)
    assert verify(copy).whole


def test_every_line_of_the_sums_counts(copy: Path) -> None:
    path = copy / "SHA256SUMS"
    lines = path.read_text().splitlines(keepends=True)
    for number in range(len(lines)):
        path.write_text("".join(lines[:number]))
        assert number == 0 or not verify(copy).whole
    for line in ("x", "0" * 64 + "  ../outside", "0" * 64 + "  records/..", "0" * 64 + "  /a"):
        path.write_text("".join([line + "\n", *lines]))
        assert faults(verify(copy)) == [("damaged", "SHA256SUMS")]


def test_a_study_that_is_not_done_is_no_damaged_one(copy: Path) -> None:
    (copy / "SHA256SUMS").unlink()  # as before its first report
    for name in ("report.html", "results.csv", "table.tex", f"records/{TRIAL}.json"):
        (copy / name).unlink()
    found = verify(copy)
    assert found.whole
    (undone,) = [finding for finding in found.findings if finding.state == "undone"]
    assert TRIAL in undone.why
    assert "run the study again" in undone.why


def test_what_is_newer_than_the_report_is_told_from_damage(copy: Path) -> None:
    path = copy / "records" / f"{TRIAL}.json"
    content = json.loads(path.read_text())
    content = {k: v for k, v in content.items() if k != "sha256"} | {"seconds": 1.5}
    path.write_text(json.dumps({**content, "sha256": digest(content)}))
    found = verify(copy)
    assert found.whole
    assert [f.path for f in found.findings if f.state == "outdated"] == [f"records/{TRIAL}.json"]
    rebuild(copy)
    assert {finding.state for finding in verify(copy).findings} == {"whole"}


def test_the_spec_of_another_study_is_named(copy: Path) -> None:
    (copy / "SHA256SUMS").unlink()
    spec = json.loads((copy / "spec.json").read_text())
    spec["options"]["calibration"] += 1
    (copy / "spec.json").write_text(json.dumps(spec))
    assert faults(verify(copy)) == [("damaged", "spec.json")]
    (copy / "spec.json").unlink()
    assert faults(verify(copy)) == [("missing", "spec.json")]


def test_a_failure_that_is_gone_is_missed_until_its_item_is_done(copy: Path) -> None:
    record, failure = (copy / folder / f"{TRIAL}.json" for folder in ("records", "failures"))
    content = record.read_bytes()
    record.unlink()
    rebuild(copy)  # as after a run in which the item failed
    assert verify(copy).whole
    text = failure.read_text()
    failure.unlink()
    assert faults(verify(copy)) == [("missing", f"failures/{TRIAL}.json")]
    assert "run the study again" in verify(copy).lines()[1]
    record.write_bytes(content)  # which a run does that then is killed
    assert verify(copy).whole
    record.unlink()
    again = {k: v for k, v in json.loads(text).items() if k != "sha256"} | {"why": "it snowed"}
    failure.write_text(json.dumps({**again, "sha256": digest(again)}))
    found = verify(copy)
    assert found.whole
    assert [f.path for f in found.findings if f.state == "outdated"] == [f"failures/{TRIAL}.json"]


def test_a_stage_that_others_come_from_is_missed_before_there_is_a_report(copy: Path) -> None:
    (copy / "SHA256SUMS").unlink()
    for name in ("seed-0_start", STAGE):
        path = copy / "records" / f"{name}.json"
        content = path.read_bytes()
        path.unlink()
        assert faults(verify(copy)) == [("missing", f"records/{name}.json")]
        path.write_bytes(content)
    assert verify(copy).whole


@pytest.mark.parametrize("folder", ["records", "checkpoints", "failures", "."])
def test_files_that_were_swapped_are_named(copy: Path, folder: str) -> None:
    if folder == "failures":
        text = (copy / folder / f"{TRIAL}.json").read_text().replace(TRIAL, "seed-0_start")
        content = {k: v for k, v in json.loads(text).items() if k != "sha256"}
        text = json.dumps({**content, "sha256": digest(content)})
        (copy / folder / "seed-0_start.json").write_text(text)
    names = [name for name in contents(copy) if Path(name).parent == Path(folder)]
    names = [name for name in names if name != "SHA256SUMS"][:2]
    one, two = ((copy / name).read_bytes() for name in names)
    (copy / names[0]).write_bytes(two)
    (copy / names[1]).write_bytes(one)
    assert sorted(faults(verify(copy))) == sorted(("damaged", name) for name in names)


def test_files_that_nobody_asked_for_are_named_and_no_fault(copy: Path) -> None:
    record = json.loads((copy / "records" / "seed-0_start.json").read_text())
    record = {key: value for key, value in record.items() if key != "sha256"} | {"seed": 7}
    text = json.dumps({**record, "sha256": digest(record)})
    (copy / "records" / "seed-7_start.json").write_text(text)
    shutil.copy(copy / "spec.json", copy / "records" / "x.json.corrupt")
    (copy / "records" / ".seed-0_start.json.abcdefgh.secateur-tmp").write_text("{")
    for name in ("notes.txt", "records/notes.txt", "failures/.hidden"):
        (copy / name).write_text("mine")
    (copy / "more").mkdir()
    found = verify(copy)
    (copy / "checkpoints" / "seed-9_start.safetensors").write_bytes(b"of another study")
    assert "checkpoints/seed-9_start.safetensors" in dict(states(verify(copy)))
    assert found.whole
    assert sorted(states(found)) == [
        ("failures/.hidden", "extra"),
        ("more", "extra"),
        ("notes.txt", "extra"),
        ("records/.seed-0_start.json.abcdefgh.secateur-tmp", "extra"),
        ("records/notes.txt", "extra"),
        ("records/seed-7_start.json", "extra"),
        ("records/x.json.corrupt", "not hashed"),
    ]
    assert "the next one deletes it" in " ".join(found.lines())


def states(found: Verified) -> list[tuple[str, str]]:
    return [(f.path, f.state) for f in found.findings if f.state != "whole"]


def test_a_record_in_anothers_place_is_named(copy: Path) -> None:
    shutil.copy(copy / "records" / "seed-0_start.json", copy / "records" / "seed-7_start.json")
    assert faults(verify(copy)) == [("damaged", "records/seed-7_start.json")]


def test_a_study_of_another_version_is_refused() -> None:
    with pytest.raises(StudyError, match="of another version of secateur"):
        verify(OLD)


def test_the_command_says_what_is_damaged_and_what_to_do(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(["verify", str(copy)], monkeypatch, capsys)
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    for name in (f"records/{TRIAL}.json", "results.csv"):
        (copy / name).write_bytes(flipped((copy / name).read_bytes()))
    code, out, err = run(["verify", str(copy)], monkeypatch, capsys)
    assert (code, err) == (1, "")
    _, *lines = out.splitlines()
    assert lines[0].startswith(f"damaged: records/{TRIAL}.json: ")
    assert "run the study again" in lines[0]
    assert lines[1].startswith("damaged: results.csv: ")
    assert "`secateur report`" in lines[1]


def written(folder: Path) -> dict[str, Path]:
    """Write a file of every kind; return them by what `verify` calls them."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    pruned, result = secateur.prune(model, 0.5)
    paths = {
        "model": folder / "model.safetensors",
        "masks": folder / "masks.safetensors",
        "stage of a training": folder / "stage.safetensors",
        "engine": folder / "engine.so",
        "safetensors": folder / "plain.safetensors",
    }
    secateur.save(pruned, paths["model"], masks=result.masks)
    result.masks.save(paths["masks"])
    stage_file.write(
        paths["stage of a training"], {"stage": "held", "gates": {}, "masks": dict(result.masks)}
    )
    target = Target("x", "linux", "x86_64", 16, 32)
    network = {"name": "n", "secateur": "0", "batched": True, "inputs": [], "outputs": []}
    paths["engine"].write_bytes(artifact.pack(bytes(1000), target, network))
    secateur.save_pretrained(model, folder)
    (folder / "model.safetensors").rename(paths["safetensors"])
    secateur.save(pruned, paths["model"], masks=result.masks)
    return paths


def test_files_are_checked_one_by_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for kind, path in written(tmp_path).items():
        found = verify(path)
        assert (found.kind, found.whole) == (kind, True)
        hashed = kind in ("model", "masks", "engine")
        assert found.findings[0].state == ("whole" if hashed else "not hashed")
        content = path.read_bytes()
        for damage in DAMAGE if hashed else DAMAGE[1:]:
            path.write_bytes(damage(content))
            assert faults(verify(path)) == [("damaged", path.name)], (kind, damage)
        for place in range(8, 200) if hashed and kind != "engine" else ():  # their headers
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            assert not verify(path).whole, (kind, place)


def test_checkpoints_and_records_are_checked_in_their_study(copy: Path) -> None:
    for path in (
        copy / "checkpoints" / f"{STAGE}.safetensors",
        copy / "records" / f"{STAGE}.json",
    ):
        assert verify(path).findings == (Finding(path.name, "whole"),)
        path.write_bytes(flipped(path.read_bytes()))
        assert faults(verify(path)) == [("damaged", path.name)]
    checkpoint = copy / "checkpoints" / f"{STAGE}.safetensors"
    assert verify(checkpoint).findings[0].state == "not hashed"  # since its record is damaged


def test_a_checkpoint_that_nothing_needs_any_more_is_made_anew_as_it_says(
    copy: Path, digits: Task
) -> None:
    checkpoint = copy / "checkpoints" / f"{STAGE}.safetensors"
    (copy / "failures" / f"{TRIAL}.json").unlink()
    checkpoint.write_bytes(flipped(checkpoint.read_bytes()))
    (fault,) = (finding for finding in verify(copy).findings if finding.state == "damaged")
    assert fault.why.endswith(
        f"delete records/{STAGE}.json and run the study again, which makes both anew"
    )
    (copy / "records" / f"{STAGE}.json").unlink()
    Study(digits, out=copy, **PLAN).run()
    assert "damaged" not in {finding.state for finding in verify(copy).findings}


@pytest.mark.parametrize("packed", [True, False])
def test_folders_of_models_are_checked(tmp_path: Path, packed: bool) -> None:
    secateur.save_pretrained(nn.Linear(8, 8), tmp_path, packed=packed)
    (path,) = tmp_path.glob("*.safetensors")
    assert verify(tmp_path).whole
    path.write_bytes(flipped(path.read_bytes()))
    assert faults(verify(tmp_path)) == [("damaged", path.name)]
    path.unlink()
    assert faults(verify(tmp_path)) == [("missing", path.name)]
    config = json.loads((tmp_path / "config.json").read_text())
    config["secateur"]["files"] = {"../outside": "0" * 64}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert faults(verify(tmp_path)) == [("damaged", "config.json")]


def test_folders_of_c_are_checked(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    network = {"name": "n", "inputs": [], "outputs": [], "batched": True}
    bundle.write_bundle(
        folder, {"model.c": "int x;\n"}, bytes(32), network, Target("x", "linux", "x86_64", 16, 32)
    )
    assert verify(folder).whole
    for name in contents(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(halved(content))
        assert faults(verify(folder)) == [("damaged", name)]
        (folder / name).write_bytes(content)
    (folder / "main.c").unlink()
    assert faults(verify(folder)) == [("missing", "main.c")]


@pytest.mark.parametrize(("name", "wanted"), [("nothing", 1), ("empty", 2), ("text.txt", 2)])
def test_what_is_not_ours_is_refused(
    name: str,
    wanted: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("text")
    code, out, err = run(["verify", str(tmp_path / name)], monkeypatch, capsys)
    assert (code, out) == (wanted, "")
    assert "cannot verify" in err
