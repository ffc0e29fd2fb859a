"""Runs of every kind, ways to damage their files, and the commands that read them: for test_damage.py.

A case is a run, a file of it, a damage and a command, all drawn by one seed. Whatever the file holds, the command must
end soon, with exit status 0, or with 2 and one line, and must not change a file of the run.
"""

import contextlib
import hashlib
import io
import json
import os
import random
import re
import resource
import shlex
import shutil
import signal
import struct
import traceback
from pathlib import Path

from autotx.models.cli import main

SECONDS = 20  # of the processor that a command may take
LONGEST = 300  # seconds on the clock, when it waits for something or the machine is busy
MEMORY = 2 << 30  # bytes more than before that the process may take
TINY = "--n-layer 1 --n-head 2 --n-embd 8 --block-size 8 --steps 4 --eval-interval 2 --eval-batches 1 --warmup-steps 1 "
TEXT = "The quick brown fox jumps over the lazy dog. It is a dog's life, isn't it?\n" * 8
PREPARE = "prepare --text text.txt --text words.txt --tokenizer char --validation-share 0.5"
TRAINED = {  # kind: the settings of its run
    "gpt": f"train {TINY} --text text.txt --batch-size 2 --stats-interval 1",
    "words": f"train {TINY} --text text.txt --batch-size 2 --tokenizer word --vocab-size 270",
    "bpe": f"train {TINY} --text text.txt --batch-size 2 --tokenizer bpe --vocab-size 270",
    "llama": f"train {TINY} --model llama --text text.txt --batch-size 2",
    "transformer": f"train {TINY} --pairs pairs.txt --batch-tokens 40",
    "word2vec": "train --model word2vec --text words.txt --dim 4 --steps 2 --eval-batches 1 --batch-words 128",
    "data": PREPARE,
    "classifier": "finetune --model gpt --labels labels.txt --steps 2 --eval-interval 1 --batch-size 4",
}
RESUMED = "--resume --steps 5 --eval-batches 1 --grad-accum 1 --out run"
_PLOTS = [f"plot run --out out.svg --what {what}" for what in ("curves", "embeddings", "positions", "times")]
_LANGUAGE = ["generate --model run --max-new-tokens 3 --seed 1",
    "generate --model run --max-new-tokens 2 --weights int8",
    "generate --model run --max-new-tokens 2 --attention out.svg",
    "replay --model run --prompt 'the dog' --out out.html", f"train {RESUMED} --batch-size 2",
    "finetune --model run --labels labels.txt --steps 1 --warmup-steps 1 --out out",
]  # fmt: skip
_ANY = [*_PLOTS, "graph --model run --out out.dot", "nearest --model run dog", "classify --model run 'the dog'"]
COMMANDS = {
    "gpt": [*_ANY, *_LANGUAGE, "plot run --out out.svg --what statistics"],
    "words": _ANY + _LANGUAGE,
    "bpe": _ANY + _LANGUAGE,
    "llama": _ANY + _LANGUAGE,
    "data": [f"train {TINY} --data run --batch-size 2 --out out", f"{PREPARE} --out run"],
    "transformer": [*_ANY, "translate --model run 'the dog'", "translate --model run 'the dog' --beam 3 --n-best 2",
        "translate --model run dog --attention out.svg", "replay --model run --prompt 'the dog' --out out.html",
        f"train {RESUMED}"],
    "word2vec": [*_ANY, "nearest --vectors run/vectors.txt dog", "nearest --vectors run/vectors.txt fox --n 3",
        f"train {RESUMED} --window 2 --negatives 2 --batch-words 128"],
    "classifier": [*_ANY, f"finetune {RESUMED} --batch-size 4"],
    "folder": [*(words for words in _ANY + _LANGUAGE if "--resume" not in words), "export --model run --to hf out"],
}  # fmt: skip


def make_runs(folder):
    """Train a run of every kind in a folder, beside the data that they learn."""
    (folder / "text.txt").write_text(TEXT)
    (folder / "words.txt").write_text(TEXT * 40)
    (folder / "pairs.txt").write_text("".join(f"the {a} dog\tder {b}\n" for a in TEXT.split()[:16] for b in "xyz"))
    (folder / "labels.txt").write_text("".join(f"the {word}\t{len(word) % 2}\n" for word in set(TEXT.split())))
    for kind, settings in TRAINED.items():
        with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
            assert main([*shlex.split(settings), "--out", kind]) == 0
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        assert main(["export", "--model", "bpe", "--to", "hf", "folder"]) == 0  # a folder of Hugging Face


