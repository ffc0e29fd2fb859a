// Numbers: how an array is read from the page, how numbers, indices and shapes are written, and small helpers.
//
// A large array is kept in part: along an axis, every keep[axis]-th place. Its numbers then have half precision
// (3 digits). Its statistics were computed from all of it, in full precision.

const BYTES = { f2: 2, f4: 4, f8: 8, i4: 4, i8: 8 }; // i8: whole numbers as float64, exact up to 2^53
const DIGITS = { f2: 3, f4: 5, f8: 6, i4: 10, i8: 16 }; // significant digits that are shown
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
    const read = { f4: Float32Array, f8: Float64Array, i4: Int32Array, i8: Float64Array, f2: Uint16Array }[this.kind];
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

  // The size at which a colour is full: all but the largest hundredth of the numbers are below
  get limit() {
    const sizes = Float64Array.from(this.values, Math.abs).filter(Number.isFinite).sort();
    const limit = sizes[Math.floor(0.99 * (sizes.length - 1))] || sizes[sizes.length - 1] || 1;
    Object.defineProperty(this, "limit", { value: limit }); // sorted once
    return limit;
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
  if (Number.isInteger(value) && size < (digits < 10 ? 1e7 : 2 ** 53)) text = String(size);
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

// A token; some are in such brackets already, as ‹start›
function quoted(text) {
  return text.startsWith("‹") ? text : `‹${text}›`;
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

function clamp(x, low, high) {
  return Math.min(Math.max(x, low), high);
}
