// The graph: where boxes and lines go, how they are drawn, and how one moves about in it.
//
// Ops stand in ranks from top to bottom, each below all that it is made of. A module is one box, or, opened, a frame
// around its own small graph, which is laid out in the same way.

const BOX = { padX: 12, line: 17, pad: 8, frame: 16, header: 28, gapX: 22, gapY: 30, bar: 5.5 };
const FONT = { title: "600 13px system-ui, sans-serif", small: "11px ui-monospace, monospace" };
const OPEN_AT_FIRST = 26; // boxes up to which modules are opened from the start
const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// What stands where

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

// Drawing

class Graph {
  // onOp(op): an op was chosen; onToggle(): a module was opened or closed
  constructor(element, ops, groups, { onOp, onToggle }) {
    Object.assign(this, { element, ops, groups, onOp, onToggle });
    this.open = new Set();
    this.opened = []; // the last ones that were opened from the start
    this.canvas = svg("g", { class: "canvas" });
    element.append(svg("defs", {}, marker("arrow"), marker("arrow-hot")), this.canvas);
    this.view = { x: 0, y: 0, scale: 1 };
    this.openAtFirst();
    this.draw();
    this.listen();
    new ResizeObserver(() => this.state && this.reveal(this.layout.visible(this.state.op))).observe(element);
  }

  // Level by level, as long as all modules of a level can be open and the graph stays small. Equal blocks stay folded.
  openAtFirst() {
    for (;;) {
      const layout = new Layout(this.ops, this.groups, this.open);
      const boxes = new Set(this.ops.map((_, i) => layout.visible(i)));
      const closed = [...boxes].filter((key) => key.startsWith("group")).map((key) => key.split(" ")[1]);
      const wanted = closed.filter((id) => !this.groups[id].fold);
      if (boxes.size > OPEN_AT_FIRST) this.opened.forEach((id) => this.open.delete(id));
      if (boxes.size > OPEN_AT_FIRST || !wanted.length) return;
      this.opened = wanted;
      wanted.forEach((id) => this.open.add(id));
    }
  }

  toggle(id) {
    if (!this.open.delete(id)) this.open.add(id);
    const holdsCurrent = this.layout.around(this.state.op).includes(id);
    this.draw();
    this.show(this.state);
    this.focus(`group ${id}`);
    this.reveal(holdsCurrent ? this.layout.visible(this.state.op) : `group ${id}`, true);
    this.onToggle();
  }

  // One box at a time is a stop of the Tab key; arrows lead to the others
  focus(key) {
    this.makeStop(key);
    this.boxes.get(key).focus({ preventScroll: true });
  }

  makeStop(key) {
    this.boxes.get(this.stop)?.setAttribute("tabindex", -1);
    this.boxes.get(key).setAttribute("tabindex", 0);
    this.stop = key;
  }

  draw() {
    this.layout = new Layout(this.ops, this.groups, this.open);
    this.boxes = new Map(); // key -> element
    this.places = new Map(); // key -> {x, y, width, height}
    this.paths = []; // {element, pairs}
    this.members = new Map(); // key -> the ops that it stands for
    this.ops.forEach((_, i) => {
      for (const key of [`op ${i}`, ...this.layout.around(i).map((id) => `group ${id}`)])
        this.members.set(key, [...(this.members.get(key) || []), i]);
    });
    this.canvas.replaceChildren();
    this.drawLevel(this.layout.top, 0, 0, BOX.gapY / 2);
  }

  // above: how far a line that comes in begins above the level
  drawLevel(level, x, y, above) {
    for (const line of level.lines) this.drawLine(line, x, y, above);
    for (const node of level.nodes) {
      if (node.port) continue;
      this.places.set(node.key, { x: x + node.x, y: y + node.y, width: node.width, height: node.height });
      const box = this.drawBox(node, x + node.x, y + node.y);
      this.boxes.set(node.key, box);
      this.canvas.append(box);
      if (node.inside) this.drawLevel(node.inside, x + node.x + node.shift, y + node.y + BOX.header, BOX.header);
    }
  }

  drawLine(line, x, y, above) {
    const points = [];
    line.chain.forEach((node, i) => {
      const last = i === line.chain.length - 1;
      const side = i === 0 ? "out" : "in";
      const middle = x + node.x + node.width / 2 + (node.bend || node.port ? 0 : portOffset(node, line.source, side));
      if (i > 0) points.push([middle, y + node.rowTop], [middle, y + (last ? node.y : node.rowBottom)]);
      else {
        const below = node.port ? -above : node.group && !node.inside ? BOX.bar : 0;
        points.push([middle, y + node.y + node.height + below], [middle, y + node.rowBottom]);
      }
      if (last && node.port) points.push([middle, y + node.rowBottom + BOX.frame]);
    });
    if (line.back) points.reverse();
    const ends = [line.chain[0], line.chain.at(-1)];
    if (line.back) ends.reverse();
    const atBox = ends.map((node) => !node.port && !node.inside); // else the line goes on, inside or outside of a frame
    const path = svg("path", { d: curve(points), class: `line${atBox[0] ? " begin" : ""}${atBox[1] ? " end" : ""}` });
    this.paths.push({ element: path, pairs: line.pairs });
    this.canvas.append(path);
  }

