// Arrays: how one is shown, as a table when it is small and as a heat map when not.

const TABLE = { columns: 10, cells: 160, panels: 8 }; // what is larger becomes a heat map
const HEAT = { panels: 16, width: 560, height: 300, cell: 16, gap: 6 };
const LETTERS = { font: "11px ui-monospace, monospace", line: 12, pad: 5 }; // of the tokens beside a heat map
const LONGEST = 8192; // side of a picture, in pixels: browsers have limits

// An array on the page. pick(index) chooses an element, mark(indices) frames those that a sum was made of. names: for
// each axis what its places are called, or null; or null in all. room: the width that there is, in pixels.
class ArrayView {
  constructor(array, { name, names, note = "", onPick = null, room = HEAT.width }) {
    Object.assign(this, { array, name, onPick, picked: null, marked: [], room: Math.min(room, HEAT.width) });
    this.names = names || array.shape.map(() => null);
    this.reading = el("output", { class: "reading", "aria-live": "polite" });
    this.panels = panelsOf(array, this.names);
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
    const digits = { f2: 3, f4: 8, f8: 12, i4: 10, i8: 16 }[this.array.kind];
    const called = index.map((i, axis) => this.names[axis] && ` ${quoted(this.names[axis][i])}`).filter(Boolean);
    const place = formatIndex(index) + called.join("");
    this.reading.textContent = this.array.size > 1 ? `${place} = ${formatNumber(value, digits)}` : "";
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
    const { count, rows, columns, rowNames, columnNames } = this.panels;
    const holder = el("div", { class: "tables", onkeydown: (event) => this.onKey(event) });
    const header = (scope) => (text) => el("th", { scope }, text);
    const digits = columns > 6 ? Math.min(this.array.digits, 4) : this.array.digits; // a wide table has no room for more
    for (let panel = 0; panel < count; panel++) {
      const body = el("tbody");
      if (columnNames) body.append(el("tr", {}, rowNames ? el("th") : "", ...columnNames.map(header("col"))));
      for (let row = 0; row < rows; row++) {
        const line = el("tr", {}, rowNames ? header("row")(rowNames[row]) : "");
        for (let column = 0; column < columns; column++) {
          const index = this.panels.indexOf(panel, row, column);
          const text = formatNumber(this.array.at(index), digits);
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
    this.place = this.planned();
    const { width, height } = this.place;
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
    this.ratio = ratio;
    this.paintHeatMap();
    return this.canvas;
  }

  // Where the panels of a heat map stand: cell sizes, margins for the tokens, how many panels in a line, all in pixels.
  // Tokens are left out where a cell is smaller than a line of text.
  planned() {
    const { count, rows, columns, rowNames, columnNames } = this.panels;
    const gap = count > 1 ? HEAT.gap : 0;
    const left = rowNames && rows * LETTERS.line <= 2 * HEAT.height ? widest(rowNames) + LETTERS.pad : 0;
    const room = this.room - left;
    const fits = columnNames && columns * LETTERS.line <= room;
    const perLine = fits ? clamp(Math.floor((room + gap) / (columns * LETTERS.line + gap)), 1, count) : count;
    const cellWidth = Math.min((room - gap * (perLine - 1)) / (columns * perLine), HEAT.cell);
    const least = left ? LETTERS.line : 0;
    const cellHeight = clamp(HEAT.height / rows, least, Math.max(least, cellWidth < 4 ? 8 : cellWidth));
    const turned = fits && widest(columnNames) > cellWidth;
    const bottom = fits ? LETTERS.pad + (turned ? widest(columnNames) : LETTERS.line) : 0;
    const panelNames = this.panels.panelNames.find((texts) => widest(texts) <= columns * cellWidth);
    const top = panelNames ? LETTERS.line + 2 : 0;
    const [wide, high] = [columns * cellWidth + gap, top + rows * cellHeight + bottom + gap];
    const width = Math.ceil(left + perLine * wide - gap);
    const height = Math.max(8, Math.ceil(Math.ceil(count / perLine) * high - gap));
    return { cellWidth, cellHeight, left, top, bottom, turned, perLine, wide, high, width, height, panelNames };
  }

  // The left upper corner of a panel
  corner(panel) {
    const { left, top, perLine, wide, high } = this.place;
    return [left + (panel % perLine) * wide, top + Math.floor(panel / perLine) * high];
  }

  indexUnder(event) {
    const box = this.canvas.getBoundingClientRect();
    const { count, rows, columns } = this.panels;
    const { cellWidth, cellHeight, left, perLine, wide, high, width, height } = this.place;
    const x = ((event.clientX - box.left) / box.width) * width;
    const y = ((event.clientY - box.top) / box.height) * height;
    const line = clamp(Math.floor(y / high), 0, Math.ceil(count / perLine) - 1);
    const panel = clamp(line * perLine + clamp(Math.floor((x - left) / wide), 0, perLine - 1), 0, count - 1);
    const [panelX, panelY] = this.corner(panel);
    const column = clamp(Math.floor((x - panelX) / cellWidth), 0, columns - 1);
    return this.panels.indexOf(panel, clamp(Math.floor((y - panelY) / cellHeight), 0, rows - 1), column);
  }

  paintHeatMap() {
    const { count, rows, columns } = this.panels;
    const { cellWidth, cellHeight, width, height } = this.place;
    const pen = this.canvas.getContext("2d", { willReadFrequently: true });
    pen.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.imageSmoothingEnabled = cellWidth < 1 || cellHeight < 1;
    this.image = this.image || this.makeImage();
    const part = this.image.height / count;
    const places = this.marked.filter((index) => this.array.keeps(index)).map((index) => this.panels.placeOf(index));
    pen.strokeStyle = pen.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--ink");
    for (let panel = 0; panel < count; panel++) {
      const [x, y] = this.corner(panel);
      pen.drawImage(this.image, 0, panel * part, this.image.width, part, x, y, columns * cellWidth, rows * cellHeight);
      this.write(pen, panel);
      pen.lineWidth = 1;
      const here = places.filter((place) => place[0] === panel);
      this.frame(pen, here, 0.5);
    }
    pen.lineWidth = 2;
    if (this.picked) this.frame(pen, [this.panels.placeOf(this.picked)], cellWidth < 6 ? 1.5 : -1);
  }

  // The tokens around a panel
  write(pen, panel) {
    const { rows, rowNames, columnNames } = this.panels;
    const { cellWidth, cellHeight, left, bottom, turned, perLine, panelNames } = this.place;
    const [x, y] = this.corner(panel);
    const write = (text, atX, atY, align, upright = true) => {
      pen.save();
      pen.translate(atX, atY);
      if (!upright) pen.rotate(-Math.PI / 2);
      pen.textAlign = align;
      pen.fillText(text, 0, 0);
      pen.restore();
    };
    pen.font = LETTERS.font;
    pen.textBaseline = "middle";
    if (panelNames) write(panelNames[panel], x, y - LETTERS.line / 2, "left");
    if (left && panel % perLine === 0)
      rowNames.forEach((text, row) => write(text, left - LETTERS.pad, y + (row + 0.5) * cellHeight, "right"));
    if (!bottom) return;
    const below = y + rows * cellHeight + LETTERS.pad / 2;
    columnNames.forEach((text, column) => {
      const middle = x + (column + 0.5) * cellWidth;
      write(text, middle, turned ? below : below + LETTERS.line / 2, turned ? "right" : "center", !turned);
    });
  }

  // A frame around places of one panel that fill a row, a column or a rectangle; else one around each
  frame(pen, places, margin) {
    if (!places.length) return;
    const [low, high] = [Math.min, Math.max].map((f) => [1, 2].map((axis) => f(...places.map((place) => place[axis]))));
    const area = (high[0] - low[0] + 1) * (high[1] - low[1] + 1);
    if (area > places.length) return places.forEach((place) => this.frame(pen, [place], margin));
    const { cellWidth, cellHeight } = this.place;
    const [x, y] = this.corner(places[0][0]);
    const w = Math.max((high[1] - low[1] + 1) * cellWidth, 2);
    const h = Math.max((high[0] - low[0] + 1) * cellHeight, 2);
    const [left, top] = [x + low[1] * cellWidth, y + low[0] * cellHeight];
    pen.strokeRect(left - margin, top - margin, w + 2 * margin, h + 2 * margin);
  }

  // One picture of all panels, below each other: a pixel for each kept number, or every 2nd, 3rd, .. of a long row
  makeImage() {
    const { count, rows, columns } = this.panels;
    const [every, tall] = [Math.ceil(columns / LONGEST), Math.ceil((count * rows) / LONGEST)];
    const [width, height] = [Math.ceil(columns / every), Math.ceil((count * rows) / tall)];
    const canvas = el("canvas", { width, height });
    const pen = canvas.getContext("2d", { willReadFrequently: true }); // in memory, not on a graphics card
    const image = pen.createImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const colour = diverging(this.array.limit);
    const { values } = this.array;
    for (let row = 0; row < height; row++)
      for (let column = 0; column < width; column++)
        pixels[row * width + column] = colour(values[row * tall * columns + column * every]);
    pen.putImageData(image, 0, 0);
    return canvas;
  }

  makeLegend() {
    const limit = formatNumber(this.array.limit, 3);
    const scale = el("span", { class: "scale" }, `${MINUS}${limit}`, el("i", { "aria-hidden": "true" }), limit);
    const every = this.array.keep.flatMap((k, axis) => (k > 1 ? [`every ${ordinal(k)} place of axis ${axis}`] : []));
    return el("p", { class: "legend" }, scale, every.length ? ` shown: ${every.join(", ")}` : "");
  }
}

function ordinal(n) {
  return n === 2 ? "2nd" : `${n}th`; // only powers of two occur
}

// The kept numbers as panels of rows and columns: how many, how large, where an index is, and what they are called
function panelsOf(array, names) {
  const kept = array.keptShape;
  const columns = kept.length ? kept[kept.length - 1] : 1;
  const all = product(kept);
  const isTable =
    array.whole && all <= TABLE.cells && (columns <= TABLE.columns || (columns === all && array.kind[0] === "i"));
  let rows = kept.length > 1 ? kept[kept.length - 2] : 1;
  let count = columns && rows ? all / (rows * columns) : 0;
  const merged = count > (isTable ? TABLE.panels : HEAT.panels); // all rows in one
  if (merged) [rows, count] = [all / columns, 1];
  const called = (axis) => (names.at(axis) ? names.at(axis).filter((_, i) => i % array.keep.at(axis) === 0) : null);
  const leading = (panel) => unflatten(panel, kept.slice(0, -2)).map((i, axis) => i * array.keep[axis]);
  const named = names.slice(0, -2).some(Boolean) && !merged;
  const nameOf = (panel) =>
    leading(panel)
      .map((i, axis) => names[axis]?.[i])
      .filter(Boolean)
      .join(" ");
  const label = (panel) =>
    count > 1 ? `[${[...leading(panel), "…"].join(", ")}]${named ? ` ${quoted(nameOf(panel))}` : ""}` : "";
  const each = (text) => Array.from({ length: count }, (_, panel) => text(panel));
  return {
    isTable,
    count,
    rows,
    columns,
    columnNames: kept.length ? called(-1) : null,
    rowNames: kept.length > 1 && !merged ? called(-2) : null,
    panelNames: count > 1 ? [each(label), ...(named ? [each(nameOf)] : [])] : [], // the first that there is room for
    indexOf: (panel, row, column) =>
      unflatten((panel * rows + row) * columns + column, kept).map((i, axis) => i * array.keep[axis]),
    placeOf(index) {
      const flat = flatIndex(
        index.map((i, axis) => Math.floor(i / array.keep[axis])),
        kept,
      );
      return unflatten(flat, [count, rows, columns]);
    },
    label,
  };
}

// The width in pixels of the widest of some tokens beside a heat map
function widest(texts) {
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = LETTERS.font;
  return Math.max(...texts.map((text) => pen.measureText(text).width));
}

// A function from a number to a pixel: blue below zero, orange above, the paper's own colour at zero
function diverging(limit) {
  const style = getComputedStyle(document.documentElement);
  const rgb = (name) => style.getPropertyValue(name).split(",").map(Number);
  const [low, zero, high] = [rgb("--cold"), rgb("--zero"), rgb("--warm")];
  const mixed = (k) => zero.map((z, i) => z + (Math.abs(k) / 127) * ((k < 0 ? low : high)[i] - z));
  const pixels = new Uint32Array(new Uint8ClampedArray(range(256).flatMap((k) => [...mixed(k - 127), 255])).buffer);
  const notANumber = new Uint32Array(new Uint8Array([200, 0, 200, 255]).buffer)[0];
  return (value) => (Number.isNaN(value) ? notANumber : pixels[127 + Math.round(127 * clamp(value / limit, -1, 1))]);
}

function statistics(array) {
  const item = (name, value) => el("span", {}, `${name} `, el("b", {}, formatNumber(value, 4)));
  const items = ["mean", "std", "min", "max"].map((name) => item(name, array[name]));
  if (array.bad) items.push(el("strong", {}, `${array.bad} not finite`));
  return el("p", { class: "statistics" }, ...items);
}
