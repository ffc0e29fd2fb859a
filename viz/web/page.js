// The page: read the data, step through the passes, and show what happens at each step.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

const page = {
  step: 0,
  views: [], // [role, ArrayView] of the arrays that are shown
  picks: new Map(), // what was picked at which step: its target and index
  timer: null,
};

start().catch((error) => {
  $("detail").replaceChildren(el("p", { class: "failure" }, `This page could not be shown: ${error.message}`));
  throw error;
});

async function start() {
  const numbers = await unpacked($("numbers").textContent);
  page.arrays = data.arrays.map((record) => new Kept(record, numbers));
  const named = (part) => ({
    ...part,
    names: part.names && part.names.map((k) => (k === null ? null : data.names[k])),
  });
  page.ops = data.ops.map((op) => ({
    ...named(op),
    symbol: (op.formula || "").match(/^([A-Za-z]+)\S* =/)?.[1] || "y", // what the formula calls the result
    out: page.arrays[op.out],
    incoming: op.incoming === undefined ? null : page.arrays[op.incoming],
    inner: op.inner.map((inner) => ({ ...named(inner), array: page.arrays[inner.array] })),
    inputs: op.inputs.map((input) => ({ ...named(input), array: page.arrays[input.array] })),
    sources: [...new Set(op.inputs.map((input) => input.op).filter((i) => i !== null))],
  }));
  for (const op of page.ops) op.texts = [titled(op), formatShape(op.out.shape), ...chips(op)];
  page.steps = [...page.ops.map((_, i) => [i, "forward"]), ...data.backward.map((i) => [i, "backward"])];
  page.backwardAt = new Map(data.backward.map((op, i) => [op, page.ops.length + i]));
  page.graph = new Graph($("graph"), page.ops, data.groups, {
    onOp: (op) => go(page.steps[page.step][1] === "backward" && page.backwardAt.has(op) ? page.backwardAt.get(op) : op),
    onToggle: showModuleButton,
  });
  listen();
  $("signs").hidden = !Object.keys(data.groups).length && !page.ops.some((op) => op.texts.length > 2);
  $("modules").hidden = !Object.keys(data.groups).length;
  go(0);
  document.body.classList.add("ready");
}

// The numbers come as text, compressed
async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text.trim()), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

// An op by the name of its result, if that has one
function titled(op) {
  return op.name ? `${op.name}: ${op.title}` : op.title;
}

// The leaves that an op uses, as short lines for its box
function chips(op) {
  const group = data.groups[op.group];
  const prefix = group ? `${group.name}.` : "";
  const leaves = op.inputs.filter((input) => input.op === null && input.kind !== "constant");
  return leaves.map((input) => {
    const name = input.label || input.name;
    const sign = input.kind === "parameter" ? "◆" : "◇";
    return `${sign} ${name.startsWith(prefix) ? name.slice(prefix.length) : name}`;
  });
}

// Steps

function go(step) {
  const last = page.steps.length - 1;
  page.step = clamp(step, 0, last);
  const [op, direction] = page.steps[page.step];
  const count = page.ops.length;
  const done = (i) => {
    if (direction === "forward") return i <= op ? "f" : "";
    return page.backwardAt.has(i) && page.backwardAt.get(i) <= page.step ? "b" : "f";
  };
  document.body.dataset.direction = direction;
  $("slider").max = last;
  $("slider").value = page.step;
  $("slider").style.setProperty("--share", `${(count / (last + 1)) * 100}%`);
  $("slider").setAttribute(
    "aria-valuetext",
    `step ${page.step + 1} of ${last + 1}, ${direction}, ${page.ops[op].title}`,
  );
  $("where").textContent =
    direction === "forward"
      ? `forward ${page.step + 1} / ${count}`
      : `backward ${page.step - count + 1} / ${last + 1 - count}`;
  for (const id of ["first", "previous"]) $(id).disabled = page.step === 0;
  for (const id of ["last", "next"]) $(id).disabled = page.step === last;
  if (page.step === last) stop();
  page.graph.show({ op, direction, done });
  showDetail(op, direction);
}

// To the next step outside the module that is on (closed modules are passed in one go)
function leap(by) {
  const boxOf = (step) => page.graph.layout.visible(page.steps[step][0]) + page.steps[step][1];
  const last = page.steps.length - 1;
  let step = page.step;
  while (step + by >= 0 && step + by <= last && boxOf(step) === boxOf(page.step)) step += by;
  go(step);
}

function play() {
  if (page.timer) return stop();
  if (page.step === page.steps.length - 1) go(0);
  page.timer = setInterval(() => go(page.step + 1), 700);
  $("play").classList.add("playing");
  $("play").setAttribute("aria-label", "stop");
}

function stop() {
  clearInterval(page.timer);
  page.timer = null;
  $("play").classList.remove("playing");
  $("play").setAttribute("aria-label", "play");
}

// Open or close the module of the step that is on
function toggleModule() {
  const around = page.graph.layout.around(page.steps[page.step][0]).slice(0, -1);
  const closed = [...around].reverse().find((id) => !page.graph.open.has(id));
  const id = closed || around[0];
  if (id) page.graph.toggle(id);
}

