"""The tokenizer that the metadata of a GGUF file describe, built with the library `tokenizers`.

Two kinds of BPE: "gpt2" merges bytes, within the pieces that patterns cut a text into first; "llama" merges characters,
the pair whose token has the highest score first (SentencePiece), and a space is written as ▁. The patterns stand in the
file only as a name. One that is not in PATTERNS is refused: the text would be cut otherwise than in training.

Source: the names and patterns are those of llama.cpp (llama-vocab.cpp) and of the models' own tokenizer.json.
"""

from typing import Any

import numpy as np

from autotx.models import tokenizers
from autotx.models.tokenizers import BPETokenizer, need_library

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_LLAMA3_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = {  # tokenizer.ggml.pre: each cuts the pieces of those before it
    "gpt-2": [_GPT2],
    "smollm": [r"\p{N}", _GPT2],
    "llama-bpe": [rf"{_LLAMA3_WORDS}|\p{{N}}{{1,3}}|{_LLAMA3_REST}"],
    "qwen2": [rf"{_LLAMA3_WORDS}|\p{{N}}|{_LLAMA3_REST}"],
}
CONTROL, USER_DEFINED = 3, 4  # of tokenizer.ggml.token_type
ENDS = ("eos", "eot", "eom")  # of a text, of a turn in a conversation, of a message


class Vocabulary:
    """The keys `tokenizer.ggml.*` of a file, checked. ValueError for what is missing, inconsistent or not supported."""

    def __init__(self, metadata: dict[str, Any], path):
        self.metadata, self.path = metadata, path
        self.model = self.get("model")
        if self.model not in ("gpt2", "llama"):
            raise self.fault(f"tokenizer.ggml.model is {self.model!r}; autotx reads gpt2 and llama")
        self.tokens = self.texts("tokens")
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        if len(self.ids) < len(self.tokens):
            raise self.fault("tokenizer.ggml.tokens has a token twice")
        self.types = self.numbers("token_type", np.ones(len(self.tokens)))

    def fault(self, what):
        return ValueError(f"{self.path}: {what}")

    def get(self, key, default=None):
        return self.metadata.get(f"tokenizer.ggml.{key}", default)

    def texts(self, key):
        """A list of texts, none of them empty."""
        found = self.get(key)
        if not isinstance(found, list) or not all(found):
            raise self.fault(f"tokenizer.ggml.{key} should be a list of texts, none of them empty")
        return found

    def numbers(self, key, default=None):
        """A number for each token, as a list."""
        found = np.asarray(self.get(key, default))
        if found.shape != (len(self.tokens),) or found.dtype.kind not in "iuf":
            raise self.fault(f"tokenizer.ggml.{key} should have {len(self.tokens)} numbers, one a token")
        return found.tolist()

    def id(self, name):
        """The id of a special token, or None."""
        found = self.get(f"{name}_token_id")
        if found is not None and not (isinstance(found, int) and 0 <= found < len(self.tokens)):
            raise self.fault(f"tokenizer.ggml.{name}_token_id is {found!r}; there are {len(self.tokens)} tokens")
        return found

    def of_types(self, *types):
        return [token for token, kind in zip(self.tokens, self.types) if kind in types]


def tokenizer_of(metadata: dict[str, Any], path) -> BPETokenizer:
    """The tokenizer. path: names the file in errors."""
    need_library()
    vocabulary = Vocabulary(metadata, path)
    library = (_byte_level if vocabulary.model == "gpt2" else _sentencepiece)(vocabulary)
    added = tokenizers.bpe_library.AddedToken
    library.add_special_tokens([added(t, normalized=False) for t in vocabulary.of_types(CONTROL)])
    library.add_tokens([added(t, normalized=False) for t in vocabulary.of_types(USER_DEFINED)])
    starts = vocabulary.get("add_bos_token", vocabulary.model == "llama" or vocabulary.get("pre") == "llama-bpe")
    start = vocabulary.id("bos") if starts else None
    ends = [i for name in ENDS if (i := vocabulary.id(name)) is not None]
    try:
        return BPETokenizer(library, start, dict.fromkeys(ends))
    except ValueError as error:
        raise vocabulary.fault(str(error)) from None


def _byte_level(vocabulary):
    name, lib = vocabulary.get("pre"), tokenizers.bpe_library
    if name not in PATTERNS:
        known = ", ".join(PATTERNS)
        raise vocabulary.fault(f"tokenizer.ggml.pre is {name!r}, which autotx does not know (it knows {known})")
    merges = [tuple(pair.split(" ")) for pair in vocabulary.texts("merges")]
    ids = vocabulary.ids
    for pair in merges:
        if not (len(pair) == 2 and pair[0] in ids and pair[1] in ids and pair[0] + pair[1] in ids):
            raise vocabulary.fault(f"tokenizer.ggml.merges has {' '.join(pair)!r}, which is not a pair of tokens")
    library = lib.Tokenizer(lib.models.BPE(ids, merges, ignore_merges=name == "llama-bpe"))
    cuts = [lib.pre_tokenizers.Split(lib.Regex(pattern), "isolated") for pattern in PATTERNS[name]]
    as_bytes = lib.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.pre_tokenizer = lib.pre_tokenizers.Sequence([*cuts, as_bytes])
    library.decoder = lib.decoders.ByteLevel()
    return library


def _sentencepiece(vocabulary):
    ids, lib = vocabulary.ids, tokenizers.bpe_library
    names = [f"<0x{b:02X}>" for b in range(256)]
    missing = [name for name in names if name not in ids and not (name == "<0x20>" and "▁" in ids)]
    if missing:
        raise vocabulary.fault(f"its tokenizer has no token {missing[0]}, so it cannot spell every text")
    scores = vocabulary.numbers("scores")
    best = sorted(zip(vocabulary.tokens, scores), key=lambda pair: -pair[1])
    pairs = ((token[:i], token[i:]) for token, _ in best for i in range(1, len(token)))
    merges = [(left, right) for left, right in pairs if left in ids and right in ids]
    library = lib.Tokenizer(lib.models.BPE(ids, merges, byte_fallback=True, fuse_unk=True))
    spaces = [lib.normalizers.Replace(" ", "▁")]
    if vocabulary.get("add_space_prefix", True):
        spaces.insert(0, lib.normalizers.Prepend("▁"))
    library.normalizer = lib.normalizers.Sequence(spaces)
    library.decoder = lib.decoders.Sequence([lib.decoders.Replace("▁", " "), lib.decoders.ByteFallback()])
    return library
