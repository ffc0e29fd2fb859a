"""'Attention Heads and Multi Attention Heads': two heads, concatenated and multiplied by a matrix."""

import numpy as np

import autotx
from autotx import nn
from autotx.models.paper.case import Claim, Digits, Section
from autotx.models.paper.constants import ATTENTION, CONCAT, HEAD_2, W_O, X_PE, M
from autotx.models.paper.sizes import longest_path
from autotx.models.paper.steps import agree, attention, attention_weights, distance, linear, tensor

section = Section("heads", "Attention Heads and Multi Attention Heads", (534, 590))

MULTI_HEAD = "Concat(head_{1}, …, head_{h}) W_{O}"


def concat():
    return autotx.concat([tensor(ATTENTION), tensor(HEAD_2)], axis=1)


@section.case(
    (536, 541),
    "Heads look at different parts of the sentence",
    printed="one head's weights are not another's",
    note="Two heads with weights of their own, over the example's source.",
)
def heads_differ():
    rng = np.random.default_rng(0)
    weights = [attention_weights(*(linear(rng.standard_normal((4, 4)))(tensor(X_PE)) for _ in "qk")) for _ in range(2)]
    difference = distance(*weights)
    return Claim(difference > 0.01, f"weights of two heads differ by up to {difference:.2f}")


section.quote(
    "harvard",
    (538, 541),
    "'Harvard' and 'Google' get high scores, and several heads keep one from hiding the other",
    printed="likely high for proper nouns",
    note="What a trained model's heads do with one sentence; the weights are not given. (autotx generate --attention "
    "shows what each head of a model of your own looks at.)",
)


@section.case(
    545,
    "Heads are combined linearly",
    formula=f"{MULTI_HEAD} = Σ_{{i}} head_{{i}} W_{{O,i}}",
    printed="a linear combination of the heads' results",
    note="Joining and one product is the same as a product for each head, with its own rows of W_{O}, and a sum.",
)
def linear_combination():
    by_head = tensor(ATTENTION) @ tensor(W_O)[:4] + tensor(HEAD_2) @ tensor(W_O)[4:]
    return agree(concat() @ tensor(W_O), by_head, 1e-14)


@section.case(
    547,
    "Joined heads are multiplied with a weight vector",
    formula="(n × h d_{v}) times W_{O}",
    printed="a weight vector",
    note="A vector would leave one number for each token. The feed-forward net takes n of them, so W_{O} is a matrix, "
    "h d_{v} × d_{model}, as the formula of line 552 and the example have it: 3 x 4 numbers come out.",
)
def weight_vector():
    vector, matrix = (concat() @ tensor(W_O)[:, 0]).shape, (concat() @ tensor(W_O)).shape
    return Claim(vector == (3, 4), f"a vector makes {vector} of the three tokens, the matrix {matrix}")


@section.case(
    547,
    "The heads' matrices are trained independently",
    formula="∂L/∂W_{Q,1}, before and after a change of W_{V,2}",
    printed="mutually independent, independently trained",
    note="They are drawn independently, but trained together: the loss sees what W_{O} makes of all heads, so what one "
    "head learns depends on the others.",
)
def trained_apart():
    layer = nn.MultiHeadAttention(4, 2, rng=np.random.default_rng(0)).astype(np.float64)
    rows, gradients = layer.qkv.weight, []
    for factor in (1.0, 2.0):
        changed = rows.numpy()
        changed[10:12] *= factor  # W_V of the second head
        rows.data = changed
        autotx.mse_loss(layer(tensor(X_PE).reshape(1, 3, 4)), np.zeros((1, 3, 4))).backward()
        gradients.append(rows.grad[:2].copy())
        layer.zero_grad()
    return agree(*gradients, 0, "W_{{V,2}} doubled: the gradient of W_{{Q,1}} changes by up to {:.2g}")