function listen() {
  const keys = {
    ArrowRight: () => go(page.step + 1),
    ArrowLeft: () => go(page.step - 1),
    ArrowDown: () => $("detail").scrollBy(0, 90),
    ArrowUp: () => $("detail").scrollBy(0, -90),
    PageDown: () => leap(1),
    PageUp: () => leap(-1),
    Home: () => go(0),
    End: () => go(page.steps.length - 1),
    b: () => go(page.ops.length),
    " ": play,
    o: toggleModule,
    "+": () => page.graph.zoom(1.25),
    "=": () => page.graph.zoom(1.25),
    "-": () => page.graph.zoom(0.8),
    0: () => page.graph.whole(),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const onControl = event.target.closest("button, summary, a");
    const moves = event.target === $("slider") && ["ArrowUp", "ArrowDown"].includes(event.key);
    if (!keys[event.key] || moves || (onControl && event.key === " ")) return;
    event.preventDefault();
    keys[event.key]();
  });
  $("slider").addEventListener("input", (event) => go(Number(event.target.value)));
  const clicks = {
    first: () => go(0),
    previous: () => go(page.step - 1),
    next: () => go(page.step + 1),
    last: () => go(page.steps.length - 1),
    play,
    larger: () => page.graph.zoom(1.25),
    smaller: () => page.graph.zoom(0.8),
    whole: () => page.graph.whole(),
  };
  for (const [id, action] of Object.entries(clicks)) $(id).addEventListener("click", action);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => go(page.step));
  addEventListener("resize", () => {
    if (roomForArrays() !== page.room) go(page.step);
  });
}

// What happens at a step

function showDetail(opIndex, direction) {
  const op = page.ops[opIndex];
  const backward = direction === "backward";
  page.views = [];
  page.room = roomForArrays();
  const parts = [
    introduction(),
    el(
      "p",
      { class: "path" },
      el("span", { class: "direction" }, direction),
      op.module ? ` ${op.module}` : "",
      moduleButton(),
    ),
    el("h2", {}, titled(op), el("small", {}, formatShape(op.out.shape))),
    ...formulaLines(op, backward),
    el("section", { id: "arithmetic", "aria-live": "polite" }),
    ...op.lines.map(([file, number, text]) =>
      el("p", { class: "source" }, el("code", {}, text), el("small", {}, `${file}:${number}`)),
    ),
    ...(backward ? backwardArrays(op) : forwardArrays(op)),
  ];
  const doc = data.docs[op.op];
  if (doc)
    parts.push(
      el(
        "details",
        {},
        el("summary", {}, `how ${op.title} is defined, and why its gradient is that`),
        el("pre", {}, doc),
      ),
    );
  $("detail").replaceChildren(...parts.filter((part) => part));
  $("detail").scrollTop = 0;
  showModuleButton();
  choose(opIndex, direction);
}

// Where a pass begins, what it is
function introduction() {
  const words = {
    0:
      "Each box is one op that was computed, with its real numbers. Step on from here: first forward, from top to " +
      "bottom, up to the last number; then backward, with the gradients.",
    [page.ops.length]:
      "From here the way goes back. Each op is given the gradient of its result (how much the last number changes " +
      "with it), and passes on the gradients of what it was made of.",
  }[page.step];
  return words && el("p", { class: "introduction" }, words);
}

// The width of the detail, inside its margins
function roomForArrays() {
  const style = getComputedStyle($("detail"));
  return $("detail").clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
}

function formulaLines(op, backward) {
  if (!backward) return op.formula ? [formula(op.formula)] : [];
  const found = op.inputs.filter((input) => input.grad !== undefined).map((input) => input.gradient);
  return [...new Set(found)].filter(Boolean).map(formula);
}

