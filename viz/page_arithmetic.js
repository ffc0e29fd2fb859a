// The arithmetic of one element, written out with the numbers of the engine: "0.1 × 1 + 1.4 × 1 = 1.5".
//
// FORWARD[op](c) tells how element c.index of the result came about, BACKWARD[op](c) how that element of the gradient
// of argument c.argument did. Both return lines of text, or null when there is nothing short to say. c.read(k, index)
// is an element of argument k, c.gradient(index) one of the incoming gradient, c.result(index) one of the op's result;
// what is read is framed on the page. c.value is the element itself: what stands behind the last equals sign.

const MOST_TERMS = 8;
let figures = 4; // significant digits: as many as all arrays of the step have

class Context {
  constructor(step, index, argument, target) {
    Object.assign(this, { step, index, argument, target });
    this.settings = step.settings;
    this.inputs = step.inputs;
    this.shapes = step.inputs.map((input) => input.array.shape);
    this.used = new Map(); // array's role on the page -> indices that were read
    this.missing = false; // whether a number was needed that the page does not keep
    this.value = target.at(index);
  }

  note(role, array, index) {
    if (!this.used.has(role)) this.used.set(role, []);
    this.used.get(role).push(index);
    return array.at(index);
  }

  need(value) {
    if (value === null) this.missing = true;
    return value;
  }

  // A number as it stands in a sum or a product
  n(value) {
    return formatNumber(this.need(value), figures);
  }

  read(k, index) {
    return this.note(`input ${k}`, this.inputs[k].array, index);
  }

  gradient(index) {
    return this.note("incoming", this.step.incoming, index);
  }

  result(index) {
    return this.note("out", this.step.out, index);
  }

  inner(name, index) {
    return this.note(name, this.step.inner.find((i) => i.name === name).array, index);
  }

  setting(name) {
    const k = this.inputs.findIndex((input) => input.name === name && input.setting);
    return k < 0 ? null : k;
  }

  // The element of argument k that broadcasting puts at an index of the result
  spread(k, index = this.index) {
    const shape = this.shapes[k];
    const from = index.length - shape.length;
    return shape.map((n, axis) => (n === 1 ? 0 : index[from + axis]));
  }

  equals(expression, value = this.value) {
    return `${expression} = ${this.n(value)}`;
  }
}

// Sums of products

function bracket(value) {
  const text = formatNumber(value, figures);
  return text.startsWith(MINUS) || text.includes("e") ? `(${text})` : text;
}

// terms: [factor, factor, ...] each; null factors are not kept. Zero products are left out, of many the largest stay.
function sumOfProducts(c, terms, total = c.value, after = "") {
  const known = terms.filter((term) => term.every((f) => f !== null));
  const size = (term) => Math.abs(product(term));
  const nonzero = known.filter((term) => size(term) > 0);
  let shown = nonzero.length ? nonzero : known.slice(0, 1);
  if (shown.length > MOST_TERMS) {
    const least = shown.map(size).sort((a, b) => b - a)[MOST_TERMS - 3];
    shown = shown.filter((term) => size(term) >= least).slice(0, MOST_TERMS - 2);
  }
  const write = (term, i) => term.map((f, k) => (i || k ? bracket(f) : formatNumber(f, figures))).join(" × ");
  let text = shown.map(write).join(" + ");
  if (terms.length === 1 && terms[0].length === 1 && c.argument !== null) text = "g";
  const left = terms.length - known.length + nonzero.length - shown.length;
  if (left > 0) {
    const rest = total - shown.reduce((sum, term) => sum + product(term), 0);
    text += ` + … (${left} more: ${formatNumber(rest, figures)})`;
  }
  return c.equals(text + after, total);
}

function range(n) {
  return Array.from({ length: n }, (_, i) => i);
}

function replaced(index, axis, value) {
  const copy = [...index];
  copy[axis] = value;
  return copy;
}

// All indices of an array of `shape`; lead: how many leading axes are run over
function* indices(shape) {
  for (let flat = 0; flat < product(shape); flat++) yield unflatten(flat, shape);
}

// Ops that work element by element: how the numbers are written, forward and backward