  drawBox(node, x, y) {
    const attributes = { transform: `translate(${x} ${y})`, tabindex: -1, role: "button" };
    const rect = svg("rect", { width: node.width, height: node.height, rx: node.group ? 10 : 4 });
    if (node.inside) return this.drawFrame(node, attributes, rect);
    const box = svg("g", { ...attributes, class: node.group ? "box closed" : "box" }, rect);
    if (node.group) {
      box.append(
        svg("rect", { class: "below", x: 5, y: node.height + BOX.bar - 3, width: node.width - 10, height: 3, rx: 1.5 }),
      );
      box.append(svg("rect", { class: "progress", x: 0, y: node.height - 3, width: 0, height: 3 }));
    }
    node.texts.forEach((text, i) =>
      box.append(label(text, node.width / 2, BOX.pad + (i + 0.74) * BOX.line, i ? "small" : "title")),
    );
    const name = node.texts.join(", ");
    box.setAttribute("aria-label", node.group ? `module ${name}, closed; press to open` : name);
    box.dataset.key = node.key;
    onPress(box, () => (node.group ? this.toggle(node.group) : this.onOp(node.op)));
    return box;
  }

  drawFrame(node, attributes, rect) {
    const name = this.groups[node.group].name;
    const frame = svg(
      "g",
      { ...attributes, class: "box frame", "aria-label": `module ${name}, open; press to close`, "data-key": node.key },
      rect,
    );
    const sign = label("–", 18, 18, "sign");
    frame.append(svg("circle", { cx: 18, cy: 14, r: 7 }), sign, label(name, 31, 18.5, "title start"));
    onPress(frame, () => this.toggle(node.group));
    return frame;
  }

  // What has happened, and what happens now. state: {op, direction, done: a function from an op to "", "f" or "b"}
  show(state) {
    this.state = state;
    const now = this.layout.visible(state.op);
    const around = new Set(this.layout.around(state.op).map((id) => `group ${id}`));
    const mark = state.direction === "forward" ? "f" : "b";
    for (const [key, box] of this.boxes) {
      const ops = this.members.get(key);
      const share = ops.filter((op) => state.done(op) === mark).length / ops.length;
      const frame = box.classList.contains("frame");
      const signs = { [state.direction]: !frame && share > 0, now: key === now, holds: frame && around.has(key) };
      this.markBox(box, Object.keys(signs).filter((sign) => signs[sign]), share);
    }
    for (const { element, pairs } of this.paths) {
      element.classList.toggle(
        "hot",
        pairs.some(([, d]) => d === state.op),
      );
    }
    if (!this.element.contains(document.activeElement)) this.makeStop(now);
    this.reveal(now);
  }

  // signs: the classes that a box has now. Most boxes stay as they were, and are not touched.
  markBox(box, signs, share) {
    const shown = `${signs} ${share}`;
    if (box.shown === shown) return;
    box.shown = shown;
    for (const sign of ["forward", "backward", "now", "holds"]) box.classList.toggle(sign, signs.includes(sign));
    const progress = box.querySelector(".progress");
    if (progress) progress.setAttribute("width", this.places.get(box.dataset.key).width * share);
    if (signs.includes("now")) box.setAttribute("aria-current", "step");
    else box.removeAttribute("aria-current");
  }

  // Moving about

  get size() {
    return { width: this.element.clientWidth || 1, height: this.element.clientHeight || 1 };
  }

  // Bring a box into view when it is not; of one that is too large, its upper end
  reveal(key, always = false) {
    const { width, height } = this.size;
    if (!this.fitted && width > 1) this.fit();
    const place = this.places.get(key);
    const { x, y, scale } = this.view;
    const [left, top] = [place.x * scale + x, place.y * scale + y];
    const [right, bottom] = [left + place.width * scale, top + place.height * scale];
    const margin = Math.min(48, height / 8);
    if (!always && left >= 0 && right <= width && top >= margin && bottom <= height - margin) return;
    const { width: w, height: h } = this.layout.top;
    this.view.x = within(width / 2 - (place.x + place.width / 2) * scale, width, w * scale);
    const middle = Math.min(place.height / 2, height / scale / 2 - 30);
    this.view.y = within(height / 2 - (place.y + middle) * scale, height, h * scale);
    this.move(true);
  }

