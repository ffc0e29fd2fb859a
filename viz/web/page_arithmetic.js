// The arithmetic of one element, written out with the numbers of the engine: "0.1 × 1 + 1.4 × 1 = 1.5".
//
// FORWARD[op](c) tells how element c.index of the result came about, BACKWARD[op](c) how that element of the gradient
// of argument c.argument did. Both return lines of text, or null when there is nothing short to say. c.read(k, index)
// is an element of argument k, c.gradient(index) one of the incoming gradient, c.result(index) one of the op's result;
// what is read is framed on the page. c.value is the element itself: what stands behind the last equals sign.
//
// The simple ops are in page_ops.js, the fused ones in page_layers.js.

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
    this.wrong = false; // whether a sum is not what the engine has: a setting is not known, such as what was dropped
    this.value = target.at(index);
    const name = argument === null ? step.symbol : `d${step.inputs[argument].name}`;
    this.own = name + formatIndex(index); // what the element is called: "y[0, 1]"
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

  // A number as it stands in a sum or a product; null is one that must be there and is not kept
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

  // Which input is the array of this setting; null when none is
  setting(name) {
    const k = this.inputs.findIndex((input) => input.name === name && input.setting);
    return k < 0 ? null : k;
  }

  // The place in argument k that broadcasting puts at a place of the result
  spread(k, index = this.index) {
    const shape = this.shapes[k];
    const from = index.length - shape.length;
    return shape.map((n, axis) => (n === 1 ? 0 : index[from + axis]));
  }

  // Whether a number that was worked out here is the engine's, as far as the digits go
  check(found, value, size = Math.abs(value)) {
    if (Math.abs(found - value) > (figures > 3 ? 1e-4 : 1e-2) * Math.max(size, Math.abs(value)) + 1e-9) this.wrong = true;
  }

  equals(expression, value = this.value) {
    return `${expression} = ${this.n(value)}`;
  }

  // The element is another one, unchanged: "y[1] = x[3] = 0.2"
  same(what, value) {
    return [`${this.own} = ${what} = ${this.n(value ?? this.value)}`];
  }

  isZero(why) {
    return [`${this.own} = 0: ${why}`];
  }
}

// Small helpers

function range(n) {
  return Array.from({ length: n }, (_, i) => i);
}

function replaced(index, axis, value) {
  const copy = [...index];
  copy[axis] = value;
  return copy;
}

function without(index, axis) {
  return index.filter((_, a) => a !== axis);
}

// All indices of an array of `shape`
function* indices(shape) {
  for (let flat = 0; flat < product(shape); flat++) yield unflatten(flat, shape);
}

function sumOf(values) {
  return values.reduce((a, b) => a + b, 0);
}

function bracket(value) {
  const text = formatNumber(value, figures);
  return text.startsWith(MINUS) || text.includes("e") ? `(${text})` : text;
}

// The token at a place of an axis, where the page knows it: " ‹cat›"
function token(names, axis, i) {
  const list = names && names.at(axis);
  return list ? ` ${quoted(list[i])}` : "";
}

// Sums of products

// terms: [factor, factor, ...] each; null factors are not kept. Zero products are left out, of many the largest stay.
function sumOfProducts(c, terms, total = c.value) {
  const known = terms.filter((term) => term.every((f) => f !== null));
  const size = (term) => (Number.isNaN(product(term)) ? Infinity : Math.abs(product(term)));
  if (terms.length && !known.length) c.missing = true;
  const nonzero = known.filter((term) => size(term) > 0);
  if (known.length === terms.length) c.check(sumOf(known.map(product)), total, sumOf(known.map(size)));
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
    const rest = total - sumOf(shown.map(product));
    text += ` + … (${left} more: ${formatNumber(rest, figures)})`;
  }
  return c.equals(text, total);
}

// A sum, and the division by the number of its terms when the value is their mean
function sumOrMean(c, terms) {
  const known = !terms.flat().includes(null);
  const asked = c.settings.reduction === "sum" ? 1 : terms.length;
  const n = known ? timesIn(c.value, terms.map(product)) : asked;
  const sum = sumOfProducts(c, terms, c.value * n);
  return n === 1 ? [sum] : [sum, c.equals(`${formatNumber(c.value * n, figures)} / ${n}`)];
}

// By how much a sum was divided to give a value: 1 for a sum, n for a mean
function timesIn(value, terms) {
  const sum = sumOf(terms);
  return value && sum ? Math.max(1, Math.round(sum / value)) : 1;
}

// The places of the result that an element of argument k was broadcast to
function placesOf(c, k = c.argument) {
  const shape = c.step.out.shape;
  const from = shape.length - c.shapes[k].length;
  const fixed = shape.map((n, axis) => axis >= from && c.shapes[k][axis - from] === n);
  const free = [...indices(shape.map((n, axis) => (fixed[axis] ? 1 : n)))];
  return free.map((place) => place.map((i, axis) => (fixed[axis] ? c.index[axis - from] : i)));
}

const FORWARD = {};
const BACKWARD = {};

// What the page calls

// The lines for one element, and what they were read from
function arithmetic(step, direction, index, argument, target) {
  const arrays = [target, step.out, step.incoming, ...step.inputs.map((input) => input.array)];
  figures = Math.min(...arrays.filter((array) => array && array.kind[0] !== "i").map((array) => array.digits));
  const c = new Context(step, index, argument, target);
  const rule = (direction === "forward" ? FORWARD : BACKWARD)[step.op];
  const lines = rule ? rule(c) : null;
  if (c.wrong) return { complete: false, lines: null, used: new Map() };
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
