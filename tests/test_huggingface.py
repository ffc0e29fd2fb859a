"""Folders of Hugging Face: what transformers saves is computed alike, what is exported opens there."""

import json

import numpy as np
import pytest
from gguf_files import NASTY, byte_level, library, small_llama, write_model

from autotx.models import GPT, GPTConfig
from autotx.models.cli import main
from autotx.models.formats import huggingface, open_model, open_reader
from autotx.models.formats.huggingface_tokenizer import tokenizer_json
from autotx.models.inference.pieces import Matrix
from autotx.models.tokenizers import load_tokenizer

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def give_tokenizer(folder):
    """The small byte-level BPE of the GGUF tests, as a tokenizer.json."""
    tokens, _, merges = byte_level()
    ids = {name: i for i, name in enumerate(tokens)}
    saved = tokenizer_json(ids, [pair.split(" ") for pair in merges], pre_tokenizer=BYTE_LEVEL)
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    saved["added_tokens"] = [{"id": i, "content": tokens[i], "special": True, **flags} for i in range(2)]
    (folder / "tokenizer.json").write_text(json.dumps(saved))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": tokens[0], "chat_template": "{{ 1 }}"})
    )
    return len(tokens)


def peer(kind, tied):
    """A model of transformers with random weights."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    V = len(byte_level()[0])
    marks = {"bos_token_id": None, "eos_token_id": 0}
    if kind == "gpt2":
        config = transformers.GPT2Config(vocab_size=V, n_positions=40, n_embd=48, n_layer=2, n_head=6, **marks)
        model = transformers.GPT2LMHeadModel(config)
    else:
        name = "Llama" if kind == "llama" else "Qwen2"
        config = getattr(transformers, f"{name}Config")(
            vocab_size=V, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=6,
            num_key_value_heads=2, max_position_embeddings=40, tie_word_embeddings=tied,
            rope_parameters={"rope_type": "default", "rope_theta": 5000.0}, **marks,
        )  # fmt: skip
        model = getattr(transformers, f"{name}ForCausalLM")(config)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)
    return model.eval()


def same_results(theirs, folder):
    """Whether transformers' model computes the logits, the loss and the greedy ids of the model in a folder."""
    import torch

    ours = open_model(folder).model
    ids = np.random.default_rng(0).integers(0, ours.config.vocab_size, (2, 20))
    with torch.no_grad():
        found = theirs.float()(torch.from_numpy(ids), labels=torch.from_numpy(ids))
    logits, _ = ours(ids)
    np.testing.assert_allclose(logits.data, found.logits.numpy(), rtol=0, atol=1e-4)
    assert abs(ours(ids[:, :-1], ids[:, 1:])[1].item() - found.loss.item()) < 1e-4
    reader = open_reader(folder, Matrix).model.reader(2)
    np.testing.assert_allclose(reader.scores(reader.read(ids)), found.logits.numpy(), rtol=0, atol=1e-4)
    theirs.generation_config.eos_token_id = None
    greedy = theirs.generate(
        torch.from_numpy(ids[:, :5]), attention_mask=torch.ones(2, 5), max_new_tokens=15, do_sample=False
    )
    assert np.array_equal(ours.generate(ids[:, :5], 15, temperature=0), greedy.numpy())


@pytest.mark.parametrize(("kind", "tied"), [("gpt2", True), ("llama", False), ("llama", True), ("qwen2", True)])
@pytest.mark.parametrize(("form", "shard"), [("float32", "5GB"), ("float16", "5GB"), ("bfloat16", "30KB")])
def test_a_folder_that_transformers_saved_is_computed_alike(kind, tied, form, shard, tmp_path):
    theirs = peer(kind, tied)
    theirs.to(getattr(pytest.importorskip("torch"), form)).save_pretrained(tmp_path, max_shard_size=shard)
    give_tokenizer(tmp_path)
    assert (tmp_path / "model.safetensors").exists() == (shard == "5GB")
    opened = open_model(tmp_path, needs="text")
    assert (opened.kind, opened.tokenizer.ends, opened.known["template"]) == (
        "gpt" if kind == "gpt2" else "llama",
        (0,),
        "{{ 1 }}",
    )
    # anew, for in half precision it has rounded the angles of its rotary positions
    same_results(type(theirs).from_pretrained(tmp_path, dtype="float32").eval(), tmp_path)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2"])
