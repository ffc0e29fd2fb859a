"""The benchmark's tasks in autotx. Each function builds a task and returns the function that is timed.

The results of that function, a list of arrays or numbers, are compared with those of the other libraries.
"""

import functools

import numpy as np

import autotx
from autotx import kernels, optim
from autotx.models import GPT, GPTConfig, lora
from autotx.models.bench import inputs, smollm2
from autotx.models.chat import Conversation
from autotx.models.comm import started
from autotx.models.formats import open_model, open_reader
from autotx.models.inference.pieces import WEIGHTS, Int8Matrix

OPS = {
    "layer_norm": autotx.layer_norm,
    "gelu": autotx.gelu,
    "gelu_tanh": functools.partial(autotx.gelu, approximate="tanh"),
    "softmax": autotx.softmax,
    "cross_entropy": autotx.cross_entropy,
    "embedding": autotx.embedding,
    "attention": functools.partial(autotx.scaled_dot_product_attention, causal=True),
    "rnn": autotx.rnn,
    "gru": autotx.gru,
    "lstm": lambda *arguments: autotx.lstm(*arguments)[:, :-1],  # the last row is c
}


def gpt(L, H, C, T, V):
    model = GPT(GPTConfig(block_size=T, vocab_size=V, n_layer=L, n_head=H, n_embd=C), np.random.default_rng(0))
    for name, p in model.named_parameters():
        if p.ndim > 1:
            p.writable()[...] = inputs.weight(name, p.shape)
    return model


def step(L, H, C, T, B, V, dtype="float32"):
    """One training step: forward, cross entropy, backward, clip to norm 1, AdamW."""
    model = gpt(L, H, C, T, V)
    optimizer = optim.AdamW(optim.decay_groups(model, 0.1), lr=1e-3, betas=(0.9, 0.99))
    parameters = model.parameters()
    ids, targets = inputs.batch(B, T, V)

    def run():
        optimizer.zero_grad()
        with autotx.autocast(dtype):
            _, loss = model(ids, targets, scores=False)
        loss.backward()
        optim.clip_grad_norm(parameters, 1.0)
        optimizer.step()
        return [loss.item()]

    return run


