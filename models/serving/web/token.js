// What led to a token: its rivals, attention, the logit lens, direct contributions of heads, and attribution.

const byId = (id) => document.getElementById(id);
const QUIET = 150; // milliseconds without another choice, after which the server is asked
const BEST_HEADS = 6;
let inside = null; // what the server said of the chosen token

function option(value, text) {
  return make("option", { value, textContent: text });
}

function showToken(answer, index) {
  const token = answer.tokens[index];
  const before = answer.tokens[index - 1];
  byId("hint").hidden = true;
  byId("look").hidden = false;
  byId("which").textContent = `Why '${token.shown}'`;
  const off = answer.off.length ? `, ${without(answer.off)}` : "";
  const what = index < answer.given ? "a token of the prompt" : `new token ${index - answer.given + 1}`;
  byId("where").textContent = `This is ${what}${off}. All of this is about the moment before it, when the model had read ${index} token${index > 1 ? "s" : ""}, up to '${before.shown}'.`;
  showLikeliest(token);
  inside = null;
  for (const id of ["attention", "shares", "best", "lens"]) byId(id).replaceChildren();
  for (const id of ["attention-note", "shares-note"]) byId(id).textContent = "";
  byId("against").replaceChildren(option("", "nothing"));
  byId("deeper").hidden = !facts.layers;
  byId("attribute").disabled = true;
  running.attribution?.abort();
  if (facts.layers) run("token", (signal) => lookInside(answer, index, signal));
}

function showLikeliest(token) {
  if (token.rank === undefined) detail.replaceChildren(make("p", { className: "note", textContent: "…" }));
  else show([token.text, token.shown, token.probability, token.rank, token.likeliest]);
}

const upTo = (answer, index) => answer.tokens.slice(0, index + 1).map(({ id }) => id);

async function lookInside(answer, index, signal) {
  await new Promise((go) => setTimeout(go, QUIET));
  if (signal.aborted) return;
  for await (const told of ask("/inside/token", { ids: upTo(answer, index), off: answer.off }, signal)) inside = told;
  const token = answer.tokens[index];
  const model = inside.lens.at(-1);
  if (token.rank === undefined) showLikeliest(model);
  byId("against").replaceChildren(
    option("", "nothing"),
    ...model.likeliest.filter(([, , id]) => id !== token.id).map(([text, , id]) => option(id, `'${text}'`)),
  );
  byId("attribute").disabled = index < 2;
  byId("shares-note").textContent =
    index < 2 ? "One token is before it, and all of its score comes from that one." : "Integrated gradients; this takes seconds.";
  showAttention(answer, index);
  showBest(answer);
  showLens(token);
}

// A token each, with a number under it. shares: from -1 to 1, the colour.
function strip(place, tokens, shares, texts) {
  place.replaceChildren(
    ...tokens.map((token, i) => {
      const span = make("span", {}, seen(token.shown), make("small", { textContent: texts[i] }));
      span.style.setProperty("--tint", shares[i] < 0 ? "var(--cold)" : "var(--warm)");
      span.style.setProperty("--share", Math.abs(shares[i]).toFixed(3));
      return span;
    }),
  );
}

function showAttention(answer, index) {
  const [layer, head] = [byId("layer").value, byId("head").value];
  const layers = layer === "" ? inside.attention : [inside.attention[layer]];
  const maps = layers.flatMap((heads) => (head === "" ? heads : [heads[head]]));
  const weights = maps[0].map((_, t) => maps.reduce((sum, map) => sum + map[t], 0) / maps.length);
  strip(byId("attention"), answer.tokens.slice(0, index), weights, weights.map(percent));
  const of = [head === "" ? "the mean of all heads" : `head ${head}`, layer === "" ? "of all layers" : `of layer ${layer}`];
  byId("attention-note").textContent =
    `From '${answer.tokens[index - 1].shown}', after which the token comes: ${of.join(" ")}. Many heads rest on the first token when they look for nothing.`;
}

function showBest(answer) {
  const all = inside.heads.flatMap((row, layer) => row.map((c, head) => [c, layer, head]));
  all.sort((a, b) => Math.abs(b[0]) - Math.abs(a[0]));
  byId("best").replaceChildren(
    ...all.slice(0, BEST_HEADS).map(([c, layer, head]) => {
      const button = make("button", { type: "button", textContent: `${layer}.${head}: ${signed(c)}` });
      button.title = `layer ${layer}, head ${head}: show its attention`;
      button.addEventListener("click", () => {
        byId("layer").value = byId("off-layer").value = layer;
        byId("head").value = byId("off-head").value = head;
        showAttention(answer, chosen.index);
      });
      return button;
    }),
  );
}

const signed = (number) => (number < 0 ? "−" : "+") + Math.abs(number).toFixed(2);

function showLens(token) {
  const cell = (tag, text) => make(tag, { textContent: text });
  const rows = inside.lens.map((cells, i) => {
    const [text, p] = cells.likeliest[0];
    const row = make("tr", { className: cells.rank === 1 ? "right" : "" });
    row.append(cell("th", inside.layers[i]), cell("td", seen(`'${text}'`)), cell("td", percent(p)), cell("td", percent(cells.probability)));
    return row;
  });
  const head = ["after", "likeliest", "", seen(`'${token.shown}'`)].map((text) => cell("th", text));
  const widths = ["layer", "", "number", "number"].map((className) => make("col", { className }));
  byId("lens").replaceChildren(make("colgroup", {}, ...widths), make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows));
}

// Attribution

async function attribute({ answer, index }, signal) {
  const note = byId("shares-note");
  const against = byId("against").value;
  const body = { ids: upTo(answer, index), off: answer.off, ...(against && { against: Number(against) }) };
  byId("shares").replaceChildren();
  note.textContent = "The model is read in float32 …";
  let found;
  for await (const told of ask("/inside/attribution", body, signal)) {
    found = told;
    if (!told.shares) note.textContent = `${told.points} gradients so far …`;
  }
  const most = Math.max(...found.shares.map(Math.abs), 1e-9);
  strip(byId("shares"), answer.tokens.slice(0, index), found.shares.map((s) => s / most), found.shares.map(signed));
  const sum = found.shares.reduce((a, b) => a + b, 0);
  const difference = found.score - found.baseline;
  const other = against && `, less that of ${byId("against").selectedOptions[0].textContent}`;
  note.textContent =
    `The score of '${answer.tokens[index].shown}'${other} is ${found.score.toFixed(2)}, and ${found.baseline.toFixed(2)} when all tokens but the first are the mean embedding. ` +
    `Of the difference, ${difference.toFixed(3)}, the tokens have ${sum.toFixed(3)} in all (${found.points} gradients). ` +
    (found.adds_up
      ? `Parts of the way disagree by ${found.missed.toFixed(3)}, less than 1 % of it.`
      : `Parts of the way disagree by ${found.missed.toFixed(3)}, more than 1 % of it: take the shares with care.`);
}

byId("attribute").addEventListener("click", () => {
  run("attribution", (signal) =>
    attribute(chosen, signal).catch((error) => {
      byId("shares-note").textContent = signal.aborted ? "" : error.message;
      throw error;
    }),
  );
});
for (const id of ["layer", "head"])
  byId(id).addEventListener("change", () => inside && showAttention(chosen.answer, chosen.index));
