"""From 'Prepare and Embed Target Sequence for Decoder' to 'Output Layer for Word Probabilities'.

The decoder's listing differs from its text: random weights, a further matrix W_o, no scale, no mask, ε outside
the root, transposed weights, √3. This module has a case for each difference; decoder_listings.py has the listings.
"""

import numpy as np

from autotx import nn
from autotx.models.inference.beams import translate
from autotx.models.pairs import decode
from autotx.models.paper import trained
from autotx.models.paper.case import Claim, Digits, Section
from autotx.models.paper.constants import (
    CROSS,
    DECODER_ATTENTION,
    DECODER_NORM,
    ENCODED,
    HEAD_2,
    K_TARGET,
    PE,
    Q_TARGET,
    V_TARGET,
    W_K,
    W_Q,
    W_V,
    Y_PE,
    Y,
)
from autotx.models.paper.feed_forward import net
from autotx.models.paper.steps import (
    agree,
    attention,
    attention_weights,
    causal,
    distance,
    layer_norm,
    layer_norm_eps_outside,
    linear,
    tensor,
)
from autotx.models.transformer import Transformer, TransformerConfig

target = Section("target", "Prepare and Embed Target Sequence for Decoder", (745, 771))
cross = Section("cross-attention", "Decoder Stack Processing with Encoder Output", (773, 828))
output = Section("output", "Output Layer for Word Probabilities", (830, 858))

CROSS_WEIGHTS = Digits(
    "0.33333333 0.33333333 0.33333334; 0.33333333 0.33333333 0.33333334; 0.33333333 0.33333333 0.33333334"
)


def listing_weights():
    """W_q, W_k, W_v and W_o of the decoder's listing: NumPy's old generator with seed 42, as in line 2070."""
    generator = np.random.RandomState(42)
    return [tensor(generator.rand(4, 4)) for _ in range(4)]


def listing_attention(scale, mask=None):
    """The decoder's self-attention with the listing's weights: (3, 4)."""
    w_q, w_k, w_v, w_o = listing_weights()
    y = tensor(Y_PE)
    return attention_weights(y @ w_q, y @ w_k, scale, mask) @ (y @ w_v) @ w_o


def cross_attention(scale=None, transposed=False, mask=None):
    """Weights (3, 3) and output (3, 4) of the cross attention: queries from the decoder, keys from the encoder."""
    w_q, w_k, w_v = (tensor(w).T if transposed else tensor(w) for w in (W_Q, W_K, W_V))
    weights = attention_weights(tensor(DECODER_NORM) @ w_q, tensor(ENCODED) @ w_k, scale, mask)
    return weights, weights @ (tensor(ENCODED) @ w_v)


@target.case((757, 761), "The decoder's input", formula="Y + PE", printed=Y_PE)
def decoder_input():
    return tensor(Y) + tensor(PE)


@target.case(
    755,
    "The target is query, key and value at once",
    printed="fed to all three",
    note="Self-attention of 3 tokens: every token of the target scores every token of the target.",
)
def target_self_attention():
    weights = attention_weights(linear(W_Q)(tensor(Y_PE)), linear(W_K)(tensor(Y_PE)))
    return Claim(weights.shape == (3, 3), f"weights of shape {weights.shape}")


@target.case(
    (763, 765),
    "The same math as for the source",
    formula="softmax(Q K^{T} / √d_{k}) V, Q, K and V of lines 510-512",
    printed=DECODER_ATTENTION,
    note="With the Q, K and V that the text worked out for the target the result is another. The listing behind the "
    "printed numbers (line 2061) draws new random weights, multiplies with a further matrix W_{o}, and leaves out the "
    "scale and the mask. Lines 510-512 are used nowhere.",
)
def same_math():
    return attention(Q_TARGET, K_TARGET, V_TARGET)


@target.case(
    (763, 765),
    "The name Attention_{2}",
    formula="Attention_{2} of line 563 and of line 765",
    printed="one name, one matrix",
    note="Line 563 calls the encoder's second head so. Here it is the decoder's self-attention, after a projection by "
    "W_{o}, and with one head.",
)
def called_attention_2():
    return agree(HEAD_2, DECODER_ATTENTION, 1e-8, "the two matrices called Attention_{{2}} differ by up to {:.2f}")


@target.case(
    (763, 765),
    "With the listing's weights, scaled as the formula says",
    formula="softmax((Q K^{T}) / √d_{k}) V W_{o}",
    printed=DECODER_ATTENTION,
    note="The listing divides by nothing. The formula's √d_{k} = 2 changes every number, the first to 2.71375426.",
)
def scaled():
    return listing_attention(scale=2.0)