const UNARY = {
  neg: (x) => `−(${x})`,
  exp: (x) => `exp(${x})`,
  log: (x) => `ln(${x})`,
  sqrt: (x) => `√${x}`,
  tanh: (x) => `tanh(${x})`,
  sigmoid: (x) => `1 / (1 + exp(−(${x})))`,
  relu: (x) => `max(${x}, 0)`,
  abs: (x) => `|${x}|`,
  sin: (x) => `sin(${x})`,
  cos: (x) => `cos(${x})`,
};

const BINARY = {
  add: (x, y) => `${x} + ${y}`,
  sub: (x, y) => `${x} ${MINUS} ${y}`,
  mul: (x, y) => `${x} × ${y}`,
  div: (x, y) => `${x} / ${y}`,
  pow: (x, y) => `${x} ^ ${y}`,
  maximum: (x, y) => `max(${x}, ${y})`,
  minimum: (x, y) => `min(${x}, ${y})`,
};

// The factors by which g is multiplied on its way back: of x and y, the numbers at one place, and z, the result
const UNARY_BACK = {
  neg: () => [-1],
  exp: (x, y) => [y],
  log: (x) => [1 / x],
  sqrt: (x, y) => [1 / (2 * y)],
  tanh: (x, y) => [1 - y * y],
  sigmoid: (x, y) => [y, 1 - y],
  relu: (x) => [x > 0 ? 1 : 0],
  abs: (x) => [Math.sign(x)],
  sin: (x) => [Math.cos(x)],
  cos: (x) => [-Math.sin(x)],
};

const BINARY_BACK = {
  add: [() => [], () => []],
  sub: [() => [], () => [-1]],
  mul: [(x, y) => [y], (x) => [x]],
  div: [(x, y) => [1 / y], (x, y, z) => [-z / y]],
  pow: [(x, y) => [y, x ** (y - 1)], (x, y, z) => [z, Math.log(x)]],
  maximum: [(x, y) => [x > y ? 1 : x < y ? 0 : 0.5], (x, y) => [y > x ? 1 : y < x ? 0 : 0.5]],
  minimum: [(x, y) => [x < y ? 1 : x > y ? 0 : 0.5], (x, y) => [y < x ? 1 : y > x ? 0 : 0.5]],
};

const FORWARD = {};
const BACKWARD = {};

for (const [op, write] of Object.entries(UNARY)) {
  FORWARD[op] = (c) => [c.equals(write(c.n(c.read(0, c.index))))];
  BACKWARD[op] = (c) => {
    const factors = UNARY_BACK[op](c.need(c.read(0, c.index)), c.need(c.result(c.index)));
    return [sumOfProducts(c, [[c.need(c.gradient(c.index)), ...factors]])];
  };
}

for (const [op, write] of Object.entries(BINARY)) {
  FORWARD[op] = (c) => {
    const [x, y] = [0, 1].map((k) => c.need(c.read(k, c.spread(k))));
    return [c.equals(write(op === "add" ? c.n(x) : bracket(x), bracket(y)))];
  };
  BACKWARD[op] = (c) => [
    sumOfProducts(
      c,
      placesOf(c).map((place) => {
        const [x, y] = [0, 1].map((k) => c.read(k, c.spread(k, place)));
        return [c.gradient(place), ...BINARY_BACK[op][c.argument](x, y, c.result(place))];
      }),
    ),
  ];
}

// The places of the result that an element of an argument was broadcast to
function placesOf(c) {
  const shape = c.step.out.shape;
  const own = c.shapes[c.argument];
  const from = shape.length - own.length;
  const free = shape.map((n, axis) => (axis < from || own[axis - from] !== n ? n : 1));
  const base = shape.map((n, axis) => (free[axis] === n && n > 1 ? 0 : c.index[axis - from] || 0));
  const places = [];
  for (const offset of indices(free)) places.push(offset.map((o, axis) => o + base[axis]));
  return places;
}

// Ops that move elements

function sourceOf(c, index) {
  const [first, ...steps] = c.step.source;
  return unflatten(
    index.reduce((flat, i, axis) => flat + i * steps[axis], first),
    c.shapes[0],
  );
}

