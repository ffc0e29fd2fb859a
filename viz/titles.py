"""The horizontal position of the title of an open module in its frame, such that no edge crosses the title.

Graphviz draws edges over titles. Therefore a graph is laid out once to find its edges; then the titles that edges cross
are shifted to the right, which moves nothing else, and the graph is laid out again.
"""

import json
from itertools import pairwise

import numpy as np

from autotx.viz import dot

_AIR = 3  # the least distance between a title and an edge, in points


def shifts(source):
    """The shift to the right of each title that an edge crosses: dict of cluster -> points, None for a title that does
    not fit into its frame.

    source: a DOT text. Without a program to lay graphs out (a .dot file needs none) there are no shifts.
    """
    try:
        laid = json.loads(dot.lay_out(source, "json"))
    except ValueError:
        return {}
    crossings = [crossing for edge in laid.get("edges", ()) for crossing in _crossings(edge)]
    found = {}
    for cluster in laid.get("objects", ()):
        text = _text(cluster)
        if cluster["name"].startswith("cluster_") and text:
            left, low, right, high = text
            blocked = [(a, b) for a, b, bottom, top in crossings if bottom <= high and low <= top]
            place = _free(left, right - left, float(cluster["bb"].split(",")[2]), blocked)
            if place != left:
                found[cluster["name"]] = place and place - left
    return found


def _text(drawn):
    """The box of the label of a cluster or an edge: left, low, right, high in points; None if it has no label."""
    ops = drawn.get("_ldraw_", ())
    size = max((op["size"] for op in ops if op["op"] == "F"), default=0)
    words = [op for op in ops if op["op"] == "T" and op["text"].strip()]
    if not words:
        return None
    ends = []
    for op in words:
        x, y = op["pt"]
        left = x - op["width"] * {"l": 0, "c": 0.5, "r": 1}[op["align"]]
        ends.append((left, y - 0.25 * size, left + op["width"], y + 0.8 * size))
    lefts, lows, rights, highs = zip(*ends)
    return min(lefts), min(lows), max(rights), max(highs)


def _crossings(edge):
    """The boxes around short pieces of an edge and around its label: (left, right, low, high) in points."""
    for op in edge.get("_draw_", ()):
        if op["op"] == "b":
            points = np.array(op["points"])
            for i in range(0, len(points) - 1, 3):
                for (x, y), (x2, y2) in pairwise(_bezier(points[i : i + 4])):
                    yield min(x, x2), max(x, x2), min(y, y2), max(y, y2)
    label = _text(edge)
    if label:
        left, low, right, high = label
        yield left, right, low, high


def _bezier(points, pieces=24):
    """Points on a cubic Bézier curve, from end to end: (pieces + 1, 2). points: its four control points (4, 2)."""
    t = np.linspace(0, 1, pieces + 1)[:, None]
    weights = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3
    return np.sum([w * p for w, p in zip(weights, points)], axis=0)


def _free(left, width, end, blocked):
    """The first position from `left` on at which a text of this width ends before `end` and is clear of `blocked`, a
    list of intervals; None if there is none."""
    for place in sorted([left, *(b + _AIR for _, b in blocked if b + _AIR > left)]):
        if place + width <= end and all(b + _AIR <= place or place + width + _AIR <= a for a, b in blocked):
            return place
    return None