def test_in_and_out_again_gives_the_same_weights_and_tokens(kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    peer(kind, False).save_pretrained(tmp_path / "a")
    give_tokenizer(tmp_path / "a")
    first = open_model(tmp_path / "a")
    assert main(["export", "--model", str(tmp_path / "a"), "--to", "hf", str(tmp_path / "b")]) == 0
    assert main(["export", "--model", str(tmp_path / "b"), "--to", "gguf", str(tmp_path / "c.gguf")]) == 0
    assert main(["export", "--model", str(tmp_path / "c.gguf"), "--to", "hf", str(tmp_path / "d")]) == 0
    for name in ("b", "c.gguf", "d"):
        again = open_model(tmp_path / name)
        for key, array in first.model.state_dict().items():
            np.testing.assert_array_equal(again.model.state_dict()[key], array, err_msg=f"{name}: {key}")
        assert again.tokenizer.ends == (0,)
        for text in (*NASTY, "a<|end|>b"):
            assert again.tokenizer.encode(text).tolist() == first.tokenizer.encode(text).tolist()
    same_results(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "b"), tmp_path / "b")
    # for model_type qwen2, AutoTokenizer cuts texts as Qwen2 does, whatever tokenizer.json says
    reader = transformers.PreTrainedTokenizerFast if kind == "qwen2" else transformers.AutoTokenizer
    theirs = reader.from_pretrained(tmp_path / "b")
    for text in NASTY:
        assert theirs.encode(text) == first.tokenizer.encode(text).tolist(), text


def change(path, **entries):
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **entries}))


@pytest.fixture
def folder(tmp_path):
    """A small Llama, exported."""
    model = small_llama()
    opened = open_model(write_model(tmp_path / "a.gguf", model))
    (tmp_path / "a").mkdir()
    huggingface.write(opened, tmp_path / "a")
    return tmp_path / "a"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"model_type": "bert"}, "model_type is 'bert'; autotx reads gpt2, llama, qwen2"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; autotx computes silu only"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "rope_scaling is 'llama3'; autotx computes plain"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters is 'yarn'; autotx computes plain"),
        ({"attention_bias": True}, "attention_bias is 'True'; autotx computes False only"),
        ({"mlp_bias": True}, "mlp_bias is 'True'; autotx computes False only"),
        ({"head_dim": 4}, "head_dim is '4'; autotx computes 8 only"),
        ({"quantization_config": {}}, "quantization_config is a setting that autotx does not know"),
        ({"num_hidden_layers": 2**31}, "layers.2.mlp.up_proj.weight is missing"),
        ({"hidden_size": 2**31}, "embed_tokens.weight has shape"),
        ({"num_attention_heads": 3}, "config.json: LlamaConfig: n_head 3 does not divide n_embd 32"),
        ({"vocab_size": 7}, "embed_tokens.weight has shape"),
        ({"vocab_size": "7"}, "config.json: vocab_size should be a whole number"),
        ({"rms_norm_eps": 1e999}, "rms_norm_eps is inf; it should be a finite number"),
    ],
)
def test_a_setting_that_autotx_does_not_compute_is_refused(entries, message, folder, fails):
    change(folder / "config.json", **entries)
    fails(["generate", "--model", folder, "--prompt", "a"], message)
    fails(["export", "--model", folder, "--to", "gguf", folder / "x.gguf"], message)


def test_shards_that_are_missing_or_elsewhere_are_named(folder, fails):
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    index = folder / "model.safetensors.index.json"
    for file, message in (
        ("other.safetensors", "names other.safetensors, one of 1 files, which is missing"),
        ("../a/part.safetensors", "is no name of a file in that folder"),
        ("part.safetensors", "x is not in part.safetensors; get both anew"),
    ):
        index.write_text(json.dumps({"weight_map": {"x": file}}))
        fails(["generate", "--model", folder], message)
    index.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")
    fails(
        ["generate", "--model", folder], "pytorch_model.bin is a pickle, which can run any code; make model.safetensors"
    )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"type": "Unigram", "vocab": []}, "a tokenizer of the kind 'Unigram'; autotx reads BPE"),
        ({"type": "BPE", "vocab": {"a": 0}, "merges": []}, "neither works on bytes nor falls back to them"),
        ({"type": "BPE", "vocab": {"a": 0}, "merges": [], "byte_fallback": True}, "has no token <0x00>"),
        ({"type": "BPE", "vocab": 1}, "is not a file of the library tokenizers"),
    ],
)
def test_a_tokenizer_that_cannot_spell_every_text_is_refused(model, message, folder, fails):
    saved = {"version": "1.0", "pre_tokenizer": None, "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(saved))
    fails(["generate", "--model", folder], message)


def test_a_vocabulary_that_is_not_the_tables_is_refused(folder, fails):
    ids = {chr(c): i for i, c in enumerate(range(33, 100))}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(ids, [], pre_tokenizer=BYTE_LEVEL)))
    fails(["generate", "--model", folder], "its tokenizer has 67 tokens, its table of tokens")


def test_nothing_is_overwritten(folder, fails):
    fails(["export", "--model", folder, "--to", "hf", folder], "is there already; give another name")
    fails(["export", "--model", folder, "--to", "hf", "--type", "f16", folder / "x"], "--type is for --to gguf")