for (const op of ["reshape", "squeeze", "unsqueeze", "permute", "transpose", "getitem"]) {
  FORWARD[op] = (c) => {
    if (!c.step.source) return null;
    const from = sourceOf(c, c.index);
    return [`${c.step.symbol}${formatIndex(c.index)} = x${formatIndex(from)} = ${c.n(c.read(0, from) ?? c.value)}`];
  };
  BACKWARD[op] = (c) => {
    if (!c.step.source) return null;
    for (const place of indices(c.step.out.shape)) {
      if (sourceOf(c, place).join() === c.index.join()) {
        return [`dx${formatIndex(c.index)} = g${formatIndex(place)} = ${c.n(c.gradient(place) ?? c.value)}`];
      }
    }
    return [`x${formatIndex(c.index)} was not taken, so its gradient is 0`];
  };
}

FORWARD.expand = (c) => [
  `${c.step.symbol}${formatIndex(c.index)} = x${formatIndex(c.spread(0))} = ${c.n(c.read(0, c.spread(0)))}`,
];
BACKWARD.expand = (c) => [
  sumOfProducts(
    c,
    placesOf(c).map((place) => [c.gradient(place)]),
  ),
];

// The axis along which arrays were joined, and where an argument begins on it
function joint(c) {
  const axis = c.step.out.shape.findIndex((n, a) => c.shapes.reduce((sum, s) => sum + s[a], 0) === n);
  const begins = c.shapes.map((_, k) => c.shapes.slice(0, k).reduce((sum, s) => sum + s[axis], 0));
  return { axis, begins };
}

FORWARD.concat = (c) => {
  const { axis, begins } = joint(c);
  const k = begins.reduce((last, begin, i) => (begin <= c.index[axis] ? i : last), 0);
  const from = replaced(c.index, axis, c.index[axis] - begins[k]);
  return [
    `${c.step.symbol}${formatIndex(c.index)} = ${c.inputs[k].name}${formatIndex(from)} = ${c.n(c.read(k, from) ?? c.value)}`,
  ];
};
BACKWARD.concat = (c) => {
  const { axis, begins } = joint(c);
  const place = replaced(c.index, axis, c.index[axis] + begins[c.argument]);
  return [`its gradient is g${formatIndex(place)} = ${c.n(c.gradient(place) ?? c.value)}`];
};

// Reductions: the places of x that make one element of the result

function reducedAxes(c) {
  const axis = c.settings.axis;
  const n = c.shapes[0].length;
  if (axis === undefined || axis === null) return range(n);
  return (Array.isArray(axis) ? axis : [axis]).map((a) => (a + n) % n);
}

function sourcesOfReduction(c) {
  const shape = c.shapes[0];
  const axes = reducedAxes(c);
  const kept = range(shape.length).filter((a) => !axes.includes(a));
  const own = c.step.out.shape.length === shape.length ? kept.map((a) => c.index[a]) : c.index;
  const places = [];
  for (const inner of indices(axes.map((a) => shape[a]))) {
    const place = shape.map(() => 0);
    kept.forEach((a, i) => (place[a] = own[i]));
    axes.forEach((a, i) => (place[a] = inner[i]));
    places.push(place);
  }
  return places;
}

// The element of the result (or of g) that an element of x went into
function reducedPlace(c) {
  const axes = reducedAxes(c);
  const kept = c.step.out.shape.length === c.shapes[0].length && c.shapes[0].length > 0;
  return kept ? c.index.map((i, a) => (axes.includes(a) ? 0 : i)) : c.index.filter((_, a) => !axes.includes(a));
}

FORWARD.sum = (c) => [
  sumOfProducts(
    c,
    sourcesOfReduction(c).map((place) => [c.read(0, place)]),
  ),
];
BACKWARD.sum = (c) => [
  `dx${formatIndex(c.index)} = g${formatIndex(reducedPlace(c))} = ${c.n(c.gradient(reducedPlace(c)))}`,
];
FORWARD.mean = (c) => {
  const places = sourcesOfReduction(c);
  const sum = sumOfProducts(
    c,
    places.map((place) => [c.read(0, place)]),
    c.value * places.length,
  );
  return [sum, c.equals(`${formatNumber(c.value * places.length, figures)} / ${places.length}`)];
};
BACKWARD.mean = (c) => {
  const n = c.inputs[0].array.size / c.step.out.size;
  return [c.equals(`g / n = ${c.n(c.gradient(reducedPlace(c)))} / ${n}`)];
};
for (const [op, word] of [
  ["max", "largest"],
  ["min", "smallest"],
]) {
  FORWARD[op] = (c) => {
    const places = sourcesOfReduction(c);
    return [
      `the ${word} of ${places
        .slice(0, MOST_TERMS)
        .map((p) => c.n(c.read(0, p)))
        .join(", ")}${places.length > MOST_TERMS ? ", …" : ""} = ${c.n(c.value)}`,
    ];
  };
}

