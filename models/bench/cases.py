"""What the benchmark times, a line for each case.

Sizes S, M and L of a GPT: layers L, heads H, channels C, tokens T, batch B, vocabulary V.
"""

from dataclasses import dataclass, field

from autotx.models.bench import smollm2
from autotx.models.bench.results import WRONG
from autotx.models.bench.turns import Contestant


def _sizes(**letters):
    return letters


S = _sizes(L=4, H=4, C=128, T=64, B=12, V=65)  # nanoGPT's recipe for a CPU
M = _sizes(L=6, H=6, C=384, T=256, B=16, V=65)
L = _sizes(L=12, H=12, C=768, T=256, B=4, V=50257)  # GPT-2's smallest
SMALL = _sizes(L=4, H=4, C=128, T=64, V=65)
GPT2 = _sizes(L=12, H=12, C=768, T=1024, V=50257)

AUTOTX = Contestant("autotx", "with_autotx")
TORCH = Contestant("torch", "with_torch", needs="torch")
TORCH_FUSED = Contestant("torch fused", "with_torch", options={"fused": True}, needs="torch")  # PyTorch's faster AdamW
BFLOAT16 = {"dtype": "bfloat16"}
AUTOTX_BFLOAT16 = Contestant("autotx bfloat16", "with_autotx", options=BFLOAT16)
TORCH_BFLOAT16 = Contestant("torch bfloat16", "with_torch", options=BFLOAT16, needs="torch")
NUMPY = Contestant("numpy", "with_numpy")
JAX = Contestant("jax", "with_jax", needs="jax")
MICROGRAD = Contestant("micrograd", "with_micrograd", needs="micrograd")
TRANSFORMERS = Contestant("transformers", "with_transformers", needs="transformers")
LLAMACPP = Contestant("llama.cpp", "with_llamacpp", needs="xllamacpp")
FLOAT32 = Contestant("float32", "with_autotx", options={"weights": "float32"})  # autotx itself


# Several processes, and one that does all of their work, or the share of one of them
PROCESSES = Contestant("2 processes", "with_autotx", threads=1, processes=2, needs="mpi4py")
ALONE = (
    Contestant("2 threads", "with_autotx", threads=2),
    Contestant("1 thread", "with_autotx", threads=1),
    Contestant("1 thread, half", "with_autotx", options={"parts": 2}, threads=1),
)


@dataclass(frozen=True)
class Case:
    name: str
    builder: str  # the function in the library's module that builds the task
    settings: dict
    work: float = 0  # the work of one run, in units of ...
    unit: str = ""  # ... FLOP, tokens or operations
    group: str = ""  # a line sums up the cases of a group: by the geometric mean of their ratios, or, ...
    x: float = 0  # ... where x is given, by the exponent p of time ~ x^p
    quick: bool = False  # part of --quick
    without: tuple = ()  # names of contestants that do not run this case
    bound: str = (
        ""  # "FLOP", "bfloat16" or "bytes": which of the machine's limits the speed is compared with, where ...
    )
    demand: float = 0  # ... so many are needed for a run; a case in FLOP needs its work
    tolerance: float = WRONG  # of the results, relative to the largest number
    once: bool = False  # a case that compares results: one turn is enough
    goal: str = ""  # what should be reached

    @property
    def need(self):
        """(limit, how much of it a run needs)."""
        return (self.bound or "FLOP", self.work) if self.unit == "FLOP" else (self.bound, self.demand)


@dataclass(frozen=True)
class Section:
    title: str
    contestants: tuple  # ratios are the time of another contestant / the time of the first
    cases: list = field(default_factory=list)
    fresh: bool = False  # new processes for each case, so that peak memory is that of the case
    model: str = ""  # a model that must be installed


def parameter_shapes(L, C, V, T, **_):
    """The shapes of a GPT's parameters; the tied head is not a parameter of its own."""
    block = [(C,), (C,), (3 * C, C), (3 * C,), (C, C), (C,), (C,), (C,), (4 * C, C), (4 * C,), (C, 4 * C), (C,)]
    return [(V, C), (T, C), *(block * L), (C,), (C,)]


def parameter_count(L, C, V, **_):
    """Parameters of a GPT without the position table, which is looked up, not multiplied."""
    return V * C + L * (12 * C * C + 13 * C) + 2 * C


def step_flop(L, C, T, B, V, **_):
    """FLOP of a training step: 6 for each parameter and token (2 forward, 4 backward), plus attention's products."""
    return (6 * parameter_count(L, C, V) + 12 * L * T * C) * B * T


def _step(name, size, builder="step", **more):
    return Case(name, builder, size, step_flop(**size), "FLOP", **more)


def _products(name, rows, inputs, outputs, quick=False, **more):
    """The three products of a layer: y = x W^T, and the gradients of x and of W."""
    title, flop = f"{name} {rows}x{inputs}->{outputs}", 2 * rows * inputs * outputs
    settings = {"rows": rows, "inputs": inputs, "outputs": outputs}
    return [
        Case(f"{title} {which}", "matmul", {**settings, "which": which}, flop, "FLOP", group=which, quick=quick, **more)
        for which in ("forward", "dX", "dW")
    ]


