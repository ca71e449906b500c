"""Three stages of a training, and the file that a stage is kept in."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from integration_loop import assert_equal, network, samples
from secateur import files
from secateur.errors import FileError, UsageError
from secateur.pruning.files import stage_file
from secateur.pruning.gates.phase import GatePhase
from secateur.pruning.gates.stages import Schedule, StagedPruning


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"keep": 1.5}, "keep is 1.5"),
        ({"gate_start": 3, "prune_at": 3}, "gate_start is 3 and prune_at 3 epochs"),
        ({"gate_start": -1}, "gate_start is -1"),
        ({"unit": "batches"}, "unit is 'batches'"),
    ],
)
def test_schedules_that_cannot_be_meant(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Schedule(**{"keep": 0.1, "gate_start": 1, "prune_at": 2, **fields})


def test_a_cut_without_gates_is_refused_and_changes_nothing() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    pruning = StagedPruning(Schedule(0.1, gate_start=1, prune_at=2))
    with pytest.raises(UsageError, match="call start"):
        pruning.reach(0)
    pruning.start(model, optimizer)
    with pytest.raises(UsageError, match="no gates were learned"):
        pruning.reach(2)
    assert_equal(model, network())


@pytest.mark.parametrize("stage", ["plain", "gates", "held"])
def test_the_file_of_a_stage_reads_as_it_was_written(stage: str, tmp_path: Path) -> None:
    model = network().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    pruning = StagedPruning(Schedule(0.1, gate_start=1, prune_at=2, phase=GatePhase(order="fixed")))
    pruning.start(model, optimizer)
    for position in range(["plain", "gates", "held"].index(stage) + 1):
        pruning.reach(position)
        pruning.enter()
        cross_entropy(model(samples().tensors[0]), samples().tensors[1]).backward()
        pruning.leave()
        optimizer.step()
    state = pruning.state_dict()
    stage_file.write(tmp_path / "s", state)
    read = stage_file.read(tmp_path / "s")
    assert read["stage"] == state["stage"] == stage
    for number in ("number", "square", "averaged"):
        assert read["gates"].get(number) == state["gates"].get(number)
    if stage == "gates":
        assert read["gates"]["square"] > 0
        assert read["gates"]["averaged"] == 1
    for part in ("gates", "momentum", "order"):
        torch.testing.assert_close(
            read["gates"].get(part), state["gates"].get(part), rtol=0, atol=0
        )
    torch.testing.assert_close(read["masks"], state["masks"])

    other = StagedPruning(Schedule(0.1, gate_start=1, prune_at=2))
    other.load_state_dict({**read, "stage": "held", "masks": {"2.weight": torch.ones(2, 2).bool()}})
    with pytest.raises(UsageError, match=r"mask of '2\.weight' is of another model"):
        other.start(model, optimizer)


def test_damaged_files_are_one_clear_error(tmp_path: Path) -> None:
    import safetensors.torch

    good = tmp_path / "good"
    model = network()
    pruning = StagedPruning(Schedule(0.1, gate_start=0, prune_at=2))
    pruning.start(model, torch.optim.SGD(model.parameters(), 0.1))
    pruning.reach(0)
    stage_file.write(good, pruning.state_dict())
    ones = {"gates/2.weight": torch.ones(2)}
    facts = '{"stage": "gates", "number": 1}'
    cases = {
        "truncated": good.read_bytes()[:-9],
        "empty": b"",
        "format is 'pt'": safetensors.torch.save(ones, {"format": "pt"}),
        "no json": safetensors.torch.save(ones, {"format": files.STAGE, "state": "{"}),
        "no state": safetensors.torch.save(ones, {"format": files.STAGE}),
        "list": safetensors.torch.save(ones, {"format": files.STAGE, "state": "[]"}),
        "stage": safetensors.torch.save(
            ones, {"format": files.STAGE, "state": facts.replace("gates", "odd")}
        ),
        "part": safetensors.torch.save(
            {"other/2.weight": torch.ones(2)}, {"format": files.STAGE, "state": facts}
        ),
        "square": safetensors.torch.save(
            ones, {"format": files.STAGE, "state": facts.replace("1}", '1, "square": NaN}')}
        ),
        "averaged": safetensors.torch.save(
            ones, {"format": files.STAGE, "state": facts.replace("1}", '1, "averaged": -1}')}
        ),
        "dtype": safetensors.torch.save(
            {"gates/2.weight": torch.ones(2).half()},
            {"format": files.STAGE, "state": facts},
        ),
        "of stage 'held'": safetensors.torch.save(
            ones, {"format": files.STAGE, "state": facts.replace("gates", "held")}
        ),
    }
    for name, content in cases.items():
        path = tmp_path / "bad"
        path.write_bytes(content)
        with pytest.raises(FileError, match=str(path)) as caught:
            stage_file.read(path)
        assert name.startswith(("format", "of")) <= (name in str(caught.value))
    with pytest.raises(FileError, match="cannot read"):
        stage_file.read(tmp_path / "nowhere")


def test_a_file_of_before_gradients_were_averaged_is_gone_on_from(tmp_path: Path) -> None:
    import safetensors.torch

    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    schedule = Schedule(0.3, gate_start=0, prune_at=2)
    pruning = StagedPruning(schedule)
    pruning.start(model, optimizer)
    pruning.reach(0)
    gates = pruning.state_dict()["gates"]["gates"]
    pruning.stop()
    tensors = {f"gates/{name}": gate + 1 for name, gate in gates.items()}
    facts = {"format": files.STAGE, "state": '{"stage": "gates", "number": 7}'}
    (tmp_path / "old").write_bytes(safetensors.torch.save(tensors, facts))
    again = StagedPruning(schedule)
    again.load_state_dict(stage_file.read(tmp_path / "old"))
    again.start(model, optimizer)
    state = again.state_dict()["gates"]
    assert state["number"] == 7
    assert all(bool((gate == 1).all()) for gate in state["gates"].values())
    again.enter()
    cross_entropy(model(samples().tensors[0]), samples().tensors[1]).backward()
    again.leave()
    optimizer.step()
    state = again.state_dict()["gates"]
    assert (state["number"], state["averaged"]) == (8, 1)


def train(
    pruning: StagedPruning, model: torch.nn.Module, until: int, optimizer: Any = None
) -> list[int]:
    """Train a step at every position; return how many zeros each step began with."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.1)
    pruning.start(model, optimizer)
    zeros = []
    for position in range(until):
        pruning.reach(position)
        zeros.append(sum(int((p == 0).sum()) for p in model.parameters()))
        pruning.enter()
        cross_entropy(model(samples().tensors[0]), samples().tensors[1]).backward()
        pruning.leave()
        optimizer.step()
        optimizer.zero_grad()
    return zeros


