// Arrays: how one is read from the page, and how it is shown, as a table when it is small and as a heat map when not.
//
// A large array is kept in part: along an axis, every keep[axis]-th place. Its numbers then have half precision
// (3 digits). Its statistics were computed from all of it, in full precision.

const BYTES = { f2: 2, f4: 4, f8: 8, i4: 4 };
const DIGITS = { f2: 3, f4: 5, f8: 6, i4: 10 }; // significant digits that are shown
const TABLE = { columns: 10, cells: 160, panels: 8 }; // what is larger becomes a heat map
const HEAT = { panels: 16, width: 560, height: 300, cell: 16 };
const MINUS = "\u2212";

class Kept {
  // record: {shape, dtype, kind, offset, keep, scale, mean, std, min, max, bad}; numbers: the page's ArrayBuffer
  constructor(record, numbers) {
    Object.assign(this, record);
    this.numbers = numbers;
    this.whole = this.keep.every((k) => k === 1);
    this.keptShape = this.shape.map((n, axis) => Math.ceil(n / this.keep[axis]));
    this.size = product(this.shape);
    this.digits = DIGITS[this.kind];
  }

  get values() {
    const count = product(this.keptShape);
    const bytes = this.numbers.slice(this.offset, this.offset + count * BYTES[this.kind]);
    const read = { f4: Float32Array, f8: Float64Array, i4: Int32Array, f2: Uint16Array }[this.kind];
    let values = new read(bytes);
    if (this.kind === "f2") values = Float32Array.from(values, (bits) => fromHalf(bits) * this.scale);
    Object.defineProperty(this, "values", { value: values }); // decoded once
    return values;
  }

  keeps(index) {
    return index.every((i, axis) => i % this.keep[axis] === 0);
  }

  // The number at an index; null when the page does not keep it
  at(index) {
    return this.keeps(index)
      ? this.values[
          flatIndex(
            index.map((i, axis) => i / this.keep[axis]),
            this.keptShape,
          )
        ]
      : null;
  }

  // The indices of the kept numbers of largest size: what is worth looking at first
  largest(count) {
    const order = [...this.values.keys()].sort((a, b) => Math.abs(this.values[b]) - Math.abs(this.values[a]));
    return order.slice(0, count).map((flat) => unflatten(flat, this.keptShape).map((i, axis) => i * this.keep[axis]));
  }
}

function product(sizes) {
  return sizes.reduce((a, b) => a * b, 1);
}

function flatIndex(index, shape) {
  return index.reduce((flat, i, axis) => flat * shape[axis] + i, 0);
}

function unflatten(flat, shape) {
  const index = [];
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    index.unshift(flat % shape[axis]);
    flat = Math.floor(flat / shape[axis]);
  }
  return index;
}

function fromHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

// Words for numbers, indices and shapes

function formatNumber(value, digits = 4) {
  if (value === null || value === undefined) return "?";
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : value > 0 ? "∞" : MINUS + "∞";
  const size = Math.abs(value);
  let text;
  if (Number.isInteger(value) && size < 1e7) text = String(size);
  else if (size < 1e-4 || size >= 1e7) text = size.toExponential(Math.min(digits, 5) - 1).replace(/\.?0+e/, "e");
  else
    text = size
      .toPrecision(digits)
      .replace(/(\.\d*?)0+$/, "$1")
      .replace(/\.$/, "");
  if (text.includes("e")) text = text.replace("e+", "e").replace("e-", "e" + MINUS);
  return value < 0 ? MINUS + text : text;
}

function formatIndex(index) {
  return index.length ? `[${index.join(", ")}]` : "";
}

function formatShape(shape) {
  if (shape.length < 2) return shape.length ? `${shape[0]} number${shape[0] === 1 ? "" : "s"}` : "one number";
  return shape.join("×");
}

// A small helper: an element with attributes and children. Text goes in as text, so no name can become markup.
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false)
      node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

