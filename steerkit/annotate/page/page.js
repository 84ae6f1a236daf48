"use strict";
// Text of models is shown by textContent alone: nothing of it can become markup.

const at = (id) => document.getElementById(id);
const tabs = "BroadcastChannel" in window ? new BroadcastChannel("steerkit") : null;
let state = null;
let busy = false; // one key, one answer: a second press waits for the next span
let ended = false;

async function ask(path, body) {
  if (busy || ended) return;
  busy = true;
  try {
    const sent = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
    const answer = await fetch(path, sent);
    if (!answer.ok) throw new Error(await answer.text());
    const next = await answer.json();
    if (!body && state && next.version !== state.version) next.notice = "You went on in another tab; this one has caught up.";
    show(next);
    trouble("");
    return true;
  } catch (error) {
    trouble(
      error instanceof TypeError
        ? "The page's program does not answer: it has ended. Start steerkit annotate again with the same words; all that was labelled is kept."
        : error.message,
    );
  } finally {
    busy = false;
  }
}

function trouble(words) {
  at("problem").hidden = !words;
  at("problem").textContent = words;
}

async function act(action, more = {}) {
  const task = state?.task?.id ?? "";
  if (await ask("/act", { action, task, version: state?.version ?? -1, ...more })) tabs?.postMessage(state.version);
}

function label(name) {
  if (state?.task) act("label", { label: name });
}

function show(next) {
  const moved = state?.task?.id !== next.task?.id || !state;
  const first = !state;
  const news = next.notice || (next.task && !first && next.version !== state.version);
  state = next;
  if (first) build();
  at("labelled").textContent = next.labelled;
  at("total").textContent = next.total;
  at("skipped").textContent = next.skipped ? ` · ${next.skipped} skipped` : "";
  at("progress").max = next.total || 1;
  at("progress").value = next.labelled;
  at("undo").disabled = at("undo-last").disabled = !next.undo;
  at("reading").hidden = at("answers").hidden = !next.task;
  at("done").hidden = Boolean(next.task);
  const left = next.total - next.labelled - next.skipped;
  if (news || !next.task) at("status").textContent = next.notice || (next.task ? `${left} to go` : "");
  if (moved && next.task) read(next.task);
  if (!next.task) finished(next);
}

function build() {
  document.title = `${state.annotator} · steerkit annotate`;
  at("title").textContent = state.title;
  at("who").textContent = state.annotator;
  for (const { label: name, gloss, key } of state.labels) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "label";
    button.dataset.label = name;
    button.setAttribute("aria-keyshortcuts", key);
    button.append(made("kbd", key), made("b", name), made("small", gloss));
    button.addEventListener("click", () => label(name));
    at("labels").append(button);
    explain(key, name);
  }
  const keys = [["s", "skip; it comes again at the end"], ["u", "undo, as often as you like (or Ctrl-Z)"],
    ["x", "the whole text, or what is near"], ["p", "the prompt"], ["r", "at the end: the skipped ones again"], ["?", "this list"]];
  for (const [key, meaning] of keys) explain(key, meaning);
}

function made(tag, text) {
  const element = document.createElement(tag);
  element.textContent = text;
  return element;
}

function explain(key, meaning) {
  const term = document.createElement("dt");
  term.append(made("kbd", key));
  at("key-list").append(term, made("dd", meaning));
}

function read(task) {
  ["far-before", "before", "span", "after", "far-after"].forEach((id, i) => (at(id).textContent = task.parts[i]));
  whole(false);
  at("asked").hidden = !task.prompt;
  at("prompt").textContent = task.prompt;
  at("votes").hidden = !task.votes.length;
  at("votes").replaceChildren(...task.votes.map((vote, i) => made("li", `${String.fromCharCode(65 + i)} says ${vote}`)));
  for (const button of at("labels").children) button.classList.toggle("given", task.votes.includes(button.dataset.label));
  at("reading").focus({ preventScroll: true }); // a screen reader begins to read here
  centre();
}

function centre() {
  const pane = at("reading").getBoundingClientRect();
  const part = document.querySelector("mark").getBoundingClientRect();
  at("reading").scrollTop += part.top - pane.top - Math.max(40, (pane.height - part.height) / 2);
}

function whole(all) {
  for (const side of ["before", "after"]) {
    const far = at(`far-${side}`);
    far.hidden = !all;
    at(`more-${side}`).hidden = all || !far.textContent;
  }
  at("whole").setAttribute("aria-pressed", String(all));
  at("whole").disabled = !(at("far-before").textContent || at("far-after").textContent);
  centre();
}

function finished(next) {
  at("done-title").textContent = next.skipped ? "All seen" : "All labelled";
  at("done-text").textContent =
    (next.skipped ? `Skipped and without a label: ${next.skipped}. ` : "") + `The labels are in ${next.file}`;
  at("again").hidden = !next.skipped;
  at("done-title").focus();
}

async function finish() {
  if (!(await ask("/stop", {}))) return;
  ended = true;
  tabs?.postMessage("ended");
  close_page();
}

function close_page() {
  ended = true;
  for (const id of ["reading", "answers", "again", "undo-last"]) at(id).hidden = true;
  document.querySelector("footer").hidden = true;
  at("done").hidden = false;
  at("done-title").textContent = "Finished";
  at("done-text").textContent = `You can close this page. ${state.labelled} of ${state.total} are labelled, in ${state.file}`;
  at("done-title").focus();
}

const toggle = () => whole(at("whole").getAttribute("aria-pressed") === "false");
const press = {
  s: () => state.task && act("skip"),
  u: () => state.undo && act("undo"),
  r: () => !state.task && state.skipped && act("again"),
  x: () => state.task && !at("whole").disabled && toggle(),
  p: () => (at("asked").open = !at("asked").open),
  "?": () => at("keys").showModal(),
};

document.addEventListener("keydown", (event) => {
  if (!state || ended || event.repeat || event.altKey || at("keys").open) return;
  const key = event.key.toLowerCase();
  if (event.ctrlKey || event.metaKey) {
    if (key !== "z" || event.shiftKey) return;
    event.preventDefault();
    press.u();
    return;
  }
  const found = state.labels.find((each) => each.key === key);
  if (!found && !press[key]) return;
  event.preventDefault();
  if (found) label(found.label);
  else press[key]();
});
at("skip").addEventListener("click", press.s);
at("undo").addEventListener("click", press.u);
at("undo-last").addEventListener("click", press.u);
at("again").addEventListener("click", press.r);
at("whole").addEventListener("click", toggle);
at("more-before").addEventListener("click", toggle);
at("more-after").addEventListener("click", toggle);
at("help").addEventListener("click", press["?"]);
at("finish").addEventListener("click", finish);
tabs?.addEventListener("message", ({ data }) => {
  if (data === "ended") close_page();
  else if (data !== state?.version) ask("/state");
});
window.addEventListener("resize", centre);
document.addEventListener("visibilitychange", () => document.hidden || ask("/state"));

ask("/state");
