"""The tokenizers of Hugging Face's folders, in and out: tokenizer.json, or vocab.json and merges.txt of older ones.

Two kinds are read: BPE on bytes (GPT-2, Llama 3, Qwen2), and BPE on characters with bytes for those that have no token
(Llama 2). The library `tokenizers` encodes. What a model starts a text with, and which tokens end one, stand in other
files of the folder: tokenizer_config.json, special_tokens_map.json, generation_config.json and config.json.
"""

from pathlib import Path
from typing import Any, NamedTuple

from autotx.files import checked, entry, read_json
from autotx.models.formats.gguf_tokenizer import PATTERNS
from autotx.models.tokenizers import (
    BYTE_OF,
    FILE,
    BPETokenizer,
    ByteTokenizer,
    CharTokenizer,
    Tokenizer,
    library_tokenizer,
)

CONFIG, GENERATION, TEMPLATE = "tokenizer_config.json", "generation_config.json", "chat_template.jinja"
OLD = ("vocab.json", "merges.txt")
END = "<|endoftext|>"  # of GPT-2 and Qwen2, whose folders need not name it
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
NOT_READ = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")  # of a BPE


class Found(NamedTuple):
    """What the files of a folder say of texts. texts: those of the tokens bos_token and eos_token, "" without one."""

    tokenizer: BPETokenizer
    template: str | None
    texts: dict[str, str]


def read_tokenizer(folder: Path, model: dict[str, Any], size: int) -> Found:
    """The tokenizer of a folder and its chat template. model: what config.json says; size: rows of the token table.

    ValueError, of one line, for files that are missing, inconsistent, or of another kind.
    """
    settings = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    path, saved = _library_json(folder, model, settings)
    library = library_tokenizer(path, saved)
    _check(path, saved, library)
    library.no_truncation()
    library.no_padding()
    names = read_json(folder / "special_tokens_map.json") if (folder / "special_tokens_map.json").is_file() else {}
    texts = {name: _text({**names, **settings}.get(name), name, folder / CONFIG) for name in ("bos_token", "eos_token")}
    try:
        tokenizer = BPETokenizer(
            library, _start(library, settings, texts["bos_token"]), _ends(folder, model, library, texts, size), size
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return Found(tokenizer, _template(folder, settings), texts)


def _library_json(folder, model, settings):
    """(a path, for errors; what the library calls a tokenizer, as a dict)."""
    path, old = folder / FILE, [folder / name for name in OLD]
    if path.is_file():
        saved = read_json(path)
        kind = saved.get("model", {}).get("type", "BPE") if isinstance(saved.get("model"), dict) else None
        if kind != "BPE":
            raise ValueError(f"{path} holds a tokenizer of the kind {kind!r}; autotx reads BPE")
        return path, {**saved, "truncation": None, "padding": None}
    if not all(file.is_file() for file in old):
        raise ValueError(
            f"{folder} has no {FILE}, nor {' and '.join(OLD)}; make it by transformers: "
            f"AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
        )
    if model["model_type"] not in ("gpt2", "qwen2"):
        raise ValueError(
            f"{folder} has {OLD[0]} but no {FILE}, which alone says how a {model['model_type']} cuts texts"
        )
    return old[0], _of_old(old[0], old[1], folder, model, settings)


def _of_old(vocab, merges, folder, model, settings):
    """The tokenizer.json that vocab.json and merges.txt of a GPT-2 or Qwen2 stand for."""
    ids = {name: checked(i, int, f"the id of {name!r}", vocab) for name, i in read_json(vocab).items()}
    lines = merges.read_bytes().decode(errors="replace").split("\n")
    pairs = [line.rstrip("\r").split(" ") for line in lines if line.strip() and not line.startswith("#version")]
    more = folder / "added_tokens.json"
    added = {END: ids[END]} if END in ids else {}
    added |= {name: checked(i, int, name, more) for name, i in (read_json(more) if more.is_file() else {}).items()}
    special = dict.fromkeys(added, True)
    for i, token in entry(
        {"added_tokens_decoder": {}, **settings}, "added_tokens_decoder", dict, folder / CONFIG
    ).items():
        token = checked(token, dict, "a token of added_tokens_decoder", folder / CONFIG)
        name = entry(token, "content", str, folder / CONFIG)
        added[name], special[name] = int(i) if i.isdecimal() and len(i) < 10 else -1, bool(token.get("special", False))
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    cuts = {"gpt2": "gpt-2", "qwen2": "qwen2"}[model["model_type"]]
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in PATTERNS[cuts]
    ]
    byte_level = {**BYTE_LEVEL, "add_prefix_space": settings.get("add_prefix_space", False)}
    return {
        **tokenizer_json(ids, pairs, pre_tokenizer={"type": "Sequence", "pretokenizers": [*splits, byte_level]}),
        "added_tokens": [
            {"id": i, "content": name, "special": special[name], **flags}
            for name, i in sorted(added.items(), key=lambda item: item[1])
        ],
        "normalizer": {"type": "NFC"} if cuts == "qwen2" else None,
    }


