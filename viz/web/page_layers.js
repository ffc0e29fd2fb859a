// The arithmetic of the fused ops: softmax, layer norm, embedding, attention, and the losses. See page_arithmetic.js.

// Softmax and its relatives, along one axis

function lineOf(c) {
  const axis = oneAxis(c);
  return range(c.shapes[0][axis]).map((i) => replaced(c.index, axis, i));
}

function expSum(c, values, most = MOST_TERMS) {
  const shown = values.slice(0, most).map((v) => `exp(${c.n(v)})`);
  return shown.join(" + ") + (values.length > most ? ` + … (${values.length - most} more)` : "");
}

FORWARD.softmax = (c) => {
  const values = lineOf(c).map((i) => c.need(c.read(0, i)));
  const own = c.need(c.inputs[0].array.at(c.index));
  return [
    c.equals(`exp(${c.n(own)}) / (${expSum(c, values)})`),
    c.equals(`${formatNumber(Math.exp(own), figures)} / ${formatNumber(sumOf(values.map(Math.exp)), figures)}`),
  ];
};
BACKWARD.softmax = (c) => {
  const pairs = lineOf(c).map((i) => [c.need(c.gradient(i)), c.need(c.result(i))]);
  const dot = sumOf(pairs.map(product));
  const [g, p] = [c.need(c.step.incoming.at(c.index)), c.need(c.step.out.at(c.index))];
  return [
    `Σ g p = ${sumOfProducts(c, pairs, dot)}`,
    c.equals(`p (g ${MINUS} Σ g p) = ${c.n(p)} × (${c.n(g)} ${MINUS} ${bracket(dot)})`),
  ];
};

FORWARD.log_softmax = (c) => {
  const values = lineOf(c).map((i) => c.need(c.read(0, i)));
  return [c.equals(`${c.n(c.inputs[0].array.at(c.index))} ${MINUS} ln(${expSum(c, values)})`)];
};
BACKWARD.log_softmax = (c) => {
  const sum = sumOf(lineOf(c).map((i) => c.need(c.gradient(i))));
  const p = Math.exp(c.need(c.result(c.index)));
  const g = c.n(c.step.incoming.at(c.index));
  return [c.equals(`g ${MINUS} p Σ g = ${g} ${MINUS} ${formatNumber(p, figures)} × ${bracket(sum)}`)];
};

FORWARD.logsumexp = (c) => {
  const values = sourcesOfReduction(c).map((place) => c.need(c.read(0, place)));
  return [c.equals(`ln(${expSum(c, values)})`)];
};
BACKWARD.logsumexp = (c) => {
  const place = reducedPlace(c);
  const [g, x, y] = [c.gradient(place), c.read(0, c.index), c.result(place)].map((value) => c.need(value));
  return [c.equals(`g exp(x ${MINUS} y) = ${bracket(g)} × exp(${c.n(x)} ${MINUS} ${bracket(y)})`)];
};

// Mean, variance and r = 1 / root of a row that layer_norm works on. r is taken from the engine's result, where the row
// is farthest from its mean: the setting eps is not always known.
function rowOf(c) {
  const C = c.shapes[0].at(-1);
  const at = (i) => [...c.index.slice(0, -1), i];
  const row = range(C).map((i) => c.need(c.read(0, at(i))));
  const mean = sumOf(row) / C;
  const variance = sumOf(row.map((v) => (v - mean) ** 2)) / C;
  const [gamma, beta] = [1, 2].map((k) => range(C).map((i) => c.inputs[k].array.at([i])));
  const pull = (i) => Math.abs((row[i] - mean) * gamma[i]);
  const far = range(C).reduce((best, i) => (pull(i) > pull(best) ? i : best), 0);
  const r = (c.need(c.step.out.at(at(far))) - beta[far]) / gamma[far] / (row[far] - mean);
  return pull(far) > 0 ? { row, C, mean, variance, r } : null; // a row of equal numbers
}