// Products

FORWARD.matmul = (c) => [matmulTerms(c)];

function matmulTerms(c) {
  const [x, y] = c.shapes;
  const K = x[x.length - 1];
  const row = x.length > 1 ? c.index[c.index.length - (y.length > 1 ? 2 : 1)] : null;
  const column = y.length > 1 ? c.index[c.index.length - 1] : null;
  const lead = c.index.slice(0, c.index.length - (x.length > 1) - (y.length > 1));
  return sumOfProducts(
    c,
    range(K).map((k) => [
      c.read(0, x.length > 1 ? [...leadOf(lead, x), row, k] : [k]),
      c.read(1, y.length > 1 ? [...leadOf(lead, y), k, column] : [k]),
    ]),
  );
}

// Leading axes of an argument under those of the result
function leadOf(lead, shape) {
  const own = shape.slice(0, -2);
  return own.map((n, a) => (n === 1 ? 0 : lead[lead.length - own.length + a]));
}

BACKWARD.matmul = (c) => {
  const [x, y] = c.shapes;
  const z = c.step.out.shape;
  if (x.length < 2 || y.length < 2 || x.length !== y.length || x.length !== z.length) return matmulOfRows(c);
  if (x.slice(0, -2).join() !== y.slice(0, -2).join()) return null; // broadcast stacks: the formula says it
  const lead = c.index.slice(0, -2);
  const [a, b] = c.index.slice(-2);
  const over = c.argument === 0 ? z[z.length - 1] : z[z.length - 2];
  return [
    sumOfProducts(
      c,
      range(over).map((k) =>
        c.argument === 0
          ? [c.gradient([...lead, a, k]), c.read(1, [...lead, b, k])]
          : [c.read(0, [...lead, k, a]), c.gradient([...lead, k, b])],
      ),
    ),
  ];
};

// One of the two is a vector, or the second a matrix that all rows of the first share
function matmulOfRows(c) {
  const [x, y] = c.shapes;
  const z = c.step.out.shape;
  if (y.length === 2 && x.length !== 1) {
    if (c.argument === 0) {
      const lead = c.index.slice(0, -1);
      const k = c.index[c.index.length - 1];
      return [
        sumOfProducts(
          c,
          range(y[1]).map((n) => [c.gradient([...lead, n]), c.read(1, [k, n])]),
        ),
      ];
    }
    const rows = [...indices(x.slice(0, -1))];
    return [
      sumOfProducts(
        c,
        rows.map((row) => [c.read(0, [...row, c.index[0]]), c.gradient([...row, c.index[1]])]),
      ),
    ];
  }
  if (x.length === 1 && y.length === 2) {
    return [
      c.argument === 0
        ? sumOfProducts(
            c,
            range(y[1]).map((n) => [c.gradient([n]), c.read(1, [c.index[0], n])]),
          )
        : sumOfProducts(c, [[c.read(0, [c.index[0]]), c.gradient([c.index[1]])]]),
    ];
  }
  if (x.length === 2 && y.length === 1) {
    return [
      c.argument === 0
        ? sumOfProducts(c, [[c.gradient([c.index[0]]), c.read(1, [c.index[1]])]])
        : sumOfProducts(
            c,
            range(z[0]).map((m) => [c.read(0, [m, c.index[0]]), c.gradient([m])]),
          ),
    ];
  }
  if (x.length === 1 && y.length === 1) return [sumOfProducts(c, [[c.gradient([]), c.read(1 - c.argument, c.index)]])];
  return null;
}

