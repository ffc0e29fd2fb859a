"""The benchmark's tasks in JAX on the CPU, compiled with `jax.jit`.

JAX has no setting for its number of threads: it uses every core that the process may run on.
"""

import jax
import jax.numpy as jnp
import numpy as np

from autotx.models.bench import inputs

jax.config.update("jax_platforms", "cpu")

OPS = {"attention": lambda q, k, v: jnp.swapaxes(_attention(*(jnp.swapaxes(a, 1, 2) for a in (q, k, v))), 1, 2)}


def _attention(q, k, v):
    """q, k, v: (B, T, H, D)."""
    return jax.nn.dot_product_attention(q, k, v, is_causal=True)


def _parameters(L, C, T, V):
    """The parameters of the model by name, with the values that they have in the other libraries."""
    matrices = {"attn.qkv": (3 * C, C), "attn.proj": (C, C), "mlp.fc": (4 * C, C), "mlp.proj": (C, 4 * C)}
    shapes = {"wte": (V, C), "wpe": (T, C)}
    shapes |= {f"blocks.{i}.{name}": shape for i in range(L) for name, shape in matrices.items()}
    p = {f"{name}.weight": inputs.weight(f"{name}.weight", shape) for name, shape in shapes.items()}
    p |= {f"{name}.bias": np.zeros(shape[0], np.float32) for name, shape in shapes.items() if name.startswith("blocks")}
    for name in [f"blocks.{i}.{norm}" for i in range(L) for norm in ("ln_1", "ln_2")] + ["ln_f"]:
        p |= {f"{name}.weight": np.ones(C, np.float32), f"{name}.bias": np.zeros(C, np.float32)}
    return {name: jnp.asarray(value) for name, value in p.items()}


def _loss(p, ids, targets, L, H):
    def linear(name, x):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def norm(name, x):
        x = x - x.mean(-1, keepdims=True)
        x = x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5)
        return x * p[f"{name}.weight"] + p[f"{name}.bias"]

    B, T = ids.shape
    x = p["wte.weight"][ids] + p["wpe.weight"]
    for i in range(L):
        qkv = linear(f"blocks.{i}.attn.qkv", norm(f"blocks.{i}.ln_1", x))
        q, k, v = jnp.split(qkv.reshape(B, T, 3 * H, -1), 3, axis=2)
        x = x + linear(f"blocks.{i}.attn.proj", _attention(q, k, v).reshape(B, T, -1))
        h = jax.nn.gelu(linear(f"blocks.{i}.mlp.fc", norm(f"blocks.{i}.ln_2", x)), approximate=True)
        x = x + linear(f"blocks.{i}.mlp.proj", h)
    logits = norm("ln_f", x) @ p["wte.weight"].T
    right = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    return (jax.nn.logsumexp(logits, -1) - right).mean()


def step(L, H, C, T, B, V):
    state = {"p": _parameters(L, C, T, V), "t": 0}
    state["m"] = state["v"] = jax.tree.map(jnp.zeros_like, state["p"])
    ids, targets = (jnp.asarray(a) for a in inputs.batch(B, T, V))

    @jax.jit
    def update(p, m, v, t):
        loss, g = jax.value_and_grad(_loss)(p, ids, targets, L, H)
        norm = jnp.sqrt(sum((a * a).sum() for a in g.values()))
        new = {name: _adamw(p[name], g[name] * jnp.minimum(1, 1 / norm), m[name], v[name], t) for name in p}
        return loss, *({name: part[i] for name, part in new.items()} for i in range(3))

    def run():
        state["t"] += 1
        loss, state["p"], state["m"], state["v"] = update(state["p"], state["m"], state["v"], state["t"])
        return [jax.block_until_ready((loss, state["p"]))[0]]

    return run


def _adamw(p, g, m, v, t, lr=1e-3, beta1=0.9, beta2=0.99):
    m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
    p = p * (1 - lr * (0.1 if p.ndim > 1 else 0.0))
    return p - lr * (m / (1 - beta1**t)) / (jnp.sqrt(v / (1 - beta2**t)) + 1e-8), m, v


def matmul(**sizes):
    a, b = (jnp.asarray(x) for x in inputs.product(**sizes))
    product = jax.jit(jnp.matmul)
    return lambda: [product(a, b).block_until_ready()]


def op(name, shape):
    """Forward and backward."""
    arrays, integers = inputs.operands(name, shape)
    arrays = [jnp.asarray(a) for a in arrays]
    g = jnp.asarray(inputs.gradient(jax.eval_shape(OPS[name], *arrays).shape))

    @jax.jit
    def both(*arrays):
        out, backward = jax.vjp(lambda *a: OPS[name](*a, *integers), *arrays)
        return [out, *backward(g)]

    return lambda: jax.block_until_ready(both(*arrays))
