// The arithmetic of the simple ops: element by element, moves, reductions, products. See page_arithmetic.js.

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
};

const share = (wins, x, y) => (wins ? 1 : x === y ? 0.5 : 0);

const BINARY_BACK = {
  add: [() => [], () => []],
  sub: [() => [], () => [-1]],
  mul: [(x, y) => [y], (x) => [x]],
  div: [(x, y) => [1 / y], (x, y, z) => [-z / y]],
  pow: [(x, y) => [y, x ** (y - 1)], (x, y, z) => [z, Math.log(x)]],
  maximum: [(x, y) => [share(x > y, x, y)], (x, y) => [share(y > x, x, y)]],
  minimum: [(x, y) => [share(x < y, x, y)], (x, y) => [share(y < x, x, y)]],
};

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
  BACKWARD[op] = (c) => {
    const terms = placesOf(c).map((place) => {
      const [x, y] = [0, 1].map((k) => c.read(k, c.spread(k, place)));
      return [c.gradient(place), ...BINARY_BACK[op][c.argument](x, y, c.result(place))];
    });
    return [sumOfProducts(c, terms)];
  };
}

// What gelu and dropout multiply x, or g, by is seen from the result

FORWARD.gelu = (c) => {
  const x = c.need(c.read(0, c.index));
  return [c.equals(`x P(x) = ${formatNumber(x, figures)} × ${formatNumber(x ? c.value / x : 0.5, figures)}`)];
};
BACKWARD.gelu = (c) => {
  const [x, g] = [c.need(c.read(0, c.index)), c.need(c.gradient(c.index))];
  const slope = g ? c.value / g : NaN;
  return [
    `the slope of gelu at x = ${formatNumber(x, figures)} is ${formatNumber(slope, figures)}`,
    c.equals(`${bracket(g)} × ${bracket(slope)}`),
  ];
};

FORWARD.dropout = (c) => timesKept(c, c.need(c.read(0, c.index)));
BACKWARD.dropout = (c) => timesKept(c, c.need(c.gradient(c.index)));

function timesKept(c, x) {
  return c.value === 0 && x !== 0 ? c.isZero("it was dropped") : [c.equals(`${c.n(x)} × ${c.n(x ? c.value / x : 1)}`)];
}

// Ops that move elements: where an element of the result was taken from, as a place in argument 0

const MOVES = {
  expand: (c, index) => c.spread(0, index),
  pad: (c, index) => {
    if (!c.settings.widths) return null;
    const from = index.map((i, axis) => i - c.settings.widths[axis][0]);
    return from.every((i, axis) => i >= 0 && i < c.shapes[0][axis]) ? from : "around";
  },
  gather: (c, index) => {
    const [k, n] = [c.setting("index"), c.shapes[0].length];
    const axis = (c.settings.axis + n) % n;
    const i = c.need(c.read(k, c.spread(k, index)));
    return replaced(index, axis, i < 0 ? i + c.shapes[0][axis] : i);
  },
};
for (const op of ["reshape", "squeeze", "unsqueeze", "permute", "transpose", "getitem"]) {
  MOVES[op] = (c, index) => {
    const { source, places } = c.step;
    if (places) return unflatten(places[flatIndex(index, c.step.out.shape)], c.shapes[0]);
    if (!source) return null;
    const [first, ...steps] = source;
    return unflatten(first + sumOf(index.map((i, axis) => i * steps[axis])), c.shapes[0]);
  };
}

for (const [op, sourceOf] of Object.entries(MOVES)) {
  FORWARD[op] = (c) => {
    const from = sourceOf(c, c.index);
    if (!from) return null;
    return from === "around"
      ? [`${c.own} = ${c.n(c.value)}: around x`]
      : c.same(`x${formatIndex(from)}`, c.read(0, from));
  };
  BACKWARD[op] = (c) => {
    if (
      !sourceOf(
        c,
        c.step.out.shape.map(() => 0),
      )
    )
      return null;
    const places = [...indices(c.step.out.shape)].filter((place) => String(sourceOf(c, place)) === String(c.index));
    c.used.clear(); // the search has read all
    if (places.length === 1) return c.same(`g${formatIndex(places[0])}`, c.gradient(places[0]));
    return places.length
      ? [
          sumOfProducts(
            c,
            places.map((place) => [c.gradient(place)]),
          ),
        ]
      : c.isZero("it was not taken");
  };
}

// Arrays that were joined: which one an element of the result is from, and where it was

function joint(c) {
  const axis = c.step.out.shape.findIndex((n, a) => sumOf(c.shapes.map((s) => s[a])) === n);
  return { axis, begins: c.shapes.map((_, k) => sumOf(c.shapes.slice(0, k).map((s) => s[axis]))) };
}

FORWARD.concat = (c) => {
  const { axis, begins } = joint(c);
  const k = begins.filter((begin) => begin <= c.index[axis]).length - 1;
  const from = replaced(c.index, axis, c.index[axis] - begins[k]);
  return c.same(`${c.inputs[k].name}${formatIndex(from)}`, c.read(k, from));
};
BACKWARD.concat = (c) => {
  const { axis, begins } = joint(c);
  const place = replaced(c.index, axis, c.index[axis] + begins[c.argument]);
  return c.same(`g${formatIndex(place)}`, c.gradient(place));
};

