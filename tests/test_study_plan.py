"""The plan of a study: the order of its items, and that like is compared with like."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from secateur.study.options import LADDER, Options
from secateur.study.plan import (
    SMALLER,
    START,
    UNCUT,
    WHOLE,
    Item,
    Stage,
    Trial,
    before,
    down_to,
    epochs,
    groups,
    items,
    needs,
    order,
    reference,
    source,
    trials,
)
from study_options import RATIOS, options


def seeds_of(chosen: Options) -> tuple[int, ...]:
    return tuple(range(chosen.first_seed, chosen.first_seed + chosen.seeds))


def path(chosen: Options, stage: Stage) -> list[Stage]:
    """The stages that a network went through, the start first."""
    last = before(chosen, stage)
    return [*(path(chosen, last) if last else []), stage]


def trained(chosen: Options, stage: Stage) -> float:
    return math.fsum(epochs(chosen, each) for each in path(chosen, stage))


@given(options())
def test_an_item_comes_after_all_that_it_needs(chosen: Options) -> None:
    """In its own group, or in one that its group waits for; groups stand in such an order, too."""
    planned = groups(chosen, seeds_of(chosen))
    owner = {item: at for at, group in enumerate(planned) for item in group.items}
    there: list[set[Item]] = []
    for at, group in enumerate(planned):
        waits = [owner[stage] for stage in group.after]
        assert all(each < at for each in waits)
        done = set().union(*(there[each] | set(planned[each].items) for each in waits))
        there.append(set(done))
        for item in group.items:
            wanted = needs(chosen, item) | {Stage(item.seed, START)} - {item}
            if isinstance(item, Trial):
                wanted |= {source(chosen, item), order(chosen, item)}
            assert wanted <= done
            done.add(item)


@given(options())
def test_every_item_is_there_once_and_has_an_id_of_its_own(chosen: Options) -> None:
    found = list(items(chosen, seeds_of(chosen)))
    assert len({item.id for item in found}) == len(set(found)) == len(found)
    assert {item.seed for item in found} == set(seeds_of(chosen))
    cuts = [t for t in found if isinstance(t, Trial) and t.criterion not in WHOLE]
    assert {(t.seed, t.criterion, t.recovery, t.keep) for t in cuts} == {
        (seed, criterion, recovery, keep)
        for seed in seeds_of(chosen)
        for criterion, recovery in chosen.curves
        for keep in chosen.cuts(criterion, recovery)
    }
    measured = {source(chosen, t) for t in found if isinstance(t, Trial)}
    stages = {item for item in found if isinstance(item, Stage)}
    assert measured <= stages
    # nothing is trained for nothing: it is measured, or another one starts from it
    assert stages <= measured | {before(chosen, stage) for stage in stages}


@given(options())
def test_a_reference_is_an_uncut_network_of_exactly_as_much_training(chosen: Options) -> None:
    planned = trials(chosen, seeds_of(chosen))
    for trial in planned:
        found = reference(chosen, trial)
        if trial.criterion in (START, UNCUT):
            assert found is None
            continue
        assert found in planned
        assert found.criterion in (START, UNCUT)
        assert found.seed == trial.seed
        mine, its = source(chosen, trial), source(chosen, found)
        if trial.criterion in SMALLER:  # in one go
            assert trained(chosen, mine) == pytest.approx(trained(chosen, its), rel=1e-12)
            continue
        assert trained(chosen, mine) == trained(chosen, its)
        # not in sum only: phase by phase, so that rates and batches are the same, too
        passed = ([(s.keep, epochs(chosen, s)) for s in path(chosen, each)] for each in (mine, its))
        assert next(passed) == next(passed)
        assert (found.recovery == "none") == (trial.recovery == "none")


@given(options(gates=LADDER), st.lists(RATIOS, max_size=5))
@example(Options(keep=(1 - 1e-9,), ladder_from=1.0), [])
@example(Options(keep=(1 - 2**-53, 0.5), ladder_from=1.0), [1 - 1e-8, 0.999])
def test_rungs_share_the_epochs_whatever_levels_there_are(
    chosen: Options, more: list[float]
) -> None:
    if not chosen.rungs:
        return
    last = chosen.rungs[-1]
    assert sum(map(chosen.epochs_of, chosen.rungs)) == pytest.approx(chosen.gate_epochs)
    assert all(chosen.epochs_of(rung) > 0 for rung in chosen.rungs)
    added = {*chosen.keep, *(keep for keep in more if keep >= chosen.keep[-1])}
    finer = replace(chosen, keep=tuple(sorted(added, reverse=True)))
    assert down_to(finer, last) == pytest.approx(chosen.gate_epochs)
    for rung in chosen.rungs:
        assert down_to(finer, rung) == pytest.approx(down_to(chosen, rung))


@given(options())
def test_the_primary_sequence_is_one_of_the_curves(chosen: Options) -> None:
    assert chosen.claim in chosen.curves
    assert replace(chosen, primary="/".join(chosen.claim)).claim == chosen.claim
    for criterion, recovery in chosen.curves:
        assert replace(chosen, primary=f"{criterion}/{recovery}").claim == (criterion, recovery)
    assert chosen.claim[1] != "none"


def test_the_plan_of_a_ladder() -> None:
    chosen = Options(keep=(0.8, 0.5, 0.1), criteria=("gate", "magnitude", "random"), smaller=0.1)
    assert chosen.rungs == (0.5, 0.1)
    assert [item.id for item in items(chosen, (0,))] == [
        f"seed-0_{name}"
        for name in (
            "start",
            "start_keep-1_batchnorm",
            *("uncut_rung-0.5", "gate_rung-0.5", "magnitude_rung-0.5"),
            *("uncut_keep-0.5_ladder", "gate_keep-0.5_ladder", "magnitude_keep-0.5_ladder"),
            *("gate_keep-0.8_ladder", "magnitude_keep-0.8_ladder"),
            *("uncut_rung-0.1", "gate_rung-0.1", "magnitude_rung-0.1"),
            *("uncut_keep-0.1_ladder", "gate_keep-0.1_ladder", "magnitude_keep-0.1_ladder"),
            *("smaller_rung-0.1", "smaller_keep-0.1_ladder"),
            *(f"magnitude_keep-{keep}_batchnorm" for keep in (0.8, 0.5, 0.1)),
            *(f"random_keep-{keep}_batchnorm" for keep in (0.8, 0.5, 0.1)),
        )
    ]


@pytest.mark.parametrize("gates", ["trunk", "frozen"])
def test_the_plan_of_one_order_for_all_ratios(gates: str) -> None:
    chosen = Options(keep=(0.5, 0.1), gates=gates, criteria=("gate", "magnitude"), unrepaired=True)  # type: ignore[arg-type]
    assert chosen.rungs == chosen.arms == ()
    assert [item.id for item in items(chosen, (0,))] == [
        f"seed-0_{name}"
        for name in (
            *("start", "start_keep-1_none", "start_keep-1_batchnorm"),
            *("uncut", "uncut_keep-1_none", "uncut_keep-1_batchnorm"),
            *("magnitude_keep-0.5_none", "magnitude_keep-0.1_none"),
            *("magnitude_keep-0.5_batchnorm", "magnitude_keep-0.1_batchnorm"),
            "gate",
            *("gate_keep-0.5_none", "gate_keep-0.1_none"),
            *("gate_keep-0.5_batchnorm", "gate_keep-0.1_batchnorm"),
        )
    ]


def test_random_cuts_alone_have_no_ladder() -> None:
    chosen = Options(criteria=("random",))
    assert chosen.rungs == chosen.arms == ()
    assert {t.criterion for t in trials(chosen, (0,))} == {"start", "random"}
