"""Saved conversations: they go on with the same bits, and nothing else than what was saved is gone on with."""

import io
import json
import sys

import numpy as np
import pytest
from gguf_files import TEMPLATE, small_llama, write_model
from safetensors.numpy import load_file

from autotx.checkpoint import list_tensors, save_tensors
from autotx.models import saved_chats
from autotx.models.chat import Conversation
from autotx.models.cli import main
from autotx.models.formats import open_reader
from autotx.models.inference.pieces import Int8Matrix, Matrix

pytest.importorskip("jinja2")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("saved") / "small.gguf", small_llama(block_size=256))


@pytest.fixture(scope="module")
def opened(file):
    return open_reader(file, Matrix)


def said(chat, question, rng, **settings):
    chat.ask(question)
    return "".join(chat.answer(**{"max_new_tokens": 8, "rng": rng, **settings}))


def begun(opened, path, size=256):
    """A conversation of three turns, saved, and its generator."""
    chat, rng = Conversation(opened, size, "Be brief."), np.random.default_rng(4)
    for question in ("the quick fox", "jumps", "over the lazy dog"):
        said(chat, question, rng)
    saved_chats.save(chat, path, rng)
    return chat, rng


@pytest.mark.parametrize("matrix", [Matrix, Int8Matrix])
@pytest.mark.parametrize("size", [256, 80])
def test_a_saved_conversation_goes_on_with_the_same_bits(file, matrix, size, tmp_path):
    opened = open_reader(file, matrix)
    chat, rng = begun(opened, tmp_path / "talk", size)
    again, other = Conversation(opened, size), np.random.default_rng(99)
    assert saved_chats.load(again, tmp_path / "talk", other)
    for name, right in chat.reader.known(len(chat.read_ids)).items():
        assert np.array_equal(again.reader.known(len(again.read_ids))[name], right)
    scores = [], []
    for question in ("and the fox", "don't panic"):
        texts = [said(c, question, r, watch=lambda s, _, to=to: to.append(s.copy()))
                 for c, r, to in ((chat, rng, scores[0]), (again, other, scores[1]))]  # fmt: skip
        assert texts[0] == texts[1]
    assert np.array_equal(*map(np.concatenate, scores))
    assert again.messages() == chat.messages()
    assert again.first == chat.first


def test_only_what_is_new_is_read(opened, tmp_path, monkeypatch):
    begun(opened, tmp_path / "talk")
    chat, pieces = Conversation(opened, 256), []
    saved_chats.load(chat, tmp_path / "talk", None)
    known, read = len(chat.read_ids), type(chat.reader).read
    monkeypatch.setattr(type(chat.reader), "read", lambda self, ids: pieces.append(ids.shape[1]) or read(self, ids))
    said(chat, "and the fox", np.random.default_rng(0), max_new_tokens=1)
    assert known > 100
    assert len(pieces) == 1
    assert len(chat._ids) - known <= pieces[0] < 40, "a few tokens of the last answer may be cut in another way"


def test_the_text_alone_is_read_again_and_gives_the_same(opened, tmp_path):
    chat, rng = begun(opened, tmp_path / "talk")
    saved_chats.beside(tmp_path / "talk").unlink()
    again = Conversation(opened, 256)
    assert not saved_chats.load(again, tmp_path / "talk", None)
    assert said(again, "and the fox", None, temperature=0) == said(chat, "and the fox", rng, temperature=0)


def refused(opened, path, message, size=256):
    chat = Conversation(opened, size)
    with pytest.raises(ValueError, match=message) as error:
        saved_chats.load(chat, path, np.random.default_rng(0))
    assert "\n" not in str(error.value)
    assert not chat.turns
    assert not chat.reader.length, "nothing was changed"


def test_another_model_template_or_version_is_refused(opened, file, tmp_path, monkeypatch):
    path = tmp_path / "talk"
    begun(opened, path)
    other = small_llama(block_size=256)
    other.blocks[1].mlp.down.weight.writable()[3, 3] += np.float32(1e-6)
    weights = (
        "is of other weights: open the model, --weights and no --edit, as it was saved; remove it, and the model reads"
    )
    refused(open_reader(write_model(tmp_path / "b.gguf", other), Matrix), path, weights)
    refused(open_reader(file, Int8Matrix), path, weights)
    with opened.model.edit({"blocks.0.mlp.out": lambda x: x}):
        refused(opened, path, weights)
    changed = write_model(tmp_path / "c.gguf", small_llama(block_size=256), tokenizer__chat_template=f"{TEMPLATE} ")
    refused(open_reader(changed, Matrix), path, "is of another chat template or tokenizer; remove it")
    monkeypatch.setattr(saved_chats.np, "__version__", "99.0")
    refused(opened, path, "was saved by another version of autotx or its kernels, or on another processor; remove it")