FORWARD.layer_norm = (c) => {
  const last = c.index.at(-1);
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
BACKWARD.layer_norm = (c) => (c.argument > 0 ? normScale(c) : normInput(c));

// dgamma is a sum of g xhat over the rows, dbeta one of g
function normScale(c) {
  const terms = [...indices(c.shapes[0].slice(0, -1))].map((row) => {
    const place = [...row, c.index[0]];
    if (c.argument === 2) return [c.gradient(place)];
    const [gamma, beta, y] = [c.read(1, c.index), c.read(2, c.index), c.result(place)];
    return [c.gradient(place), y === null || gamma === 0 ? null : (y - beta) / gamma];
  });
  return [sumOfProducts(c, terms)];
}

function normInput(c) {
  const last = c.index.at(-1);
  const found = rowOf(c);
  if (!found) return null;
  const { row, C, mean, r } = found;
  const n = (v) => formatNumber(v, figures);
  const h = range(C).map((i) => c.need(c.gradient([...c.index.slice(0, -1), i])) * c.inputs[1].array.at([i]));
  const xhat = row.map((v) => (v - mean) * r);
  const [a, b] = [sumOf(h) / C, sumOf(h.map((v, i) => v * xhat[i])) / C];
  return [
    `h = g γ = ${n(c.need(h[last]))}, mean(h) = ${n(a)}, mean(h xhat) = ${n(b)}, xhat = ${n(xhat[last])}, r = ${n(r)}`,
    `r (h ${MINUS} mean(h) ${MINUS} xhat mean(h xhat)):`,
    c.equals(`${n(r)} × (${n(h[last])} ${MINUS} ${bracket(a)} ${MINUS} ${bracket(xhat[last])} × ${bracket(b)})`),
  ];
}

FORWARD.embedding = (c) => {
  const ids = c.setting("ids");
  if (ids === null) return null;
  const id = c.need(c.read(ids, c.index.slice(0, -1)));
  const place = [id, c.index.at(-1)];
  c.read(0, place);
  return [
    `id ${id}${token(c.inputs[0].names, 0, id)}: row ${id} of the table`,
    ...c.same(`weight${formatIndex(place)}`),
  ];
};
BACKWARD.embedding = (c) => {
  const ids = c.setting("ids");
  if (ids === null) return null;
  const [row, column] = c.index;
  const name = `id ${row}${token(c.inputs[0].names, 0, row)}`;
  const places = [...indices(c.inputs[ids].array.shape)].filter((place) => c.inputs[ids].array.at(place) === row);
  if (!places.length) return c.isZero(`${name} does not occur here`);
  const times = places.length === 1 ? "once" : `${places.length} times`;
  return [
    `${name} occurs ${times}`,
    sumOfProducts(
      c,
      places.map((place) => [c.gradient([...place, column])]),
    ),
  ];
};

// Attention, alone or with its heads side by side in x (and kv). P: the weights; A: the scores

// The head that an element belongs to, read alike from either op: q, k, v, g and o of a token and a channel, P of two
// tokens. i, d: the token and the channel of the element; part: which of q, k and v it is a gradient of
function headOf(c) {
  const head = c.step.op === "multi_head_attention" ? packedHead(c) : wholeHead(c);
  const P = c.step.inner.find((inner) => inner.name === "P");
  const [T, S] = P.array.shape.slice(-2);
  const [q, k, v] = range(3).map((part) => (i, d) => head.read(part, i, d));
  return {
    ...head,
    i: c.index.at(-2),
    T,
    S,
    q,
    k,
    v,
    g: (t, d) => c.gradient(head.at(t, d)),
    o: (t, d) => c.result(head.at(t, d)),
    P: (t, s) => c.inner("P", [...head.lead, t, s]),
    query: (t) => `query ${t}${token(P.names, -2, t)}`,
    key: (s) => `key ${s}${token(P.names, -1, s)}`,
  };
}

// lead: the sentence and the head; at: where a token's channel is in the result; D, Dv: channels of a query, of a value
function wholeHead(c) {
  const lead = c.index.slice(0, -2);
  const at = (t, d) => [...lead, t, d];
  const read = (part, i, d) => c.read(part, at(i, d));
  const [D, Dv] = [c.shapes[0].at(-1), c.shapes[2].at(-1)];
  return { lead, at, read, D, Dv, d: c.index.at(-1), part: c.argument, told: [] };
}

// The channels of x and kv are those of Q, K and V one after another, and of each those of a head after another
function packedHead(c) {
  const [b, i, channel] = c.index;
  const [C, D] = [c.step.out.shape.at(-1), c.step.inner[0].array.shape.at(-1)];
  const [h, d] = [Math.floor((channel % C) / D), channel % D];
  const at = (t, j) => [b, t, h * D + j];
  const hasKv = c.inputs.some((input) => input.name === "kv");
  const read = (part, t, j) => {
    const k = hasKv && part > 0 ? 1 : 0;
    c.read(k, [b, t, (part - k) * C + h * D + j]);
    return c.inner("QKV"[part], [b, h, t, j]);
  };
  const part = c.argument === null ? null : c.argument + Math.floor(channel / C);
  const place = part === null ? `channel ${d} of head ${h}` : `d${"QKV"[part]}${formatIndex([b, h, i, d])}`;
  return { lead: [b, h], at, read, D, Dv: D, d, part, told: [`${c.own} is ${place}`] };
}

function attentionForward(c) {
  const { i: t, d, S, D, P, q, k, v, query, key, told } = headOf(c);
  const weights = range(S).map((s) => c.need(P(t, s)));
  const most = weights.indexOf(Math.max(...weights));
  const why = `${query(t)} gives ${key(most)} the most weight, ${c.n(weights[most])}, for its score q k / √D:`;
  const lines = [...told, why];
  const terms = range(D).map((j) => [q(t, j), k(most, j)]);
  const dot = sumOf(terms.map(product));
  if (terms.flat().includes(null))
    lines.pop(); // that key is not kept
  else {
    lines.push(sumOfProducts(c, terms, dot));
    lines.push(c.equals(`${formatNumber(dot, figures)} / √${D}`, dot / Math.sqrt(D)));
  }
  const values = weights.map((w, s) => [w, v(s, d)]);
  return [...lines, "all weights, a row of P, times the values:", sumOfProducts(c, values)];
}

function attentionBackward(c) {
  const head = headOf(c);
  const { part, i, d, T, S, D, told } = head;
  if (part === 2) {
    const terms = range(T).map((t) => [head.P(t, i), head.g(t, d)]);
    return [...told, sumOfProducts(c, terms)];
  }
  const ofQuery = part === 0; // dq is a sum over keys, dk one over queries
  const pairs = range(ofQuery ? S : T).map((j) => (ofQuery ? [i, j] : [j, i]));
  const slopes = pairs.map(([t, s]) => slopeOfScore(c, head, t, s));
  const most = slopes.reduce((best, { dA }, j) => (Math.abs(dA) > Math.abs(slopes[best].dA) ? j : best), 0);
  const { p, dP, e, dA } = slopes[most];
  const [t, s] = pairs[most];
  const other = ofQuery ? head.k : head.q;
  const terms = slopes.map((slope, j) => [slope.dA, other(j, d)]);
  const sum = c.value * Math.sqrt(D);
  return [
    ...told,
    `for ${head.query(t)} and ${head.key(s)}: dP = g v = ${c.n(dP)}, e = g O = ${c.n(e)}`,
    c.equals(`dA = P (dP ${MINUS} e) = ${c.n(p)} × (${c.n(dP)} ${MINUS} ${bracket(e)})`, dA),
    `every dA of this ${ofQuery ? "query, times the keys" : "key, times the queries"}, over √D:`,
    sumOfProducts(c, terms, sum),
    c.equals(`${formatNumber(sum, figures)} / √${D}`),
  ];
}

// How the loss changes with the score of query t and key s: dA = P (dP - e), dP = g_t v_s, e = g_t O_t
function slopeOfScore(c, { Dv, P, g, v, o }, t, s) {
  const channels = range(Dv);
  const slope = channels.map((j) => c.need(g(t, j)));
  const dP = sumOf(channels.map((j) => slope[j] * c.need(v(s, j))));
  const e = sumOf(channels.map((j) => slope[j] * c.need(o(t, j))));
  const p = c.need(P(t, s));
  return { p, dP, e, dA: p * (dP - e) };
}

for (const op of ["scaled_dot_product_attention", "multi_head_attention"]) {
  FORWARD[op] = attentionForward;
  BACKWARD[op] = attentionBackward;
}

// Losses. The loss of each place, then their sum or mean

// All places, or the one of the element when nothing was summed
function lossPlaces(c, shape) {
  return c.step.out.shape.length ? [c.index] : [...indices(shape)];
}

function lossGradient(c, place) {
  return c.need(c.gradient(c.step.incoming.shape.length ? place : []));
}

// The probabilities of one place, and its true word
function prediction(c, place) {
  const z = range(c.shapes[0].at(-1)).map((i) => c.inputs[0].array.at([...place, i]));
  const k = c.setting("targets");
  return { z, sum: sumOf(z.map(Math.exp)), target: k === null ? null : c.inputs[k].array.at(place) };
}

// The target distribution y at a class, smoothed or not
function wanted(c, target, i) {
  const a = c.settings.label_smoothing || 0;
  return (target === i ? 1 - a : 0) + a / c.shapes[0].at(-1);
}

const isIgnored = (c, target) => target < 0 || target === c.settings.ignore_index;

FORWARD.cross_entropy = (c) => {
  if (c.setting("targets") === null) return null;
  const places = lossPlaces(c, c.shapes[0].slice(0, -1));
  const logs = places.map((place) => {
    const { z, sum, target } = prediction(c, place);
    if (target === null || z.includes(null)) return null; // not kept
    if (isIgnored(c, target)) return 0;
    c.read(0, [...place, target]);
    return Math.log(sum) - sumOf(z.map((v, i) => wanted(c, target, i) * v));
  });
  const { z, sum, target } = prediction(c, places[0]);
  if (z.includes(null)) return null; // more words than the page keeps
  const lines = [];
  if (logs[0]) {
    const P = Math.exp(z[target]) / sum;
    const word = `class ${target}${token(c.inputs[0].names, -1, target)}`;
    lines.push(`${places.length > 1 ? "at the first place " : ""}${word} is the true one`);
    lines.push(`P = exp(${c.n(z[target])}) / (${expSum(c, z, 4)}) = ${formatNumber(P, figures)}`);
    const loss = formatNumber(logs[0], figures);
    const [own, other] = [target, target + 1].map((i) => formatNumber(wanted(c, target, i), figures));
    if (c.settings.label_smoothing) lines.push(`y is ${own} there, ${other} elsewhere: ${MINUS}Σ y ln P = ${loss}`);
    else lines.push(`${MINUS}ln P = ${MINUS}ln(${formatNumber(P, figures)}) = ${loss}`);
  }
  if (places.length === 1) c.check(logs[0], c.value);
  if (!lines.length && places.length === 1) return c.isZero("this place does not count");
  return places.length > 1
    ? [
        ...lines,
        ...sumOrMean(
          c,
          logs.map((v) => [v]),
        ),
      ]
    : lines;
};

BACKWARD.cross_entropy = (c) => {
  const [place, i] = [c.index.slice(0, -1), c.index.at(-1)];
  const { z, sum, target } = prediction(c, place);
  if (z.includes(null) || target === null) return null;
  if (isIgnored(c, target)) return c.isZero("this place does not count");
  const g = lossGradient(c, place);
  const P = Math.exp(c.need(c.read(0, c.index))) / sum;
  c.read(c.setting("targets"), place);
  const y = wanted(c, target, i);
  const n = Math.round((g * (P - y)) / c.value) || 1;
  c.check((g * (P - y)) / n, c.value);
  const shownY = formatNumber(y, figures);
  const lines = [
    `P = exp(${c.n(z[i])}) / (${expSum(c, z, 4)}) = ${formatNumber(P, figures)}`,
    `y = ${shownY}, as class ${i}${token(c.inputs[0].names, -1, i)} is ${target === i ? "" : "not "}the true one`,
    `P ${MINUS} y = ${formatNumber(P, figures)} ${MINUS} ${shownY} = ${formatNumber(P - y, figures)}`,
  ];
  if (g !== 1 || n > 1) lines.push(c.equals(`${bracket(P - y)} × ${bracket(g)}${n > 1 ? ` / ${n}` : ""}`));
  return lines;
};

FORWARD.nll_loss = (c) => {
  const k = c.setting("targets");
  if (k === null) return null;
  const terms = lossPlaces(c, c.shapes[0].slice(0, -1)).map((place) => {
    const target = c.need(c.read(k, place));
    return target < 0 || target === c.settings.ignore_index ? [0] : [c.need(c.read(0, [...place, target])), -1];
  });
  return sumOrMean(c, terms);
};
BACKWARD.nll_loss = (c) => {
  const [k, place] = [c.setting("targets"), c.index.slice(0, -1)];
  if (k === null) return null;
  if (c.value === 0) return c.isZero("it is not the true class, or does not count");
  c.read(k, place);
  const g = lossGradient(c, place);
  const n = timesIn(c.value, [-g]);
  return [c.equals(`${MINUS}g${n > 1 ? ` / ${n}` : ""} = ${bracket(-g)}${n > 1 ? ` / ${n}` : ""}`)];
};

FORWARD.mse_loss = (c) => {
  const differences = lossPlaces(c, c.shapes[0]).map((place) => c.need(c.read(0, place)) - c.need(c.read(1, place)));
  return [
    `squares of x ${MINUS} y:`,
    ...sumOrMean(
      c,
      differences.map((d) => [d, d]),
    ),
  ];
};
BACKWARD.mse_loss = (c) => {
  const [x, y] = [0, 1].map((k) => c.need(c.read(k, c.index)));
  const g = lossGradient(c, c.index);
  const sign = c.argument === 0 ? 1 : -1;
  const n = timesIn(c.value, [sign * 2 * (x - y) * g]);
  const factor = `${sign < 0 ? MINUS : ""}2 × (${c.n(x)} ${MINUS} ${bracket(y)})`;
  return [c.equals(`${factor} × ${bracket(g)}${n > 1 ? ` / ${n}` : ""}`)];
};

const sigmoid = (x) => 1 / (1 + Math.exp(-x));

FORWARD.binary_cross_entropy_with_logits = (c) => {
  const places = lossPlaces(c, c.shapes[0]);
  const losses = places.map((place) => {
    const [x, y] = [0, 1].map((k) => c.need(c.read(k, place)));
    return Math.max(x, 0) - x * y + Math.log1p(Math.exp(-Math.abs(x)));
  });
  const [x, y] = [0, 1].map((k) => c.inputs[k].array.at(places[0]));
  const first = `ln(1 + exp(${c.n(x)})) ${MINUS} ${bracket(x)} × ${bracket(y)}`;
  const intro = `${MINUS}y ln s ${MINUS} (1 ${MINUS} y) ln(1 ${MINUS} s) is ln(1 + exp(x)) ${MINUS} x y`;
  const lines = [places.length > 1 ? `${intro}; at the first place:` : `${intro}:`, c.equals(first, losses[0])];
  return places.length > 1
    ? [
        ...lines,
        ...sumOrMean(
          c,
          losses.map((v) => [v]),
        ),
      ]
    : lines;
};
BACKWARD.binary_cross_entropy_with_logits = (c) => {
  const [x, y] = [0, 1].map((k) => c.need(c.read(k, c.index)));
  const g = lossGradient(c, c.index);
  const slope = c.argument === 0 ? sigmoid(x) - y : -x;
  const n = timesIn(c.value, [slope * g]);
  const last = c.equals(`${bracket(slope)} × ${bracket(g)}${n > 1 ? ` / ${n}` : ""}`);
  if (c.argument === 1) return [last];
  return [
    `s(x) ${MINUS} y = ${formatNumber(sigmoid(x), figures)} ${MINUS} ${c.n(y)} = ${formatNumber(slope, figures)}`,
    last,
  ];
};