// An array on the page. pick(index) chooses an element, mark(indices) frames those that a sum was made of.
class ArrayView {
  constructor(array, { name, note = "", onPick = null }) {
    Object.assign(this, { array, name, onPick, picked: null, marked: [] });
    this.reading = el("output", { class: "reading", "aria-live": "polite" });
    this.panels = panelsOf(array);
    this.isTable = this.panels.isTable;
    this.body = this.isTable ? this.makeTables() : this.makeHeatMap();
    const title = el(
      "figcaption",
      {},
      el("b", {}, name),
      ` ${formatShape(array.shape)} ${array.dtype}`,
      note ? el("i", {}, note) : "",
    );
    this.element = el("figure", { class: onPick ? "array target" : "array", "data-name": name }, title, this.body);
    if (!this.isTable) this.element.append(this.makeLegend());
    if (array.size > 1) this.element.append(statistics(array));
    this.element.append(this.reading);
  }

  // grid: how far apart elements are that can be picked, along each axis
  snapped(index) {
    return index.map((i, axis) => i - (i % (this.grid || this.array.keep)[axis]));
  }

  unpick() {
    this.picked = null;
    this.reading.textContent = "";
    this.mark([]);
  }

  pick(index, tell = true) {
    this.picked = index = this.snapped(index);
    const value = this.array.at(index);
    const digits = { f2: 3, f4: 8, f8: 12, i4: 10 }[this.array.kind];
    this.reading.textContent = this.array.size > 1 ? `${formatIndex(index)} = ${formatNumber(value, digits)}` : "";
    this.paint();
    if (tell && this.onPick) this.onPick(index);
  }

  mark(indices) {
    this.marked = indices;
    this.paint();
  }

  paint() {
    if (this.isTable) this.paintTables();
    else this.paintHeatMap();
  }

