// The two answers, with all heads and without some: their tokens, one of which is chosen, and where they differ.

const UNDER = 3; // rivals that are listed under a token
const answersPlace = document.getElementById("answers");
const differencePlace = document.getElementById("difference");

const seen = (text) => (text.trim() ? text : text.replaceAll(" ", "␣"));
const named = ([layer, head]) => `${layer}.${head}`;
const without = (off) => (off.length > 1 ? `without heads ${off.map(named).join(", ")}` : `without head ${named(off[0])}`);
const ENDS = {
  end: "the model ended it",
  length: "it has as many tokens as asked for",
  context: "the context is full",
  time: "its time is over",
};

// An answer: {asked, off, tokens, given, ended, place}. The first `given` of its tokens are the prompt's.
let answers = [];
let chosen = null; // {answer, index}

function newAnswer(asked, off) {
  const tokens = make("div", { className: "tokens", role: "listbox", ariaLabel: off.length ? without(off) : "the answer" });
  const title = make("h2", { textContent: off.length ? `The answer ${without(off)}` : "The answer" });
  const place = make("section", { className: "answer" }, title, tokens);
  const answer = { asked, off, tokens: [], given: 0, ended: null, place, list: tokens, title };
  answersPlace.append(place);
  return answer;
}

function add(answer, token) {
  const index = answer.tokens.length;
  const span = make("span", { className: "token", role: "option", tabIndex: -1, answer, index });
  span.append(make("b", { textContent: seen(token.shown) }));
  if (token.rank === undefined) {
    span.classList.add("given");
    if (index === 0) span.classList.add("first");
    span.ariaLabel = token.shown;
  } else {
    span.style.setProperty("--unlikely", unlikely(token.probability).toFixed(3));
    span.ariaLabel = `${token.shown}, ${percent(token.probability)}`;
    const others = token.likeliest.filter(([, , id]) => id !== token.id).slice(0, UNDER);
    const lines = others.map(([text, p]) => make("span", {}, make("i", { textContent: seen(text) }), percent(p)));
    span.append(make("span", { className: "rivals", ariaHidden: "true" }, ...lines));
  }
  token.span = span;
  answer.tokens.push(token);
  answer.list.append(span);
  if (token.text.includes("\n")) answer.list.append(make("br"));
  if (index === 1) stopAt(answer, span);
}

// The token of an answer that the Tab key goes to.
function stopAt(answer, span) {
  if (answer.stop) answer.stop.tabIndex = -1;
  answer.stop = span;
  span.tabIndex = 0;
}

function choose(answer, index) {
  if (index < 1 || index >= answer.tokens.length) return;
  if (chosen) chosen.answer.tokens[chosen.index].span.ariaSelected = "false";
  chosen = { answer, index };
  const { span } = answer.tokens[index];
  span.ariaSelected = "true";
  stopAt(answer, span);
  span.focus();
  showToken(answer, index);
}

// The token in the nearest line above (-1) or below (1) whose middle is nearest.
function beside({ answer, index }, direction) {
  const middle = (i) => {
    const box = answer.tokens[i].span.getBoundingClientRect();
    return [box.left + box.width / 2, box.top];
  };
  const [x, y] = middle(index);
  const others = answer.tokens.map((_, i) => [i, ...middle(i)]).filter(([, , top]) => (top - y) * direction > 4);
  others.sort((a, b) => (a[2] - b[2]) * direction || Math.abs(a[1] - x) - Math.abs(b[1] - x));
  return others.length ? others[0][0] : index;
}

answersPlace.addEventListener("click", (event) => {
  const span = event.target.closest(".token");
  if (span) choose(span.answer, span.index);
  if (span && matchMedia("(max-width: 900px)").matches) byId("inside").scrollIntoView(); // it is below the answers
});
answersPlace.addEventListener("keydown", (event) => {
  const span = event.target.closest(".token");
  if (!span || event.ctrlKey || event.altKey || event.metaKey) return;
  const { answer, index } = span;
  const steps = {
    ArrowRight: () => index + 1,
    ArrowLeft: () => index - 1,
    ArrowDown: () => beside(span, 1),
    ArrowUp: () => beside(span, -1),
    Home: () => 1,
    End: () => answer.tokens.length - 1,
    Enter: () => index,
    " ": () => index,
  };
  if (!steps[event.key]) return;
  event.preventDefault();
  choose(answer, Math.min(Math.max(steps[event.key](), 1), answer.tokens.length - 1));
});

// Where two answers differ

// For each of two lists, which of its items are not in their longest common subsequence.
function others(a, b) {
  const longest = Array.from({ length: a.length + 1 }, () => new Uint32Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      longest[i][j] = a[i] === b[j] ? longest[i + 1][j + 1] + 1 : Math.max(longest[i + 1][j], longest[i][j + 1]);
  const marked = [a.map(() => true), b.map(() => true)];
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    if (a[i] === b[j]) marked[0][i++] = marked[1][j++] = false;
    else if (longest[i + 1][j] >= longest[i][j + 1]) i++;
    else j++;
  }
  return marked;
}

function written(answer) {
  return answer.tokens.slice(answer.given);
}

// Mark the tokens that one of the answers has alone, and say how likely both found the first of them.
async function compare([whole, changed], signal) {
  const [a, b] = [whole, changed].map(written);
  const marked = others(...[a, b].map((tokens) => tokens.map(({ id }) => id)));
  [a, b].forEach((tokens, n) => tokens.forEach(({ span }, i) => span.classList.toggle("other", marked[n][i])));
  const first = a.findIndex((token, i) => token.id !== b[i]?.id);
  if (first < 0 || !a[first] || !b[first]) {
    sayTheSame(a, b, changed.off);
    return;
  }
  const before = whole.tokens.slice(0, whole.given + first).map(({ id }) => id);
  const probability = async (token, off, known) => {
    if (known) return token.probability;
    let last;
    for await (const told of ask("/inside/token", { ids: [...before, token.id], off }, signal)) last = told.lens.at(-1);
    return last.probability;
  };
  const rows = [];
  for (const [token, mine] of [[a[first], whole], [b[first], changed]])
    rows.push([
      `'${token.shown}'`,
      percent(await probability(token, whole.off, mine === whole)),
      percent(await probability(token, changed.off, mine === changed)),
    ]);
  const cell = (tag) => (text) => make(tag, { textContent: text });
  const head = make("tr", {}, ...["", "with all heads", without(changed.off)].map(cell("th")));
  differencePlace.replaceChildren(
    make("p", { textContent: `The first difference is new token ${first + 1}. How likely both were there:` }),
    make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map(cell("td")))))),
    make("p", { className: "note", textContent: "Tokens that only one of the answers has are underlined twice." }),
  );
}

function sayTheSame(a, b, off) {
  const shared = a.slice(0, b.length);
  const change = (i) => Math.abs(shared[i].probability - b[i].probability);
  const most = shared.map((_, i) => i).reduce((best, i) => (change(i) > change(best) ? i : best), 0);
  const moved = `the probability of '${shared[most]?.shown}' changes most, from ${percent(shared[most]?.probability ?? 0)} to ${percent(b[most]?.probability ?? 0)}`;
  const text = shared.length ? `The answer ${without(off)} has the same tokens; ${moved}.` : "Neither answer has a token.";
  differencePlace.replaceChildren(make("p", { textContent: text }));
}