@pytest.mark.parametrize("kind", ["char", "byte", "bpe", "word"])
def test_a_run_is_exported_or_it_is_said_why_not(kind, tmp_path, fails, capsys):
    (tmp_path / "text.txt").write_text("the quick brown fox jumps. Schön!\n" * 400)
    sizes = "--n-layer 1 --n-head 2 --n-embd 32 --block-size 64 --batch-size 2 --steps 1 --eval-batches 1"
    run = tmp_path / "run"
    argv = [
        "train",
        "--text",
        f"{tmp_path / 'text.txt'}",
        "--out",
        f"{run}",
        "--tokenizer",
        kind,
        "--vocab-size",
        "280",
    ]
    assert main([*argv, *sizes.split()]) == 0
    export = ["export", "--model", run, "--to"]
    if kind == "word":
        fails([*export, "hf", tmp_path / "out"], "a tokenizer of the kind word cannot be expressed in other formats")
        return
    assert main([str(word) for word in (*export, "hf", tmp_path / "out")]) == 0
    ours, again = open_model(run), open_model(tmp_path / "out")
    for text in NASTY:
        assert again.tokenizer.encode(text).tolist() == ours.tokenizer.encode(text).tolist(), text
        assert again.tokenizer.decode(ours.tokenizer.encode(text)) == text
        assert (
            library.Tokenizer.from_file(str(tmp_path / "out/tokenizer.json")).encode(text).ids
            == ours.tokenizer.encode(text).tolist()
        )
    if kind == "bpe":
        fails([*export, "gguf", tmp_path / "a.gguf"], "GGUF has no name for how its tokenizer cuts texts")
        return
    for form in ("f32", "f16", "q8_0"):
        assert main([str(word) for word in (*export, "gguf", "--type", form, tmp_path / f"{form}.gguf")]) == 0
        model = open_model(tmp_path / f"{form}.gguf").model
        for key, array in ours.model.state_dict().items():
            scale = {"f32": 0, "f16": 1e-3, "q8_0": 1e-2}[form] * np.abs(array).max()
            np.testing.assert_allclose(model.state_dict()[key], array, rtol=0, atol=scale, err_msg=key)


def test_the_eps_of_a_gpt_is_kept(rng):
    config = GPTConfig(8, 11, 1, 2, 8, norm_eps=0.5)
    assert GPT(config, rng).ln_f.eps == 0.5
    with pytest.raises(ValueError, match="GPTConfig: norm_eps is 0; give a positive number"):
        GPTConfig(8, 11, 1, 2, 8, norm_eps=0)


# Other tokenizers


def test_vocab_and_merges_stand_for_a_tokenizer(tmp_path):
    transformers = pytest.importorskip("transformers")
    peer("gpt2", True).save_pretrained(tmp_path)
    tokens, _, merges = byte_level(("<|endoftext|>", "<|user|>"))
    (tmp_path / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(tokens)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    ours, theirs = open_model(tmp_path).tokenizer, transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in (*NASTY, "a<|endoftext|>b"):
        assert ours.encode(text).tolist() == theirs.encode(text), text


def test_a_tokenizer_of_characters_with_bytes_goes_in_and_out(tmp_path):
    path = write_model(tmp_path / "a.gguf", small_llama("llama"), kind="llama")
    first = open_model(path)
    for source, to, out in (("a.gguf", "hf", "b"), ("b", "gguf", "c.gguf")):
        assert main(["export", "--model", str(tmp_path / source), "--to", to, str(tmp_path / out)]) == 0
        again = open_model(tmp_path / out)
        assert (again.tokenizer.start, again.tokenizer.ends, again.known["template"]) == (
            1,
            (2,),
            first.known["template"],
        )
        for text in NASTY:
            assert again.tokenizer.encode(text).tolist() == first.tokenizer.encode(text).tolist(), text


def test_a_table_may_have_a_few_rows_without_a_token(folder, tmp_path):
    saved = json.loads((folder / "tokenizer.json").read_bytes())
    tokens = saved["model"]["vocab"]
    last = max(tokens, key=lambda name: tokens[name])
    pairs = [pair for pair in saved["model"]["merges"] if "".join(pair) != last]
    saved["model"] |= {"vocab": {name: i for name, i in tokens.items() if name != last}, "merges": pairs}
    (folder / "tokenizer.json").write_text(json.dumps(saved))
    tokenizer = open_model(folder).tokenizer
    assert tokenizer.pieces[-1] == f"[PAD{len(tokens) - 1}]".encode()
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path).pieces == tokenizer.pieces
    assert main(["export", "--model", str(folder), "--to", "gguf", str(tmp_path / "b.gguf")]) == 0
    assert open_model(tmp_path / "b.gguf").tokenizer.pieces == tokenizer.pieces