FORWARD.stack = (c) => {
  const axis = oneAxis(c, c.index.length);
  const [k, from] = [c.index[axis], without(c.index, axis)];
  return c.same(`${c.inputs[k].name}${formatIndex(from)}`, c.read(k, from));
};
BACKWARD.stack = (c) => {
  const place = [...c.index];
  place.splice(oneAxis(c, place.length + 1), 0, c.argument);
  return c.same(`g${formatIndex(place)}`, c.gradient(place));
};

// The setting `axis` of an op that works along one, counted from the first of n; the last when it is not known
function oneAxis(c, n = c.shapes[0].length) {
  return ((c.settings.axis ?? -1) + n) % n;
}

// Ops each of whose elements is one of an argument's, or is filled in: that argument, or null

const fromDiagonal = (c, index) => index.at(-1) - index.at(-2) - (c.settings.diagonal ?? 0);
const flag = (c, name, index) => c.need(c.read(c.setting(name), c.spread(c.setting(name), index)));

const CHOICES = {
  where: (c, index) => (flag(c, "condition", index) ? 0 : 1),
  masked_fill: (c, index) => (flag(c, "mask", index) ? null : 0),
  clip: (c, index) => (c.need(c.step.out.at(index)) === c.need(c.inputs[0].array.at(index)) ? 0 : null),
  tril: (c, index) => (fromDiagonal(c, index) <= 0 ? 0 : null),
  triu: (c, index) => (fromDiagonal(c, index) >= 0 ? 0 : null),
};

for (const [op, chosen] of Object.entries(CHOICES)) {
  FORWARD[op] = (c) => {
    const k = chosen(c, c.index);
    if (k === null) return [`${c.own} = ${c.n(c.value)}: filled in`];
    return c.same(`${c.inputs[k].name}${formatIndex(c.spread(k))}`, c.read(k, c.spread(k)));
  };
  BACKWARD[op] = (c) => {
    const places = placesOf(c).filter((place) => chosen(c, place) === c.argument);
    if (!places.length) return c.isZero("it was not taken");
    return [
      sumOfProducts(
        c,
        places.map((place) => [c.gradient(place)]),
      ),
    ];
  };
}

// Reductions: the places of x that make one element of the result

function reducedAxes(c) {
  const { axis } = c.settings;
  const n = c.shapes[0].length;
  if (axis === undefined || axis === null) return range(n);
  return (Array.isArray(axis) ? axis : [axis]).map((a) => (a + n) % n);
}

