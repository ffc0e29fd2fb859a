// Where the boxes and lines of the graph go.
//
// Ops stand in ranks from top to bottom, each below all that it is made of. A module is one box, or, opened, a frame
// around its own small graph, which is laid out in the same way.

const BOX = { padX: 12, line: 17, pad: 8, frame: 16, header: 28, gapX: 22, gapY: 30, bar: 5.5 };
const FONT = { title: "600 13px system-ui, sans-serif", small: "11px ui-monospace, monospace" };

class Layout {
  // ops: [{group, sources, texts}], groups: id -> {parent, name}, open: a Set of group ids (strings)
  constructor(ops, groups, open) {
    Object.assign(this, { ops, groups, open });
    this.pen = document.createElement("canvas").getContext("2d");
    this.top = this.level("0");
  }

  // The ids of the modules around an op, from the inside out, "0" last
  around(op) {
    const found = [];
    for (let id = String(this.ops[op].group); id !== "0"; id = String(this.groups[id].parent)) found.push(id);
    return [...found, "0"];
  }

  // The box that stands for an op inside a module: the op itself or one of the module's own modules; null if outside
  boxOf(op, parent) {
    const around = this.around(op);
    const depth = around.indexOf(parent);
    if (depth < 0) return null;
    return depth === 0 ? `op ${op}` : `group ${around[depth - 1]}`;
  }

  // The visible box of an op: the outermost module around it that is closed, or itself
  visible(op) {
    const closed = this.around(op)
      .slice(0, -1)
      .reverse()
      .find((id) => !this.open.has(id));
    return closed === undefined ? `op ${op}` : `group ${closed}`;
  }

  // The graph inside one module: {width, height, nodes, lines}
  level(parent) {
    const nodes = new Map();
    const edges = new Map();
    this.ops.forEach((op, i) => {
      const key = this.boxOf(i, parent);
      if (key && !nodes.has(key)) nodes.set(key, this.box(key, i));
    });
    this.ops.forEach((op, d) => {
      for (const s of op.sources) {
        const [a, b] = [this.boxOf(s, parent), this.boxOf(d, parent)];
        if ((a === null && b === null) || a === b) continue;
        const from = a || this.port(nodes, `in ${s}`);
        const to = b || this.port(nodes, `out ${s}`);
        const key = `${from}|${to}|${s}`;
        if (!edges.has(key)) edges.set(key, { from, to, source: s, pairs: [] });
        edges.get(key).pairs.push([s, d]);
      }
    });
    return arrange(nodes, [...edges.values()]);
  }

  port(nodes, key) {
    if (!nodes.has(key)) nodes.set(key, { key, width: 10, height: 0, port: true });
    return key;
  }

  box(key, op) {
    const [kind, id] = key.split(" ");
    if (kind === "op") return { key, op, ...this.measured(this.ops[op].texts) };
    const name = this.groups[id].name;
    if (!this.open.has(id)) return { key, group: id, ...this.measured(this.closedTexts(id)) };
    const inside = this.level(id);
    const label = this.width(name, FONT.title) + 40;
    const ports = inside.nodes.filter((node) => node.key.startsWith("in "));
    const leftmost = Math.min(Infinity, ...ports.map((node) => node.x + node.width / 2));
    // The name stays clear of the lines that come in
    const shift = BOX.frame + Math.max(0, label - leftmost - BOX.frame);
    const width = Math.max(shift + inside.width + BOX.frame, label + BOX.frame);
    return { key, group: id, inside, shift, width, height: BOX.header + inside.height + BOX.frame };
  }

  closedTexts(id) {
    const count = this.ops.filter((_, i) => this.around(i).includes(id)).length;
    return [this.groups[id].name, `${this.groups[id].module} · ${count} ops`];
  }

  measured(texts) {
    const widths = texts.map((text, i) => this.width(text, i ? FONT.small : FONT.title));
    return { texts, width: Math.max(64, ...widths) + 2 * BOX.padX, height: texts.length * BOX.line + 2 * BOX.pad };
  }

  width(text, font) {
    this.pen.font = font;
    return this.pen.measureText(text).width;
  }
}

// Ranks, order and places for the nodes of one level
function arrange(nodes, edges) {
  const order = new Map(
    [...nodes.keys()].map((key, i) => [key, key.startsWith("in ") ? -1 : key.startsWith("out ") ? Infinity : i]),
  );
  for (const edge of edges) {
    edge.back = order.get(edge.from) > order.get(edge.to); // a module that is used again: drawn upwards
    [edge.above, edge.below] = edge.back ? [edge.to, edge.from] : [edge.from, edge.to];
  }
  const ranks = rank(nodes, edges, order);
  const rows = [];
  for (const node of nodes.values()) (rows[ranks.get(node.key)] ||= []).push(node);
  for (const edge of edges) edge.chain = chainOf(edge, nodes, ranks, rows);
  const links = edges.flatMap((edge) =>
    edge.chain.slice(1).map((below, i) => ({ above: edge.chain[i], below, source: edge.source })),
  );
  for (const node of rows.flat()) Object.assign(node, { up: [], down: [], x: 0 });
  for (const link of links) {
    link.above.down.push(link);
    link.below.up.push(link);
  }
  for (let sweep = 0; sweep < 6; sweep++) orderRows(rows, sweep % 2 === 0);
  placeRows(rows);
  return { ...stack(rows), nodes: [...nodes.values()], lines: edges };
}