  // Arrow keys move the picked element, by as much as lies between two kept ones
  onKey(event) {
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    const move = moves[event.key];
    if (!move || event.shiftKey || event.ctrlKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    const { count, rows, columns } = this.panels;
    let [panel, row, column] = this.picked ? this.panels.placeOf(this.picked) : [0, 0, 0];
    const grid = this.grid || this.array.keep;
    const ahead = (axis) => (grid.length > axis ? grid.at(-1 - axis) / this.array.keep.at(-1 - axis) : 1);
    row = clamp(row + move[0] * ahead(1), 0, rows - 1);
    column += move[1] * ahead(0);
    if (column < 0 && panel > 0) [panel, column] = [panel - 1, columns - 1];
    else if (column >= columns && panel < count - 1) [panel, column] = [panel + 1, 0];
    this.pick(this.panels.indexOf(panel, row, clamp(column, 0, columns - 1)));
    if (this.isTable) this.cells.get(this.picked.join()).focus();
  }

  makeTables() {
    this.cells = new Map();
    const { count, rows, columns } = this.panels;
    const holder = el("div", { class: "tables", onkeydown: (event) => this.onKey(event) });
    for (let panel = 0; panel < count; panel++) {
      const body = el("tbody");
      for (let row = 0; row < rows; row++) {
        const line = el("tr");
        for (let column = 0; column < columns; column++) {
          const index = this.panels.indexOf(panel, row, column);
          const text = formatNumber(this.array.at(index), this.array.digits);
          const cell = el("td", { tabindex: this.cells.size ? -1 : 0, onclick: () => this.pick(index) }, text);
          this.cells.set(index.join(), cell);
          line.append(cell);
        }
        body.append(line);
      }
      const label = count > 1 ? el("caption", {}, this.panels.label(panel)) : "";
      holder.append(
        el("table", { role: "grid", "aria-label": `${this.name} ${this.panels.label(panel)}` }, label, body),
      );
    }
    return holder;
  }

  paintTables() {
    const used = new Set(this.marked.map((index) => index.join()));
    const picked = this.picked && this.picked.join();
    for (const [key, cell] of this.cells) {
      cell.classList.toggle("used", used.has(key));
      cell.classList.toggle("picked", key === picked);
      if (picked !== null) cell.tabIndex = key === picked ? 0 : -1;
    }
  }

  makeHeatMap() {
    const { count, rows, columns } = this.panels;
    this.gap = count > 1 ? 6 : 0;
    this.cellWidth = clamp((HEAT.width - this.gap * (count - 1)) / (columns * count), 0.25, HEAT.cell);
    this.cellHeight = clamp(HEAT.height / rows, 0.25, this.cellWidth < 4 ? 8 : this.cellWidth);
    const width = Math.ceil(count * columns * this.cellWidth + this.gap * (count - 1));
    const height = Math.max(8, Math.ceil(rows * this.cellHeight));
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    this.canvas = el("canvas", {
      width: width * ratio,
      height: height * ratio,
      tabindex: 0,
      role: "application",
      style: `width: ${width}px; aspect-ratio: ${width} / ${height}`,
      "aria-label": `Heat map of ${this.name}, ${formatShape(this.array.shape)}. Arrow keys pick an element.`,
      onkeydown: (event) => this.onKey(event),
      onclick: (event) => this.pick(this.indexUnder(event)),
      onfocus: () => {
        if (!this.picked) this.pick(this.array.largest(1)[0], false);
      },
    });
    this.size = { width, height, ratio };
    this.paintHeatMap();
    return this.canvas;
  }

  indexUnder(event) {
    const box = this.canvas.getBoundingClientRect();
    const { count, rows, columns } = this.panels;
    const x = ((event.clientX - box.left) / box.width) * this.size.width;
    const y = ((event.clientY - box.top) / box.height) * this.size.height;
    const pitch = columns * this.cellWidth + this.gap;
    const panel = clamp(Math.floor(x / pitch), 0, count - 1);
    const column = clamp(Math.floor((x - panel * pitch) / this.cellWidth), 0, columns - 1);
    return this.panels.indexOf(panel, clamp(Math.floor(y / this.cellHeight), 0, rows - 1), column);
  }

  paintHeatMap() {
    const { ratio } = this.size;
    const { count, rows, columns } = this.panels;
    const pen = this.canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, this.size.width, this.size.height);
    pen.imageSmoothingEnabled = this.cellWidth < 1 || this.cellHeight < 1;
    this.image = this.image || this.panelImages();
    for (let panel = 0; panel < count; panel++) {
      const x = panel * (columns * this.cellWidth + this.gap);
      pen.drawImage(this.image[panel], x, 0, columns * this.cellWidth, rows * this.cellHeight);
    }
    pen.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--ink");
    pen.lineWidth = 1;
    const places = this.marked.filter((index) => this.array.keeps(index)).map((index) => this.panels.placeOf(index));
    for (let panel = 0; panel < count; panel++)
      this.frame(
        pen,
        places.filter((place) => place[0] === panel),
        0.5,
      );
    pen.lineWidth = 2;
    if (this.picked) this.frame(pen, [this.panels.placeOf(this.picked)], this.cellWidth < 6 ? 1.5 : -1);
  }

  // A frame around places of one panel that fill a row, a column or a rectangle; else one around each
  frame(pen, places, margin) {
    if (!places.length) return;
    const [low, high] = [Math.min, Math.max].map((f) => [1, 2].map((axis) => f(...places.map((place) => place[axis]))));
    const area = (high[0] - low[0] + 1) * (high[1] - low[1] + 1);
    if (area > places.length) return places.forEach((place) => this.frame(pen, [place], margin));
    const x = places[0][0] * (this.panels.columns * this.cellWidth + this.gap) + low[1] * this.cellWidth;
    const w = Math.max((high[1] - low[1] + 1) * this.cellWidth, 2);
    const h = Math.max((high[0] - low[0] + 1) * this.cellHeight, 2);
    pen.strokeRect(x - margin, low[0] * this.cellHeight - margin, w + 2 * margin, h + 2 * margin);
  }

