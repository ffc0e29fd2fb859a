"""What a model writes depends on its text alone: the same tokens and scores, to the bit, whatever is beside it and
however it is computed."""

import functools
import itertools

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from test_readers import PAD, SOURCE, T, V, made

import autotx
from autotx.kernels.codes import BLOCK, Coded, Coding, Parts
from autotx.models import Llama, LlamaConfig
from autotx.models.inference.beams import log_softmax, translate
from autotx.models.inference.pieces import Int8Matrix, Matrix
from autotx.models.transformer import END, START

pytestmark = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="NumPy adds up otherwise for other shapes")

NEW = 16  # tokens that are written
MATRICES = [Matrix, Int8Matrix]


class FourBits(Matrix):
    """Weights that are rounded to 4 bits, coded as in a file of a quantised model, whose rows are whole blocks."""

    coding: Coding
    keeps_codes = False

    def __init__(self, weight, bias=None):
        blocks, coding = weight.reshape(len(weight), -1, BLOCK), self.coding
        low = blocks.min(axis=2) if coding.minimum else -np.abs(blocks).max(axis=2)
        high = blocks.max(axis=2) if coding.minimum else -low
        # float16 also where float32 is kept: d q has to fit 24 bits, see kernels/codes.py.
        d, m = (part.astype(np.float16).astype(coding.scale) for part in ((high - low) / 15, low))
        zero = m if coding.minimum else -8 * d
        codes = np.clip(np.rint((blocks - zero[..., None]) / d[..., None]), 0, 15).astype(np.uint8)
        packed = codes[..., ::2] | codes[..., 1::2] << np.uint8(4)
        super().__init__(Coded(Parts(coding, packed, d, m if coding.minimum else None), weight.shape), bias)


class Q4_0(FourBits):  # noqa: N801  (the names of the formats)
    coding = Coding(4, minimum=False)


class Q4_1(FourBits):  # noqa: N801
    coding = Coding(4, minimum=True)


class Q4_K(FourBits):  # noqa: N801
    coding = Coding(4, minimum=True, half=False)


@functools.cache
def in_blocks():
    """A Llama whose rows are whole blocks, with weights far from zeros."""
    rng = np.random.default_rng(1)
    model = Llama(LlamaConfig(T, V, 2, 6, 2, 192, 544), rng)
    for p in model.parameters():
        p.data = (p.numpy() + 0.15 * rng.standard_normal(p.shape)).astype(np.float32)
    return model


PROMPTS = np.random.default_rng(5).integers(3, V, (3, 40))


def written(reader, prompt, rows=1, read=None, **settings):
    """(ids (NEW,), scores (NEW, V)) of the first of `rows` samples. read: a reader that knows a part of the prompt."""
    scores = []
    rng = [np.random.default_rng([3, i]) for i in range(rows)]
    tokens = reader.stream(np.tile(prompt, (rows, 1)), NEW, rng=rng, reader=read,
                           watch=lambda found, _: scores.append(found[0].copy()), **settings)  # fmt: skip
    return np.array([new[0] for new in tokens]), np.array(scores)


ways = st.fixed_dictionaries(
    {
        "rows": st.integers(1, 9),
        "threads": st.integers(1, min(2, autotx.get_num_threads())),
        "cut": st.lists(st.integers(1, 12), max_size=6),  # pieces of the prompt that are read before
        "wrong": st.integers(0, 20),  # other tokens that are read after them, and forgotten
        "speculate": st.booleans(),
    }
)


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"temperature": 0.9, "top_p": 0.9}], ids=["greedy", "drawn"])
@pytest.mark.parametrize(
    ("name", "matrix"),
    [*itertools.product(["gpt", "llama", "qwen2"], MATRICES), *itertools.product(["in blocks"], [Q4_0, Q4_1, Q4_K])],
)
def test_a_text_goes_on_alike_whatever_is_beside_it(name, matrix, settings):
    model = in_blocks() if name == "in blocks" else made(name)
    reader, prompt, before = model.reader(matrix=matrix), PROMPTS[0], autotx.get_num_threads()
    expected = written(reader, prompt, **settings)
    assert len(set(expected[0].tolist())) > 1

    @given(ways)
    @limits(max_examples=15)
    def check(way):
        autotx.set_num_threads(way["threads"])
        read = reader.reader(way["rows"])
        for count in way["cut"] if way["rows"] == 1 else ():
            read.read(prompt[None, read.length : min(read.length + count, len(prompt) - 1)])
        known = read.length
        if known and way["wrong"]:
            read.read(PROMPTS[1:2, : way["wrong"]])
            read.rewind(known)
        speculate = way["speculate"] and way["rows"] == 1
        found = written(reader, prompt, way["rows"], read if known else None, speculate=speculate, **settings)
        for part, right in zip(found, expected):
            assert np.array_equal(part, right)

    try:
        check()
    finally:
        autotx.set_num_threads(before)


@pytest.mark.parametrize("name", ["transformer", "pre-norm"])
def test_a_translation_is_the_same_whatever_is_beside_it(name):
    """Other sentences, more padding, and for the scores of one of its candidates the others."""
    model = made(name)
    together = translate(model, np.pad(SOURCE, ((0, 0), (0, 5)), constant_values=PAD), beam=4, n_best=4)
    for source, found in zip(SOURCE, together):
        source = source[source != PAD][None]
        assert translate(model, source, beam=4, n_best=4) == [found]
        best, scores = found[0], 0.0
        reader, limit = model.reader(source), len(best.ids) + 1
        for token, target in zip([START, *best.ids], [*best.ids, END][:limit]):
            scores += log_softmax(reader.scores(reader.read(np.array([[token]]))[:, 0]))[0, target]
        if best.ids and len(best.ids) < 50:
            assert best.score == pytest.approx(scores / ((5 + limit) / 6) ** 0.6, rel=1e-15)