@target.case(
    (763, 771),
    "With the listing's weights, masked as line 771 says",
    formula="softmax(mask(Q K^{T})) V W_{o}",
    printed=DECODER_ATTENTION,
    note="Line 771 says that the Python code masks future words. It does not: masked, the first row is 1.48356448 "
    "1.24013147 1.84159274 1.80408131, made of the start token alone. Only the last row, which sees all, stays.",
)
def masked():
    return listing_attention(scale=1.0, mask=causal(3))


@target.case(
    (763, 771),
    "Scaled and masked",
    formula="softmax(mask(Q K^{T} / √d_{k})) V W_{o}",
    printed=DECODER_ATTENTION,
    note="What the text as a whole describes, with the listing's weights. No row of it is printed.",
)
def scaled_and_masked():
    return listing_attention(scale=2.0, mask=causal(3))


@target.case(
    (767, 769),
    "Its layer norm by the formula",
    formula="(x - μ) / √(σ^{2} + ε)",
    printed=DECODER_NORM,
    note="The listing at line 2098 divides by σ + ε. With ε inside the root, as line 620 says, the first number is "
    "-0.46049142: they differ from the seventh decimal on. So line 739 (ε inside) and this are not the same process.",
)
def target_norm():
    return layer_norm(DECODER_ATTENTION)


@target.case(
    (767, 769),
    "Its layer norm with ε outside the root",
    formula="(x - μ) / (σ + ε)",
    printed=DECODER_NORM,
    note="From the eight printed decimals of line 765; the listing keeps all of them, and there every digit is right.",
)
def target_norm_outside():
    return layer_norm_eps_outside(DECODER_ATTENTION)


@target.case(
    771,
    "What padding is masked",
    formula="tokens that each of <start>, de, nada may see",
    printed="the start padding at the beginning",
    note="At the beginning stands the start token, which line 119 wants the model to see. Masked together with the "
    "future it would leave the first position nothing to look at. What is masked is the padding at the end.",
)
def start_padding():
    mask = causal(3).copy()
    mask[:, 0] = False
    seen = mask.sum(axis=1)
    out = attention(Q_TARGET, K_TARGET, V_TARGET, mask=mask)[0].abs().max().item()
    counts = ", ".join(map(str, seen))
    return Claim(seen[0] > 0, f"without the start token they may see {counts} tokens; the first row becomes {out:g}")


@target.case(771, "A pad token behind the target is invisible when masked", printed="no attention to padding")
def padding_masked():
    rows = np.concatenate([Y_PE.values, [[7.0, -7, 7, -7]]])
    q, k, v = (linear(weight)(tensor(rows)) for weight in (W_Q, W_K, W_V))
    masked, alone = attention(q, k, v, mask=np.array([True] * 3 + [False]))[:3], attention(q[:3], k[:3], v[:3])
    return agree(masked, alone, 1e-15, "with and without the pad token: largest difference {:.1g}")


@target.case(771, "Masked, a later word cannot change an earlier output", printed="no look ahead at the answer")
def no_look_ahead():
    changed = Y_PE.values.copy()
    changed[2] = 9
    before, after = (attention(*(linear(w)(tensor(y)) for w in (W_Q, W_K, W_V)), causal=True) for y in (Y_PE, changed))
    return agree(before[:2], after[:2], 0, "another last word changes the first two outputs by {:g}")


@cross.case(
    777,
    "Target words meet input words, each with each",
    formula="T × S",
    printed="every such pair interacts",
    note="Shown with two target words and three input words.",
)
def target_times_source():
    shape = attention_weights(tensor(DECODER_NORM)[:2], ENCODED).shape
    return Claim(shape == (2, 3), f"weights of shape {shape}")


@cross.case(
    782,
    "Queries come from the decoder, keys and values from the encoder",
    printed="as many results as target words, made of encoder values",
    note="Two target words give two rows; with one encoder row only, both would be that row's value.",
)
def sources():
    q, v = tensor(DECODER_NORM)[:2], linear(W_V)(tensor(ENCODED))
    one = attention(q, tensor(ENCODED)[:1], v[:1])
    fits = attention(q, ENCODED, v).shape == (2, 4) and distance(one, [v[0].data, v[0].data]) < 1e-15
    return Claim(fits, "2 queries give 2 rows; both equal the one value where there is only one")