  // As much of the graph as can still be read
  fit() {
    const { width, height } = this.size;
    const { width: w, height: h } = this.layout.top;
    const scale = clamp(Math.min((width - 32) / w, (height - 32) / h), Math.min(0.85, (width - 16) / 320), 1.15);
    this.view = { scale, x: (width - w * scale) / 2, y: Math.max(20, (height - h * scale) / 2) };
    this.fitted = true;
    this.move(true);
  }

  whole() {
    const { width, height } = this.size;
    const { width: w, height: h } = this.layout.top;
    const scale = Math.min((width - 24) / w, (height - 24) / h, 1.5);
    this.view = { scale, x: (width - w * scale) / 2, y: (height - h * scale) / 2 };
    this.move(true);
  }

  zoom(factor, x = this.size.width / 2, y = this.size.height / 2, smooth = true) {
    const scale = clamp(this.view.scale * factor, 0.05, 4);
    const by = scale / this.view.scale;
    this.view = { scale, x: x - (x - this.view.x) * by, y: y - (y - this.view.y) * by };
    this.move(smooth);
  }

  pan(dx, dy) {
    this.view.x += dx;
    this.view.y += dy;
    this.move(false);
  }

  move(smooth) {
    this.canvas.classList.toggle("smooth", smooth);
    this.canvas.style.transform = `translate(${this.view.x}px, ${this.view.y}px) scale(${this.view.scale})`;
  }

  // Up and down lead from box to box; drag to move, wheel or two fingers to zoom
  listen() {
    this.element.addEventListener("keydown", (event) => {
      const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
      const keys = [...this.boxes.keys()];
      const at = keys.findIndex((key) => this.boxes.get(key) === document.activeElement);
      if (!by || at < 0) return;
      event.preventDefault();
      event.stopPropagation();
      const key = keys[clamp(at + by, 0, keys.length - 1)];
      this.focus(key);
      this.reveal(key);
    });
    const pointers = new Map();
    const at = (event) => {
      const box = this.element.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    this.element.addEventListener("pointerdown", (event) => {
      pointers.set(event.pointerId, at(event));
      this.dragged = 0;
    });
    this.element.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      if (!before) return;
      const now = at(event);
      const other = [...pointers].find(([id]) => id !== event.pointerId);
      if (other) {
        const distance = ([x, y]) => Math.hypot(x - other[1][0], y - other[1][1]);
        this.zoom(
          distance(now) / Math.max(distance(before), 1),
          (now[0] + other[1][0]) / 2,
          (now[1] + other[1][1]) / 2,
          false,
        );
      } else {
        this.pan(now[0] - before[0], now[1] - before[1]);
      }
      this.dragged += Math.hypot(now[0] - before[0], now[1] - before[1]);
      if (this.dragged > 5 && !this.element.hasPointerCapture(event.pointerId))
        this.element.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, now);
    });
    for (const name of ["pointerup", "pointercancel"])
      this.element.addEventListener(name, (event) => pointers.delete(event.pointerId));
    this.element.addEventListener(
      "click",
      (event) => {
        if (this.dragged > 5) event.stopPropagation();
      },
      true,
    );
    this.element.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        this.zoom(Math.exp(-event.deltaY / 500), ...at(event), false);
      },
      { passive: false },
    );
  }
}

// Where a graph of `length` begins that should begin at `start`, so that no part of the view is empty without need
function within(start, view, length) {
  return length + 40 <= view ? (view - length) / 2 : clamp(start, view - length - 20, 20);
}

function marker(id) {
  const attributes = {
    id,
    viewBox: "0 0 8 8",
    refX: 7,
    refY: 4,
    markerWidth: 7,
    markerHeight: 7,
    orient: "auto-start-reverse",
    markerUnits: "userSpaceOnUse",
  };
  return svg("marker", attributes, svg("path", { d: "M0 0.5 L8 4 L0 7.5 Z" }));
}

function label(text, x, y, kind) {
  return svg("text", { x, y, class: kind }, text);
}

function onPress(element, action) {
  element.addEventListener("click", action);
  element.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    event.stopPropagation();
    action();
  });
}

// A line through points: straight down inside a row, a soft bend between rows
function curve(points) {
  let path = `M${points[0].map(round)}`;
  points.slice(1).forEach(([x, y], i) => {
    const [fromX, fromY] = points[i];
    if (x === fromX && y === fromY) return;
    const half = (fromY + y) / 2;
    path +=
      Math.abs(x - fromX) < 0.5
        ? `L${round(x)},${round(y)}`
        : `C${round(fromX)},${round(half)} ${round(x)},${round(half)} ${round(x)},${round(y)}`;
  });
  return path;
}

function round(x) {
  return Math.round(x * 10) / 10;
}
