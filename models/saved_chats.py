"""A conversation as two files: its text, FILE, and what the model computed of it, FILE.safetensors.

FILE is one line of JSON, as `autotx train --chats` reads it. Beside it are the tokens that the model has read, and
their keys and values, so that a saved conversation goes on at once, with the same bits as if it had never ended. That
holds for the same weights, chat template and kernels alone; others are refused. Without the second file the model
reads the text again.
"""

import hashlib
import json
import os
import platform
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba
import numpy as np

import autotx
from autotx.checkpoint import list_tensors, load_tensors, save_tensors
from autotx.files import checked, entry, parse_json, read_json, write_atomically
from autotx.models.chat import Conversation, Turn
from autotx.types import Generator, PathLike

LONGEST_STATE = 1 << 16  # characters
_WRONG = {
    "weights": "is of other weights: open the model, --weights and no --edit, as it was saved",
    "template": "is of another chat template or tokenizer",
    "kernels": "was saved by another version of autotx or its kernels, or on another processor",
}


def beside(path: PathLike) -> Path:
    """The file of the keys and values of the conversation in a file."""
    return Path(f"{path}.safetensors")


def save(chat: Conversation, path: PathLike, rng: Generator) -> bool:
    """Write a conversation, and the state of the generator of its answers. OSError: it cannot be written.

    Returns whether keys and values are beside it; those of an edited model are not kept.
    """
    text = json.dumps({"messages": chat.messages()}, ensure_ascii=False).encode() + b"\n"
    if chat.reader.edits:
        beside(path).unlink(missing_ok=True)
        write_atomically(path, text)
        return False
    arrays = {"ids": np.array(chat.read_ids, np.int64), **chat.reader.known(len(chat.read_ids))}
    state = {
        "first": chat.first,
        "rng": rng.bit_generator.state,
        "text": hashlib.sha256(text).hexdigest(),
        **_made_by(chat),
    }
    whole = json.dumps(state)
    save_tensors(beside(path), arrays, {"state": whole, "digest": _digest(whole, arrays)})
    write_atomically(path, text)
    return True


