// Asking the server. An answer is a stream of JSON values that ends with [DONE]; an error is an object with "error".

const statusLine = document.getElementById("status");

function say(text, wrong = false) {
  statusLine.textContent = text;
  statusLine.className = wrong ? "wrong" : "";
}

// The values of an answer, one after another. An Error whose message is one line for the reader of the page; an
// AbortError after signal's abort.
async function* ask(path, body, signal) {
  const answer = await reached(fetch(path, { method: "POST", body: JSON.stringify(body), signal }), signal);
  if (!answer.ok) throw new Error((await answer.json()).error.message);
  const reader = answer.body.getReader();
  const decoder = new TextDecoder();
  for (let rest = ""; ; ) {
    const { done, value } = await reached(reader.read(), signal);
    if (done) throw new Error("the server stopped in the middle of its answer");
    const parts = (rest + decoder.decode(value, { stream: true })).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const text = part.replace("data: ", "");
      if (text === "[DONE]") return;
      const told = JSON.parse(text);
      if (told.error) throw new Error(told.error.message);
      if (told.waiting) say(told.waiting === 1 ? "1 request is before this one" : `${told.waiting} requests are before this one`);
      else yield told;
    }
  }
}

async function reached(promise, signal) {
  try {
    return await promise;
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Error("the server does not answer; does autotx serve still run?");
  }
}

// What runs at a time: each kind of work stops the one of its kind that is still running.
const running = {};

async function run(kind, work) {
  running[kind]?.abort();
  const mine = (running[kind] = new AbortController());
  try {
    await work(mine.signal);
  } catch (error) {
    if (mine.signal.aborted) return;
    say(error.message, true);
  } finally {
    if (running[kind] === mine) delete running[kind];
  }
}
