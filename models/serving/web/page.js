// The page: what is asked, the answer as it comes, and the heads that are switched off.

let facts = { layers: 0, heads: 0 };
let off = []; // [layer, head] each

function asked() {
  const text = byId("prompt").value;
  const settings = { tokens: Number(byId("tokens").value), temperature: Number(byId("temperature").value), seed: Number(byId("seed").value) };
  return byId("chat").checked ? { messages: [{ role: "user", content: text }], ...settings } : { prompt: text, ...settings };
}

// Let the server write an answer, and show its tokens as they come.
async function write(answer, signal) {
  say("asked …");
  const begun = performance.now();
  for await (const told of ask("/inside/write", { ...answer.asked, off: answer.off }, signal)) {
    if (told.tokens) {
      told.tokens.forEach((token) => add(answer, token));
      answer.given = told.tokens.length;
    } else if (told.token) {
      add(answer, told.token);
      say(`${answer.tokens.length - answer.given} tokens …`);
    } else {
      answer.ended = told.ended;
      answer.title.append(make("small", { textContent: ` · ${ENDS[told.ended] ?? told.ended}` }));
    }
  }
  const count = answer.tokens.length - answer.given;
  say(`${count} token${count === 1 ? "" : "s"} in ${((performance.now() - begun) / 1000).toFixed(1)} s`);
}

function forget(from) {
  for (const answer of answers.splice(from)) {
    answer.place.remove();
    if (chosen?.answer === answer) {
      chosen = null;
      byId("look").hidden = true;
      byId("hint").hidden = false;
      for (const kind of ["token", "attribution"]) running[kind]?.abort();
    }
  }
  for (const answer of answers) for (const { span } of answer.tokens) span.classList.remove("other");
  differencePlace.replaceChildren();
}

// Write what is not there: both answers, or the one without some heads.
function writeMissing() {
  const work = run("write", async (signal) => {
    if (!answers.length) {
      answers.push(newAnswer(asked(), []));
      await write(answers[0], signal);
    }
    if (off.length) {
      answers.push(newAnswer(answers[0].asked, [...off]));
      await write(answers[1], signal);
      await compare(answers, signal);
    }
  });
  byId("stop").disabled = false;
  work.finally(() => (byId("stop").disabled = !running.write));
}

function showOff() {
  const chips = off.map((pair) => {
    const button = make("button", { type: "button", textContent: "×", ariaLabel: `switch head ${named(pair)} on again` });
    button.addEventListener("click", () => setOff(off.filter((one) => one !== pair)));
    return make("span", { className: "chip" }, `layer ${pair[0]}, head ${pair[1]}`, button);
  });
  byId("off").replaceChildren(...chips);
}

function setOff(pairs) {
  off = pairs;
  showOff();
  if (!answers.length) return;
  running.write?.abort();
  forget(answers[0].ended === null ? 0 : 1);
  if (off.length || !answers.length) writeMissing();
}

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  running.write?.abort();
  forget(0);
  writeMissing();
});
byId("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("form").requestSubmit();
});
byId("stop").addEventListener("click", () => {
  running.write?.abort();
  say("stopped");
});
byId("rivals").addEventListener("change", () => answersPlace.classList.toggle("plain", !byId("rivals").checked));
byId("switch").addEventListener("submit", (event) => {
  event.preventDefault();
  const pair = ["off-layer", "off-head"].map((id) => Number(byId(id).value));
  if (!off.some((one) => named(one) === named(pair))) setOff([...off, pair]);
});

async function begin() {
  facts = await (await reached(fetch("/inside/model"), { aborted: false })).json();
  document.title = `${facts.name} · autotx`;
  byId("name").textContent = facts.name;
  const size = `${facts.size.toLocaleString("en")} tokens at once`;
  byId("facts").textContent = facts.layers ? `${facts.layers} layers of ${facts.heads} heads, ${size}` : size;
  byId("chat").disabled = !facts.chats;
  byId("chat").parentElement.title = facts.chats ? "" : "this model has no chat template";
  byId("heads").hidden = !facts.layers;
  const numbers = (count) => Array.from({ length: count }, (_, i) => option(i, String(i)));
  byId("layer").append(option("", "mean of all"), ...numbers(facts.layers));
  byId("head").append(option("", "mean of all"), ...numbers(facts.heads));
  byId("off-layer").append(...numbers(facts.layers));
  byId("off-head").append(...numbers(facts.heads));
  document.body.classList.add("ready");
}
begin().catch((error) => say(error.message, true));