@cross.case(
    (784, 787),
    "LN(x_{o}) is the decoder's output",
    formula="LN(x_{o}) of line 741 and of line 769",
    printed="one symbol, one matrix",
    note="Line 741 gave the same name to the encoder's output, which is called LN(x_{e}) from line 794 on. The "
    "numbers of line 769 are meant.",
)
def one_symbol():
    return agree(ENCODED, DECODER_NORM, 1e-8, "the two matrices called LN(x_{{o}}) differ by up to {:.2f}")


@cross.case(
    (784, 785),
    "The decoder's W_{Q}",
    formula="W_{q} of line 2075 against the matrix that line 826 is made with",
    printed="the decoder's W_{Q}",
    note="The decoder was made with random matrices (line 2075). For its queries line 2161 takes the encoder's W_{Q}.",
)
def decoder_w_q():
    return agree(listing_weights()[0], W_Q, 1e-8, "the two differ by up to {:.2f}")


@cross.case(
    (790, 799),
    "K and V are made with the encoder's weights",
    formula="smallest distance of W_{K}, W_{V} of a decoder's cross attention from those of an encoder",
    printed="the encoder's W_{K} and W_{V}",
    note="What comes from the encoder is its output alone. W_{K} and W_{V} belong to the decoder's cross attention and "
    "are trained there (Vaswani et al., 2017, 3.2.3); counted in autotx.models.Transformer.",
)
def encoders_weights():
    model = Transformer(TransformerConfig(vocab_size=7, n_layer=2, n_head=1, n_embd=4), rng=np.random.default_rng(0))
    gaps = [
        distance(a.cross.qkv.weight.data[4:], b.attn.qkv.weight.data[4:]) for a in model.decoder for b in model.encoder
    ]
    return Claim(min(gaps) == 0, f"2 decoders, 2 encoders: they differ by {min(gaps):.2f} at least")


@cross.case((801, 806), "The depth of the keys, under the root", formula="d_{k}", printed=Digits("4"))
def divisor():
    return linear(W_K)(tensor(ENCODED)).shape[-1]


@cross.case(
    (808, 809),
    "Future words are masked again",
    formula="weights of '<start>' with a causal mask, and without",
    printed="as before, future words are masked out",
    note="Not here: the whole input sentence is known, and every target word may look at all of it; only its padding "
    "is masked. A causal mask would leave the first target word one input word. The listing has no mask either.",
)
def cross_masked():
    rows = [cross_attention(mask=mask)[0] for mask in (causal(3), None)]
    masked, plain = (" ".join(f"{weight:.4f}" for weight in weights[0].data) for weights in rows)
    return agree(rows[0], CROSS_WEIGHTS, 1e-8, f"masked {masked}, without {plain}; line 2200 prints the latter")


@cross.case(
    (811, 815),
    "The weights",
    formula="softmax(Q K^{T} / √4)",
    printed="a softmax of the scores",
    note="Those printed at line 2200 were made with √3 and transposed matrices; the formulas give the same digits.",
)
def cross_weights():
    weights = cross_attention()[0]
    difference = distance(weights, CROSS_WEIGHTS)
    shown = " ".join(f"{weight:.8f}" for weight in weights[0].data)
    return Claim(difference < 6e-9, f"{shown} in the first row, and so in the others")


@cross.case(
    (817, 826),
    "The output by the formulas of the text",
    formula="softmax(Q K^{T} / √4) V, Q = LN(x_{o}) W_{Q}, K = LN(x_{e}) W_{K}, V = LN(x_{e}) W_{V}",
    printed=CROSS,
    note="The listing at line 2169 multiplies with the transposed matrices. By the formulas each row is 0, -0.8944, "
    "0, 0.8944.",
)
def cross_output():
    return cross_attention()[1]


@cross.case(
    (817, 826),
    "The output with √4 and transposed matrices",
    formula="softmax(Q K^{T} / √4) V, with W^{T} in place of W",
    printed=CROSS,
    note="The transposition alone makes the difference. The wrong divisor √3 of the listing does not show, as all "
    "rows of V are equal and any weights give the same mean.",
)
def cross_transposed():
    return cross_attention(transposed=True)[1]


@cross.case(
    828,
    "In this toy example the values mean nothing",
    printed="effectively nonsense",
    note="The encoder's rows are equal, so the decoder learns nothing about which word is which.",
)
def nonsense():
    rows = cross_attention()[1]
    return agree(rows[0], rows[2], 1e-7, "the rows of <start> and nada differ by {:.1g}")