FORWARD.linear = (c) => {
  const lead = c.index.slice(0, -1);
  const o = c.index[c.index.length - 1];
  const terms = range(c.shapes[1][1]).map((i) => [c.read(0, [...lead, i]), c.read(1, [o, i])]);
  if (c.inputs.length > 2) terms.push([c.read(2, [o])]);
  return [sumOfProducts(c, terms)];
};

BACKWARD.linear = (c) => {
  const [O] = c.shapes[1];
  const rows = [...indices(c.shapes[0].slice(0, -1))];
  if (c.argument === 0) {
    const lead = c.index.slice(0, -1);
    const i = c.index[c.index.length - 1];
    return [
      sumOfProducts(
        c,
        range(O).map((o) => [c.gradient([...lead, o]), c.read(1, [o, i])]),
      ),
    ];
  }
  const [o, i] = c.index;
  return [
    sumOfProducts(
      c,
      rows.map((row) => [c.gradient([...row, o]), ...(c.argument === 1 ? [c.read(0, [...row, i])] : [])]),
    ),
  ];
};

// Layers

FORWARD.gelu = (c) => {
  const x = c.need(c.read(0, c.index));
  const share = x ? c.value / x : 0.5;
  return [c.equals(`x P(x) = ${formatNumber(x, figures)} × ${formatNumber(share, figures)}`)];
};
BACKWARD.gelu = (c) => {
  const x = c.need(c.read(0, c.index));
  const g = c.need(c.gradient(c.index));
  return [
    `the slope of gelu at x = ${formatNumber(x, figures)} is ${formatNumber(g ? c.value / g : NaN, figures)}`,
    c.equals(`${bracket(g)} × ${bracket(g ? c.value / g : NaN)}`),
  ];
};

function lineOf(c, shape, axis) {
  return range(shape[axis]).map((i) => replaced(c.index, axis, i));
}

function softmaxAxis(c) {
  const n = c.shapes[0].length;
  return ((c.settings.axis ?? -1) + n) % n;
}

function expSum(c, values, most = MOST_TERMS) {
  const text = values
    .slice(0, most)
    .map((v) => `exp(${c.n(v)})`)
    .join(" + ");
  return values.length > most ? `${text} + … (${values.length - most} more)` : text;
}

FORWARD.softmax = (c) => {
  const values = lineOf(c, c.shapes[0], softmaxAxis(c)).map((i) => c.need(c.read(0, i)));
  const own = c.need(c.inputs[0].array.at(c.index));
  const sum = values.reduce((s, v) => s + Math.exp(v), 0);
  return [
    c.equals(`exp(${c.n(own)}) / (${expSum(c, values)})`),
    c.equals(`${formatNumber(Math.exp(own), figures)} / ${formatNumber(sum, figures)}`),
  ];
};
BACKWARD.softmax = (c) => {
  const line = lineOf(c, c.shapes[0], softmaxAxis(c));
  const pairs = line.map((i) => [c.need(c.gradient(i)), c.need(c.result(i))]);
  const dot = pairs.reduce((s, [g, p]) => s + g * p, 0);
  const [g, p] = [c.need(c.step.incoming.at(c.index)), c.need(c.step.out.at(c.index))];
  return [
    `Σ g p = ${sumOfProducts(c, pairs, dot)}`,
    c.equals(`p (g ${MINUS} Σ g p) = ${c.n(p)} × (${c.n(g)} ${MINUS} ${bracket(dot)})`),
  ];
};
FORWARD.log_softmax = (c) => {
  const values = lineOf(c, c.shapes[0], softmaxAxis(c)).map((i) => c.need(c.read(0, i)));
  return [c.equals(`${c.n(c.inputs[0].array.at(c.index))} ${MINUS} ln(${expSum(c, values)})`)];
};
BACKWARD.log_softmax = (c) => {
  const line = lineOf(c, c.shapes[0], softmaxAxis(c));
  const sum = line.reduce((s, i) => s + c.need(c.gradient(i)), 0);
  const p = Math.exp(c.need(c.result(c.index)));
  return [
    c.equals(
      `g ${MINUS} p Σ g = ${c.n(c.step.incoming.at(c.index))} ${MINUS} ${formatNumber(p, figures)} × ${bracket(sum)}`,
    ),
  ];
};

