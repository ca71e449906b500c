"""Layer-wise reconstruction: kept weights are solved again so that layers give what they gave.

Layer after layer, in the order in which they run, the kept weights w of every output are set to
those that minimise

    mean ‖y - w·x - b‖² + λ ‖w - w_dense‖²        over calibration images and positions,

where x is what the layer reads in the pruned network, whose earlier layers are already repaired,
and y what the layer gives in the dense one (in front of a sum: what makes the sum the dense one).
It takes only unlabelled images, and the masks do not change.

Sources: Optimal Brain Surgeon (Hassibi & Stork 1993) gives the update for one weight and a
quadratic loss; Dong et al. 2017 (arXiv:1705.07565) apply it layer by layer; SparseGPT (Frantar &
Alistarh 2023, arXiv:2301.00774) and ALPS (Meng et al. 2024, arXiv:2406.07831) solve for all
weights of a row. Here every row's own support is small enough to be solved exactly.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.arguments import POSITIVE, SEED, a, checked, whole
from secateur.errors import UsageError
from secateur.model.inputs import Inputs, run
from secateur.model.modes import evaluating
from secateur.model.parameters import parameters, unwrapped
from secateur.model.passes import hooked
from secateur.pruning.calibration import Calibration
from secateur.pruning.layers import by_outputs, is_layer, weight_name, weight_of
from secateur.pruning.moments import Moments, Norm, moments
from secateur.pruning.selecting.masks import Masks

CHUNK = 2**24
"""How many numbers the systems solved together have at most, 128 MB, unless one has more."""


@dataclass(frozen=True, slots=True)
class Reconstructed:
    """How far one layer's output is from the dense network's, before and after."""

    name: str
    """Of the weight."""
    before: float
    """Mean squared error over the variance of the wanted output, before."""
    after: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """The reconstructed layers, in the order in which they run."""

    layers: tuple[Reconstructed, ...]
    skipped: Mapping[str, str]
    """Masked parameters that were left as they were: name → reason."""

    @property
    def seconds(self) -> float:
        """Time that all layers took."""
        return sum(layer.seconds for layer in self.layers)


_WANTED = {
    **dict.fromkeys(("model", "dense"), a(nn.Module, "a torch module")),
    "masks": a(Masks, "Masks, as result.masks"),
    "calibration": a(Calibration, "a Calibration, of a few hundred inputs or more"),
    "damping": POSITIVE,
    "positions": whole(1, "at least 1, a whole number"),
    "seed": SEED,
}


@checked(**_WANTED)
def reconstruct(
    model: nn.Module,
    dense: nn.Module,
    masks: Masks,
    calibration: Calibration,
    *,
    damping: float = 1e-2,
    positions: int = 64,
    seed: int = 0,
) -> Reconstruction:
    """Solve the kept weights of a pruned network again, in place.

    Exactly the weights in `masks` may be non-zero afterwards. If a batch norm alone reads a layer,
    its running mean takes up the intercept b, and its variances stay the dense ones, which the
    outputs match: recalibration afterwards is possible, but not needed. A layer whose error would
    not fall is left as it was.

    Memory: one layer's moments, which are two float64 matrices of (d + 1)² for each group of a
    convolution with d inputs an output; some of the systems solved from them; and the activations
    of a batch.

    Args:
        model: the pruned network, or the dense one: the masks are applied first.
        dense: the same architecture with the dense weights; not changed.
        masks: of the model.
        calibration: unlabelled inputs, a few hundred to a few thousand; on the model's device.
        damping: λ in units of the mean E[x²] of a layer's inputs; positive.
        positions: how many positions of each image's plane a convolution uses at most.
        seed: of the draw of the positions.

    Raises:
        UsageError: the masks or the calibration set do not fit the model, `dense` is another
            architecture, or an argument is out of its range. The model's weights are put back.
    """
    model, dense = unwrapped(model), unwrapped(dense)
    calibration.check(model)
    _check_twins(model, dense, masks)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    try:
        with evaluating(model, dense):
            masks.apply(model)
            done: list[Reconstructed] = []
            order, skipped = _order(model, masks, calibration.example)
            for path in order:
                start, name = time.perf_counter(), weight_name(path)
                found = moments(model, dense, path, calibration, positions=positions, seed=seed)
                if found is None:
                    skipped[name] = "the dense network does not run it"
                    continue
                before, after = _solve(model, dense, path, masks[name], found, damping)
                done.append(Reconstructed(name, before, after, time.perf_counter() - start))
            return Reconstruction(tuple(done), skipped)
    except BaseException:
        model.load_state_dict(state)
        raise


@torch.no_grad()
def _solve(
    model: nn.Module, dense: nn.Module, path: str, mask: Tensor, found: Moments, damping: float
) -> tuple[float, float]:
    """Solve one layer; return its relative error before and after."""
    layer = model.get_submodule(path)
    weight = weight_of(layer)
    groups, size, outputs = found.cross.shape
    shape = (groups, outputs, size - 1)
    intercept = _intercept(layer, found.norms)
    free = intercept is not None
    offset = found.outputs.new_zeros(groups, outputs, 1)
    if intercept is not None:
        offset = intercept.double().reshape(offset.shape)
    movable = torch.full_like(offset, free, dtype=torch.bool)
    support = torch.cat([by_outputs(layer, mask).reshape(shape), movable], 2)
    start = torch.cat([weight.detach().double().reshape(shape), offset], 2)
    prior = weight_of(dense.get_submodule(path)).detach().double().reshape(shape)
    goal = torch.cat([prior, offset], 2)
    before, solved = _error(start, found), start.clone()
    for group in range(groups):
        penalty = damping * found.inputs[group].diagonal()[:-1].mean().clamp_min(1e-12)
        matrix = found.inputs[group].clone()
        matrix.diagonal()[:-1] += penalty
        right = found.cross[group].T.clone()
        right[:, :-1] += penalty * goal[group, :, :-1]
        if not free:
            right -= goal[group, :, -1:] * found.inputs[group, :, -1]
        for rows, kept in _batches(support[group]):
            solved[group, rows] = _restricted(matrix, right[rows], kept, solved[group, rows])
    errors = _error(solved, found)
    better = (errors < before) & solved.isfinite().all(2)
    solved = torch.where(better[..., None], solved, start)
    weight.copy_(solved[..., :-1].reshape(weight.shape))
    if free:
        _set_intercept(layer, found.norms, solved[..., -1].flatten())
    spread = (found.outputs - found.cross[:, -1].square()).clamp_min(1e-12)
    after = torch.where(better, errors, before)
    return (before.sum() / spread.sum()).item(), (after.sum() / spread.sum()).item()


def _batches(support: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield rows with supports of similar size, [r], and their indices, [r, k], padded with -1."""
    counts = support.sum(1)
    order = counts.argsort(stable=True)
    at = 0
    while at < len(order):
        # from the widest down, so that the first row of a batch is as wide as its systems
        width = int(counts[order[len(order) - 1 - at]])
        many = max(1, CHUNK // max(1, width * width))
        rows = order[max(0, len(order) - at - many) : len(order) - at]
        at += len(rows)
        if width:
            ranked = support[rows].to(torch.int8).argsort(dim=1, descending=True, stable=True)
            kept = ranked[:, :width]
            filled = torch.arange(width, device=kept.device) < counts[rows][:, None]
            yield rows, torch.where(filled, kept, -1)


def _restricted(matrix: Tensor, right: Tensor, kept: Tensor, fallback: Tensor) -> Tensor:
    """Solve matrix[S, S] w = right[S] for each row's support S; return rows with zeros outside."""
    real = kept >= 0
    at = kept.clamp_min(0)
    system = matrix[at[:, :, None], at[:, None, :]]
    system = system * (real[:, :, None] & real[:, None, :])
    system.diagonal(dim1=1, dim2=2).add_(torch.where(real, 0.0, 1.0))
    factor, info = torch.linalg.cholesky_ex(system)
    solution = torch.cholesky_solve((right.gather(1, at) * real)[..., None], factor)[..., 0]
    result = torch.zeros_like(fallback)
    result.scatter_add_(1, at, torch.where(real, solution, 0.0))
    intercept = ((at == result.shape[1] - 1) & real).any(1)  # was solved for
    result[:, -1] = torch.where(intercept, result[:, -1], fallback[:, -1])
    return torch.where((info == 0)[:, None], result, fallback)


def _error(weights: Tensor, found: Moments) -> Tensor:
    """Return E‖y - w·x‖² of every output, [groups, outputs]."""
    quadratic = torch.einsum("goi,gij,goj->go", weights, found.inputs, weights)
    linear = torch.einsum("goi,gio->go", weights, found.cross)
    return (quadratic - 2 * linear + found.outputs).clamp_min(0)


def _intercept(layer: nn.Module, norms: tuple[Norm, Norm] | None) -> Tensor | None:
    """Return the intercept that the layer has now, [outputs]; None where it cannot move."""
    if isinstance(layer.bias, Tensor):
        return layer.bias.detach()
    if norms is None or norms[0].running_mean is None or norms[1].running_mean is None:
        return None
    return norms[1].running_mean - norms[0].running_mean


def _set_intercept(layer: nn.Module, norms: tuple[Norm, Norm] | None, value: Tensor) -> None:
    if isinstance(layer.bias, Tensor):
        layer.bias.copy_(value)
    elif norms and norms[0].running_mean is not None and norms[1].running_mean is not None:
        norms[0].running_mean.copy_(norms[1].running_mean - value)


def _order(model: nn.Module, masks: Masks, example: Inputs) -> tuple[list[str], dict[str, str]]:
    """Return the paths of the layers to solve, in the order they run, and why others are not."""
    skipped: dict[str, str] = {}
    paths: list[str] = []
    for name in masks:
        path, _, leaf = name.rpartition(".")
        owner = model.get_submodule(path)
        if is_layer(owner) and leaf == "weight":
            paths.append(path)
        else:
            skipped[name] = f"{type(owner).__name__} is neither linear nor a convolution"
    ran: list[str] = []
    hooks = hooked(
        model.get_submodule(path).register_forward_hook(lambda *_, path=path: ran.append(path))
        for path in paths
    )
    with hooks, torch.inference_mode():
        run(model, example)
    skipped |= {weight_name(p): "the network does not run it" for p in paths if p not in ran}
    return list(dict.fromkeys(ran)), skipped


def _check_twins(model: nn.Module, dense: nn.Module, masks: Masks) -> None:
    ours = {key: value.shape for key, value in model.state_dict().items()}
    theirs = {key: value.shape for key, value in dense.state_dict().items()}
    odd = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
    if odd:
        raise UsageError(
            f"model and dense are different networks (the first difference is {odd[0]!r}); "
            "give the network that the masks were cut from, for example a deepcopy of it"
        )
    parameters(model, tuple(masks))
