"""GGUF files that autotx writes, opened by llama.cpp: it reads the same tokens and computes the same scores."""

import dataclasses
import json

import numpy as np
import pytest
from gguf_files import NASTY, TEXT, small_llama, write_model

from autotx.checkpoint import load_tensors
from autotx.models import GPT, GPTConfig, lora
from autotx.models.cli import main
from autotx.models.formats import gguf_writer, open_model
from autotx.models.gpt import GPTArchitecture
from autotx.models.run import ADAPTER
from autotx.models.tokenizers import ByteTokenizer, CharTokenizer

CONTEXT, LIKELIEST = 96, 5


class LlamaCpp:
    """llama.cpp with a file. It computes in float32 what the file has in float32: the keys and values that it keeps are
    float32, and its flash attention, which rounds to float16, is off."""

    def __init__(self, path):
        library = pytest.importorskip("xllamacpp")
        settings = library.CommonParams()
        settings.model.path, settings.n_ctx, settings.n_gpu_layers, settings.verbosity = str(path), CONTEXT, 0, 0
        settings.cache_type_k = settings.cache_type_v = library.ggml_type.GGML_TYPE_F32
        settings.flash_attn_type = library.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._server = library.Server(settings)

    def goes_on(self, prompt, n, **settings):
        """(how many tokens the prompt is, what it writes after it, a list of (id, {id: log probability} of the
        likeliest) of each token that it wrote). It always writes the likeliest token, unless settings change it."""
        asked = {"prompt": prompt, "n_predict": n, "temperature": 0, "n_probs": LIKELIEST, "ignore_eos": True}
        found = self._server.handle_completions(asked | settings)
        found = json.loads(found) if isinstance(found, str) else found
        (choice,) = found["choices"]
        written = choice["logprobs"]["content"]
        likeliest = [{other["id"]: other["logprob"] for other in token["top_logprobs"]} for token in written]
        ids = [token["id"] for token in written]
        return found["usage"]["prompt_tokens"], choice["text"], list(zip(ids, likeliest))


def log_probabilities(model, ids):
    """(T, V) of the token after each of ids (T,), in float64."""
    scores = model(np.asarray(ids)[None])[0].data[0].astype(np.float64)
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


def check_likeliest(found, expected, tolerance):
    """found: {id: log probability} of the likeliest tokens; expected: (V,), of all."""
    ids = list(found)
    np.testing.assert_allclose([found[i] for i in ids], expected[ids], rtol=0, atol=tolerance)
    others = np.delete(expected, ids)
    assert others.max() <= min(found.values()) + tolerance


# The tokens of a text


def random_model(network, kind, folder, rng):
    """An Opened with weights by which all tokens differ, and a tokenizer. kind: char, byte, llama for SentencePiece's,
    or the pattern of a byte-level BPE."""
    words = {"kind": "llama"} if kind == "llama" else {"tokenizer__ggml__bos_token_id": 1}
    if kind not in ("char", "byte", "llama"):
        words["tokenizer__ggml__pre"] = kind
    opened = open_model(write_model(folder / "theirs.gguf", small_llama(words.get("kind", "gpt2")), **words))
    tokenizer = {"char": CharTokenizer(TEXT), "byte": ByteTokenizer()}.get(kind, opened.tokenizer)
    sizes = {"vocab_size": tokenizer.vocab_size, "block_size": CONTEXT}
    if network == "gpt":
        model = GPT(GPTConfig(n_layer=2, n_head=4, n_embd=32, **sizes), rng)
        opened = dataclasses.replace(opened, architecture=GPTArchitecture)
    else:
        model = small_llama(bias=network == "qwen2", **sizes)
    for p in model.parameters():
        p.data = p.data + rng.normal(0, 0.1, p.shape).astype(np.float32)
    return dataclasses.replace(opened, model=model, tokenizer=tokenizer)


@pytest.mark.parametrize("kind", ["gpt-2", "smollm", "llama-bpe", "qwen2", "llama", "char", "byte"])
def test_it_reads_a_text_as_the_same_tokens(kind, tmp_path, rng):
    opened = random_model("llama", kind, tmp_path, rng)
    tokenizer, path = opened.tokenizer, tmp_path / "ours.gguf"
    gguf_writer.write(opened, path, "f32")
    theirs = LlamaCpp(path)
    forced = {"logit_bias": [[int(tokenizer.encode("a")[-1]), 1000]]}  # it tells no scores of a part of a character
    for text in NASTY:
        if kind in ("char", "byte"):
            text = text.replace("▁", "")  # GGUF's space: llama.cpp takes one in a text for a space
        ids = tokenizer.encode(text)
        if 0 < len(ids) < CONTEXT:
            count, _, ((_, likeliest),) = theirs.goes_on(text, 1, **forced)
            assert count == len(ids), text
            check_likeliest(likeliest, log_probabilities(opened.model, ids)[-1], 1e-5)