def step_of_processes(L, H, C, T, B, V, parts=1):
    """The step of several processes, which share out the B rows of a batch: two equal halves.

    parts: 2 to compute one of the halves alone, which has the same loss and gradients.
    """
    comm, model = started(), gpt(L, H, C, T, V)
    optimizer = optim.AdamW(optim.decay_groups(model, 0.1), lr=1e-3, betas=(0.9, 0.99))
    parameters, rows = model.parameters(), B // parts
    first, after = (rows * rank // comm.size for rank in (comm.rank, comm.rank + 1))
    ids, targets = (np.concatenate([half, half])[first:after] for half in inputs.batch(B // 2, T, V))

    def run():
        optimizer.zero_grad()
        _, loss = model(ids, targets, scores=False)
        loss = loss * ((after - first) / rows)
        loss.backward()
        mean = np.array([loss.item()])
        comm.sum(mean)
        comm.sum_gradients(parameters)
        optim.clip_grad_norm(parameters, 1.0)
        optimizer.step()
        return [mean.item()]

    return run


def gradient_sum(shapes):
    """Sum the gradients of parameters of these shapes over all processes."""
    comm, parameters = started(), [autotx.Tensor(np.ones(shape, np.float32), requires_grad=True) for shape in shapes]
    for p in parameters:
        p.grad = np.zeros(p.shape, np.float32)

    def run():
        comm.sum_gradients(parameters)
        return []

    return run


def step_beside_blas(**size):
    """The same step right after a product by NumPy's BLAS, whose threads may still spin."""
    run = step(**size)
    x = inputs.gradient((512, 512))

    def before():
        np.matmul(x, x)

    return run, before


def matmul(dtype="float32", **sizes):
    a, b = inputs.product(**sizes)
    with autotx.autocast(dtype):
        tile = kernels.mixed.tile()
    return lambda: [kernels.gemm.matmul(a, b, tile=tile)]


def op(name, shape, forward_only=False):
    arrays, integers = inputs.operands(name, shape)
    leaves = [autotx.Tensor(a, requires_grad=True) for a in arrays]
    function = functools.partial(OPS[name], *leaves, *integers)

    def forward():
        with autotx.no_grad():
            return [function()]

    g = inputs.gradient(forward()[0].shape)

    def both():
        for leaf in leaves:
            leaf.grad = None
        out = function()
        out.backward(g)
        return [out, *(leaf.grad for leaf in leaves)]

    return forward if forward_only else both


def adamw(shapes):
    parameters = []
    for value, grad in inputs.parameters(shapes):
        p = autotx.Tensor(value, requires_grad=True)
        p.grad = grad
        parameters.append(p)
    optimizer = optim.AdamW(parameters, lr=1e-3, weight_decay=0.1)

    def run():
        optimizer.step()
        return parameters

    return run


def generate(L, H, C, T, V, prompt, new):
    """Greedy generation of one sequence with the key/value cache."""
    model = gpt(L, H, C, T, V)
    ids = inputs.batch(1, prompt, V)[0]
    return lambda: [model.generate(ids, new, temperature=0)]


def generate_int8(L, H, C, T, V, prompt, new):
    """The same with int8 weights. It returns no results: with rounded weights another token may be the likeliest."""
    model = gpt(L, H, C, T, V).reader(matrix=Int8Matrix)
    ids = inputs.batch(1, prompt, V)[0]

    def run():
        model.generate(ids, new, temperature=0)
        return []

    return run


def scalar_chain(pairs):
    """2 * pairs operations on single numbers, forward and backward."""
    w, b = (autotx.Tensor(v, requires_grad=True) for v in (0.999, 0.001))

    def run():
        w.grad = b.grad = None
        y = w
        for _ in range(pairs):
            y = y * w + b
        y.backward()
        return [y, w.grad, b.grad]

    return run


# SmolLM2


def _smollm2(weights):
    return open_reader(smollm2.NAME, WEIGHTS[weights])


def text_loss(tokens):
    """The mean loss of a text."""
    scores, ids = text_scores(tokens), smollm2.text(tokens)
    return lambda: [autotx.cross_entropy(scores()[0][:-1], ids[0, 1:]).item()]


def text_scores(tokens, weights="file"):
    """What each token of a text says of the next."""
    ids, reader = smollm2.text(tokens), _smollm2(weights).model.reader(1, tokens)

    def run():
        reader.rewind(0)
        return [reader.scores(reader.read(ids))[0]]

    return run


def greedy(new):
    """The likeliest continuation of each of smollm2.PROMPTS."""
    model = _smollm2("file").model
    prompts = [smollm2.tokenizer().encode(prompt) for prompt in smollm2.PROMPTS]
    return lambda: [model.generate(ids, new, temperature=0) for ids in prompts]


def read_prompt(tokens):
    """Read a prompt and score the tokens that may follow."""
    ids, reader = smollm2.text(tokens), _smollm2("file").model.reader(1, tokens)

    def run():
        reader.rewind(0)
        return [reader.scores(reader.read(ids)[:, -1])]

    return run


def continue_text(new, weights="file"):
    """Write `new` tokens after a few that are read before."""
    ids, model = smollm2.text(16), _smollm2(weights).model
    return lambda: model.generate(ids, new, temperature=0)[:0]


def lora_step(rank, rows, tokens):
    """A step that learns adapters of the queries and the values, so small that the loss stays as it is."""
    model, (inputs, targets) = open_model(smollm2.NAME).model, smollm2.blocks(rows, tokens)
    found = lora.chosen(lora.places("llama", model), lora.TARGETS["llama"])
    lora.attach(model, found, rank, 2.0 * rank, rng=np.random.default_rng(0))
    optimizer = optim.AdamW(optim.decay_groups(model, 0.0), lr=1e-9)

    def run():
        _, loss = model(inputs, targets, scores=False)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return [loss.item()]

    return run


def converse(context, new):
    """Begin a conversation, with the model opened as by `autotx chat`."""
    chat = Conversation(_smollm2("file"), context)

    def run():
        chat.reset()
        chat.ask("What is gravity?")
        "".join(chat.answer(temperature=0, max_new_tokens=new))
        return []

    return run
