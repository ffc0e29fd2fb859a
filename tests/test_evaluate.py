"""`autotx evaluate`: every token is predicted once, from the context that is told, and with the model's own loss."""

import json
import math
import re

import numpy as np
import pytest
from gguf_files import SMOLLM2, TEXT, needs_smollm2, small_llama, write_model

import autotx
from autotx.models import GPT, GPTConfig, Llama, LlamaConfig, progress
from autotx.models.cli import main
from autotx.models.data import read_text
from autotx.models.formats import open_model, open_reader
from autotx.models.inference import bleu
from autotx.models.inference import losses as module
from autotx.models.inference.losses import compared, token_losses
from autotx.models.inference.pieces import Matrix
from autotx.text import visible

SIZES = {"block_size": 16, "vocab_size": 50, "n_layer": 2, "n_head": 4, "n_embd": 32}


@pytest.fixture(params=["gpt", "llama"])
def model(request, rng):
    if request.param == "gpt":
        return GPT(GPTConfig(**SIZES), rng)
    return Llama(LlamaConfig(**SIZES, n_kv_head=2, n_hidden=48), rng)


def direct(score, ids, context, stride):
    """The losses one by one. score: a function of ids (T,) that gives the scores of what comes next, (V,)."""
    losses, begin = [], 0
    for target in range(1, len(ids)):
        if target - begin > context:
            begin = min(begin + stride, len(ids) - 1 - context)
        scores = score(ids[begin:target]).astype(np.float64)
        losses.append(np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[ids[target]])
    return np.array(losses)


@pytest.mark.parametrize(("count", "context", "stride"), [(2, 16, 8), (17, 16, 8), (18, 16, 8), (60, 16, 16),
                                                          (60, 16, 5), (61, 7, 1), (9, 16, 3)])  # fmt: skip
def test_each_token_is_predicted_once_as_a_direct_computation_does(model, rng, monkeypatch, count, context, stride):
    def score(ids):
        with autotx.no_grad():
            return model(ids[None])[0].data[0, -1]

    ids = rng.integers(50, size=count)
    expected = direct(score, ids, context, stride)
    for tokens, scores in ((4096, 1 << 22), (40, 100)):  # windows in one batch, and two at a time; scores in pieces
        monkeypatch.setattr(module, "TOKENS", tokens)
        monkeypatch.setattr(module, "SCORES", scores)
        found = np.concatenate(list(token_losses(model, ids, context, stride)))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        assert len(found) == count - 1


def test_losses_are_those_of_transformers(rng, tmp_path):
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    path = write_model(tmp_path / "a.gguf", small_llama(block_size=32))
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path, gguf_file="a.gguf").eval()
    opened = open_model(path)
    ids = opened.tokenizer.encode(TEXT)[:90]

    def score(ids):
        with torch.no_grad():
            return theirs(torch.tensor(ids[None].astype(np.int64))).logits[0, -1].numpy()

    found = np.concatenate(list(token_losses(opened.model, ids, 32, 10)))
    np.testing.assert_allclose(found, direct(score, ids, 32, 10), rtol=1e-4, atol=1e-4)


# Two models


def test_divergence_and_likeliest_tokens_are_those_of_a_direct_computation(model, rng, monkeypatch):
    other, ids = GPT(GPTConfig(**SIZES), rng), rng.integers(50, size=40)
    for p in other.parameters():
        p.data = 3 * p.numpy()
    monkeypatch.setattr(module, "SCORES", 300)
    parts = list(compared(model, other, ids, 16, 16))
    assert len(parts) > 1
    with autotx.no_grad():
        scores = [np.concatenate([one(ids[None, i : i + 16])[0].data[0] for i in (0, 16)]) for one in (model, other)]
    p, q = (autotx.softmax(s.astype(np.float64)).data for s in scores)
    expected = (q * np.log(q / p)).sum(axis=1)
    divergence = np.concatenate([part.divergence for part in parts])
    np.testing.assert_allclose(divergence[:32], expected, rtol=1e-4, atol=1e-9)
    for i, (one, of) in enumerate(((model, p), (other, q))):
        assert np.array_equal(np.concatenate([part.likeliest[i] for part in parts])[:32], of.argmax(axis=1))
        sure = np.concatenate([part.probability[i] for part in parts])
        np.testing.assert_allclose(sure[:32], of.max(axis=1), rtol=1e-4)
        alone = np.concatenate(list(token_losses(one, ids, 16, 16)))
        assert np.array_equal(np.concatenate([part.losses[i] for part in parts]), alone)