def tokenizer_json(ids: dict[str, int], merges: list, **parts: Any) -> dict[str, Any]:
    """A tokenizer.json of BPE. parts: its pre_tokenizer and others; without byte_fallback it works on bytes."""
    bytes_instead = parts.pop("byte_fallback", False)
    model = {"type": "BPE", "byte_fallback": bytes_instead, "vocab": ids, "merges": merges}
    decoder = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}
    parts = {"pre_tokenizer": None, "decoder": decoder if bytes_instead else BYTE_LEVEL, **parts}
    return {"version": "1.0", "added_tokens": [], "normalizer": None, "post_processor": None, **parts, "model": model}


def _check(path, saved, library):
    """ValueError for a BPE that cannot spell every text, or whose tokens mean something else than autotx takes them
    for. saved: understood by the library."""
    model, ids = saved["model"], library.get_vocab(with_added_tokens=False)
    for key in NOT_READ:
        if model.get(key):
            raise ValueError(f"{path}: its BPE has {key}, which autotx does not read")
    if model.get("byte_fallback"):
        missing = [f"<0x{b:02X}>" for b in range(256) if f"<0x{b:02X}>" not in ids]
        if missing:
            raise ValueError(f"{path}: its tokenizer has no token {missing[0]}, so it cannot spell every text")
    elif "ByteLevel" not in {*kinds_in(saved.get("pre_tokenizer")), *kinds_in(saved.get("normalizer"))}:
        raise ValueError(
            f"{path}: its BPE neither works on bytes nor falls back to them (byte_fallback), so it cannot spell every "
            "text; autotx reads the kinds of GPT-2 and Llama"
        )
    for token in saved.get("added_tokens") or ():
        if library.token_to_id(token["content"]) != token["id"]:
            raise ValueError(f"{path}: the added token {token['content']!r} has two ids; restore the file")


def kinds_in(part: Any) -> list[str]:
    """The types of a part of a tokenizer.json and of what is in it."""
    if isinstance(part, list):
        return [kind for inner in part for kind in kinds_in(inner)]
    if not isinstance(part, dict):
        return []
    return [str(part.get("type")), *(kind for inner in part.values() for kind in kinds_in(inner))]


def _text(token, name, path):
    """The text of a special token, which may stand in an object."""
    token = token.get("content") if isinstance(token, dict) else token
    return "" if token is None else checked(token, str, name, path)


def _start(library, settings, bos):
    """The id of the token that every text starts with, or None. ValueError for other tokens around a text."""
    if settings.get("add_eos_token"):
        raise ValueError("add_eos_token ends every text with a token, also a prompt; autotx does not")
    if "add_bos_token" in settings:  # as in transformers, it replaces what tokenizer.json says
        start = library.token_to_id(bos) if settings["add_bos_token"] and bos else None
        if settings["add_bos_token"] and start is None:
            raise ValueError(f"add_bos_token is true, but there is no token bos_token, {bos!r}")
        return start
    plain, whole = (library.encode("a", add_special_tokens=special).ids for special in (False, True))
    if whole[len(whole) - len(plain) :] != plain or len(whole) > len(plain) + 1:
        raise ValueError("its post_processor adds other tokens than one before a text, which autotx does not")
    return whole[0] if len(whole) > len(plain) else None


