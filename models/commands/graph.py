"""`autotx graph`: draw the graph of a model's loss, or of a single op."""

from pathlib import Path

import numpy as np

import autotx
from autotx import viz
from autotx.files import checked_path
from autotx.models.formats import KNOWN, format_of, located, open_model
from autotx.models.mlp import MLP
from autotx.models.registry import ARCHITECTURES, TASKS, that_have
from autotx.tensor import Tensor
from autotx.viz import dot, ops

EXAMPLES = (
    "autotx graph --model runs/book --expand blocks --out graph.svg",
    "autotx graph --op layer_norm --out op.svg",
)


def add_arguments(parser):
    parser.add_argument(
        "--model",
        metavar="WHAT",
        default="gpt",
        help="gpt (GPT-2 small), llama (SmolLM2-135M), transformer (the paper's base model), mlp (the XOR network); or "
        f"{KNOWN} (default: %(default)s)",
    )
    parser.add_argument("--op", metavar="NAME", help="draw a single op instead, with its formulas and a small example")
    parser.add_argument("--out", metavar="FILE", default="graph.svg", help=".svg, .png, .dot or .pdf (%(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write nodes, edges, groups and shapes to this file as well")
    parser.add_argument("--depth", type=int, metavar="N", help="how many levels of modules to open (default: as fits)")
    parser.add_argument(
        "--expand",
        nargs="+",
        action="extend",
        default=[],
        metavar="MODULE",
        help="modules to open besides: blocks.0 blocks.0.attn; `blocks` opens the one that stands for all",
    )
    parser.add_argument(
        "--fused",
        nargs="+",
        action="extend",
        default=[],
        metavar="OP",
        help=f"ops to open into the simpler ones they are made of: {', '.join(ops.COMPOSED)}",
    )
    parser.add_argument("--values", action="store_true", help="show values, or their mean, deviation and range")
    parser.add_argument("--grads", action="store_true", help="show gradients likewise")
    parser.add_argument("--max-nodes", type=int, metavar="N", default=60, help="fold what has more (%(default)s)")


def outputs(args):
    return {"--out": (args.out, dot.checked_path), "--json": (args.json, checked_path)}


def run(args):
    """Write the picture and say where. Returns the exit status."""
    settings = {"depth": args.depth, "expand": args.expand, "fused": args.fused, "max_nodes": args.max_nodes}
    if args.op:
        if args.op not in ops.OPS:
            raise ValueError(f"--op {args.op}: there is no such op; there are {', '.join(ops.OPS)}")
        tensor, grads = ops.example(args.op)
        settings |= {"values": True, "grads": grads, "formulas": True, "max_nodes": 60}
    else:
        weights = args.values or args.grads
        tensor = loss_of(args.model, np.random.default_rng(0) if weights else None)
        settings |= {"values": args.values or None, "grads": args.grads or None}
    viz.render(tensor, args.out, **settings)
    print(f"Drawn to {args.out}")
    if args.json:
        viz.write_json(tensor, args.json)
        print(f"Nodes, edges and groups are in {args.json}")
    return 0


def loss_of(model, rng):
    """The loss of a model on one short example, with its graph. model: a name, or the path of a trained model.
    rng: draws the weights of a named model; None leaves them zero, which is faster and gives the same graph."""
    published = {a.name: a for a in ARCHITECTURES.values() if a.published}
    if model in published:
        architecture = published[model]
        return TASKS[architecture.learns].example_loss(architecture.model(architecture.published, rng))
    if model == "mlp":
        x = Tensor([[0, 0], [0, 1], [1, 0], [1, 1]], name="x", dtype=np.float32)
        y = Tensor([[0], [1], [1], [0]], name="y", dtype=np.float32)
        return autotx.mse_loss(MLP((2, 4, 1), "tanh", rng=rng or np.random.default_rng(0))(x), y)
    if not (Path(model).is_dir() or format_of(located(model))):
        known = ", ".join([*published, "mlp"])
        raise ValueError(f"--model {model}: there is no such folder; give {known} or {KNOWN}")
    opened = open_model(model)
    if not opened.task.example_loss:
        wanted = that_have(lambda architecture, task: task.example_loss)
        raise ValueError(f"--model {model} holds a {opened.kind}; {wanted} can be drawn")
    return opened.task.example_loss(opened.model)
