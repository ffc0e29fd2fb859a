"""The Transformer: its gradients (also against PyTorch), its masks, and the search for translations, cached or not."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest

import autotx
from autotx import optim
from autotx.models import Transformer, TransformerConfig
from autotx.models.inference import beams
from autotx.models.transformer import END, PAD, START, sinusoidal_positions

V = 13
TINY = TransformerConfig(vocab_size=V, block_size=12, n_layer=2, n_head=2, n_embd=8, dropout=0.0)
SOURCE = np.array([[5, 6, 7, PAD, PAD], [8, 9, 10, 11, 12], [4, PAD, PAD, PAD, PAD]])
TARGET = np.array([[START, 9, 4, END, PAD, PAD], [START, 3, 4, 5, 6, END], [START, 12, 11, 10, END, PAD]])
KINDS = [{}, {"pre_norm": True}, {"tied": False}]


def tiny(rng, dtype=np.float32, **changes):
    """A small model whose parameters are all far from zero, so that every gradient counts."""
    model = Transformer(TransformerConfig(**{**vars(TINY), **changes}), rng).astype(dtype)
    for p in model.parameters():
        p.data = p.data + 0.3 * rng.standard_normal(p.shape)
    return model


# The model


def test_positions_are_the_papers():
    waves = sinusoidal_positions(50, 6)
    assert waves.shape == (50, 6)
    for t, i in itertools.product((0, 1, 49), range(3)):
        assert waves[t, 2 * i] == pytest.approx(math.sin(t / 10000 ** (2 * i / 6)), abs=1e-6)
        assert waves[t, 2 * i + 1] == pytest.approx(math.cos(t / 10000 ** (2 * i / 6)), abs=1e-6)


@pytest.mark.parametrize("changes", KINDS)
def test_every_gradient(rng, changes):
    model = tiny(rng, np.float64, n_layer=1, **changes)
    parameters = model.parameters()
    assert len({id(p) for p in parameters}) == len(parameters)
    assert autotx.gradcheck(lambda *_: model.loss(SOURCE, TARGET, label_smoothing=0.1), parameters)


def test_tied_and_untied_tables():
    tied, untied = Transformer(TINY, None), Transformer(TransformerConfig(**{**vars(TINY), "tied": False}), None)
    assert untied.num_parameters() - tied.num_parameters() == 2 * V * 8
    assert tied.wte is tied.target_wte
    assert len({id(untied.wte), id(untied.target_wte), id(untied.out)}) == 3


def test_the_loss_is_that_of_the_words_alone(rng):
    """The mean over the five, four and four targets that are no PAD, the scores computed without any PAD at all."""
    model = tiny(rng)
    total, count = 0.0, 0
    for source, target in zip(SOURCE, TARGET):
        source, target = source[source != PAD][None], target[target != PAD][None]
        logits = model(source, target[:, :-1])
        total += autotx.cross_entropy(logits, target[:, 1:], reduction="sum").item()
        count += target.shape[1] - 1
    assert model.loss(SOURCE, TARGET).item() == pytest.approx(total / count, rel=1e-5)


def test_it_starts_as_a_guess_and_learns(rng):
    model = Transformer(TransformerConfig(vocab_size=97, block_size=20, n_layer=2, n_head=2, n_embd=32), rng)
    source = rng.permuted(np.tile(np.arange(3, 97), (16, 1)), axis=1)[:, :6]
    target = np.column_stack([np.full(16, START), source[:, ::-1], np.full(16, END)])
    assert abs(model.loss(source, target).item() - math.log(97)) < 1
    optimizer = optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(250):
        model.loss(source, target).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert model.loss(source, target).item() < 0.1
    for row, found in zip(target, beams.translate(model, source)):
        assert found[0].ids == row[1:-1].tolist()


# Masks


def test_a_later_target_token_changes_no_bit(rng):
    model = tiny(rng)
    before = model(SOURCE, TARGET).data
    for t in range(1, TARGET.shape[1]):
        changed = TARGET.copy()
        changed[:, t] = 7
        after = model(SOURCE, changed).data
        assert np.array_equal(after[:, :t], before[:, :t])
        assert not np.array_equal(after[:, t], before[:, t])


def test_a_padded_source_token_changes_no_bit(rng):
    """Whatever stands in the table for PAD, and however much of it: neither is ever looked at."""
    model = tiny(rng, tied=False)
    before, words = model(SOURCE, TARGET).data, TARGET != PAD
    table = model.wte.weight.numpy()
    table[PAD] += 100
    model.wte.weight.data = table
    assert np.array_equal(model(SOURCE, TARGET).data, before)
    longer = np.pad(SOURCE, ((0, 0), (0, 3)), constant_values=PAD)
    np.testing.assert_allclose(model(longer, TARGET).data[words], before[words], rtol=1e-4, atol=1e-5)


def test_a_padded_target_token_is_not_looked_at(rng):
    model = tiny(rng, tied=False)
    before, words = model(SOURCE, TARGET).data, TARGET != PAD
    table = model.target_wte.weight.numpy()
    table[PAD] -= 100
    model.target_wte.weight.data = table
    assert np.array_equal(model(SOURCE, TARGET).data[words], before[words])


@pytest.mark.parametrize("changes", KINDS)
def test_a_source_without_words_gives_finite_gradients(rng, changes):
    """A row that may look at nothing gets zeros from attention, never NaN."""
    model = tiny(rng, **changes)
    source = np.full_like(SOURCE, PAD)
    mask = np.zeros((3, 1, 1, 5), bool)
    x = rng.standard_normal((3, 5, 8)).astype(np.float32)
    attention = model.encoder[0].attn
    np.testing.assert_array_equal(attention(x, mask=mask).data, np.broadcast_to(attention.proj.bias.data, x.shape))
    model.loss(source, TARGET).backward()
    assert all(np.isfinite(p.grad).all() for p in model.parameters())


def test_dropout_needs_an_rng(rng):
    model = tiny(rng, dropout=0.5)
    assert model.loss(SOURCE, TARGET).item() == model.loss(SOURCE, TARGET).item()
    assert model.loss(SOURCE, TARGET, rng=rng).item() != model.loss(SOURCE, TARGET).item()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"n_layer": 0}, "n_layer is 0; give a whole number, 1 or more"),
        ({"vocab_size": 3}, "vocab_size is 3; give 4 or more"),
        ({"n_head": 3}, "n_embd 8 must be even, for the waves, and a multiple of n_head 3"),
        ({"n_embd": 9, "n_head": 3}, "n_embd 9 must be even"),
        ({"dropout": 1.0}, "dropout is 1.0; give a probability"),
    ],
)
def test_sizes_that_do_not_fit(changes, error):
    with pytest.raises(ValueError, match=f"TransformerConfig: {error}"):
        TransformerConfig(**{**vars(TINY), **changes})


def test_ids_that_do_not_fit(rng):
    model = tiny(rng)
    with pytest.raises(ValueError, match=r"ids have shape \(5,\); give \(B, T\), a row of tokens for each sentence"):
        model(SOURCE[0], TARGET)
    with pytest.raises(ValueError, match="a sentence of 13 tokens exceeds block_size 12; cut it"):
        model(np.full((1, 13), 4), TARGET[:1])
    with pytest.raises(ValueError, match="id 13 is out of range"):
        model(SOURCE + 1, TARGET)


# Beside PyTorch


@pytest.mark.slow
@pytest.mark.parametrize("pre_norm", [False, True])
def test_scores_and_gradients_are_pytorchs(rng, pre_norm):
    torch = pytest.importorskip("torch")
    from training import TransformerTwin

    model = Transformer(TransformerConfig(**{**vars(TINY), "n_embd": 16, "pre_norm": pre_norm}), rng)
    twin, words = TransformerTwin(model), TARGET[:, :-1] != PAD
    theirs = twin(torch.from_numpy(SOURCE), torch.from_numpy(TARGET[:, :-1])).detach().numpy()
    np.testing.assert_allclose(model(SOURCE, TARGET[:, :-1]).data[words], theirs[words], rtol=1e-4, atol=1e-5)
    twin.loss((SOURCE, TARGET), SimpleNamespace(label_smoothing=0.1)).backward()
    model.loss(SOURCE, TARGET, label_smoothing=0.1).backward()
    assert len(twin.pairs) == len(model.parameters())
    for ours, their in twin.pairs:
        np.testing.assert_allclose(ours.grad, their.grad.numpy(), rtol=1e-3, atol=2e-6)


# The search


def log_probabilities(model, source, ids):
    """log P of every token after `ids` (without START), by the model itself: an array (V,)."""
    logits = model(source[None], np.array([[START, *ids]])).data[0, -1:]
    return beams.log_softmax(logits)[0]


@pytest.mark.parametrize("changes", KINDS)
def test_cached_equals_uncached(rng, changes):
    """Every score that the reader computes for five tokens, one at a time, is that of the whole model."""
    model = tiny(rng, **changes)
    reader = model.reader(SOURCE, 1, 5)
    for t in range(5):
        scores = reader.scores(reader.read(TARGET[:, t : t + 1]))[:, 0]
        expected = model(SOURCE, TARGET[:, : t + 1]).data[:, -1]
        rows = TARGET[:, : t + 1].all(axis=1)  # the reader never reads PAD, the model does not look at it
        np.testing.assert_allclose(scores[rows], expected[rows], rtol=1e-4, atol=1e-4)


class Uncached:
    """A model whose reader computes everything anew for each token, by the whole model."""

    def __init__(self, model):
        self.model, self.config = model, model.config

    def reader(self, source, beam, size):
        self.source = np.repeat(source, beam, axis=0)
        self.ids = np.empty((len(self.source), 0), int)
        return self

    def read(self, ids):
        self.ids = np.column_stack([self.ids, ids])
        return self.model.decode(self.model.encode(self.source), self.source, self.ids)[:, -1:].data

    def scores(self, x):
        return self.model.scores(x).data

    def keep(self, rows):
        self.ids = self.ids[rows]


@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("changes", KINDS)
def test_cached_translations_equal_uncached_ones(rng, beam, changes):
    model = tiny(rng, **changes)
    cached = beams.translate(model, SOURCE, beam=beam, n_best=beam)
    uncached = beams.translate(Uncached(model), SOURCE, beam=beam, n_best=beam)
    assert [[t.ids for t in found] for found in cached] == [[t.ids for t in found] for found in uncached]
    np.testing.assert_allclose(
        [[t.score for t in found] for found in cached], [[t.score for t in found] for found in uncached], rtol=1e-4
    )


def test_kept_rows_go_on_with_what_they_were_given(rng):
    model = tiny(rng)
    reader = model.reader(SOURCE[:1], 3, 4)
    reader.read(np.array([[START, 4], [START, 5], [START, 6]]))
    reader.keep(np.array([2, 0, 0]))
    scores = reader.scores(reader.read(np.array([[7], [8], [9]])))[:, 0]
    for row, ids in zip(scores, ([6, 7], [4, 8], [4, 9])):
        expected = model(SOURCE[:1], np.array([[START, *ids]])).data[0, -1]
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-4)


def test_greedy_always_takes_the_likeliest(rng):
    model = tiny(rng)
    for i, [found] in enumerate(beams.translate(model, SOURCE)):
        ids = []
        while len(ids) < 12:
            best = int(log_probabilities(model, SOURCE[i], ids).argmax())
            if best == END:
                break
            ids.append(best)
        assert found.ids == ids


def test_a_wide_beam_finds_the_best_of_all(rng):
    """Four words, at most two of them: a beam as wide as all candidates must find the best by its own score."""
    model = tiny(rng, vocab_size=7, block_size=3)
    source = np.array([[4, 5, 6]])
    [found] = beams.translate(model, source, beam=16, length_penalty=1.0, n_best=5)
    scores = {}
    for length in range(3):
        for ids in itertools.product(range(3, 7), repeat=length):
            log_p = sum(log_probabilities(model, source[0], ids[:t])[token] for t, token in enumerate([*ids, END]))
            scores[ids] = log_p / ((5 + length + 1) / 6)
    best = sorted(scores.items(), key=lambda item: -item[1])
    ended = [t for t in found if len(t.ids) < 3]
    assert len(ended) >= 1
    for translation in ended:
        assert translation.score == pytest.approx(scores[tuple(translation.ids)], rel=1e-4)
    assert found[0].score >= best[0][1] - 1e-6
    assert [t.score for t in found] == sorted((t.score for t in found), reverse=True)


@pytest.mark.parametrize("length_penalty", [0, 0.6, 2])
def test_a_sentence_that_ends_at_the_greatest_length_is_before_one_that_is_cut_off(length_penalty):
    """END is the likeliest first at the last place, where [7, 7, 7] is cut off."""
    model = Transformer(TransformerConfig(8, 3, n_layer=1, n_head=1, n_embd=8, dropout=0.0), np.random.default_rng(97))
    [[found]] = beams.translate(model, np.array([[3, 4, 5]]), length_penalty=length_penalty)
    assert found.ids == [7, 7]


class Alike:
    """A model that scores all tokens alike, or END higher than others."""

    def __init__(self, vocab_size, end=0.0):
        self.config, self.vocab_size, self.end = TransformerConfig(vocab_size, 3, 1, 1, 8), vocab_size, end

    def reader(self, source, beam, size):
        return self

    def read(self, ids):
        return ids

    def scores(self, ids):
        scores = np.zeros((len(ids), self.vocab_size))
        scores[:, END] = self.end
        return scores

    def keep(self, rows):
        pass


def test_of_equals_the_lower_ids_stay():
    [found] = beams.translate(Alike(1000, end=-50.0), np.array([[4]]), beam=4, n_best=4)
    assert [t.ids for t in found] == [[3, 3, token] for token in (3, 4, 5, 6)]  # cut off: nothing has ended


def test_what_is_cut_off_comes_after_what_has_ended():
    [found] = beams.translate(Alike(5), np.array([[4]]), beam=4, n_best=4, length_penalty=5.0)
    ended = [t for t in found if len(t.ids) < 3]
    assert found[: len(ended)] == ended
    assert [t.score for t in ended] == sorted((t.score for t in ended), reverse=True)


def test_a_batch_is_translated_as_its_sentences_are(rng):
    model = tiny(rng)
    together = beams.translate(model, SOURCE, beam=3, n_best=2)
    for row, found in zip(SOURCE, together):
        [alone] = beams.translate(model, row[row != PAD][None], beam=3, n_best=2)
        assert [t.ids for t in alone] == [t.ids for t in found]


def test_what_cannot_be_translated(rng):
    model = tiny(rng)
    with pytest.raises(ValueError, match="n_best is 3, beam 2; give 1 <= n_best <= beam"):
        beams.translate(model, SOURCE, beam=2, n_best=3)
    with pytest.raises(ValueError, match="with a word in every row"):
        beams.translate(model, np.array([[4], [PAD]]))
    model.wte.weight.data = np.full_like(model.wte.weight.data, np.nan)
    with pytest.raises(ValueError, match="scores have a NaN or an Inf"):
        beams.translate(model, SOURCE)
