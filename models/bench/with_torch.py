"""The benchmark's tasks in PyTorch, eager mode; each function does what its namesake in `with_autotx` does."""

import functools
import os

import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from torch import nn

from autotx.models.bench import inputs

if "OMP_NUM_THREADS" in os.environ:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

OPS = {
    "layer_norm": lambda x, gamma, beta: F.layer_norm(x, gamma.shape, gamma, beta),
    "gelu": F.gelu,
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
    "softmax": functools.partial(F.softmax, dim=-1),
    "cross_entropy": F.cross_entropy,
    "embedding": lambda weight, ids: F.embedding(ids, weight),
    "attention": functools.partial(F.scaled_dot_product_attention, is_causal=True),
    "rnn": lambda x, h, *weights: torch.rnn_tanh(x, h[None], weights, *RECURRENT)[0],
    "gru": lambda x, h, *weights: torch.gru(x, h[None], weights, *RECURRENT)[0],
    "lstm": lambda x, h, c, *weights: torch.lstm(x, (h[None], c[None]), weights, *RECURRENT)[0],
}
RECURRENT = True, 1, 0.0, True, False, True  # biases, one layer, no dropout, training, one direction, the batch first


class Attention(nn.Module):
    def __init__(self, C, H):
        super().__init__()
        self.H = H
        self.qkv, self.proj = nn.Linear(C, 3 * C), nn.Linear(C, C)

    def forward(self, x, cache=None, start=0):
        B, T, C = x.shape
        q, k, v = (part.view(B, T, self.H, C // self.H).transpose(1, 2) for part in self.qkv(x).split(C, dim=2))
        if cache is not None:
            cache[0][:, :, start : start + T], cache[1][:, :, start : start + T] = k, v
            k, v = (kept[:, :, : start + T] for kept in cache)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=T > 1)  # a single new token attends to all kept ones
        return self.proj(y.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    def __init__(self, C):
        super().__init__()
        self.fc, self.proj = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

    def forward(self, x):
        return self.proj(F.gelu(self.fc(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, C, H):
        super().__init__()
        self.ln_1, self.attn, self.ln_2, self.mlp = nn.LayerNorm(C), Attention(C, H), nn.LayerNorm(C), MLP(C)

    def forward(self, x, cache=None, start=0):
        x = x + self.attn(self.ln_1(x), cache, start)
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """GPT-2's architecture, with the output layer tied to the token table."""

    def __init__(self, L, H, C, T, V):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(V, C), nn.Embedding(T, C)
        self.blocks = nn.ModuleList(Block(C, H) for _ in range(L))
        self.ln_f = nn.LayerNorm(C)
        with torch.no_grad():
            for name, p in self.named_parameters():
                if p.ndim > 1:
                    p.copy_(torch.from_numpy(inputs.weight(name, tuple(p.shape))))
                elif name.endswith("bias"):
                    p.zero_()

    def hidden(self, ids, caches=None, start=0):
        x = self.wte(ids) + self.wpe.weight[start : start + ids.shape[1]]
        for i, block in enumerate(self.blocks):
            x = block(x, caches[i] if caches else None, start)
        return self.ln_f(x)

    def forward(self, ids, targets):
        logits = F.linear(self.hidden(ids), self.wte.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


def step(L, H, C, T, B, V, dtype="float32", **options):
    model = GPT(L, H, C, T, V)
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), **options)
    ids, targets = (torch.from_numpy(a) for a in inputs.batch(B, T, V))

    def run():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = model(ids, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return [loss.item()]

    return run


def matmul(dtype="float32", **sizes):
    a, b = (torch.from_numpy(x).to(getattr(torch, dtype)) for x in inputs.product(**sizes))
    return lambda: [torch.matmul(a, b)]


def op(name, shape, forward_only=False):
    arrays, integers = inputs.operands(name, shape)
    leaves = [torch.from_numpy(a).requires_grad_() for a in arrays]
    integers = [torch.from_numpy(i) for i in integers]
    function = OPS[name]

    def forward():
        with torch.no_grad():
            return [function(*leaves, *integers)]

    g = torch.from_numpy(inputs.gradient(tuple(forward()[0].shape)))

    def both():
        for leaf in leaves:
            leaf.grad = None
        out = function(*leaves, *integers)
        out.backward(g)
        return [out.detach(), *(leaf.grad for leaf in leaves)]

    return forward if forward_only else both


def adamw(shapes, **options):
    parameters = []
    for value, grad in inputs.parameters(shapes):
        p = torch.from_numpy(value).requires_grad_()
        p.grad = torch.from_numpy(grad)
        parameters.append(p)
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.1, **options)

    def run():
        optimizer.step()
        return [p.detach() for p in parameters]

    return run


def generate(L, H, C, T, V, prompt, new):
    """Greedy generation of one sequence with a key/value cache that is allocated once."""
    model = GPT(L, H, C, T, V)
    first = torch.from_numpy(inputs.batch(1, prompt, V)[0])

    def run():
        with torch.inference_mode():
            caches = [torch.empty(2, 1, H, prompt + new, C // H) for _ in range(L)]
            ids, start, out = first, 0, [first]
            for _ in range(new):
                last = model.hidden(ids, caches, start)[:, -1]
                start += ids.shape[1]
                ids = F.linear(last, model.wte.weight).argmax(-1, keepdim=True)
                out.append(ids)
            return [torch.cat(out, dim=1)]

    return run


generate_int8 = generate  # in float32: the comparison is with a program without int8 weights


def scalar_chain(pairs):
    w, b = (torch.tensor(v, requires_grad=True) for v in (0.999, 0.001))

    def run():
        w.grad = b.grad = None
        y = w
        for _ in range(pairs):
            y = y * w + b
        y.backward()
        return [y.detach(), w.grad, b.grad]

    return run