# Damages. Each is a function of (the file's bytes, a random.Random) that returns the new bytes.

_RAW = ("1e400", "1" + "0" * 400, "1" + "0" * 5000, "-1e-400", "[" * 100_000)
_RAW = {f"@{i}@": text for i, text in enumerate(_RAW)}
_VALUES = [
    *(None, True, False, [], {}, "", "x" * 5000, "\ud800", "\0", "\x1b[31m", "/dev/zero", "/", ".."),
    *(-1, 0, 1, 3, 0.5, -0.0, 2**31, 2**63, 10**30, 1e300, 5e-324, float("nan"), float("inf")),
    *([[]], [1, "a"], {"a": {}}, *_RAW),
]


def damage_bytes(content, rng):
    place, other = rng.randrange(len(content) + 1), rng.randrange(len(content) + 1)
    first, last = sorted((place, other))
    few = rng.randbytes(rng.choice((1, 1, 2, 8, 100)))
    return rng.choice((
        content[:place],
        content[:place] + few + content[place + len(few) :],
        content[:place] + few + content[place:],
        content[:first] + content[last:],
        content[:first] + bytes(last - first) + content[last:],
        content + content[first:last],
        content[:place] + rng.choice((b"\0", b"\xff", b"\n", b"-", b"9", b"e9", b'"', b"[", b"}")) + content[place:],
        b"",
        rng.randbytes(50),
    ))  # fmt: skip


def _dump(value):
    try:
        text = json.dumps(value)
    except ValueError:  # a value was put into itself
        text = "{}"
    for name, raw in _RAW.items():
        text = text.replace(f'"{name}"', raw)
    return text.encode()


def _places(value):
    """(a dict or list, a key) of every value inside another."""
    for key in value if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def _change_json(value, rng):
    """Change one value, or the structure around it. Dicts and lists are changed in place; returns the new value."""
    inside, key = rng.choice([*_places(value)] or [(None, None)])
    if inside is None:
        return rng.choice(_VALUES)
    old, way = inside[key], rng.randrange(9)
    if way < 5:
        inside[key] = rng.choice(_VALUES)
    elif way == 5 and isinstance(old, int | float):
        inside[key] = rng.choice((old + 1, old - 1, -old, old * 10**6, old / 3, old * 2, str(old)))
    elif way == 6:
        del inside[key]
    elif way == 7 and isinstance(inside, dict):
        inside[f"{key}x"] = inside.pop(key)
    else:
        other, name = rng.choice([*_places(value)])
        inside[key] = rng.choice(([old], {"a": old}, other[name]))
    return value


def damage_json(content, rng):
    return _dump(_change_json(json.loads(content), rng))


def damage_json_lines(content, rng):
    lines = content.splitlines()
    place = rng.randrange(len(lines))
    lines[place] = rng.choice((damage_json, damage_json, damage_bytes))(lines[place], rng)
    if rng.random() < 0.2:
        lines.insert(rng.randrange(len(lines)), rng.choice(lines))
    return b"\n".join(lines) + rng.choice((b"\n", b"\n", b""))


