// What pages of likely tokens share: making elements, writing probabilities, and the detail at the side.

const detail = document.getElementById("detail");

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// From 0 for a certain token to 1 for one of 2^-10 or less.
const unlikely = (p) => Math.min(1, -Math.log2(Math.max(p, 1e-9)) / 10);

function percent(p) {
  if (p < 0.0001) return "<0.01 %";
  return `${(100 * p).toFixed(p < 0.001 ? 2 : 1)} %`;
}

function place(rank) {
  if (rank === 1) return "the likeliest";
  const end = /1[123]$/.test(rank) ? "th" : ({ 1: "st", 2: "nd", 3: "rd" }[rank % 10] ?? "th");
  return `the ${rank.toLocaleString("en")}${end} likeliest`;
}

// Show a token as viz/choices.py lists it. before: what is said before it.
function show(token, before = "") {
  const [, shown, p, rank, best] = token;
  const rows = best.map(([text, q], i) => [text, q, i === rank - 1]);
  if (rank > best.length) rows.push([shown, p, true]);
  detail.replaceChildren(
    make("p", {}, before, make("b", { textContent: `'${shown}'` }), `: ${percent(p)}, ${place(rank)}`),
    make(
      "table",
      {},
      ...rows.map(([text, q, chosen]) => {
        const bar = make("i");
        bar.style.width = `${100 * q}%`;
        const cells = [`'${text}'`, percent(q), bar].map((content) => make("td", {}, content));
        return make("tr", { className: chosen ? "chosen" : "" }, ...cells);
      }),
    ),
  );
}