def _attention(B, H, T, D, quick=False):
    """Two products forward and four backward, of which causal attention needs half: 6 T T D FLOP for each head."""
    settings = {"name": "attention", "shape": [B, H, T, D]}
    return Case(f"T={T} ({B}x{H} heads of {D})", "op", settings, 6 * T * T * D * B * H, "FLOP", quick=quick)


def _op(name, *shape):
    """Two cases of an op: forward and backward, and forward alone."""
    sizes = "x".join(str(n) for n in shape)
    settings = {"name": name, "shape": shape}
    return [
        Case(f"{name} {sizes}", "op", settings, quick=True),
        Case(f"{name} {sizes} forward", "op", {**settings, "forward_only": True}, group="forward alone"),
    ]


def _recurrent(name, batch, steps, inputs, units, quick=False):
    """A recurrent layer, forward and backward: 6 FLOP for each weight, sequence and step."""
    gates = {"rnn": 1, "gru": 3, "lstm": 4}[name]
    flop = 6 * batch * steps * gates * units * (inputs + units)
    title = f"{name}, {batch} x {steps} steps, {inputs}->{units}"
    shape = [batch, steps, inputs, units]
    return Case(title, "op", {"name": name, "shape": shape}, flop, "FLOP", group=name, quick=quick)


def _gradient_sum(name, shapes, quick=False):
    alone = tuple(c.name for c in ALONE)
    return Case(f"sum of gradients, {name}", "gradient_sum", {"shapes": shapes}, without=alone, quick=quick)


def _adamw(name, size):
    return Case(f"AdamW, parameters of {name}", "adamw", {"shapes": parameter_shapes(**size)}, quick=name == "S")


def _generate(name, size, prompt, new, builder="generate", quick=False):
    settings = {**size, "prompt": prompt, "new": new}
    return Case(f"{name}, {new} tokens", builder, settings, new, "tokens", quick=quick)


def _scaling(letter, what, values):
    """Training steps of a small GPT, in which one size varies."""
    base = _sizes(L=2, H=4, C=128, T=128, B=4, V=65)
    return [_step(f"{what} {n}", {**base, letter: n}, group=f"{what} ({letter})", x=n) for n in values]


def _smollm2():
    """What is asked of an opened model: right results, speed and memory."""
    numbers, others = {"without": ("llama.cpp", "llama-bench", "float32"), "once": True}, ("transformers", "float32")
    reading = {"bound": "FLOP", "demand": smollm2.prompt_flop(512), "goal": "70 % of the limit, ratios above 1"}
    writing = {"bound": "bytes", "demand": 64 * smollm2.BYTES, "goal": "70 % of the read bandwidth, llama.cpp 1.3"}
    lora = {"rank": 8, "rows": 4, "tokens": 256}
    step = {"bound": "FLOP", "demand": smollm2.lora_flop(4, 256), "goal": "ratio above 1.3, less memory"}
    peers = "transformers", "llama.cpp", "llama-bench"
    return [
        Case("loss of a text", "text_loss", {"tokens": 512}, tolerance=3e-4, goal="equal to 3e-4", **numbers),
        Case("6 greedy texts", "greedy", {"new": 48}, 288, "tokens", goal="the same tokens", **numbers),
        Case("scores of a text", "text_scores", {"tokens": 512}, 512, "tokens", tolerance=0, without=peers,
             goal="the same bits, from 4 bits and from float32"),
        Case("prompt, 512 tokens", "read_prompt", {"tokens": 512}, 512, "tokens", **reading, without=("float32",)),
        Case("64 tokens", "continue_text", {"new": 64}, 64, "tokens", **writing, quick=True),
        Case("LoRA step of 4 x 256 (with peft)", "lora_step", lora, 1024, "tokens", **step,
             without=numbers["without"]),
        Case("chat, context 2,048", "converse", {"context": 2048, "new": 64}, without=(*others, "llama-bench"),
             goal="at most 1.5 times the memory of llama.cpp", once=True),
    ]  # fmt: skip


ROUNDED = {"bound": "bfloat16", "tolerance": 1e-2}