def damage_tensors(content, rng):
    """Change the header of a safetensors file, or the numbers."""
    size = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + size]), bytearray(content[8 + size :])
    name = rng.choice([n for n in header if n != "__metadata__"])
    way, tensor = rng.randrange(9), header[name]
    if way == 0:
        header = _change_json(header, rng)
    elif way == 1:  # another type; the offsets of all tensors stay as they are
        tensor["dtype"], tensor["shape"] = rng.choice((("BF16", [2]), ("F16", [2]), ("F8_E4M3", [4]), ("C64", [1])))
        tensor["shape"] += [(tensor["data_offsets"][1] - tensor["data_offsets"][0]) // 4]
    elif way == 2:
        tensor["dtype"] = rng.choice(("I32", "U32", "BF16", "BOOL", "F64", "F4", "", "x"))
    elif way == 3:
        same = tensor["shape"]
        tensor["shape"] = rng.choice((same[::-1], [*same, 1], [], [0], [0, 1 << 40], [1 << 62, 4]))
    elif way == 4:
        header[rng.choice((name + "x", "", "\x1b]0;x\x07", "wte.weight"))] = header.pop(name)
    elif way == 5:
        tensor["data_offsets"] = rng.choice(([0, 0], [0, 1 << 62], tensor["data_offsets"][::-1], [4, 8]))
    elif way == 6:
        header["__metadata__"] = rng.choice(({"a": "\x1b"}, {"a": 1}, [], None, {"x" * 1000: "y" * 1000}))
    elif way == 7 and data:
        place = rng.randrange(len(data)) // 4 * 4
        data[place : place + 4] = struct.pack("<f", rng.choice((float("nan"), float("inf"), 3e38, -1e30, 1e-40)))
    else:
        start = rng.randrange(len(data) + 1)
        data = data[:start] + data[start + 4 * rng.randrange(9) :]
    text = _dump(header)
    return struct.pack("<Q", rng.choice((len(text),) * 9 + (1 << 62,))) + text + bytes(data)


DAMAGES = {".json": damage_json, ".jsonl": damage_json_lines, ".safetensors": damage_tensors}


# Cases


class Hang(BaseException):
    """A command took more than SECONDS or LONGEST."""


_CLOCKS = ((signal.ITIMER_PROF, signal.SIGPROF, SECONDS), (signal.ITIMER_REAL, signal.SIGALRM, LONGEST))


def _alarm(number, frame):
    raise Hang


def snapshot(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _sign(run):
    """Write the digests of the files of a checkpoint as they are now, as somebody who made them would."""
    with contextlib.suppress(Exception):
        state = json.loads((run / "state.json").read_bytes())
        state["sha256"] = {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in state["sha256"]}
        (run / "state.json").write_text(json.dumps(state))


def fault_of(seed, runs, folder):
    """Run the case of a seed. Returns what is wrong, a str, or None. runs: of `make_runs`. folder: an empty one."""
    rng = random.Random(seed)
    kind = rng.choice(list(COMMANDS))
    for name in ("text", "words", "pairs", "labels"):
        os.symlink(runs / f"{name}.txt", folder / f"{name}.txt")
    run = Path(shutil.copytree(runs / kind, folder / "run"))
    path = rng.choice([path for path in sorted(run.iterdir()) if path.suffix != ".png"])
    damage = rng.choice((damage_bytes, DAMAGES.get(path.suffix, damage_bytes), DAMAGES.get(path.suffix, damage_bytes)))
    path.write_bytes(damage(path.read_bytes(), rng))
    if path.name != "state.json" and rng.random() < 0.5:
        _sign(run)
    command, before, taken = rng.choice(COMMANDS[kind]), snapshot(run), _memory()
    status, said = _called(shlex.split(command), folder)
    *_, last = said.splitlines() or [""]
    wrong = None
    if status not in (0, 2) or (status == 2 and not re.match(rf"autotx {command.split()[0]}: \S", last)):
        wrong = f"{status}, {said}"
    elif snapshot(run) != before and not ("--resume" in command and (status == 0 or "checkpoint of step" in last)):
        wrong = f"a file of the run was changed: {said}"
    elif _memory() > taken + MEMORY:
        wrong = "it took too much memory"
    return wrong and f"seed {seed}: {kind}: {damage.__name__} of {path.name}: autotx {command}: {wrong}"


def _memory():
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _called(argv, folder):
    """Call a command in a folder. Returns (its exit status, or "raised"; what it wrote to stderr, or the traceback)."""
    errors = io.StringIO()
    for clock, number, seconds in _CLOCKS:
        signal.signal(number, _alarm)
        signal.setitimer(clock, seconds)
    try:
        with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
            return main(argv), errors.getvalue()
    except SystemExit as end:
        return end.code, errors.getvalue()
    except BaseException:
        return "raised", f"\n{traceback.format_exc()}"
    finally:
        for clock, _, _ in _CLOCKS:
            signal.setitimer(clock, 0)