def test_a_model_against_itself_departs_by_exactly_nothing(model, rng):
    (part,) = compared(model, model, rng.integers(50, size=60), 16, 5)
    assert not part.divergence.any()
    assert np.array_equal(*part.likeliest)
    assert np.array_equal(*part.losses)


# The command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs of a small GPT and of a small translator, a GGUF file, and what they are evaluated on."""
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "text").write_text(TEXT, encoding="utf-8")
    (folder / "part").write_text(TEXT[-300:], encoding="utf-8")
    (folder / "pairs").write_text("one\teins\ntwo\tzwei\none two\teins zwei\n" * 9)
    tiny = "--n-layer 1 --n-head 2 --n-embd 16 --block-size 16 --eval-batches 1 --warmup-steps 1"
    write_model(folder / "small.gguf", small_llama())
    for words in (
        "--text text --out gpt --steps 3",
        "--model transformer --pairs pairs --val-pairs pairs --out translator --steps 40",
    ):
        words = [str(folder / w) if w in ("text", "gpt", "pairs", "translator") else w for w in words.split()]
        assert main(["train", *words, *tiny.split()]) == 0
    return folder


@pytest.fixture
def evaluated(folder, capsys):
    def call(*words):
        capsys.readouterr()
        words = [str(folder / w) if (folder / str(w)).exists() else str(w) for w in words]
        assert main(["evaluate", *words]) == 0
        return capsys.readouterr().out

    return call


@pytest.mark.parametrize("name", ["gpt", "small.gguf"])
def test_loss_perplexity_and_bits_per_byte(evaluated, folder, name):
    found = json.loads(evaluated("--model", name, "--text", "part", "--context", 16, "--stride", 4, "--json"))
    opened = open_model(folder / name)
    text = (folder / "part").read_text(encoding="utf-8")
    ids = opened.tokenizer.encode(text)
    losses = np.concatenate(list(token_losses(opened.model, ids, 16, 4)))
    assert (found["tokens"], found["scored"], found["context"], found["stride"]) == (len(ids), len(ids) - 1, 16, 4)
    assert found["loss"] == pytest.approx(losses.mean())
    assert found["perplexity"] == pytest.approx(math.exp(losses.mean()))
    assert found["bytes"] == len(text.encode()) - len(opened.tokenizer.pieces[ids[0]])
    assert found["bits_per_byte"] == pytest.approx(losses.sum() / math.log(2) / found["bytes"])
    shown = evaluated("--model", name, "--text", "part", "--context", 16, "--stride", 4)
    assert shown.startswith(f"loss {found['loss']:.4f}, perplexity {found['perplexity']:.5g}, ")
    told = f"{len(ids) - 1:,} of {len(ids):,} tokens predicted (the first has none before it), each from 13 to 16, or"
    assert f"{told} all if they are fewer, of the tokens before it; weights: file" in shown


def test_a_text_within_the_context_and_what_is_unknown(evaluated, folder, tmp_path):
    (tmp_path / "a").write_text("the é中")
    found = evaluated("--model", "gpt", "--text", tmp_path / "a")
    assert "8 of 9 tokens predicted" in found or "each from all tokens before it" in found
    assert "characters or words that the model has not learned: " in found