// The rank of a node: one below the lowest of those it depends on. What depends on nothing moves down to its use.
function rank(nodes, edges, order) {
  const ranks = new Map();
  const sorted = [...nodes.keys()].sort((a, b) => order.get(a) - order.get(b));
  const [into, outOf] = [new Map(), new Map()];
  for (const edge of edges) {
    into.set(edge.below, [...(into.get(edge.below) || []), edge.above]);
    outOf.set(edge.above, [...(outOf.get(edge.above) || []), edge.below]);
  }
  const base = sorted.some((key) => key.startsWith("in ")) ? 1 : 0;
  for (const key of sorted) {
    const above = (into.get(key) || []).map((k) => (ranks.get(k) ?? -1) + 1);
    ranks.set(key, key.startsWith("in ") ? 0 : Math.max(base, ...above));
  }
  const last = Math.max(...ranks.values());
  for (const key of sorted) {
    const below = (outOf.get(key) || []).map((k) => ranks.get(k));
    if (key.startsWith("out "))
      ranks.set(key, Math.max(1, ...sorted.filter((k) => !k.startsWith("out ")).map((k) => ranks.get(k) + 1), last));
    else if (!into.has(key) && !key.startsWith("in ") && below.length)
      ranks.set(key, Math.max(base, Math.min(...below) - 1));
  }
  return ranks;
}

// The nodes that a line passes, a bend in every rank between its ends
function chainOf(edge, nodes, ranks, rows) {
  const chain = [nodes.get(edge.above)];
  for (let r = ranks.get(edge.above) + 1; r < ranks.get(edge.below); r++) {
    const bend = { key: `bend ${edge.from} ${edge.to} ${edge.source} ${r}`, width: 14, height: 0, bend: true };
    rows[r].push(bend);
    chain.push(bend);
  }
  return [...chain, nodes.get(edge.below)];
}

// Put each row in the order of the mean place of its neighbours in the row before (or after)
function orderRows(rows, downwards) {
  for (const row of rows) row.forEach((node, i) => (node.place = i));
  for (const row of downwards ? rows : [...rows].reverse()) {
    const wish = new Map(
      row.map((node) => {
        const others = downwards ? node.up.map((l) => l.above) : node.down.map((l) => l.below);
        return [node, others.length ? others.reduce((sum, other) => sum + other.place, 0) / others.length : node.place];
      }),
    );
    row.sort((a, b) => wish.get(a) - wish.get(b));
    row.forEach((node, i) => (node.place = i));
  }
}

// Where on a node a line of the op `source` begins or ends, from its middle: at a port of an opened module
function portOffset(node, source, side) {
  const port = node.inside && node.inside.nodes.find((n) => n.key === `${side} ${source}`);
  return port ? node.shift + port.x + port.width / 2 - node.width / 2 : 0;
}

function placeRows(rows) {
  for (const row of rows) {
    let x = 0;
    for (const node of row) {
      node.x = x;
      x += node.width + BOX.gapX;
    }
  }
  for (let sweep = 0; sweep < 11; sweep++) {
    const downwards = sweep % 2 === 0;
    for (const row of downwards ? rows : [...rows].reverse()) settle(row, downwards ? "up" : "down");
  }
  const left = Math.min(...rows.flat().map((node) => node.x));
  for (const node of rows.flat()) node.x -= left;
}

// Move the nodes of a row to where their lines (to the row above, or below) are straight, as far as their order and the
// gaps allow. Nodes that want the same place share it: blocks that meet are joined and move to the mean of what their
// members want.
function settle(row, side) {
  const blocks = [];
  let taken = 0; // the width of all nodes before, with gaps
  for (const node of row) {
    const pulls = node[side].map((link) => {
      const other = link.above === node ? link.below : link.above;
      const [own, far] = link.above === node ? ["out", "in"] : ["in", "out"];
      const place =
        other.x + other.width / 2 + portOffset(other, link.source, far) - portOffset(node, link.source, own);
      return [place, other.bend && !node.bend ? 0.1 : 1]; // a box follows boxes, so that their lines are straight
    });
    const pull = pulls.reduce((sum, [, strength]) => sum + strength, 0);
    const middle = pull
      ? pulls.reduce((sum, [place, strength]) => sum + place * strength, 0) / pull
      : node.x + node.width / 2;
    const weight = node.bend ? 4 : 1;
    blocks.push({ want: middle - node.width / 2 - taken, weight, members: [[node, taken]] });
    taken += node.width + BOX.gapX;
    while (blocks.length > 1 && blocks[blocks.length - 2].want > blocks[blocks.length - 1].want) {
      const [b, a] = [blocks.pop(), blocks.pop()];
      const total = a.weight + b.weight;
      const want = (a.want * a.weight + b.want * b.weight) / total;
      blocks.push({ want, weight: total, members: [...a.members, ...b.members] });
    }
  }
  for (const block of blocks) for (const [node, before] of block.members) node.x = block.want + before;
}

// Rows below each other; every node in the middle of its row
function stack(rows) {
  let y = 0;
  for (const row of rows) {
    const height = Math.max(...row.map((node) => node.height));
    for (const node of row)
      Object.assign(node, { y: y + (height - node.height) / 2, rowTop: y, rowBottom: y + height });
    y += height + BOX.gapY;
  }
  return { width: Math.max(...rows.flat().map((node) => node.x + node.width)), height: y - BOX.gapY };
}