@pytest.mark.parametrize("until", [1, 2, 4], ids=["plain", "gates", "held"])
@pytest.mark.parametrize("copied", [False, True])
def test_another_model_begins_anew_wherever_the_last_one_stopped(until: int, copied: bool) -> None:
    schedule = Schedule(0.3, gate_start=1, prune_at=3)
    pruning, fresh = StagedPruning(schedule), StagedPruning(schedule)
    train(pruning, network(), until)
    pruning.stop()
    if copied:
        pruning = copy.deepcopy(pruning)
    again, expected = network(), network()
    zeros = train(pruning, again, 4)
    assert zeros == train(fresh, expected, 4)
    assert zeros[:3] == [0, 0, 0]
    assert zeros[3] > 0
    assert_equal(again, expected)
    assert pruning.masks == fresh.masks


def test_a_model_that_was_cut_goes_on_with_its_zeros_and_one_that_was_set_back_does_not() -> None:
    pruning = StagedPruning(Schedule(0.3, gate_start=1, prune_at=3))
    model = network()
    start = copy.deepcopy(model.state_dict())
    train(pruning, model, 4)
    masks = pruning.finish()
    pruning.stop()
    zeros = train(pruning, model, 2)
    assert zeros == [masks.total - masks.kept] * 2
    assert pruning.masks == masks
    pruning.stop()
    model.load_state_dict(start)
    assert train(pruning, model, 2) == [0, 0]
    assert pruning.masks is None


def test_a_state_that_was_loaded_is_gone_on_with_by_any_model() -> None:
    schedule = Schedule(0.3, gate_start=1, prune_at=3)
    pruning, model = StagedPruning(schedule), network()
    train(pruning, model, 4)
    masks, state = pruning.finish(), pruning.state_dict()
    pruning.stop()
    pruning.load_state_dict(state)
    other = network()
    other.load_state_dict(model.state_dict())
    assert train(pruning, other, 1) == [masks.total - masks.kept]


def test_nothing_is_left_at_the_model_or_the_optimizer_of_the_run_before() -> None:
    pruning = StagedPruning(Schedule(0.3, gate_start=1, prune_at=3))
    for until in (2, 4):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        train(pruning, model, until, optimizer)
        pruning.stop()
        assert not list(model.buffers())
        assert not optimizer._optimizer_step_pre_hooks
        assert not optimizer._optimizer_step_post_hooks
