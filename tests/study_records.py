"""A study with chosen losses, for the tests of what is concluded from its records.

Those of synthetic_study look like a real study's, for reports; here each figure is known.
"""

from secateur.study import plan as planning
from secateur.study.plan import START, UNCUT, WHOLE
from secateur.study.spec import options_of
from synthetic_study import make_spec

NOISE = (0.0, 0.2, -0.1, 0.1, -0.2)
GAIN = {0.5: 0.1, 0.1: 0.2, 0.02: 0.3}
"""What the uncut network gains by the rungs down to a keep ratio."""
LOSS = {
    "gate": {0.5: 0.1, 0.1: 0.2, 0.02: 9.0},
    "magnitude": {0.5: 0.2, 0.1: 2.0, 0.02: 20.0},
    "random": {0.5: 0.3, 0.1: 20.0, 0.02: 78.0},
    "smaller": {0.1: 3.0},
}
"""What a criterion loses against its reference."""


def plan(seeds=3, criteria=("gate", "random"), levels=(0.5, 0.1, 0.02), **options):
    given = {"floor": 0.01, "smaller": 0.0, "gate_epochs": 2.0, **options}
    return make_spec(seeds=seeds, criteria=criteria, levels=levels, **given)


def record(criterion, recovery, keep, seed, test, *, validation=None):
    kept = 1000 if criterion in WHOLE else round(1000 * keep)
    deep = criterion not in WHOLE and keep <= 0.02
    return {
        "trial": {"seed": seed, "criterion": criterion, "keep": keep, "recovery": recovery},
        "metrics": {"validation": test + 0.5 if validation is None else validation, "test": test},
        "weights": {
            "parameters": 1100,
            "prunable": 1000,
            "kept": kept,
            "layers": {
                "conv": {"kept": 0 if deep else min(kept, 200), "total": 200},
                "linear": {"kept": min(kept, 800), "total": 800},
            },
        },
    }


def start_test(seed):
    return 88.0 + 0.3 * seed


def uncut_test(seed, keep):
    return start_test(seed) + GAIN[keep]


def trials(spec):
    """A whole study in which each criterion loses what LOSS says, with a little noise."""
    options, found = options_of(spec), []
    for trial in planning.trials(options, tuple(spec["seeds"])):
        reference = planning.reference(options, trial)
        if trial.criterion == START:
            test = start_test(trial.seed)
        elif trial.criterion == UNCUT:
            test = uncut_test(trial.seed, trial.keep)
        else:
            noise = NOISE[(trial.seed + len(trial.criterion)) % 5] / 4
            uncut = reference.criterion == UNCUT and reference.keep < 1
            of = uncut_test(trial.seed, reference.keep) if uncut else start_test(trial.seed)
            test = of - LOSS[trial.criterion][trial.keep] + noise
        found.append(record(trial.criterion, trial.recovery, trial.keep, trial.seed, test))
    return found


def without(found, **wanted):
    return [r for r in found if any(r["trial"][name] != want for name, want in wanted.items())]


def row_of(summary, criterion, keep, recovery=None):
    """The row of a criterion at a keep ratio; by default of the recovery that it has first."""
    (row, *_) = (
        row
        for row in summary.lines
        if (row.criterion, row.keep) == (criterion, keep) and recovery in (None, row.recovery)
    )
    return row