// x_i and e^x, W^T, x^(y-1) as they are written by hand
function formula(text) {
  const line = el("p", { class: "formula" });
  text = text
    .replace(/\bsum(?=_)/g, "Σ")
    .replace(/\bsqrt\((\w+)\)/g, "√$1")
    .replace(/\bsqrt\(/g, "√(")
    .replaceAll(" - ", ` ${MINUS} `);
  let at = 0;
  for (const found of text.matchAll(/([_^])(\([^()]*\)|-?[A-Za-z0-9]+)/g)) {
    const inner = found[2].replace(/^\((.*)\)$/, "$1");
    if (found[1] === "_" && !/^([a-z]{1,2}|[0-9])$/.test(inner)) continue; // a name such as log_probs
    line.append(text.slice(at, found.index), el(found[1] === "_" ? "sub" : "sup", {}, inner));
    at = found.index + found[0].length;
  }
  line.append(text.slice(at));
  return line;
}

function moduleButton() {
  return el("button", { id: "module", type: "button", onclick: toggleModule });
}

function showModuleButton() {
  const button = $("module");
  if (!button) return;
  const around = page.graph.layout.around(page.steps[page.step][0]).slice(0, -1);
  const closed = [...around].reverse().find((id) => !page.graph.open.has(id));
  button.hidden = !around.length;
  button.textContent = closed
    ? `open ${data.groups[closed].name}`
    : around.length
      ? `close ${data.groups[around[0]].name}`
      : "";
}

// An array with a heading, under the role by which the arithmetic knows it. names: the tokens along its axes
function shown(role, array, names, name, note = "", target = null) {
  const onPick = target && ((index) => calculate(target, index));
  const view = new ArrayView(array, { name, names, note, onPick, room: page.room });
  page.views.push([role, view]);
  if (target) target.view = view;
  return view.element;
}

function inputNote(input) {
  if (input.op !== null) return `from ${titled(page.ops[input.op])}`;
  return [input.kind, input.label].filter(Boolean).join(" ");
}

function forwardArrays(op) {
  const target = { direction: "forward", argument: null, array: op.out, name: op.symbol };
  page.targets = [target];
  return [
    el("h3", {}, "Result"),
    shown("out", op.out, op.names, op.symbol, "click an element to see where it comes from", target),
    ...(op.inner.length ? [el("h3", {}, "On the way")] : []),
    ...op.inner.map((inner) =>
      shown(inner.name, inner.array, inner.names, inner.name, inner.note),
    ),
    el("h3", {}, "Made of"),
    ...op.inputs.map((input, k) => shown(`input ${k}`, input.array, input.names, input.name, inputNote(input))),
  ];
}

function backwardArrays(op) {
  page.targets = [];
  const outgoing = op.inputs.flatMap((input, k) => {
    if (input.grad === undefined) return [];
    const array = page.arrays[input.grad];
    const target = { direction: "backward", argument: k, array, name: `d${input.name}` };
    page.targets.push(target);
    const parts = [
      shown(
        `outgoing ${k}`,
        array,
        input.names,
        `d${input.name}`,
        `to ${inputNote(input).replace("from ", "")}`,
        target,
      ),
    ];
    if (input.total !== undefined)
      parts.push(
        shown(
          `total ${k}`,
          page.arrays[input.total],
          input.names,
          `d${input.name} in all`,
          `${input.label || input.name} is used more than once`,
        ),
      );
    return parts;
  });
  const before = el(
    "details",
    {},
    el("summary", {}, "the numbers of the forward pass"),
    shown("out", op.out, op.names, op.symbol),
    ...op.inner.map((inner) => shown(inner.name, inner.array, inner.names, inner.name)),
    ...op.inputs.map((input, k) => shown(`input ${k}`, input.array, input.names, input.name, inputNote(input))),
  );
  return [
    el("h3", {}, "The gradient that comes in"),
    shown("incoming", op.incoming, op.names, "g", "of the loss with respect to the result"),
    el("h3", {}, "What it passes on"),
    ...outgoing,
    before,
  ];
}

// Pick what was picked here before; else the first element that is not 0, or of a heat map the largest whose sum can be
// written out
function choose(opIndex, direction) {
  const key = `${opIndex} ${direction}`;
  const before = page.picks.get(key);
  const target = page.targets[before ? before.target : 0];
  if (!target || !target.array.size) return;
  const op = page.ops[opIndex];
  for (const other of page.targets) other.view.grid = pickGrid(op, direction, other.argument, other.array);
  const candidates = before
    ? [before.index]
    : target.view.isTable
      ? [unflatten(Math.max(0, target.array.values.findIndex(Boolean)), target.array.shape)]
      : target.array.largest(12);
  if (op.inner.length && !before) {
    // of attention the last query, which has read all
    const [T, C] = [target.array.shape.at(-2), op.out.shape.at(-1)];
    const last = (index) => [...index.slice(0, -2), T - 1, index.at(-1) % C];
    candidates.unshift(...candidates.map((index) => target.view.snapped(last(index))));
  }
  const good = (index) => arithmetic(op, direction, target.view.snapped(index), target.argument, target.array).complete;
  target.view.pick(candidates.find(good) || candidates[0]);
}

// Write out the arithmetic of one element, and frame what it was made of
function calculate(target, index) {
  const [opIndex, direction] = page.steps[page.step];
  page.picks.set(`${opIndex} ${direction}`, { target: page.targets.indexOf(target), index });
  for (const other of page.targets) if (other !== target) other.view.unpick();
  const { lines, used } = arithmetic(page.ops[opIndex], direction, index, target.argument, target.array);
  const name = `${target.name}${formatIndex(index)}`;
  const why = page.ops[opIndex].formula ? ": the formula above says how" : "";
  const shownLines = lines || [`${name} = ${formatNumber(target.array.at(index), target.array.digits)}${why}`];
  $("arithmetic").replaceChildren(
    el("h3", {}, target.array.size > 1 ? `One element written out: ${name}` : "Written out"),
    ...shownLines.map((line) => el("p", { class: "calculation" }, line)),
  );
  for (const [role, view] of page.views) if (view !== target.view) view.mark(used.get(role) || []);
}
