"""What secateur does not take, and the words that it must refuse it with."""

from __future__ import annotations

import tempfile
import threading
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm
from torch.nn.utils import prune as torch_prune

from architectures import alone
from secateur import Budget, Gates, MaskHold, Masks, prunable, prune, save
from secateur.errors import BudgetError, ScoreError, SecateurError, UsageError


@dataclass(frozen=True)
class Refusal:
    """One request that cannot be met."""

    what: str
    make: Callable[[], Any]
    words: str
    """A regular expression that the message matches."""
    error: type[SecateurError] = UsageError
    ask: Callable[[Any], object] = lambda model: prune(model, 0.5)
    around: Callable[[], AbstractContextManager[object]] = nullcontext

    def attempt(self) -> None:
        """Ask for it; returns only if it is not refused."""
        with self.around(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, about what is old or young
            self.ask(self.make())


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)))


def quantised() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(net(), {nn.Linear})


def half_quantised() -> nn.Module:
    return nn.Sequential(net(), nn.Linear(3, 6), quantised())


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return net()


def partly_on_meta() -> nn.Module:
    model = net()
    model[2].to("meta")
    return model


def sparse(layout: torch.layout, *, whole: bool) -> nn.Module:
    model = net()
    for at in (0, 2, 4) if whole else (2,):
        weight = model[at].weight.detach()
        model[at].weight = nn.Parameter(weight.to_sparse(layout=layout))
    return model