@section.case(
    (549, 555),
    "The formula, and the engine's layer",
    formula=f"{MULTI_HEAD}, head_{{i}} = Attention(Q W_{{i}}^{{Q}}, K W_{{i}}^{{K}}, V W_{{i}}^{{V}})",
    printed="multi-head attention is defined so",
    note="nn.MultiHeadAttention keeps the matrices of all heads in one; head by head, the result is the same. Q, K "
    "and V are here what is put in; in the example above they are already multiplied by the matrices.",
)
def layer_is_formula():
    layer = nn.MultiHeadAttention(4, 2, bias=False, rng=np.random.default_rng(0)).astype(np.float64)
    x, rows = tensor(X_PE), layer.qkv.weight
    heads = []
    for i in (0, 2):
        q, k, v = (x @ rows[part + i : part + i + 2].T for part in (0, 4, 8))
        heads.append(attention(q, k, v))
    return agree(layer.proj(autotx.concat(heads, axis=1)), layer(x.reshape(1, 3, 4))[0], 1e-14)


@section.case((557, 563), "The second head has the shape of the first", printed="made exactly as the first head was")
def head_2():
    first, second = tensor(ATTENTION).shape, tensor(HEAD_2).shape
    return Claim(first == second, f"{first} and {second}")


@section.case((565, 569), "Both heads side by side", formula="Concat(head_{1}, head_{2})", printed=CONCAT)
def joined():
    return concat()


@section.case(572, "The shape of W_{O}", formula="h d_{v} × d_{model}", printed=Digits("8 4"))
def w_o_shape():
    return linear(W_O).weight.T.shape


@section.case(
    (571, 576),
    "W_{O} filled with 0.5",
    formula="all 32 entries of W_{O}",
    printed=W_O,
    note="Line 572 wants every entry 0.5; lines 574 to 576 take random numbers. M (line 615) was made with those.",
)
def w_o_halves():
    return tensor(np.full((8, 4), 0.5))


@section.case(
    (571, 583),
    "The result, had W_{O} been 0.5 throughout",
    formula=f"{MULTI_HEAD}, W_{{O}} = 0.5, against M",
    printed="W_{O} filled with 0.5, for simplicity",
    note="Every entry of a row would be half the row's sum. The M that the example goes on with has four different "
    "numbers in each row: it does not belong to line 572.",
)
def result_with_halves():
    result = concat() @ tensor(np.full((8, 4), 0.5))
    rows = " ".join(f"{row:.4f}" for row in result[:, 0].data)
    return agree(result, M, 1e-8, f"rows of {rows}, four times each; M differs by up to {{:.2f}}")


@section.case(
    (579, 583),
    "The final output of multi-head attention",
    formula=MULTI_HEAD,
    printed=CONCAT,
    note="What is printed is the joined matrix before the product. The product is M of line 615, 3 x 4.",
)
def final_output():
    return concat() @ tensor(W_O)


@section.case(
    585,
    "Heads do not depend on each other and run side by side",
    printed="no head waits for another",
    note="Each head's result, computed alone, is the same to the last bit.",
)
def heads_independent():
    rng = np.random.default_rng(0)
    q, k, v = (tensor(rng.standard_normal((3, 5, 4))) for _ in "qkv")
    together = attention(q, k, v).data
    alone = np.stack([attention(q[i], k[i], v[i]).data for i in range(3)])
    return agree(together, alone, 0, "3 heads at once and one by one: largest difference {:g}")


@section.case(
    585,
    "Why attention is faster than a recurrent network",
    formula="ops that have to wait for each other, for n tokens",
    printed="all tokens at once",
    note="Counted in the engine's graph: the chain of a recurrent network grows with the sequence, attention's does "
    "not.",
)
def shorter_chain():
    x, chains = tensor(np.ones((32, 4)), requires_grad=True), []
    for n in (8, 32):
        state = tensor(np.zeros(4))
        for row in x[:n]:
            state = (row + state).tanh()
        chains.append((longest_path(attention(x[:n], x[:n], x[:n])), longest_path(state)))
    (short, short_rnn), (long, long_rnn) = chains
    text = f"8 and 32 tokens: attention {short} and {long} ops in a row, recurrent network {short_rnn} and {long_rnn}"
    return Claim(long == short and long_rnn > short_rnn, text)


@section.case(
    587,
    "Speed and the length of the input",
    formula="scores for 1,000 tokens / scores for 500 tokens",
    printed="1,000 words or 500, the same speed",
    note="Attention is not independent of the length: 1,000 words make four times the scores of 500. The text's own "
    "lines 1190 and 1204 say n^{2}.",
)
def independent_of_length():
    many, few = (attention_weights(np.zeros((n, 4)), np.zeros((n, 4))).size for n in (1000, 500))
    return Claim(many == few, f"{many:,} scores and {few:,}: {many / few:g} times as many")
