"""A study with chosen losses, for the tests of what is concluded from its records.

Those of synthetic_study look like a real study's, for reports; here each figure is known.
"""

from synthetic_study import make_spec

NOISE = (0.0, 0.2, -0.1, 0.1, -0.2)
LOSS = {
    "gate": {1.0: 0.1, 0.5: 0.1, 0.1: 0.2, 0.02: 9.0},
    "random": {1.0: -0.2, 0.5: 0.3, 0.1: 20.0, 0.02: 78.0},
}


def plan(seeds=3, recovery=("none", "batchnorm"), **fields):
    spec = make_spec(
        seeds=seeds, recovery=recovery, criteria=("gate", "random"), levels=(0.5, 0.1, 0.02)
    )
    return {**spec, "options": {"floor": 0.01}, **fields}


def record(criterion, recovery, keep, seed, test, *, validation=None):
    kept = round(1000 * keep)
    return {
        "trial": {"seed": seed, "criterion": criterion, "keep": keep, "recovery": recovery},
        "metrics": {"validation": test + 0.5 if validation is None else validation, "test": test},
        "weights": {
            "parameters": 1100,
            "prunable": 1000,
            "kept": kept,
            "layers": {
                "conv": {"kept": kept if keep > 0.02 else 0, "total": 200},
                "linear": {"kept": kept, "total": 800},
            },
        },
    }


def dense_test(seed):
    return 88.0 + 0.3 * seed


def trials(spec):
    """A whole study in which each criterion loses what LOSS says, with a little noise."""
    found = []
    for recovery in spec["recovery"]:
        for seed in spec["seeds"]:
            found.append(record("dense", recovery, 1.0, seed, dense_test(seed)))
            for criterion in spec["criteria"]:
                for keep in spec["levels"]:
                    noise = NOISE[(seed + len(criterion)) % 5] / 4
                    test = dense_test(seed) - LOSS[criterion][keep] + noise
                    found.append(record(criterion, recovery, keep, seed, test))
    return found


def without(found, **wanted):
    return [r for r in found if any(r["trial"][name] != want for name, want in wanted.items())]


def row_of(summary, criterion, keep, recovery="none"):
    (row,) = (
        row
        for row in summary.rows
        if (row.criterion, row.recovery, row.keep) == (criterion, recovery, keep)
    )
    return row