def under_a_norm(norm: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    """Return what builds a model of which a hook computes the first weight."""

    def build() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's of its own old way
            return nn.Sequential(norm(nn.Linear(4, 4)), nn.Linear(4, 4))

    return build


def parametrized() -> nn.Module:
    return nn.Sequential(*(parametrizations.weight_norm(nn.Linear(4, 4)) for _ in range(2)))


def masked_by_torch() -> nn.Module:
    model = net()
    torch_prune.l1_unstructured(model[2], "weight", 0.5)
    return model


def broken() -> nn.Module:
    model = net()
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    return model


def integers() -> nn.Module:
    model = net()
    for at in (0, 2, 4):
        whole = torch.ones_like(model[at].weight, dtype=torch.int8)
        model[at].weight = nn.Parameter(whole, requires_grad=False)
    return model


def copied_never() -> nn.Module:
    model = net()
    model.lock = threading.Lock()  # as a model that serves several threads has
    return model


def inference() -> nn.Module:
    with torch.inference_mode():
        return net()


def sharded() -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    return fully_shard(net(), mesh=init_device_mesh("cpu", (1,)))


def of_deepspeed() -> nn.Module:
    model = net()
    model[2].weight.ds_id = 0
    return model


def attach(model: nn.Module) -> object:
    return Gates.attach(model, [name for name, _ in model.named_parameters() if "2.weight" in name])


def hold(model: nn.Module) -> object:
    masks = Masks({"2.weight": torch.ones(8, 8, dtype=torch.bool)})
    return MaskHold(model, torch.optim.SGD(model.parameters(), 0.1), masks)


def keep_on_disk(model: nn.Module) -> None:
    with tempfile.TemporaryDirectory() as folder:
        save(model, Path(folder) / "model.safetensors")


def apply_others(model: nn.Module) -> None:
    Masks({"2.weight": torch.ones(8, 9, dtype=torch.bool)}).apply(model)


REFUSALS: dict[str, Refusal] = {
    "quantised": Refusal("a dynamically quantised model", quantised, "(?i)quanti[sz]ed"),
    "half quantised": Refusal("one with quantised layers", half_quantised, "(?i)quanti[sz]ed"),
    "meta": Refusal("a model on the meta device", on_meta, "on the meta device"),
    "meta, saved": Refusal(
        "saving a model on the meta device", on_meta, "meta device", ask=keep_on_disk
    ),
    "meta in part": Refusal(
        "a model with a layer on the meta device",
        partly_on_meta,
        r"'2\.weight' is on the meta device",
    ),
    "frozen": Refusal("a frozen model", lambda: net().requires_grad_(False), r"2\.weight: frozen"),
    "sparse": Refusal(
        "a model of sparse tensors",
        *(lambda: sparse(torch.sparse_coo, whole=True), r"0\.weight.*sparse layout"),
    ),
    "sparse csr": Refusal(
        "a model with a compressed sparse tensor",
        *(lambda: sparse(torch.sparse_csr, whole=False), r"2\.weight.*sparse"),
    ),
    "sparse, saved": Refusal(
        "saving a model with a compressed sparse tensor",
        *(lambda: sparse(torch.sparse_csr, whole=False), r"'2\.weight' has the layout .*to_dense"),
        ask=keep_on_disk,
    ),
    "lazy": Refusal(
        "a lazy model",
        *(lambda: nn.Sequential(nn.LazyLinear(4), nn.LazyLinear(4)), "not initialised yet"),
    ),
    "lazy, gates": Refusal(
        "gates of a lazy model",
        lambda: nn.Sequential(net(), nn.ReLU(), nn.LazyLinear(4)),
        *("2.weight.*not initialised", UsageError, lambda model: Gates.attach(model, ["2.weight"])),
    ),
    "parametrized": Refusal("a parametrized model", parametrized, "parametrized"),
    "spectral norm": Refusal(
        "a model under spectral norm (hooks)", under_a_norm(spectral_norm), "remove_spectral_norm"
    ),
    "weight norm": Refusal(
        "a model under weight norm (hooks)", under_a_norm(weight_norm), "remove_weight_norm"
    ),
    "torch.nn.utils.prune": Refusal(
        "a model masked by torch.nn.utils.prune", masked_by_torch, "from_torch_prune"
    ),
    "not finite": Refusal("weights that are NaN", broken, r"2\.weight.*NaN", ScoreError),
    "integers": Refusal("weights that are integers", integers, "dtype is int8"),
    "complex": Refusal("complex weights", lambda: net().to(torch.complex64), "dtype is complex64"),
    "no weights": Refusal("a model without parameters", nn.ReLU, "no parameters"),
    "one layer": Refusal("a single layer", lambda: nn.Linear(4, 4), "first layer.*include_first"),
    "state dict": Refusal("a state dict", lambda: net().state_dict(), "module"),
    "path": Refusal("a path", lambda: "model.pt", "module"),
    "script": Refusal("a TorchScript model", lambda: torch.jit.script(net()), "Script"),
    "not copied": Refusal("a model that cannot be copied", copied_never, "in_place"),
    "inference": Refusal(
        "weights made in inference mode, in place",
        *(inference, "inference", UsageError),
        lambda model: prune(model, 0.5, in_place=True),
    ),
    "fsdp": Refusal("a sharded model (FSDP)", sharded, "FSDP", around=alone),
    "fsdp, gates": Refusal("gates of a sharded model", sharded, "FSDP", ask=attach, around=alone),
    "fsdp, held": Refusal("held masks of a sharded model", sharded, "FSDP", ask=hold, around=alone),
    "fsdp, saved": Refusal(
        "saving a sharded model",
        sharded,
        "FSDP",
        ask=keep_on_disk,
        around=alone,
    ),
    "deepspeed, held": Refusal(
        "held masks of a model under DeepSpeed", of_deepspeed, "DeepSpeed", ask=hold
    ),
    "floors": Refusal(
        "floors above the keep ratio",
        *(net, "floor", BudgetError, lambda model: prune(model, Budget(0.1, floor=0.5))),
    ),
    "nothing left": Refusal(
        "all layers excluded",
        *(net, "excluded by", UsageError, lambda model: prunable(model, exclude=["*"])),
    ),
    "other masks": Refusal(
        "masks of another model", net, "'2.weight'.*another model", ask=apply_others
    ),
}