// Mean, variance and r = 1 / root of a row that layer_norm works on. r is taken from the engine's result, where the row
// is farthest from its mean: the setting eps is not always known.
function rowOf(c) {
  const C = c.shapes[0][c.shapes[0].length - 1];
  const at = (i) => [...c.index.slice(0, -1), i];
  const row = range(C).map((i) => c.need(c.read(0, at(i))));
  const mean = row.reduce((s, v) => s + v, 0) / C;
  const variance = row.reduce((s, v) => s + (v - mean) ** 2, 0) / C;
  const [gamma, beta] = [1, 2].map((k) => range(C).map((i) => c.inputs[k].array.at([i])));
  const pull = (i) => Math.abs((row[i] - mean) * gamma[i]);
  const far = range(C).reduce((best, i) => (pull(i) > pull(best) ? i : best), 0);
  const r = (c.need(c.step.out.at(at(far))) - beta[far]) / gamma[far] / (row[far] - mean);
  return pull(far) > 0 ? { row, C, mean, variance, r } : null; // a row of equal numbers
}

FORWARD.layer_norm = (c) => {
  const last = c.index[c.index.length - 1];
  const found = rowOf(c);
  if (!found) return null;
  const { row, mean, variance, r } = found;
  const [gamma, beta] = [c.need(c.read(1, [last])), c.need(c.read(2, [last]))];
  const xhat = (c.need(row[last]) - mean) * r;
  const n = (v) => formatNumber(v, figures);
  return [
    `the row has mean m = ${n(mean)} and variance v = ${n(variance)}`,
    `(x ${MINUS} m) / √(v + ε) = (${n(row[last])} ${MINUS} ${bracket(mean)}) × ${n(r)} = ${n(xhat)}`,
    c.equals(`γ × that + β = ${n(gamma)} × ${bracket(xhat)} + ${bracket(beta)}`),
  ];
};
BACKWARD.layer_norm = (c) => {
  const n = (v) => formatNumber(v, figures);
  if (c.argument > 0) {
    const rows = [...indices(c.shapes[0].slice(0, -1))];
    return [
      sumOfProducts(
        c,
        rows.map((row) => {
          const place = [...row, c.index[0]];
          const [gamma, beta, y] = [c.read(1, c.index), c.read(2, c.index), c.result(place)];
          const xhat = y === null || gamma === 0 ? null : (y - beta) / gamma;
          return [c.gradient(place), ...(c.argument === 1 ? [xhat] : [])];
        }),
      ),
    ];
  }
  const last = c.index[c.index.length - 1];
  const found = rowOf(c);
  if (!found) return null;
  const { row, C, mean, r } = found;
  const h = range(C).map((i) => c.need(c.gradient([...c.index.slice(0, -1), i])) * c.inputs[1].array.at([i]));
  const xhat = row.map((v) => (v - mean) * r);
  const meanOf = (values) => values.reduce((s, v) => s + v, 0) / C;
  const [a, b] = [meanOf(h), meanOf(h.map((v, i) => v * xhat[i]))];
  return [
    `h = g γ = ${n(c.need(h[last]))}, mean(h) = ${n(a)}, mean(h xhat) = ${n(b)}, xhat = ${n(xhat[last])}, r = ${n(r)}`,
    `r (h ${MINUS} mean(h) ${MINUS} xhat mean(h xhat)):`,
    c.equals(`${n(r)} × (${n(h[last])} ${MINUS} ${bracket(a)} ${MINUS} ${bracket(xhat[last])} × ${bracket(b)})`),
  ];
};

FORWARD.embedding = (c) => {
  const ids = c.setting("ids");
  if (ids === null) return null;
  const id = c.need(c.read(ids, c.index.slice(0, -1)));
  const place = [id, c.index[c.index.length - 1]];
  c.read(0, place);
  return [
    `id ${id}: row ${id} of the table`,
    `${c.step.symbol}${formatIndex(c.index)} = weight${formatIndex(place)} = ${c.n(c.value)}`,
  ];
};
BACKWARD.embedding = (c) => {
  const ids = c.setting("ids");
  if (ids === null) return null;
  const [row, column] = c.index;
  const places = [...indices(c.inputs[ids].array.shape)].filter((place) => c.inputs[ids].array.at(place) === row);
  if (!places.length) return [`id ${row} does not occur here, so its gradient is 0`];
  const times = places.length === 1 ? "once" : `${places.length} times`;
  return [
    `id ${row} occurs ${times}`,
    sumOfProducts(
      c,
      places.map((place) => [c.gradient([...place, column])]),
    ),
  ];
};

