// The graph: how it is drawn, and how one moves about in it. page_layout.js says where everything stands.

const OPEN_AT_FIRST = 26; // boxes up to which modules are opened from the start
const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

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
