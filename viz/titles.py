"""Where the title of an open module stands in its frame: at the left, or further right, where no edge crosses it.

Graphviz draws edges over titles. So a graph is laid out once to see where its edges run; the titles are moved, which
moves nothing else, and it is laid out again.
"""

import json
from itertools import pairwise

import numpy as np

from autotx.viz import dot

_AIR = 3  # points between a title and an edge


def shifts(source):
    """How far each title that an edge crosses is to be moved to the right: dict of cluster -> points, None for a title
    that has no room in its frame.

    source: a DOT text. Without a program to lay graphs out (a .dot file needs none) no title is moved.
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
    """The box of the label of a cluster or an edge: left, low, right, high in points; None when it has none."""
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
    """The boxes that the short pieces of an edge lie in, and that of its label: (left, right, low, high)."""
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
    """Points on the curve of four control points (4, 2), from end to end."""
    t = np.linspace(0, 1, pieces + 1)[:, None]
    weights = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3
    return sum(w * p for w, p in zip(weights, points))


def _free(left, width, end, blocked):
    """The first place from `left` to `end` where nothing is in the way of so wide a text; None when there is none."""
    for place in sorted([left, *(b + _AIR for _, b in blocked if b + _AIR > left)]):
        if place + width <= end and all(b + _AIR <= place or place + width + _AIR <= a for a, b in blocked):
            return place
    return None