# What it writes


TRAINING = "--steps 60 --lr 5e-3 --min-lr 1e-3 --warmup-steps 5 --eval-batches 1 --batch-size 4"
TOLERANCES = {"f32": 1e-5, "f16": 0.01, "q8_0": 0.3}  # it rounds the other factor of a product as the matrix is
OF_GELU = 3e-3  # it looks GELU up in a table of float16


def export(model, form, path):
    assert main(["export", "--model", str(model), "--to", "gguf", "--type", form, str(path)]) == 0
    return LlamaCpp(path)


def check_going_on(model, prompt, folder):
    """What llama.cpp writes with the files of a model, in each form, has the scores that the model gives it; in float32
    it is the same text, too."""
    opened = open_model(model)
    ids = opened.tokenizer.encode(prompt)
    expected = opened.tokenizer.decode(opened.model.generate(ids, 24, temperature=0)[0, len(ids) :])
    for form, tolerance in TOLERANCES.items():
        tolerance = max(tolerance, OF_GELU if opened.kind == "gpt" else 0)
        count, text, written = export(model, form, folder / f"{form}.gguf").goes_on(prompt, 24)
        assert (count, len(written)) == (len(ids), 24)
        assert form != "f32" or text == expected
        scores = log_probabilities(opened.model, [*ids, *(i for i, _ in written)])
        for place, (_, likeliest) in enumerate(written, len(ids) - 1):
            check_likeliest(likeliest, scores[place], tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["char", "byte", "smollm", "llama"])
@pytest.mark.parametrize("network", ["gpt", "llama", "qwen2"])
def test_it_goes_on_with_the_same_text(network, kind, tmp_path, rng):
    (tmp_path / "text.txt").write_text("the cat sat on the mat. the dog sat on the log.\n" * 60)
    gguf_writer.write(random_model(network, kind, tmp_path, rng), tmp_path / "base.gguf", "f32")
    words = ["train", "--init", tmp_path / "base.gguf", "--text", tmp_path / "text.txt", "--out", tmp_path / "run"]
    assert main([str(word) for word in (*words, "--length", 32, *TRAINING.split())]) == 0
    check_going_on(tmp_path / "run", "the cat sat", tmp_path)


# Adapters


@pytest.mark.slow
@pytest.mark.parametrize("network", ["gpt", "llama", "qwen2"])
def test_merged_adapters_go_out(network, tmp_path, rng):
    """The weights of a run of adapters are W + s B A in both formats; transformers and llama.cpp compute them alike."""
    base, run, text = tmp_path / "base.gguf", tmp_path / "run", tmp_path / "text.txt"
    text.write_text("the cat sat on the mat. the dog sat on the log.\n" * 60)
    opened = random_model(network, "smollm", tmp_path, rng)
    gguf_writer.write(opened, base, "f32")
    words = ["train", "--init", base, "--text", text, "--out", run, "--length", 32, *TRAINING.split()]
    assert main([str(word) for word in (*words, "--lora-rank", 3, "--lora-alpha", 5)]) == 0
    adapters, _ = load_tensors(run / ADAPTER)
    weights = opened.model.state_dict()
    for name, place in lora.places(opened.architecture.name, opened.model).items():
        a, b = (adapters.get(f"{lora.PREFIX}{name}.lora_{kind}.weight") for kind in "AB")
        if a is not None:
            weights[f"{place.layer}.weight"][place.first : place.end] += np.float32(5 / 3) * (b @ a)
    assert main(["export", "--model", str(run), "--to", "hf", str(tmp_path / "hf")]) == 0
    check_going_on(run, "the cat sat", tmp_path)
    for path in (run, tmp_path / "hf", tmp_path / "f32.gguf"):
        for name, array in open_model(path).model.state_dict().items():
            np.testing.assert_array_equal(array, weights[name], err_msg=f"{path} {name}")
    check_transformers(tmp_path / "hf", open_model(run).model, rng)


def check_transformers(folder, model, rng):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    theirs.generation_config.eos_token_id = None
    ids = rng.integers(0, model.config.vocab_size, (2, 12))
    with torch.no_grad():
        scores = theirs(torch.from_numpy(ids)).logits.numpy()
    np.testing.assert_allclose(model(ids)[0].data, scores, rtol=0, atol=1e-4)
    mask = torch.ones(ids.shape, dtype=torch.long)
    greedy = theirs.generate(torch.from_numpy(ids), attention_mask=mask, max_new_tokens=20, do_sample=False)
    np.testing.assert_array_equal(model.generate(ids, 20, temperature=0), greedy.numpy())
