// The texts as tokens, and beside them the choices of the one that is pointed at, or else of the one that is chosen.

const { prompt, texts } = JSON.parse(document.getElementById("data").textContent);
const main = document.getElementById("texts");

const spans = [];
let chosen = -1;

function choose(index, focus = true) {
  if (spans[chosen]) {
    spans[chosen].ariaSelected = "false";
    spans[chosen].tabIndex = -1;
  }
  chosen = Math.max(0, Math.min(index, spans.length - 1));
  spans[chosen].ariaSelected = "true";
  spans[chosen].tabIndex = 0;
  if (focus) spans[chosen].focus();
  show(spans[chosen].token);
}

// The token in the nearest line above (-1) or below (1) whose middle is nearest.
function beside(direction) {
  const middle = (span) => {
    const box = span.getClientRects()[0] ?? span.getBoundingClientRect();
    return [box.left + box.width / 2, box.top];
  };
  const [x, y] = middle(spans[chosen]);
  const others = spans.map((span, i) => [i, ...middle(span)]).filter(([, , top]) => (top - y) * direction > 4);
  others.sort((a, b) => (a[2] - b[2]) * direction || Math.abs(a[1] - x) - Math.abs(b[1] - x));
  return others.length ? others[0][0] : chosen;
}

texts.forEach((tokens, n) => {
  const about = texts.length > 1 ? `sample ${n + 1} of ${texts.length}` : "what the model wrote";
  const text = make("div", { className: "text", role: "listbox", ariaLabel: about });
  text.append(make("span", { className: "prompt", role: "presentation", textContent: prompt }));
  for (const token of tokens) {
    const span = make("span", { className: "token", role: "option", textContent: token[0], tabIndex: -1, token });
    span.style.setProperty("--unlikely", unlikely(token[2]).toFixed(3));
    if (!token[0].trim() && token[0] !== " ") {
      span.classList.add("invisible");
      span.dataset.shown = token[1];
    }
    span.ariaLabel = `${token[1]}, ${percent(token[2])}`;
    span.dataset.index = spans.length;
    spans.push(span);
    text.append(span);
  }
  if (texts.length > 1) main.append(make("h2", { textContent: about }));
  main.append(text);
});

document.getElementById("scale").append(
  ...[1, 0.5, 0.1, 0.01, 0.001].map((p) => {
    const sample = make("span", { textContent: percent(p) });
    sample.style.setProperty("--unlikely", unlikely(p));
    return sample;
  }),
);

const over = (event) => event.target.closest(".token");
main.addEventListener("pointerover", (event) => over(event) && show(over(event).token));
main.addEventListener("pointerout", () => spans[chosen] && show(spans[chosen].token));
main.addEventListener("click", (event) => over(event) && choose(Number(over(event).dataset.index)));
main.addEventListener("focusin", (event) => over(event) && choose(Number(over(event).dataset.index), false));
main.addEventListener("keydown", (event) => {
  const keys = {
    ArrowRight: () => chosen + 1,
    ArrowLeft: () => chosen - 1,
    ArrowDown: () => beside(1),
    ArrowUp: () => beside(-1),
    Home: () => 0,
    End: () => spans.length - 1,
  };
  if (!keys[event.key] || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  choose(keys[event.key]());
});
if (spans.length) choose(0, false);
document.body.classList.add("ready");
