"""Chooses the nodes of a graph to show: closes modules to one box, folds equal blocks in a row, limits the number."""

from dataclasses import dataclass, field


@dataclass
class Item:
    """A node of the picture: a node of the trace, a closed group, or all nodes left out because of max_nodes."""

    kind: str  # "node", "group", "rest"
    id: int  # of the node or the group; -1 for the rest
    group: int  # the open group that contains it
    nodes: list[int] = field(default_factory=list)  # the ids of its nodes; of equal blocks, those of the first block


@dataclass
class Run:
    """Equal blocks, each with results of the previous block as inputs. The first block is drawn for all."""

    members: list[int]  # group ids


@dataclass
class View:
    """items: dict of key, such as ("node", 3), -> Item; edges: an ordered set, as dict keys (source key, target key, id
    of the node whose value is passed, argument's name, id of the op); runs: dict of a Run's first group -> Run; open:
    ids of open groups; root: the key of the item that shows the last node; notes: sentences about what was folded."""

    items: dict
    edges: dict
    runs: dict
    open: set
    root: tuple
    notes: list


def view(trace, depth=None, expand=(), max_nodes=60, comfortable=30):
    """The View of a Trace.

    depth: the number of levels of modules that are open; None: as many as give at most `comfortable` items, with equal
    blocks closed. expand: paths of further groups to open, "blocks.0"; "blocks" opens the block drawn for all.
    max_nodes: if there are more items, fewer levels are opened; if still more, the middle is left out.
    ValueError: an unknown path, depth < 0, max_nodes < 3.
    """
    if max_nodes < 3:
        raise ValueError(f"graph: max_nodes is {max_nodes}; give 3 (a beginning, what is left out, an end) or more")
    if depth is not None and depth < 0:
        raise ValueError(f"graph: depth is {depth}; give 0 (every module closed) or more")
    folding = _Folding(trace, expand)
    levels = max(folding.level)
    if depth is None:
        deepest = next((d for d in range(levels, 1, -1) if len(folding.view(d, True).items) <= comfortable), 1)
        shown = folding.view(deepest, automatic=True)
    else:
        deepest = min(depth, levels)
        shown = folding.view(deepest, automatic=False)
    wanted = len(shown.items)
    while len(shown.items) > max_nodes and deepest > 0:
        deepest -= 1
        shown = folding.view(deepest, automatic=False)
    if len(shown.items) < wanted:
        shown.notes.append(f"folded to {deepest} levels of modules: {wanted} nodes are more than max_nodes={max_nodes}")
    if len(shown.items) > max_nodes:
        _leave_out(shown, max_nodes)
    return shown


def runs(trace):
    """The runs of equal blocks, each with results of the previous block as inputs: a list of lists of group ids."""
    return [run.members for run in _Folding(trace, ()).runs.values()]