def test_a_conversation_that_is_larger_than_the_context_is_refused(opened, tmp_path):
    begun(opened, tmp_path / "talk")
    refused(opened, tmp_path / "talk", r"has \d+ tokens; the conversation has room for 64, so give more by --cont", 64)


def test_damaged_files_give_one_line(opened, tmp_path):
    path = tmp_path / "talk"
    begun(opened, path)
    kept = saved_chats.beside(path)
    text, whole = path.read_bytes(), kept.read_bytes()
    path.write_bytes(text.replace(b"quick", b"quack"))
    refused(opened, path, "was changed after .* was saved; remove that one")
    for damaged in (b"", b"{", b"[]", b'{"messages": 1}', b'{"messages": [1]}', b'{"messages": [{"role": "user"}]}'):
        path.write_bytes(damaged)
        refused(opened, path, str(path))
    path.write_bytes(json.dumps({"messages": [{"role": "user", "content": "a"}]}).encode())
    kept.unlink()
    refused(opened, path, "users and assistant should take turns")
    path.write_bytes(text)
    for at in (9, len(whole) // 2, len(whole) - 5):  # in the header, and in the numbers
        kept.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        refused(opened, path, str(kept))
    kept.write_bytes(whole[:-100])
    refused(opened, path, "is truncated or not a safetensors file")
    kept.write_bytes(whole)
    arrays, metadata = load_file(kept), list_tensors(kept)[1]
    for name in arrays:
        for wrong in (arrays[name][..., :-1], arrays[name].astype(np.float64), arrays[name][0]):
            save_tensors(kept, {**arrays, name: wrong}, metadata)
            refused(opened, path, "its tensors should be {'ids': ")
    state = json.loads(metadata["state"])
    for key, wrong in (("first", 9), ("first", "x"), ("rng", {}), ("rng", 3), ("rng", {"bit_generator": "MT19937"})):
        text_of = json.dumps({**state, key: wrong})
        save_tensors(kept, arrays, {"state": text_of, "digest": saved_chats._digest(text_of, arrays)})
        refused(opened, path, str(kept))


# The command


@pytest.fixture
def talk(file, monkeypatch, capsys):
    def run(lines, *flags):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        assert main(["chat", "--model", str(file), *map(str, flags)]) == 0
        return tuple(capsys.readouterr())

    return run


def test_the_command_goes_on_as_if_it_had_not_ended(talk, tmp_path):
    path = tmp_path / "talk.jsonl"
    whole, _ = talk(["the quick fox", "jumps", "over"], "--seed", 5)
    first, _ = talk(["the quick fox", f"/save {path}"], "--seed", 5)
    second, told = talk(["jumps", f"/save {path}"], "--continue", path)
    assert f"[{path}: 1 turn]" in told
    third, _ = talk(["over"], "--continue", path)
    assert first + second + third == whole
    saved_chats.beside(path).unlink()
    assert "2 turns, which the model reads again]" in talk([], "--continue", path)[1]


def test_keys_and_values_of_an_edited_model_are_not_kept(talk, tmp_path):
    (tmp_path / "e.py").write_text("edits = {'blocks.0.mlp.out': lambda x: x}")
    path = tmp_path / "talk"
    assert f"[saved to {path}; --continue" in talk(["fox", f"/save {path}"], "--edit", tmp_path / "e.py")[1]
    assert not saved_chats.beside(path).exists()


def test_the_command_refuses(talk, file, tmp_path, fails):
    path = tmp_path / "talk"
    saved_chats.beside(path).write_text("x")
    _, told = talk([f"/save {path}"])
    assert f"[{path}.safetensors exists; give another name]" in told
    saved_chats.beside(path).unlink()
    fails(["chat", "--model", file, "--continue", path], f"there is no file {path}")
    fails(["chat", "--model", file, "--continue", path, "--system", "x"], "--system begins a conversation, --continue")