def _ends(folder, model, library, texts, size):
    """The ids of the tokens that end a text: the tokenizer's, and those that generation stops at. Ids beyond the table
    end nothing."""
    path = folder / GENERATION
    generation = read_json(path) if path.is_file() else {}
    found, path = (generation, path) if "eos_token_id" in generation else (model, folder / "config.json")
    given: Any = found.get("eos_token_id")
    ids: list[Any] = given if isinstance(given, list) else [] if given is None else [given]
    for i in ids:
        checked(i, int, "eos_token_id", path)
    own = library.token_to_id(texts["eos_token"]) if texts["eos_token"] else None
    ids = ids if own is None else [own, *ids]
    return list(dict.fromkeys(i for i in ids if 0 <= i < size))


def _template(folder, settings):
    """The source of the chat template, or None. A folder may have several, by name."""
    path = folder / TEMPLATE
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"{path} is not UTF-8; restore it") from None
    found = settings.get("chat_template")
    if isinstance(found, list):
        named = [t.get("template") for t in found if isinstance(t, dict) and t.get("name") == "default"]
        found = named[0] if named else None
    return None if found is None else checked(found, str, "chat_template", folder / CONFIG)


def written(tokenizer: Tokenizer) -> dict[str, Any]:
    """The tokenizer.json that encodes as a tokenizer of ours. ValueError for one of words, which has none."""
    if isinstance(tokenizer, BPETokenizer):
        found = tokenizer.library()
        start = tokenizer.start
        name = None if start is None else tokenizer.token_of(start)
        return {**found, "truncation": None, "padding": None, "post_processor": _before(name, start)}
    if isinstance(tokenizer, ByteTokenizer):
        letters = {byte: chr(letter) for letter, byte in BYTE_OF.items() if byte < 256}
        return tokenizer_json({letters[b]: b for b in range(256)}, [], pre_tokenizer=BYTE_LEVEL)
    if isinstance(tokenizer, CharTokenizer):
        names = [*tokenizer.characters, *(f"<0x{b:02X}>" for b in range(256))]
        return tokenizer_json({name: i for i, name in enumerate(names)}, [], byte_fallback=True)
    raise ValueError(
        f"a tokenizer of the kind {tokenizer.kind} cannot be expressed in other formats: it adds and drops spaces "
        "between tokens; train with --tokenizer bpe, char or byte"
    )


def _before(name, start):
    """The post-processor that puts a token before every text; None for no token."""
    if name is None:
        return None
    token = [{"SpecialToken": {"id": name, "type_id": 0}}]
    first, second = ({"Sequence": {"id": part, "type_id": n}} for n, part in enumerate("AB"))
    special = {name: {"id": name, "ids": [start], "tokens": [name]}}
    return {
        "type": "TemplateProcessing",
        "single": [*token, first],
        "pair": [*token, first, second],
        "special_tokens": special,
    }


def settings_of(tokenizer: Tokenizer, texts: dict[str, str], template: str | None, size: int) -> dict[str, Any]:
    """The tokenizer_config.json. texts: as in Found, if known. size: tokens that the model reads at once."""
    found = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": size}
    found |= {"clean_up_tokenization_spaces": False}
    if isinstance(tokenizer, BPETokenizer):
        special = {t["content"] for t in tokenizer.library()["added_tokens"]}
        for key, i in (("bos_token", tokenizer.start), ("eos_token", tokenizer.end)):
            name = texts.get(key) or ("" if i is None else tokenizer.token_of(i))
            found |= {key: name} if name in special else {}  # others would be found in texts, too
    return found | ({"chat_template": template} if template else {})