FORWARD.dropout = (c) => {
  const x = c.need(c.read(0, c.index));
  return [
    c.value === 0 && x !== 0
      ? `${c.n(x)} was dropped: 0`
      : c.equals(`${c.n(x)} × ${formatNumber(x ? c.value / x : 1, figures)}`),
  ];
};

FORWARD.scaled_dot_product_attention = (c) => {
  const lead = c.index.slice(0, -2);
  const [t, d] = c.index.slice(-2);
  const [q, k] = c.shapes;
  const D = q[q.length - 1];
  const weights = range(k[k.length - 2]).map((s) => c.need(c.inner("P", [...lead, t, s])));
  const most = weights.reduce((best, w, s) => (w > weights[best] ? s : best), 0);
  const lines = [`query ${t} gives key ${most} the most weight, ${c.n(weights[most])}, for its score q k / √D:`];
  const terms = range(D).map((i) => [c.read(0, [...lead, t, i]), c.read(1, [...lead, most, i])]);
  const dot = terms.reduce((sum, term) => sum + product(term), 0);
  if (terms.some((term) => term.includes(null)))
    lines.pop(); // that key is not kept
  else {
    lines.push(sumOfProducts(c, terms, dot));
    lines.push(c.equals(`${formatNumber(dot, figures)} / √${D}`, dot / Math.sqrt(D)));
  }
  const values = weights.map((w, s) => [w, c.read(2, [...lead, s, d])]);
  return [...lines, "all weights, a row of P, times the values:", sumOfProducts(c, values)];
};

BACKWARD.scaled_dot_product_attention = (c) => {
  if (c.argument !== 2) return null;
  const lead = c.index.slice(0, -2);
  const [s, d] = c.index.slice(-2);
  const T = c.shapes[0][c.shapes[0].length - 2];
  return [
    sumOfProducts(
      c,
      range(T).map((t) => [c.inner("P", [...lead, t, s]), c.gradient([...lead, t, d])]),
    ),
  ];
};

// Losses

// The probabilities of one place, and its true word
function prediction(c, place) {
  const V = c.shapes[0][c.shapes[0].length - 1];
  const z = range(V).map((i) => c.inputs[0].array.at([...place, i]));
  const sum = z.reduce((s, v) => s + Math.exp(v), 0);
  const k = c.setting("targets");
  return { z, sum, target: k === null ? null : c.inputs[k].array.at(place) };
}

FORWARD.cross_entropy = (c) => {
  const places = c.step.out.shape.length ? [c.index] : [...indices(c.shapes[0].slice(0, -1))];
  if (c.setting("targets") === null || c.settings.label_smoothing) return null;
  const logs = places.map((place) => {
    const { z, sum, target } = prediction(c, place);
    if (target === null || z.includes(null)) return null; // not kept
    if (target < 0 || target === c.settings.ignore_index) return 0;
    c.read(0, [...place, target]);
    return Math.log(sum) - z[target];
  });
  const { z, sum, target } = prediction(c, places[0]);
  if (z.includes(null)) return null; // more words than the page keeps
  const lines = [];
  if (logs[0]) {
    const P = Math.exp(z[target]) / sum;
    lines.push(`${places.length > 1 ? "at the first place " : ""}class ${target} is the true one`);
    lines.push(`P = exp(${c.n(z[target])}) / (${expSum(c, z, 4)}) = ${formatNumber(P, figures)}`);
    lines.push(`${MINUS}ln P = ${MINUS}ln(${formatNumber(P, figures)}) = ${formatNumber(logs[0], figures)}`);
  }
  if (places.length > 1) {
    const asked = c.settings.reduction === "sum" ? 1 : places.length;
    const counted = logs.includes(null) ? asked : timesIn(c.value, logs);
    const mean = counted > 1;
    lines.push(
      sumOfProducts(
        c,
        logs.map((v) => [v]),
        mean ? c.value * counted : c.value,
      ),
    );
    if (mean) lines.push(c.equals(`${formatNumber(c.value * counted, figures)} / ${counted}`));
  }
  return lines;
};