  // One picture for each panel, a pixel for each kept number
  panelImages() {
    const { count, rows, columns } = this.panels;
    const values = this.array.values;
    const colour = diverging(this.limit());
    return Array.from({ length: count }, (_, panel) => {
      const canvas = el("canvas", { width: columns, height: rows });
      const pen = canvas.getContext("2d");
      const image = pen.createImageData(columns, rows);
      const start = panel * rows * columns;
      for (let i = 0; i < rows * columns; i++) image.data.set(colour(values[start + i]), 4 * i);
      pen.putImageData(image, 0, 0);
      return canvas;
    });
  }

  // The size at which the colour is full: all but the largest hundredth of the numbers are below
  limit() {
    const sizes = Array.from(this.array.values, Math.abs)
      .filter(Number.isFinite)
      .sort((a, b) => a - b);
    const last = sizes[sizes.length - 1] || 1;
    return sizes[Math.floor(0.99 * (sizes.length - 1))] || last;
  }

  makeLegend() {
    const limit = formatNumber(this.limit(), 3);
    const scale = el("span", { class: "scale" }, `${MINUS}${limit}`, el("i", { "aria-hidden": "true" }), limit);
    const every = this.array.keep.flatMap((k, axis) => (k > 1 ? [`every ${ordinal(k)} place of axis ${axis}`] : []));
    return el("p", { class: "legend" }, scale, every.length ? ` shown: ${every.join(", ")}` : "");
  }
}

function ordinal(n) {
  return n === 2 ? "2nd" : `${n}th`; // only powers of two occur
}

function clamp(x, low, high) {
  return Math.min(Math.max(x, low), high);
}

// The kept numbers as panels of rows and columns: how many, how large, and where an index is
function panelsOf(array) {
  const kept = array.keptShape;
  const columns = kept.length ? kept[kept.length - 1] : 1;
  const all = product(kept);
  const isTable =
    array.whole && all <= TABLE.cells && (columns <= TABLE.columns || (columns === all && array.kind === "i4"));
  let rows = kept.length > 1 ? kept[kept.length - 2] : 1;
  let count = columns && rows ? all / (rows * columns) : 0;
  if (count > (isTable ? TABLE.panels : HEAT.panels)) [rows, count] = [all / columns, 1]; // all rows in one
  return {
    isTable,
    count,
    rows,
    columns,
    indexOf: (panel, row, column) =>
      unflatten((panel * rows + row) * columns + column, kept).map((i, axis) => i * array.keep[axis]),
    placeOf(index) {
      const flat = flatIndex(
        index.map((i, axis) => Math.floor(i / array.keep[axis])),
        kept,
      );
      return unflatten(flat, [count, rows, columns]);
    },
    label: (panel) => (count > 1 ? `[${[...unflatten(panel, kept.slice(0, -2)), "…"].join(", ")}]` : ""),
  };
}

// Blue below zero, orange above, the paper's own colour at zero
function diverging(limit) {
  const style = getComputedStyle(document.documentElement);
  const rgb = (name) => style.getPropertyValue(name).split(",").map(Number);
  const [low, zero, high] = [rgb("--cold"), rgb("--zero"), rgb("--warm")];
  return (value) => {
    if (Number.isNaN(value)) return [200, 0, 200, 255];
    const share = Math.min(Math.abs(value) / limit, 1);
    const end = value < 0 ? low : high;
    return [...zero.map((z, i) => Math.round(z + share * (end[i] - z))), 255];
  };
}

function statistics(array) {
  const item = (name, value) => el("span", {}, `${name} `, el("b", {}, formatNumber(value, 4)));
  const items = ["mean", "std", "min", "max"].map((name) => item(name, array[name]));
  if (array.bad) items.push(el("strong", {}, `${array.bad} not finite`));
  return el("p", { class: "statistics" }, ...items);
}
