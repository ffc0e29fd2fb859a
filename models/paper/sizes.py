"""Parameters and multiplications of a model of any size, by formula; those of a graph, counted; its longest path.

The case complexity.formulas_hold compares the formulas with counts of small models.
"""

from autotx.viz.trace import trace


def gpt_parameters(layers, width, vocabulary, context):
    """Parameters of autotx.models.GPT: a block has 12 C^2 + 13 C, the tables V C + T C, the last layer norm 2 C."""
    return layers * (12 * width**2 + 13 * width) + (vocabulary + context + 2) * width


def transformer_parameters(layers, width, vocabulary):
    """Parameters of autotx.models.Transformer, with one table for source, target and output.

    layers: of the encoder, and of the decoder, whose blocks have a second attention, 4 C^2 + 4 C, and layer norm, 2 C.
    """
    encoder = 12 * width**2 + 13 * width
    return layers * (2 * encoder + 4 * width**2 + 6 * width) + vocabulary * width


def gpt_multiplications(layers, width, tokens):
    """Multiplications in a GPT's blocks for one text: (by weights, 12 n d^2 a layer; of pairs of tokens, 2 n^2 d)."""
    return layers * 12 * tokens * width**2, layers * 2 * tokens**2 * width


def counted_multiplications(result):
    """Multiplications of the matrix products in the graph of a Tensor: (by weights, of pairs of tokens)."""
    by_weights = of_pairs = 0
    nodes = trace(result).nodes
    for node in nodes:
        given = [nodes[a.node] for a in node.parents if a.position is not None]
        if node.op in ("linear", "matmul"):
            by_weights += node.value.size * given[0].shape[-1]
        if node.op in ("scaled_dot_product_attention", "multi_head_attention"):
            of_pairs += 2 * node.value.size * given[-1].shape[-2]  # Q K^T and P V, with equally many channels
    return by_weights, of_pairs


def longest_path(result):
    """The number of ops on the longest path from a leaf to `result` in its graph."""
    depth = {}
    for node in trace(result).nodes:  # each op stands after its arguments
        depth[node.id] = (node.op is not None) + max((depth[a.node] for a in node.parents), default=0)
    return max(depth.values())