@output.case(
    (832, 834),
    "Line 826 is the output of Decoder-2",
    formula="LN(FFN(LN(cross attention))), with the net of line 720",
    printed="the output of Decoder-2",
    note="It is what the cross attention of the first and only decoder of the example gives. A decoder block then "
    "normalizes, goes through its feed-forward net, and normalizes again (Vaswani et al., 2017, 3.1), and only then "
    "does the next decoder or the output layer follow.",
)
def rest_of_the_block():
    whole = layer_norm(net()(layer_norm(CROSS)))
    rows = (" ".join(f"{v:.4f}" for v in matrix[0].data) for matrix in (tensor(CROSS), whole))
    printed, right = rows
    return Claim(distance(whole, CROSS) < 1e-6, f"after cross attention {printed}, after the block {right}")


@output.case((837, 841), "A score for every word, at every place", printed="(sequence_length, V)")
def logits_shape():
    shape = nn.Linear(4, 10000, rng=None).astype(np.float64)(tensor(CROSS)).shape
    return Claim(shape == (3, 10000), f"3 words and a vocabulary of 10,000: {shape}")


@output.case(841, "The size of the vocabulary's matrix", formula="d_{model} × V", printed=Digits("4 10000"))
def output_matrix():
    return nn.Linear(4, 10000, rng=None).weight.T.shape


def _probabilities(decoded):
    """Probabilities of <start>, de, nada, <end> and 9,996 other words for each row of the decoder's output."""
    layer = nn.Linear(4, 10000, rng=np.random.default_rng(0)).astype(np.float64)
    return layer(tensor(decoded)).softmax()


@output.case((843, 846), "Probabilities sum to 1 at each place", formula="Σ p", printed=Digits("1 1 1", places=12))
def sums():
    return _probabilities(DECODER_NORM).sum(axis=-1)


@output.case(844, "Each probability lies between 0 and 1", printed="between 0 and 1")
def between():
    p = _probabilities(DECODER_NORM)
    low, high = p.min().item(), p.max().item()
    return Claim(low >= 0 and high <= 1, f"30,000 probabilities from {low:.1e} to {high:.1e}")


@output.case(
    (848, 849),
    "The likeliest word is the one with the highest score",
    printed="argmax",
    note="Softmax keeps the order, so the argmax of the scores is that of the probabilities.",
)
def argmax():
    p = _probabilities(DECODER_NORM)
    same = (p.data.argmax(axis=-1) == p.log().data.argmax(axis=-1)).all()
    return Claim(bool(same), f"words number {', '.join(map(str, p.data.argmax(axis=-1)))} either way")


@output.case(
    (850, 854),
    "In this case the final output is 'de nada'",
    formula="argmax of each row of line 826",
    printed="'de' at the first place, 'nada' at the second",
    note="The rows of the decoder's output at line 826 are equal, so whatever the output layer has learned, every "
    "place gets the same word.",
)
def de_nada():
    chosen = _probabilities(CROSS).data.argmax(axis=-1)
    return Claim(len(set(chosen.tolist())) > 1, f"one word three times: numbers {', '.join(map(str, chosen))}")


@output.case(
    (850, 854),
    "Words chosen and joined",
    formula="argmax at each place, up to the end token",
    printed=["de", "nada"],
    note="Written by autotx.models.Transformer for 'You are welcome', word by word, after the training of line 72.",
)
def joined():
    model, tokenizer, (source, _) = trained.translator()
    (best,) = translate(model, source[:1])[0]
    return decode(tokenizer, best.ids).split()


@output.case(
    856,
    "Training and use differ: teacher forcing, beam search",
    printed="used to improve the translations",
    note="Teacher forcing, in Transformer.loss: the right words are given, so all places are learned at once. Beam "
    "search, in translate: several candidates are kept; what it finds here is no less probable than greedily.",
)
def beam_search():
    model, tokenizer, (source, _) = trained.translator()
    (greedy,), (best, second) = (translate(model, source[:1], beam=n, n_best=n)[0] for n in (1, 2))
    first, other = (f"'{decode(tokenizer, t.ids)}' {t.score:.3f}" for t in (best, second))
    no_less = best.score > greedy.score - 1e-9  # float64 sums of two rows differ in the last digits from those of one
    return Claim(no_less, f"greedy {greedy.score:.3f}; beam of 2: {first}, then {other}")