BACKWARD.cross_entropy = (c) => {
  const place = c.index.slice(0, -1);
  const i = c.index[c.index.length - 1];
  const { z, sum, target } = prediction(c, place);
  if (z.includes(null)) return null;
  const whole = c.step.incoming.shape.length === 0;
  const g = c.need(c.gradient(whole ? [] : place));
  const P = Math.exp(c.need(c.read(0, c.index))) / sum;
  if (target === null || c.settings.label_smoothing) return null;
  const k = c.setting("targets");
  c.read(k, place);
  const y = target === i ? 1 : 0;
  const lines = [
    `P = exp(${c.n(z[i])}) / (${expSum(c, z, 4)}) = ${formatNumber(P, figures)}`,
    `y = ${y}, as class ${i} is ${y ? "" : "not "}the true one`,
    `P ${MINUS} y = ${formatNumber(P, figures)} ${MINUS} ${y} = ${formatNumber(P - y, figures)}`,
  ];
  const factor = P - y ? c.value / (P - y) / g : 1;
  const n = Math.round(1 / factor);
  if (g !== 1 || n > 1) lines.push(c.equals(`${bracket(P - y)} × ${bracket(g)}${n > 1 ? ` / ${n}` : ""}`));
  return lines;
};

FORWARD.mse_loss = (c) => {
  const places = c.step.out.shape.length ? [c.index] : [...indices(c.shapes[0])];
  const terms = places.map((place) => c.read(0, place) - c.read(1, place)).map((d) => [d, d]);
  const n = timesIn(c.value, terms.map(product));
  const sum = sumOfProducts(c, terms, c.value * n);
  return n === 1 ? [sum] : [`Σ (x ${MINUS} y)² = ${sum}`, c.equals(`${formatNumber(c.value * n, figures)} / ${n}`)];
};
BACKWARD.mse_loss = (c) => {
  const [x, y] = [0, 1].map((k) => c.need(c.read(k, c.index)));
  const g = c.need(c.gradient(c.step.incoming.shape.length ? c.index : []));
  const sign = c.argument === 0 ? 1 : -1;
  const n = timesIn(c.value, [sign * 2 * (x - y) * g]);
  const factor = `${sign < 0 ? MINUS : ""}2 × (${c.n(x)} ${MINUS} ${bracket(y)})`;
  return [c.equals(`${factor} × ${bracket(g)}${n > 1 ? ` / ${n}` : ""}`)];
};

// By how much a sum was divided to give a value: 1 for a sum, n for a mean
function timesIn(value, terms) {
  const sum = terms.reduce((a, b) => a + b, 0);
  return value && sum ? Math.max(1, Math.round(sum / value)) : 1;
}

// What the page calls

// The lines for one element, and what they were read from
function arithmetic(step, direction, index, argument, target) {
  const arrays = [target, step.out, step.incoming, ...step.inputs.map((input) => input.array)];
  figures = Math.min(...arrays.filter((array) => array && array.kind !== "i4").map((array) => array.digits));
  const c = new Context(step, index, argument, target);
  const rule = (direction === "forward" ? FORWARD : BACKWARD)[step.op];
  const lines = rule ? rule(c) : null;
  if (c.missing) {
    return {
      complete: false,
      lines: ["This needs a number that the page does not keep; another element may do."],
      used: new Map(),
    };
  }
  return { complete: true, lines, used: lines ? c.used : new Map() };
}

// How far apart elements are that can be picked: where the arrays that a sum needs are kept too
function pickGrid(step, direction, argument, target) {
  const grid = [...target.keep];
  if (direction === "forward" && step.op === "linear") {
    const [x, weight] = step.inputs.map((input) => input.array);
    x.keep.slice(0, -1).forEach((k, axis) => (grid[axis] = Math.max(grid[axis], k)));
    grid[grid.length - 1] = Math.max(grid[grid.length - 1], weight.keep[0]);
  }
  return grid;
}
