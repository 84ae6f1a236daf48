"use strict";
// Texts come from models and data: they are shown by textContent alone, so that nothing of them becomes markup.

const PAGE = 100; // rows that are added to the list at a time
const STEPS = 1000; // values are thousandths of their feature's largest
const at = (id) => document.getElementById(id);
const data = await unpacked(at("data").textContent);
const columns = data.columns.map(([key, title, about, digits, better]) => ({ key, title, about, digits, better }));
const features = data.features.map(([name, kind, label, explanation, values, strongest, largest], order) => ({
  name, kind, label, explanation, values, strongest, largest, order,
  text: [name, kind, label, explanation, ...values.filter((v) => typeof v === "string"), ...strongest.map((n) => data.tokens[n])]
    .join("\n").toLowerCase(),
}));
const byName = new Map(features.map((feature) => [feature.name, feature]));
const title = document.title;
let shown = features; // those that match, in their order
let drawn = 0; // rows in the list
let sort = { by: null, down: false };
let open = null;
const parts = {}; // contexts, by the number of their part, once they are read

async function unpacked(text) {
  if (!("DecompressionStream" in window)) at("count").textContent = "This page needs a browser of 2023 or later.";
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

function made(tag, text = "", name = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  if (name) element.className = name;
  return element;
}

function button(text, act, keys = "") {
  const element = made("button", text);
  element.type = "button";
  if (keys) element.setAttribute("aria-keyshortcuts", keys);
  element.addEventListener("click", act);
  return element;
}

const minus = (text) => text.replace("-", "\u2212");
const told = (value, column) =>
  value === null ? "\u2013" : typeof value === "number" ? minus(value.toFixed(column.digits)) : value;
const visible = (token) => token.replace(/\r\n|\r|\n/g, "\u21b5").replace(/\t/g, "\u21e5") || "\u00b7";
const address = (feature) => `#${encodeURIComponent(feature.name)}`;

// --- the list ------------------------------------------------------------------------------------------------------

const fields = [
  { title: "feature", of: (f) => f.name, about: "Its name, a link to it, and what explains it" },
  { title: "kind", of: (f) => f.kind, filter: true },
  { title: "class", of: (f) => f.label, filter: true },
  ...columns.map((c, i) => ({ ...c, of: (f) => f.values[i], column: c, filter: true })),
  { title: "strongest at", of: (f) => f.strongest.map((n) => data.tokens[n]).join("\n"), name: "tokens",
    about: "Tokens that its contexts were taken for, the commonest first", tokens: true },
].filter((field) => field.title === "feature" || features.some((f) => field.of(f)) || field.column);
for (const field of fields) field.numeric = Boolean(field.column) && features.some((f) => typeof field.of(f) === "number");

function heads() {
  for (const field of fields) {
    const head = made("th", "", field.numeric ? "n" : "");
    head.scope = "col";
    head.append(button(field.title, () => order(field)));
    if (field.about) head.title = field.about;
    field.head = head;
    at("head").append(head);
  }
}

function filters() {
  for (const field of fields.filter((f) => f.filter && !f.numeric)) {
    const words = [...new Set(features.map((f) => field.of(f) ?? ""))];
    if (words.length < 2 || words.length > 12) continue;
    const label = made("label", `${field.title} `);
    field.select = made("select");
    field.select.append(new Option("any", "*"), ...words.map((word) => new Option(word || "none", `=${word}`)));
    field.select.addEventListener("change", search);
    label.append(field.select);
    at("filters").append(label);
  }
}

function order(field) {
  const down = field.numeric ? field.better !== "down" : false;
  sort = sort.by === field ? { by: field, down: !sort.down } : { by: field, down };
  search();
}

const words = new Intl.Collator(undefined, { numeric: true });
function compare(one, other) {
  const [a, b] = [sort.by.of(one), sort.by.of(other)];
  const [no, nor] = [a === null || a === "", b === null || b === ""];
  if (no || nor) return no - nor || one.order - other.order; // what has no value comes last
  const found = typeof a === "number" && typeof b === "number" ? a - b : words.compare(a, b);
  return (sort.down ? -found : found) || one.order - other.order;
}

function search() {
  const asked = at("find").value.toLowerCase();
  const chosen = fields.filter((f) => f.select && f.select.value !== "*");
  shown = features.filter(
    (f) => f.text.includes(asked) && chosen.every((field) => `=${field.of(f) ?? ""}` === field.select.value),
  );
  if (sort.by) shown.sort(compare);
  for (const field of fields) {
    if (sort.by === field) field.head.setAttribute("aria-sort", sort.down ? "descending" : "ascending");
    else field.head.removeAttribute("aria-sort");
  }
  at("rows").replaceChildren();
  drawn = 0;
  draw();
  const all = features.length.toLocaleString("en");
  at("count").textContent = !features.length
    ? "There are no features to show."
    : shown.length ? `${shown.length.toLocaleString("en")} of ${all} features` : `None of ${all} features matches.`;
  position();
}

function draw() {
  const added = shown.slice(drawn, drawn + PAGE);
  at("rows").append(...added.map(row));
  drawn += added.length;
  at("more").hidden = drawn >= shown.length;
  at("more").textContent = `Show ${Math.min(PAGE, shown.length - drawn)} more of ${(shown.length - drawn).toLocaleString("en")}`;
}

function row(feature) {
  const line = made("tr");
  for (const field of fields) {
    const cell = made(field.title === "feature" ? "th" : "td", "", field.numeric ? "n" : field.name || "");
    if (field.title === "feature") {
      const link = made("a", feature.name);
      link.href = address(feature);
      cell.scope = "row";
      cell.append(link);
      if (feature.explanation) cell.append(made("small", feature.explanation));
    } else if (field.tokens) {
      cell.append(...feature.strongest.slice(0, 4).map((n) => made("span", visible(data.tokens[n]), "token")));
    } else {
      const value = field.of(feature);
      cell.textContent = field.numeric ? told(value, field.column) : value ?? "";
    }
    line.append(cell);
  }
  line.addEventListener("click", (event) => event.target.closest("a") || (location.hash = address(feature)));
  if (feature === open) line.setAttribute("aria-current", "true");
  feature.line = line;
  return line;
}

// --- one feature ---------------------------------------------------------------------------------------------------

async function contextsOf(feature) {
  const number = Math.floor(feature.order / data.part);
  parts[number] ??= unpacked(at(`part-${number}`).textContent);
  return (await parts[number])[feature.order % data.part];
}

async function show() {
  let name;
  try {
    name = decodeURIComponent(location.hash.slice(1));
  } catch {
    name = location.hash.slice(1);
  }
  open?.line?.removeAttribute("aria-current");
  const wanted = (open = byName.get(name) ?? null);
  const contexts = open ? await contextsOf(open) : [];
  if (open !== wanted) return; // another one was opened meanwhile
  document.body.classList.toggle("open", Boolean(name));
  document.title = open ? `${open.name} \u00b7 ${title}` : title;
  const parts = open ? described(open, contexts) : [made("p", name ? `There is no feature ${name} here.` : features.length
    ? "Choose a feature to see the texts in which it is strongest." : "", "note")];
  const back = button("\u2190 All features", () => (location.hash = ""), "Escape");
  back.className = "back";
  const steps = made("div", "", "steps");
  steps.append(back);
  if (open) {
    steps.append(button("Previous", () => step(-1), "k"), button("Next", () => step(1), "j"), made("span", "", "position"));
  }
  at("detail").replaceChildren(steps, ...parts);
  at("detail").scrollTop = 0;
  if (name) at("detail").focus({ preventScroll: true });
  if (shown.includes(open)) while (shown.indexOf(open) >= drawn) draw();
  open?.line?.setAttribute("aria-current", "true");
  open?.line?.scrollIntoView({ block: "nearest" });
  position();
}

function position() {
  const place = at("detail").querySelector(".position");
  if (!place) return;
  const number = shown.indexOf(open);
  place.textContent = number < 0 ? "not among those listed" : `${number + 1} of ${shown.length}`;
}

function step(by) {
  const next = shown[open ? shown.indexOf(open) + by : 0];
  if (!next) return;
  location.hash = address(next);
}

function described(feature, contexts) {
  const head = made("h2", feature.name);
  if (feature.label) head.append(made("span", feature.label, "label"));
  const facts = made("dl");
  facts.append(made("dt", "kind"), made("dd", feature.kind));
  columns.forEach((column, i) => {
    if (feature.values[i] === null) return;
    const value = made("dd");
    value.append(made("b", told(feature.values[i], column)), made("span", column.about ? ` \u00b7 ${column.about}` : ""));
    facts.append(made("dt", column.title), value);
  });
  const said = feature.explanation ? [made("p", feature.explanation, "explanation")] : [];
  if (!contexts.length) return [head, ...said, facts, made("p", "No contexts are kept for this feature.", "note")];
  return [head, ...said, facts, legend(feature), ...contexts.map((context) => read(feature, context))];
}

function legend(feature) {
  const line = made("p", "", "legend");
  line.append(made("i", "above 0", "p4"), " ", made("i", "below 0", "n4"), ", the darker the further; ",
    made("i", "framed", "frame"), ` is where it is strongest. The largest size here is ${feature.largest.toPrecision(3)}. Point at a token`
    + " for its value, or go into a text with Tab and along it with the arrow keys.");
  return line;
}

function read(feature, [strongest, tokens, values, facts]) {
  const context = made("div", "", "context");
  const line = made("div", "", "facts");
  const value = made("span", "", "value");
  value.setAttribute("role", "status");
  line.append(made("span", facts), value);
  const text = made("p", "", "text");
  text.tabIndex = 0;
  text.dir = "auto";
  const steps = values.split(" ").map(Number);
  const marks = tokens.split(" ").map((n, i) => {
    const token = data.tokens[n], shade = Math.ceil((5 * Math.abs(steps[i])) / STEPS - 0.25);
    const broken = /[\r\n]/.test(token);
    const mark = made("i", broken ? visible(token) + "\n" : token || visible(token), broken ? "break" : token ? "" : "none");
    if (shade > 0) mark.classList.add((steps[i] < 0 ? "n" : "p") + shade);
    if (i === strongest) mark.classList.add("at");
    return mark;
  });
  let here = strongest;
  const tell = (i) => {
    marks[here].classList.remove("here");
    here = i;
    const number = minus(((steps[i] / STEPS) * feature.largest).toPrecision(3));
    value.textContent = `${number} ${visible(data.tokens[tokens.split(" ")[i]])}`;
  };
  text.append(...marks);
  text.addEventListener("mouseover", (event) => marks.includes(event.target) && tell(marks.indexOf(event.target)));
  text.addEventListener("focus", () => (tell(here), marks[here].classList.add("here")));
  text.addEventListener("blur", () => marks[here].classList.remove("here"));
  text.addEventListener("keydown", (event) => {
    const next = here + ({ ArrowRight: 1, ArrowLeft: -1 }[event.key] ?? 0);
    if (next === here || !marks[next]) return;
    event.preventDefault();
    tell(next);
    marks[next].classList.add("here");
  });
  tell(strongest);
  context.append(line, text);
  return context;
}

// --- keys ----------------------------------------------------------------------------------------------------------

document.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const typing = event.target.matches("input, select");
  if (event.key === "Escape" && (typing || open)) typing ? event.target.blur() : (location.hash = "");
  else if (typing) return;
  else if (event.key === "/") (location.hash = document.body.classList.contains("open") && innerWidth < 1120 ? "" : location.hash, event.preventDefault(), at("find").focus());
  else if (event.key === "j" || event.key === "k") step(event.key === "j" ? 1 : -1);
});
let waiting = 0;
at("find").addEventListener("input", () => (clearTimeout(waiting), (waiting = setTimeout(search, 80))));
at("more").addEventListener("click", draw);
at("reset").addEventListener("click", () => {
  at("find").value = "";
  for (const field of fields) if (field.select) field.select.value = "*";
  sort = { by: null, down: false };
  search();
});
addEventListener("hashchange", show);

if (!features.length) document.querySelector(".tools").hidden = document.querySelector(".scroll").hidden = true;
heads();
filters();
search();
show();