class _Folding:
    def __init__(self, trace, expand):
        self.trace, self.groups = trace, trace.groups
        self.level = [0] * len(self.groups)
        for group in self.groups[1:]:
            self.level[group.id] = self.level[group.parent] + 1
        self.within = _nodes_within(trace)
        self.used = {a.node for n in trace.nodes for a in n.parents}
        self.opened, split = self._expanded(expand)
        self.runs = {}
        self.first_of = {}  # a later member of a run -> (the first member, the index of the later one)
        for group in self.groups:
            self._find_runs(group, split)
        self._find_canonical()

    # The paths in `expand`

    def _expanded(self, expand):
        """The ids of the groups to open, and the ids of groups that must not be folded with equal groups."""
        by_path = {}
        for group in self.groups[1:]:
            by_path.setdefault(group.path.partition("#")[0], []).append(group)
        opened, split = set(), set()
        for path in [expand] if isinstance(expand, str) else expand:
            many = [g for p, gs in by_path.items() if p.rpartition(".")[0] == path for g in gs]
            found = by_path.get(path) or [g for g in self.groups[1:] if g.path == path]
            if not found and not many:
                names = list(dict.fromkeys(by_path))
                more = f" and {len(names) - 30} more" if len(names) > 30 else ""
                there = f"there are {', '.join(names[:30])}{more}" if names else "the graph has no modules"
                raise ValueError(f"graph: there is no group {path!r} to expand; {there}")
            for group in found or many:
                while group.id:
                    opened.add(group.id)
                    if found:
                        split.add(group.id)
                    group = self.groups[group.parent]
        return opened, split

    # Equal blocks

    def _find_runs(self, group, split):
        signatures = {}
        run = []
        for child in [*group.children, None]:
            if child is not None and child not in split:
                signatures[child] = self._signature(child)
                if run and signatures[run[-1]] == signatures[child] and self._feeds(run[-1], child):
                    run.append(child)
                    continue
            if len(run) > 1:
                self.runs[run[0]] = Run(run)
                for place, member in enumerate(run):
                    self.first_of[member] = (run[0], place)
            run = [child] if child is not None and child not in split else []

    def _signature(self, group):
        """A str that is equal for two calls of modules with the same ops, settings and shapes."""
        nodes = self.within[group]
        place = {n: i for i, n in enumerate(nodes)}
        parts = [self.groups[group].module]
        for n in nodes:
            node = self.trace.nodes[n]
            settings = [(k, v) for k, v in node.settings.items() if isinstance(v, int | float | str | tuple)]
            arguments = [(a.name, place.get(a.node)) for a in node.parents]
            parts.append((node.kind, node.op, node.shape, node.dtype.str, arguments, settings))
        return repr(parts)

    def _feeds(self, first, second):
        inside = set(self.within[first])
        return any(a.node in inside for n in self.within[second] for a in self.trace.nodes[n].parents)

    def _find_canonical(self):
        """Find for each node the node drawn for it, and its places: (first group of a run, index of the block)."""
        self.canonical = list(range(len(self.trace.nodes)))
        self.places = [() for _ in self.trace.nodes]
        for group in reversed(self.groups):  # inner runs first
            if group.id in self.first_of:
                first, place = self.first_of[group.id]
                for mine, other in zip(self.within[group.id], self.within[first]):
                    self.canonical[mine] = other
                    self.places[mine] += ((first, place),)
        for n, other in enumerate(self.canonical):
            while self.canonical[other] != other:
                other = self.canonical[other]
            self.canonical[n] = other

    # The view

    def view(self, depth, automatic):
        """The View with `depth` levels open; automatic: folded blocks stay closed."""
        shown = {0}
        for group in self.groups[1:]:
            folded = automatic and group.id in self.runs
            wanted = group.id in self.opened or (self.level[group.id] <= depth and not folded)
            if wanted and group.parent in shown:
                shown.add(group.id)
        items, key_of = {}, {}
        for n in dict.fromkeys(self.canonical):
            node = self.trace.nodes[n]
            if node.kind != "constant" or n not in self.used:
                key_of[n] = self._item(items, node, shown)
        edges = {}
        for op in self.trace.nodes:
            for argument in op.parents:
                self._edge(edges, key_of, op, argument)
        return View(items, edges, self.runs, shown, key_of[self.canonical[self.trace.root]], [])

    def _item(self, items, node, shown):
        """Add a node to its item, which is made if it is new. Returns the key of the item."""
        closed = [g for g in self.trace.above(node.group) if g not in shown]
        if closed and node.kind == "input" and closed[-1] not in self.runs:
            key, group = ("node", node.id), self.groups[closed[-1]].parent  # inputs of a closed group are shown
        elif closed:
            key, group = ("group", closed[-1]), self.groups[closed[-1]].parent
        else:
            key, group = ("node", node.id), node.group
        items.setdefault(key, Item(*key, group)).nodes.append(node.id)
        return key

    def _edge(self, edges, key_of, op, argument):
        source = key_of.get(self.canonical[argument.node])
        target = key_of[self.canonical[op.id]]
        if source is None or source == target:
            return
        at = dict(self.places[op.id])
        if any(at.get(run, place) != place for run, place in self.places[argument.node]):
            return  # an edge from one folded block to the next
        edges[source, target, self.canonical[argument.node], argument.name, self.canonical[op.id]] = None


def _nodes_within(trace):
    """For each group the ids of all nodes in it, in order."""
    within = [[] for _ in trace.groups]
    for node in trace.nodes:
        for group in trace.above(node.group):
            within[group].append(node.id)
    return within


def _leave_out(shown, max_nodes):
    """Keep the beginning and the end, and replace the middle by one item."""
    keys = list(shown.items)
    head = (max_nodes - 1) // 2
    tail = max_nodes - 1 - head
    middle = keys[head : len(keys) - tail]
    rest = Item("rest", -1, 0, [n for key in middle for n in shown.items[key].nodes])
    why = f"{len(keys)} are more than max_nodes={max_nodes}"
    shown.notes.append(f"{len(middle)} nodes in the middle are not shown: {why}")
    gone = dict.fromkeys(middle, ("rest", -1))
    items = {}
    for key in keys:
        items.setdefault(gone.get(key, key), rest if key in gone else shown.items[key])
    edges = {}
    for source, target, value, name, op in shown.edges:
        source, target = gone.get(source, source), gone.get(target, target)
        if source != target:
            edges[source, target, value, name, op] = None
    shown.items, shown.edges, shown.root = items, edges, gone.get(shown.root, shown.root)
