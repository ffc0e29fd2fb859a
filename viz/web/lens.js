// A table of layers and tokens, and beside it the likeliest tokens of the cell that is pointed at, or else chosen.

const { layers, tokens, cells } = JSON.parse(document.getElementById("data").textContent);
const main = document.getElementById("texts");
const places = []; // places[layer][position], elements

// A text of nothing but spaces, visibly.
const seen = (text) => (text.trim() ? text : text.replaceAll(" ", "␣"));

function showCell(layer, position) {
  show(cells[layer][position], `${layers[layer]}, after '${tokens[position]}', `);
}

let chosen = [layers.length - 1, tokens.length - 1];

function choose(layer, position, focus = true) {
  const before = places[chosen[0]][chosen[1]];
  before.ariaSelected = "false";
  before.tabIndex = -1;
  chosen = [Math.max(0, Math.min(layer, layers.length - 1)), Math.max(0, Math.min(position, tokens.length - 1))];
  const element = places[chosen[0]][chosen[1]];
  element.ariaSelected = "true";
  element.tabIndex = 0;
  if (focus) element.focus();
  showCell(...chosen);
}

const head = make("tr", {}, make("th"), ...tokens.map((text) => make("th", { textContent: seen(text), scope: "col" })));
const body = make("tbody");
layers.forEach((name, layer) => {
  places.push(
    cells[layer].map(([, , , rank, best], position) => {
      const [text, p] = best[0];
      const cell = make("td", { textContent: seen(text), tabIndex: -1, role: "gridcell" });
      cell.style.setProperty("--sure", p);
      cell.className = rank === 1 ? "right" : "";
      cell.ariaLabel = `${name}, after ${tokens[position]}: ${text}, ${percent(p)}`;
      cell.dataset.layer = layer;
      cell.dataset.position = position;
      return cell;
    }),
  );
  body.prepend(make("tr", {}, make("th", { textContent: name, scope: "row" }), ...places[layer]));
});
main.append(make("table", { role: "grid" }, make("thead", {}, head), body));

const at = (event) => {
  const cell = event.target.closest("td");
  return cell && [Number(cell.dataset.layer), Number(cell.dataset.position)];
};
main.addEventListener("pointerover", (event) => at(event) && showCell(...at(event)));
main.addEventListener("pointerout", () => showCell(...chosen));
main.addEventListener("click", (event) => at(event) && choose(...at(event)));
main.addEventListener("focusin", (event) => at(event) && choose(...at(event), false));
main.addEventListener("keydown", (event) => {
  const steps = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [-1, 0], ArrowUp: [1, 0] };
  const step = steps[event.key];
  if (!step || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  choose(chosen[0] + step[0], chosen[1] + step[1]);
});
choose(...chosen, false);
document.body.classList.add("ready");