SECTIONS = {
    "step": Section(
        "GPT training step: forward, cross entropy, backward, clip to norm 1, AdamW; float32",
        (AUTOTX, TORCH, TORCH_FUSED, JAX),
        [_step("S", S, quick=True), _step("M", M), _step("L", L, without=("torch fused", "jax"))],
        fresh=True,
    ),
    "matmul": Section(
        "Matrix products of the layers of S, M and L",
        (AUTOTX, TORCH, NUMPY, JAX),
        [
            *_products("S qkv", 768, 128, 384),
            *_products("S mlp", 768, 128, 512, quick=True),
            *_products("S mlp", 768, 512, 128),
            *_products("M qkv", 4096, 384, 1152),
            *_products("M proj", 4096, 384, 384),
            *_products("M mlp", 4096, 384, 1536),
            *_products("M mlp", 4096, 1536, 384),
            *_products("L qkv", 1024, 768, 2304),
            *_products("L mlp", 1024, 768, 3072),
            *_products("L mlp", 1024, 3072, 768),
            *_products("L head", 1024, 768, 50257),
        ],
    ),
    "step-bfloat16": Section(
        "The training step with products in bfloat16 (torch: autocast)",
        (AUTOTX_BFLOAT16, AUTOTX, TORCH_BFLOAT16, TORCH),
        [_step("S", S, quick=True, bound="bfloat16"), _step("M", M, bound="bfloat16"), _step("L", L, bound="bfloat16")],
        fresh=True,
    ),
    "matmul-bfloat16": Section(
        "Matrix products in bfloat16 (autotx rounds arrays of float32 and returns float32; torch's are in bfloat16)",
        (AUTOTX_BFLOAT16, AUTOTX, TORCH_BFLOAT16),
        [
            *_products("S mlp", 768, 128, 512, quick=True, **ROUNDED),
            *_products("M mlp", 4096, 384, 1536, **ROUNDED),
            *_products("M mlp", 4096, 1536, 384, **ROUNDED),
            *_products("L mlp", 1024, 768, 3072, **ROUNDED),
            *_products("square", 2048, 2048, 2048, **ROUNDED),
        ],
    ),
    "attention": Section(
        "Causal attention alone, forward and backward",
        (AUTOTX, TORCH, JAX),
        [
            _attention(12, 4, 64, 32, quick=True),
            _attention(16, 6, 256, 64, quick=True),
            _attention(4, 12, 1024, 64),
            _attention(1, 4, 4096, 64),
        ],
    ),
    "ops": Section(
        "Fused ops, forward and backward, and forward alone",
        (AUTOTX, TORCH),
        [
            *_op("layer_norm", 4096, 384),
            *_op("gelu", 4096, 1536),
            *_op("gelu_tanh", 4096, 1536),
            *_op("softmax", 8192, 256),
            *_op("cross_entropy", 4096, 65),
            *_op("cross_entropy", 1024, 50257),
            *_op("embedding", 50257, 768, 1024),
        ],
    ),
    "recurrent": Section(
        "Recurrent layers over whole sequences, forward and backward",
        (AUTOTX, TORCH),
        [
            _recurrent(name, *sizes, quick=sizes[1] == 28)
            for name in ("lstm", "gru", "rnn")
            for sizes in ((16, 28, 28, 64), (32, 50, 64, 128), (32, 100, 128, 256), (20, 35, 512, 512))
        ],
    ),
    "adamw": Section(
        "AdamW's step over all parameters", (AUTOTX, TORCH, TORCH_FUSED), [_adamw("S", S), _adamw("M", M)]
    ),
    "generate": Section(
        "Generation, one stream, greedy, with a key/value cache; the peers compute in float32",
        (AUTOTX, TORCH, TRANSFORMERS),
        [
            _generate("S", SMALL, 16, 48, quick=True),
            _generate("124M parameters", GPT2, 16, 32),
            _generate("124M in int8", GPT2, 16, 32, builder="generate_int8"),
        ],
        fresh=True,
    ),
    "models": Section(
        "SmolLM2-135M-Instruct, a model that pip brings, in its 4 bits (transformers and float32 make float32 of them)",
        (AUTOTX, FLOAT32, TRANSFORMERS, LLAMACPP),
        _smollm2(),
        fresh=True,
        model=smollm2.NAME,
    ),
    "scalar": Section(
        "A chain of operations on single numbers, forward and backward",
        (AUTOTX, TORCH, MICROGRAD),
        [Case("y = y * w + b, 500 times", "scalar_chain", {"pairs": 500}, 1000, "operations", quick=True)],
    ),
    "scaling": Section(
        "Training step of a small GPT (2 layers, 128 channels, 128 tokens, batch 4) as one size grows",
        (AUTOTX, TORCH),
        [
            *_scaling("T", "tokens", (128, 256, 512, 1024)),
            *_scaling("L", "layers", (2, 4, 8)),
            *_scaling("C", "channels", (128, 256, 512)),
        ],
    ),
    "threads": Section(
        "Training step on one thread (the ratio is what the others bring)",
        (AUTOTX, Contestant("autotx, 1 thread", "with_autotx", threads=1)),
        [_step("S", S, quick=True), _step("M", M)],
    ),
    "processes": Section(
        "Training step of two processes of one thread; of one process: all of it, on two threads or one, or half of it",
        (PROCESSES, *ALONE),
        [
            _step("S", S, builder="step_of_processes", quick=True),
            _step("M", M, builder="step_of_processes"),
            _gradient_sum("1 number", [(1,)], quick=True),
            _gradient_sum("S", parameter_shapes(**S)),
            _gradient_sum("M", parameter_shapes(**M)),
            _gradient_sum("L", parameter_shapes(**L)),
        ],
    ),
    "pools": Section(
        "Training step in a program that also uses another library's threads (the ratio should stay below 1.2)",
        (
            AUTOTX,
            Contestant("after BLAS", "with_autotx", builder="step_beside_blas"),
            Contestant("torch loaded", "with_autotx", preload=("torch",), needs="torch"),
        ),
        [_step("S", S, quick=True)],
    ),
}