function sourcesOfReduction(c, index = c.index) {
  const axes = reducedAxes(c);
  const kept = range(c.shapes[0].length).filter((a) => !axes.includes(a));
  const own = index.length === c.shapes[0].length ? kept.map((a) => index[a]) : index;
  return [...indices(axes.map((a) => c.shapes[0][a]))].map((inner) => {
    const place = c.shapes[0].map(() => 0);
    kept.forEach((a, i) => (place[a] = own[i]));
    axes.forEach((a, i) => (place[a] = inner[i]));
    return place;
  });
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
BACKWARD.sum = (c) => c.same(`g${formatIndex(reducedPlace(c))}`, c.gradient(reducedPlace(c)));

FORWARD.mean = (c) => {
  const places = sourcesOfReduction(c);
  const total = c.value * places.length;
  const sum = sumOfProducts(
    c,
    places.map((place) => [c.read(0, place)]),
    total,
  );
  return [sum, c.equals(`${formatNumber(total, figures)} / ${places.length}`)];
};
BACKWARD.mean = (c) => [
  c.equals(`g / n = ${c.n(c.gradient(reducedPlace(c)))} / ${c.inputs[0].array.size / c.step.out.size}`),
];

for (const [op, word] of Object.entries({ max: "largest", min: "smallest" })) {
  FORWARD[op] = (c) => {
    const texts = sourcesOfReduction(c).map((place) => c.n(c.read(0, place)));
    const all = texts.slice(0, MOST_TERMS).join(", ") + (texts.length > MOST_TERMS ? ", …" : "");
    return [`the ${word} of ${all} = ${c.n(c.value)}`];
  };
  BACKWARD[op] = (c) => {
    const place = reducedPlace(c);
    const [x, best, g] = [c.read(0, c.index), c.result(place), c.gradient(place)].map((value) => c.need(value));
    if (x !== best) return c.isZero(`${c.n(x)} is not the ${word}`);
    const equal = timesIn(c.value, [g]); // they share g
    return [`${c.n(x)} is the ${word}${equal > 1 ? `, as ${equal - 1} more` : ""}`, ...shared(c, g, equal)];
  };
}

function shared(c, g, n) {
  return n > 1 ? [c.equals(`${c.own} = g / ${n} = ${c.n(g)} / ${n}`)] : c.same("g", g);
}

FORWARD.var = (c) => {
  const { terms, mean } = squares(c, c.index);
  return [`the mean m = ${formatNumber(mean, figures)}; squares of x ${MINUS} m:`, ...sumOrMean(c, terms)];
};
BACKWARD.var = (c) => {
  const place = reducedPlace(c);
  const { terms, mean } = squares(c, place);
  const n = timesIn(c.need(c.step.out.at(place)), terms.map(product));
  const [x, g] = [c.need(c.read(0, c.index)), c.need(c.gradient(place))];
  return [c.equals(`${bracket(g)} × 2 × (${c.n(x)} ${MINUS} ${bracket(mean)}) / ${n}`)];
};

function squares(c, index) {
  const values = sourcesOfReduction(c, index).map((place) => c.need(c.read(0, place)));
  const mean = sumOf(values) / values.length;
  return { mean, terms: values.map((x) => [x - mean, x - mean]) };
}

FORWARD.cumsum = (c) => {
  const axis = oneAxis(c);
  return [
    sumOfProducts(
      c,
      range(c.index[axis] + 1).map((i) => [c.read(0, replaced(c.index, axis, i))]),
    ),
  ];
};
BACKWARD.cumsum = (c) => {
  const axis = oneAxis(c);
  const after = range(c.shapes[0][axis]).slice(c.index[axis]);
  return [
    sumOfProducts(
      c,
      after.map((i) => [c.gradient(replaced(c.index, axis, i))]),
    ),
  ];
};

// Products of two or more arrays. The axes of each have letters, as in einsum: a product runs over the letters that
// are not the result's. On the way back g, with the letters of the result, takes the argument's place.

const DOTS = "αβγδεζηθικλμ"; // leading axes

const PRODUCTS = {
  matmul: ([x, y]) => {
    const [a, b] = [x, y].map((shape) => DOTS.slice(DOTS.length - Math.max(0, shape.length - 2)));
    const [m, n] = [x.length > 1 ? "m" : "", y.length > 1 ? "n" : ""];
    return [[`${a}${m}k`, `${b}k${n}`], `${a.length > b.length ? a : b}${m}${n}`];
  },
  linear: ([x]) => {
    const rows = DOTS.slice(0, x.length - 1);
    return [[`${rows}i`, "oi"], `${rows}o`];
  },
  einsum: (shapes, { subscripts }) => {
    if (!subscripts) return null;
    const [left, given] = subscripts.replaceAll(" ", "").split("->");
    const alone = [...left].filter((l) => !",.".includes(l) && left.split(l).length === 2).sort();
    const counts = left.split(",").map((own, k) => shapes[k].length - own.replace("...", "").length);
    const named = (own, count) => own.replace("...", DOTS.slice(DOTS.length - count));
    const result = given ?? (left.includes("...") ? "..." : "") + alone.join("");
    return [left.split(",").map((own, k) => named(own, counts[k])), named(result, Math.max(...counts))];
  },
};

// The terms of a sum of products. parts: {letters, shape, read} of each factor; own: the letters of c.index, shape: the
// shape it is an index of: what has size 1 there was stretched, and is summed over.
function productTerms(c, parts, own, shape) {
  const sizes = {};
  for (const part of parts) [...part.letters].forEach((l, a) => (sizes[l] = Math.max(sizes[l] ?? 1, part.shape[a])));
  const at = {};
  [...own].forEach((l, axis) => shape[axis] === (sizes[l] ?? shape[axis]) && (at[l] = c.index[axis]));
  const free = Object.keys(sizes).filter((l) => !(l in at));
  return [...indices(free.map((l) => sizes[l]))].map((place) => {
    const now = { ...at, ...Object.fromEntries(free.map((l, i) => [l, place[i]])) };
    return parts.map((part) => part.read([...part.letters].map((l, a) => (part.shape[a] === 1 ? 0 : now[l]))));
  });
}

for (const [op, lettersOf] of Object.entries(PRODUCTS)) {
  const factor = (c, letters, k) => ({ letters, shape: c.shapes[k], read: (index) => c.read(k, index) });
  FORWARD[op] = (c) => {
    const [letters, result] = lettersOf(c.shapes, c.settings) || [];
    if (!letters) return null;
    const parts = letters.map((own, k) => factor(c, own, k));
    const terms = productTerms(c, parts, result, c.step.out.shape);
    if (op === "linear" && c.inputs.length > 2) terms.push([c.read(2, c.index.slice(-1))]);
    return [sumOfProducts(c, terms)];
  };
  BACKWARD[op] = (c) => {
    const [letters, result] = lettersOf(c.shapes, c.settings) || [];
    if (!letters) return null;
    const g = { letters: result, shape: c.step.out.shape, read: (index) => c.gradient(index) };
    if (c.argument === letters.length) return [sumOfProducts(c, productTerms(c, [g], "o", c.shapes[2]))]; // the bias
    const own = letters[c.argument];
    if (new Set(own).size < own.length) return null; // a diagonal
    const parts = letters.map((others, k) => (k === c.argument ? g : factor(c, others, k)));
    return [sumOfProducts(c, productTerms(c, parts, own, c.shapes[c.argument]))];
  };
}