def load(chat: Conversation, path: PathLike, rng: "Generator | None") -> bool:
    """Fill a new conversation with a saved one. rng: gets the saved state; None to leave it.

    Returns whether there were keys and values. ValueError, of one line, for files that are damaged, changed, too large
    for the conversation, or made by another model, template or version; OSError: there are none.
    """
    path = Path(path)
    messages = entry(read_json(path), "messages", list, path)
    kept = beside(path)
    if not kept.exists():
        chat.resume(*_turns(messages, path))
        return False
    listed, metadata = list_tensors(kept)
    state = parse_json(metadata.get("state", "")[:LONGEST_STATE].encode(), f"{kept}: its state")
    if entry(state, "text", str, kept) != hashlib.sha256(path.read_bytes()).hexdigest():
        raise ValueError(
            f"{path} was changed after {kept} was saved; remove that one, and the model reads the text again"
        )
    for name, value in _made_by(chat).items():
        if state.get(name) != value:
            raise ValueError(f"{kept} {_WRONG[name]}; remove it, and the model reads the text again")
    _check_tensors(chat, listed, kept)
    arrays, _ = load_tensors(kept)
    if metadata.get("digest") != _digest(metadata["state"], arrays):
        raise ValueError(f"{kept} is damaged (SHA-256); remove it, and the model reads the text again")
    (system, turns), first = _turns(messages, path), entry(state, "first", int, kept)
    if not 0 <= first <= max(0, len(turns) - 1):
        raise ValueError(f"{kept}: first is {first}; there are {len(turns)} turns")
    if rng is not None:
        try:
            rng.bit_generator.state = state["rng"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{kept}: rng is no state of a random generator") from error
    chat.resume(system, turns, first, **arrays)
    return True


def _turns(messages, path):
    """(the system's message or None, the Turns) of messages as Conversation.messages gives them."""
    said = []
    for i, message in enumerate(messages, 1):
        place = f"{path}, message {i}"
        message = checked(message, dict, "it", place)
        said.append((entry(message, "role", str, place), entry(message, "content", str, place)))
    system = said.pop(0)[1] if said and said[0][0] == "system" else None
    if [role for role, _ in said] != ["user", "assistant"] * (len(said) // 2):
        raise ValueError(f"{path}: users and assistant should take turns, after at most one message of the system")
    texts = [text for _, text in said]
    return system, [Turn(*pair) for pair in zip(texts[::2], texts[1::2])]


def _check_tensors(chat, listed, path):
    """ValueError unless a file has the tokens, keys and values of a reader, no more than it has room for."""
    shape = listed["ids"].shape if "ids" in listed else ()
    count = shape[0] if len(shape) == 1 else 0
    if count > chat.size:
        most = f"the conversation has room for {chat.size:,}, so give more by --context"
        raise ValueError(f"{path} has {count:,} tokens; {most}")
    expected: dict[str, tuple[str, tuple[int, ...]]] = {"ids": ("I64", (count,))}
    for name, empty in chat.reader.known(0).items():
        kind = f"{empty.dtype.kind.upper()}{8 * empty.itemsize}"
        expected[name] = kind, tuple(size or count for size in empty.shape)
    if {name: (tensor.type, tensor.shape) for name, tensor in listed.items()} != expected:
        raise ValueError(f"{path}: its tensors should be {expected}")


def _digest(state, arrays):
    digest = hashlib.sha256(state.encode())
    for name in sorted(arrays):
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def _made_by(chat):
    """What the bits of keys and values depend on, as SHA-256: the weights, the template and tokenizer, the kernels."""
    pieces = [piece.hex() for piece in chat.tokenizer.pieces]
    parts = {
        "weights": numbers(chat.reader),
        "template": [repr((chat.template.source, chat.template.texts, pieces)).encode()],
        "kernels": _programs(),
    }
    return {name: _sha256(found) for name, found in parts.items()}


def _sha256(parts):
    with ThreadPoolExecutor() as pool:  # the weights are many; the cores share them
        digests = pool.map(lambda part: hashlib.sha256(part).digest(), parts)
        return hashlib.sha256(b"".join(digests)).hexdigest()


def numbers(reader: Any) -> Iterator[Any]:
    """All that a reader computes with, as buffers: its arrays, and the texts of its settings. Not what it has read."""
    arrays = {}  # by identity: a head may be the table of tokens

    def walk(name, value):
        if isinstance(value, np.ndarray):
            yield f"{name} {value.dtype} {value.shape} {arrays.setdefault(id(value), name)}".encode()
            if arrays[id(value)] == name:
                yield np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        elif isinstance(value, list | tuple):
            for i, one in enumerate(value):
                yield from walk(f"{name}.{i}", one)
        elif type(value).__module__.startswith("autotx") and hasattr(value, "__dict__"):
            for key, one in sorted(vars(value).items()):
                yield from walk(f"{name}.{key}", one)
        else:
            yield f"{name} {value!r}".encode()

    for name, value in sorted(vars(reader).items()):
        if name not in reader.OWN:
            yield from walk(name, value)


def _programs():
    """The programs that compute keys and values: autotx's kernels and readers, the compiler, and the processor."""
    root = Path(autotx.__file__).parent
    for file in sorted(
        [*(root / "kernels").glob("*.py"), *(root / "models").glob("*.py"), *(root / "models/inference").glob("*.py")]
    ):
        yield file.read_bytes()
    cpu = llvmlite.binding.get_host_cpu_name(), llvmlite.binding.get_host_cpu_features().flatten(), platform.machine()
    yield repr(
        (numba.__version__, llvmlite.__version__, np.__version__, cpu, os.environ.get("NUMBA_DISABLE_JIT"))
    ).encode()