def test_progress_is_told_apart_from_the_result(folder, capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", -1)
    monkeypatch.setattr(module, "TOKENS", 1)
    words = ["--text", str(folder / "part"), "--json", "--context", "16"]
    assert main(["evaluate", "--model", str(folder / "gpt"), *words]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    first, *_, last = err.splitlines()
    assert re.fullmatch(rf"16/{found['scored']} tokens: loss \d\.\d{{4}}, .* left", first)
    assert last.startswith(f"{found['scored']}/{found['scored']} tokens: loss {found['loss']:.4f}, 0")


def test_int8_is_close(evaluated):
    exact, rounded = (json.loads(evaluated("--model", "small.gguf", "--text", "part", "--json", "--weights", w))["loss"]
                      for w in ("float32", "int8"))  # fmt: skip
    assert 0 < abs(rounded / exact - 1) < 0.005


def test_what_a_change_cost_is_told_with_the_tokens_in_their_text(evaluated, folder):
    same = ["--model", "small.gguf", "--text", "part", "--against", "small.gguf"]
    shown = evaluated(*same)
    assert "divergence 0 nats a token, the likeliest token is the same for 100 %" in shown
    assert "where they differ" not in shown
    found = json.loads(evaluated(*same, "--json"))
    assert (found["against"]["divergence"], found["against"]["same_likeliest"], found["against"]["worst"]) == (0, 1, [])
    assert (found["loss"], found["perplexity"]) == (found["against"]["loss"], found["against"]["perplexity"])
    found = json.loads(evaluated(*same, "--json", "--weights", "int8"))
    assert found["against"]["divergence"] > 0
    worst = found["against"]["worst"]
    assert [w["divergence"] for w in worst] == sorted((w["divergence"] for w in worst), reverse=True)
    text = (folder / "part").read_text(encoding="utf-8")
    assert all(w["before"] + w["token"] in text for w in worst if w["token"].isascii())
    shown = evaluated(*same, "--weights", "int8")
    assert f"divergence {found['against']['divergence']:.3g} nats a token" in shown
    assert f"[{visible(worst[0]['token'])}]  '" in shown


def test_models_of_other_tokens_cannot_be_compared(folder, fails):
    same = ["evaluate", "--text", folder / "part", "--model"]
    fails(
        [*same, folder / "gpt", "--against", folder / "small.gguf"],
        r"--against .*small.gguf: its token 0 is b'<.end.>', that of --model b'\\n'; the vocabularies must be equal",
    )
    fails(["evaluate", "--model", folder / "translator", "--pairs", folder / "pairs", "--against", folder / "gpt"],
          "--against belongs to --text; leave it out")  # fmt: skip


def test_pairs_are_scored_as_by_translate(evaluated, folder, capsys):
    pytest.importorskip("sacrebleu")
    same = ["--model", "translator", "--pairs", "pairs", "--beam", 2]
    shown, found = evaluated(*same), json.loads(evaluated(*same, "--json"))
    words = [str(folder / w) if (folder / str(w)).exists() else str(w) for w in same]
    assert main(["translate", *words]) == 0
    without_time = [re.sub(r"in [\d.]+ s", "", text) for text in (shown, capsys.readouterr().out)]
    assert without_time[0] == without_time[1]
    assert f"BLEU {found['bleu']:.2f}, chrF {found['chrf']:.2f}, {found['exact']} to the letter" in shown
    assert found["sentences"] == 27
    assert bleu.described(found).startswith("27 sentences in ")


def test_flags_and_files_that_are_wrong(folder, fails, tmp_path):
    gpt = ["evaluate", "--model", folder / "gpt"]
    fails(gpt, "one of the arguments --text --pairs is required")
    fails([*gpt, "--text", folder / "part", "--pairs", folder / "pairs"], "not allowed with")
    fails([*gpt, "--text", tmp_path / "none"], "--text .*none: cannot be read")
    fails([*gpt, "--text", folder / "part", "--context", 17], "--context 17 is more than the 16 tokens that the model")
    fails([*gpt, "--text", folder / "part", "--context", 4, "--stride", 5], "--stride 5 is more than --context 4")
    fails([*gpt, "--text", folder / "part", "--stride", 0], "--stride 0 should be at least 1")
    fails([*gpt, "--text", folder / "part", "--beam", 2], "--beam belongs to --pairs; leave it out")
    fails([*gpt, "--pairs", folder / "pairs"], "gpt holds a gpt, not a transformer")
    pairs = ["evaluate", "--model", folder / "translator", "--pairs", folder / "pairs"]
    fails([*pairs, "--weights", "int8"], "--weights belongs to --text; leave it out")
    fails([*pairs[:3], "--text", folder / "part"], "translator holds a transformer, not a gpt")
    (tmp_path / "a").write_text("a")
    fails([*gpt, "--text", tmp_path / "a"], "a is one token, which has none before it; give a longer text")


@needs_smollm2
@pytest.mark.slow
def test_the_real_models_losses_are_those_of_transformers(capsys, tmp_path):
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    (tmp_path / "text").write_text(read_text(())[:1500])
    same = ["evaluate", "--model", "smollm2", "--text", str(tmp_path / "text"), "--context", "128", "--json"]
    assert main(same) == 0
    exact = json.loads(capsys.readouterr().out)
    theirs = transformers.LlamaForCausalLM.from_pretrained(SMOLLM2.parent, gguf_file=SMOLLM2.name).eval()
    ids = open_reader(SMOLLM2, Matrix).tokenizer.encode((tmp_path / "text").read_text()).astype(np.int64)
    total, first = 0.0, 1
    for end in [*range(129, len(ids), 64), len(ids)]:
        with torch.no_grad():
            logits = theirs(torch.tensor(ids[None, end - 129 : end - 1])).logits[0, first - end :]
        total += torch.nn.functional.cross_entropy(logits, torch.tensor(ids[first:end]), reduction="sum").item()
        first = end
    assert exact["loss"] == pytest.approx(total / (len(ids) - 1), abs=1e-4)
    assert main([*same, "--weights", "int8"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(exact["loss"], rel=0.005)
