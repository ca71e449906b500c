"""Training with fake quantisation, inside any loop: two lines around what is there.

    training = QuantizedTraining(model, images)
    ...  # the loop as it is; or finetune, descend, learn_gates
    made = training.finish(images)
    made.save("net-int8.onnx")

While it is attached, the module computes what the int8 file will: every layer reads inputs and
weights as 8 bit stores them, and so does what reads a value beside layers, such as the sum of a
residual block. Ranges of values follow their batches; weights end at the largest of each output.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from secateur.arguments import MAPPING, TEXTS, a, checked
from secateur.errors import CompileError, TrainingError, UsageError
from secateur.model.inputs import each, names_of, run
from secateur.model.modes import uncompiled, without_autocast
from secateur.model.parameters import device_of, unwrapped
from secateur.model.passes import refusing, undisturbed
from secateur.quantization import call, fake, inputs, tracing, weights
from secateur.quantization.fake import Trained, Value
from secateur.quantization.matching import match
from secateur.quantization.network import Float
from secateur.quantization.placement import layers_of, place
from secateur.quantization.plan import Choice
from secateur.quantization.ranges import Histogram
from secateur.quantization.result import Quantized
from secateur.quantization.search import Search

TOGETHER = 64
"""Samples of the data that are run together."""


class QuantizedTraining:
    """A module that is trained as its int8 file will compute; see the file for how."""

    @checked(model=a(nn.Module, "a torch module"), keep_float=TEXTS)
    def __init__(self, model: nn.Module, data: Any, *, keep_float: Iterable[str] = ()) -> None:
        """Attach hooks to a module; its parts, parameters and `state_dict` stay as they are.

        The hooks go with deep copies, and work beside gates, held masks, autocast and any
        optimizer. Take them away with `finish` or `remove`.

        Args:
            model: on its device; wrappers (DDP, compiled) are looked through. It is best trained
                in float32 first.
            data: a few hundred inputs, without labels, as for `secateur.quantize`: the first
                ranges are theirs.
            keep_float: names of modules whose layer stays in float32.

        Raises:
            UsageError: the module is trained so already, has parameters that are not float32 or
                not finite, does not take the data, gives NaN or infinity for them, or has no
                layer of a name in `keep_float`. Nothing was changed.
            CompileError: the module cannot be exported, or none of its layers can be trained in
                8 bit. Nothing was changed.
        """
        inner = unwrapped(model)
        if fake.trained_of(inner) is not None:
            raise UsageError(
                "the model is trained in 8 bit already; go on with QuantizedTraining.of(model), "
                "or end that with finish() or remove()"
            )
        with uncompiled(inner), without_autocast():
            self._begin(inner, data, frozenset(keep_float))

    def _begin(self, model: nn.Module, data: Any, keep_float: Collection[str]) -> None:
        names = {name for name, module in model.named_modules()}
        for name in keep_float:
            if name not in names:
                raise UsageError(
                    f"keep_float names {name!r}, but the model has no such module; names are "
                    "those of model.named_modules()"
                )
        for name, weight in model.named_parameters():
            if weight.is_floating_point() and weight.dtype != torch.float32:
                raise UsageError(
                    f"{name!r} is {weight.dtype}, but training in 8 bit takes parameters in "
                    "float32: call model.float(), and train under autocast where that is fast"
                )
        if (broken := _not_finite(model)) is not None:
            raise UsageError(
                f"{broken!r} of the model holds NaN or infinity; give a model that was trained "
                "without"
            )
        matched = match(model, data, keep_float)
        self._model, self._trained = model, matched.trained
        fake.attach(model, matched.before, matched.after)
        try:
            self._observe(data)
        except BaseException:
            fake.detach(model)
            raise

    @classmethod
    @checked(model=a(nn.Module, "a torch module"))
    def of(cls, model: nn.Module) -> QuantizedTraining:
        """Return the training of a model that has its hooks, for example of a deep copy.

        Raises:
            UsageError: the model has none.
        """
        inner = unwrapped(model)
        trained = fake.trained_of(inner)
        if trained is None:
            raise UsageError(
                "the model is not trained in 8 bit; begin with QuantizedTraining(model, data)"
            )
        found = cls.__new__(cls)
        found._model, found._trained = inner, trained
        return found

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the modules whose layers are computed in 8 bit."""
        return tuple(dict.fromkeys(name for name in self._trained.layers.values() if name))

    @property
    def unseen(self) -> tuple[str, ...]:
        """Values that the exported network rounds beside its layers, and training does not.

        They are named as in the ONNX file. No module gives them: a function does, in the middle of
        a `forward`. Call a module there, such as `nn.ReLU()`, and they are rounded in training.
        """
        return self._trained.unseen

    def _observe(self, data: Any) -> None:
        """Let ranges hold all of the data."""
        self._trained.observing = True
        count = len(next(iter(names_of(inputs.tensors(data, 0, 2**62)).values())))
        home = device_of(self._model)
        try:
            with (
                undisturbed(self._model),
                torch.no_grad(),
                refusing("the model does not take the data"),
            ):
                for start in range(0, count, TOGETHER):
                    part = inputs.tensors(data, start, start + TOGETHER)
                    run(self._model, each(part, lambda x: x.to(home)))
        finally:
            self._trained.observing = False
        for value in self._broken():
            raise UsageError(
                f"value {value!r} of the network is NaN or infinite on the data; give data that "
                "the network is meant for"
            )

    def _values(self) -> dict[str, Value]:
        """Return the values that are tracked, by name."""
        return {
            name: value
            for found in self._trained.ranges.values()
            for name, value in found.values.items()
        }

    def _broken(self) -> list[str]:
        """Return the values whose ranges are not finite."""
        return [n for n, v in self._values().items() if not bool(torch.isfinite(v.ends).all())]

    def state_dict(self) -> dict[str, Tensor]:
        """Return what resuming needs beside model and optimizer.

        That is value → float32 [3], copied: the ends of its range, and of how many batches.
        """
        return {
            name: torch.cat([value.ends, value.batches.reshape(1)]).clone()
            for name, value in self._values().items()
        }

    @checked(state=MAPPING)
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` returned.

        Raises:
            UsageError: it is of another model, or holds NaN, infinity or ranges that end before
                they begin. Nothing was changed.
        """
        values = self._values()
        fits = all(isinstance(t, Tensor) and t.shape == (3,) for t in state.values())
        if state.keys() != values.keys() or not fits:
            raise UsageError(
                "these ranges are of another model; go on with the one that they were saved from"
            )
        for name, ends in state.items():
            if not bool(torch.isfinite(ends).all()) or ends[0] > ends[1] or ends[2] < 0:
                raise UsageError(
                    f"the range of value {name!r} is {ends.tolist()}, of which no training can go "
                    "on; take an earlier checkpoint"
                )
        for name, value in values.items():
            given = state[name].detach().float().clone()
            value.ends, value.batches = given[:2], given[2]

    def finish(self, data: Any) -> Quantized:
        """Return the int8 network with the ranges that were trained, and take the hooks away.

        It gives what the module gave with its hooks, in evaluation mode. What training does not
        round is rounded as `unseen` says; a value of which no range was tracked has that of the
        data; layers that were not trained in 8 bit stay in float32.

        Args:
            data: inputs, as for `secateur.quantize`. `Quantized.error` and the errors of rows
                compare the int8 network with the float network of the same weights, on these.

        Raises:
            UsageError: it was finished before, data that do not fit, or the model has run no
                batch in training mode since hooks were attached.
            TrainingError: a range or a parameter is not finite.
            CompileError: the module cannot be exported. In all cases nothing was changed.
        """
        if fake.trained_of(self._model) is not self._trained:
            raise UsageError("this training in 8 bit was finished or removed before")
        if all(value.batches < 2 for value in self._values().values()):
            raise UsageError(
                "the model has run no batch in training mode since it was to be trained in 8 bit; "
                "call model.train() and train it, or quantise it as it is: secateur.quantize"
            )
        if (broken := _not_finite(self._model)) is not None:
            raise TrainingError(
                f"{broken!r} of the model holds NaN or infinity, so training has diverged; begin "
                "again with a lower learning rate"
            )
        for name in self._broken():
            raise TrainingError(
                f"the range of value {name!r} is NaN or infinite, so training has diverged; begin "
                "again with a lower learning rate"
            )
        home = device_of(self._model)
        example = each(inputs.tensors(data, 0, call.EXAMPLE), lambda x: x.to(home))
        with self._trained.pause():
            with (
                undisturbed(self._model),
                without_autocast(),
                uncompiled(self._model),
                torch.no_grad(),
                refusing("the model does not take the data"),
            ):
                run(self._model, example)
            made = _exported(tracing.read(self._model, example), self._trained, data)
        self.remove()
        return made

    def remove(self) -> None:
        """Take the hooks away; the weights stay as they were trained."""
        fake.detach(self._model)


def _not_finite(model: nn.Module) -> str | None:
    """Return the name of a parameter that holds NaN or infinity; None if all is well."""
    for name, tensor in model.named_parameters():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return name
    return None


def _exported(network: Float, trained: Trained, data: Any) -> Quantized:
    """Return the int8 network of a float one, with the ranges that were trained."""
    given = inputs.checked_data(network, data)
    layers = layers_of(network.graph)
    reasons = {name: "not trained in 8 bit" for name in layers if name not in trained.layers}
    reasons |= {
        name: why for name in layers if (why := weights.refusal(network.graph, layers[name]))
    }
    if len(reasons) == len(layers):
        raise CompileError(
            "no layer of the network is left that was trained in 8 bit: "
            + "; ".join(f"{name!r}: {reason}" for name, reason in list(reasons.items())[:3])
        )
    search = Search(network, layers, given, lambda text: None)
    placement = place(network.graph, layers, reasons)
    for first, members in placement.observed.items():
        group = [value for value, other in placement.group.items() if other == first]
        known = next((trained.ranges[v] for v in group if v in trained.ranges), None)
        if known is not None:
            low, high = (float(end) for end in known.ends(torch.device("cpu")))
            search.all |= dict.fromkeys(members, Histogram(low=low, high=high))
    choice = Choice("minmax")
    plan = search.plan(choice, reasons, final=True)
    reasons |= plan.refused
    made = call.result_of(search, plan, choice, reasons, {})
    return replace(made, method="training")
