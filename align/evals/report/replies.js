"use strict";
// Shows replies a few at a time. What models wrote only ever becomes text nodes, never markup.

const PAGE = 6;
const MOST_WORDS = 1200; // of a reply in which differences are looked for

const $ = (id) => document.getElementById(id);
const form = $("filters");
const principles = JSON.parse($("cards").dataset.principles);
let all, chosen = [], shown = 0;

async function unpacked() {
  const bytes = Uint8Array.from(atob($("data").textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function number(value) {
  return (Math.abs(value) >= 999.5 ? value.toFixed(0) : String(Number(value.toPrecision(3)))).replace("-", "−");
}

const words = (text) => text.match(/^\s+|\S+\s*/g) ?? [];

// Which words of each text are in a longest common subsequence of both; null where they have too little in common.
function common(one, other) {
  const n = one.length, m = other.length;
  const [a, b] = [one, other].map((pieces) => pieces.map((piece) => piece.trim()));
  if (n > MOST_WORDS || m > MOST_WORDS) return null;
  const table = Array.from({ length: n + 1 }, () => new Uint16Array(m + 1));
  for (let i = n - 1; i >= 0; i--)
    for (let j = m - 1; j >= 0; j--)
      table[i][j] = a[i] === b[j] ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
  if (table[0][0] * 4 < Math.max(n, m)) return null;
  const kept = [new Array(n).fill(false), new Array(m).fill(false)];
  for (let i = 0, j = 0; i < n && j < m; )
    if (a[i] === b[j]) kept[0][i++] = kept[1][j++] = true;
    else if (table[i + 1][j] >= table[i][j + 1]) i++;
    else j++;
  return kept;
}

function marked(pieces, kept, tag) {
  if (!kept) return [pieces.join("")];
  const runs = [];
  pieces.forEach((piece, i) => {
    if (runs.length && runs.at(-1).same === kept[i]) runs.at(-1).text += piece;
    else runs.push({ same: kept[i], text: piece });
  });
  return runs.flatMap(({ same, text }) => (same ? [text] : [element(tag, "", text.trimEnd()), text.slice(text.trimEnd().length)]));
}

function extras(values) {
  const lines = Object.entries(values ?? {}).map(([k, v]) => `${k}: ${typeof v === "string" ? v : JSON.stringify(v)}`);
  return lines.length ? [element("div", "extra", lines.join("\n"))] : [];
}

// The principle by which a checkpoint learned these words, with a link to what it asks.
function shaped(lesson) {
  if (!lesson) return [];
  const link = element("a", "", "What it asks");
  link.href = `#principle-${principles.indexOf(lesson.principle)}`;
  const told = Object.entries(lesson.told).map(([what, text]) => element("p", "", element("b", "", what), text.trim()));
  const where = lesson.prompt === null ? "at this prompt" : `at “${lesson.prompt}”`;
  const often = lesson.of > 1 ? ` ${lesson.count} of the ${lesson.of} lessons in these words are by this principle.` : "";
  return [element("details", "shaped", element("summary", "", "shaped by ", element("b", "", lesson.principle)),
    element("p", "", `The same words in ${lesson.stage}, ${where}:`), ...told, element("p", "", `${often} `.trimStart(), link))];
}

function asked(row) {
  const turns = row.prompt.map(([role, text], i) => {
    const last = i === row.prompt.length - 1;
    const name = row.prompt.length > 1 ? [element("b", "", role)] : [];
    return element("p", last ? "turn asked" : "turn", ...name, text.trim());
  });
  const more = element("details", "");
  if (Object.keys(row.extra).length) more.append(element("summary", "", "What else is known"), ...extras(row.extra));
  return element("div", "prompt", ...turns, ...(more.childNodes.length ? [more] : []));
}

function part(metric, value, other) {
  const lead = value - other;
  const won = metric.better && other !== null && (metric.better === "higher" ? lead > 0 : lead < 0);
  return element("span", won ? "won" : "", `${metric.name} `, element("b", "", number(value)));
}

function column(row, i, against, content) {
  const reply = row.replies[i];
  const known = [...(reply.tokens ? [`${reply.tokens} tokens`] : []), ...(reply.cut ? ["cut off"] : [])];
  const facts = element("small", "", known.join(", "));
  const parts = all.metrics.flatMap((metric, k) =>
    reply.scores[k] === null ? [] : [part(metric, reply.scores[k], row.replies[against]?.scores[k] ?? null)]);
  const made = element("div", "reply", element("h4", "", all.policies[i], facts), element("div", "text", ...content),
    element("div", "parts", ...parts), ...shaped(reply.shaped), ...extras(reply.extra));
  made.style.setProperty("--c", `var(--p${i % 8})`);
  made.dataset.policy = all.policies[i];
  return made;
}

function card(row) {
  const { left, right } = pair();
  const rest = form.all.checked ? all.policies.map((_, i) => i).filter((i) => i !== left && i !== right) : [];
  const base = row.replies[left] ? words(row.replies[left].text) : [];
  const columns = [right, ...rest].filter((i) => row.replies[i] && i !== left).map((i) => {
    const pieces = words(row.replies[i].text);
    const kept = form.marks.checked ? common(base, pieces) : null;
    return [column(row, i, left, marked(pieces, kept?.[1], "ins")), kept];
  });
  const first = row.replies[left] ? [column(row, left, right, marked(base, columns[0]?.[1]?.[0], "del"))] : [];
  return element("article", "card", asked(row), element("div", "columns", ...first, ...columns.map(([made]) => made)),
    ...judges().flatMap((name, j) => judged(name, opinion(row, j))));
}

const pair = () => ({ left: Number(form.left.value), right: Number(form.right.value) });

const judges = () => all.judges ?? [];

// What a judge said of the two replies: how likely the right one is the better, and its thoughts, that one's as (A) first.
function opinion(row, j) {
  const { left, right } = pair();
  const found = (row.judged ?? []).find(([judge, a, b]) => judge === j && left !== right && [a, b].includes(left) && [a, b].includes(right));
  if (!found) return null;
  const [, policy, , p, thoughts] = found;
  return policy === right ? { p, thoughts } : { p: p === null ? null : 1 - p, thoughts: [...thoughts].reverse() };
}

// A judge's opinion in words, with what it thought in either order.
function judged(name, said) {
  if (!said) return [];
  const { left, right } = pair();
  const [liked, sure] = said.p < 0.5 ? [left, 1 - said.p] : [right, said.p];
  const verdict = said.p === null ? ["gave no verdict that could be read"]
    : said.p === 0.5 ? ["finds both as good"] : ["prefers ", element("b", "", all.policies[liked]), ` (${number(sure)})`];
  if (!said.thoughts.length) return [element("p", "judged", `${name} `, ...verdict)];
  const thoughts = said.thoughts.flatMap((text, i) =>
    [element("h5", "", `with ${all.policies[i ? left : right]} as (A)`), element("p", "", text || "nothing")]);
  return [element("details", "judged", element("summary", "", `${name} `, ...verdict), ...thoughts)];
}

// How much better the right reply is than the left one by a metric or a judge; null where that says nothing of them.
function lead(row, k) {
  const { left, right } = pair();
  if (k >= all.metrics.length) {
    const p = opinion(row, k - all.metrics.length)?.p ?? null;
    return p === null ? null : 2 * p - 1;
  }
  const [a, b] = [row.replies[left]?.scores[k], row.replies[right]?.scores[k]];
  if (a == null || b == null) return null;
  return all.metrics[k].better === "lower" ? a - b : b - a;
}

const refusals = () => all.metrics.flatMap((metric, k) => (/refus/.test(metric.name) ? [k] : []));

const KEPT = {
  "": () => true,
  refused: (row, replies) => refusals().some((k) => replies.some((reply) => reply?.scores[k] >= 0.5)),
  cut: (row, replies) => replies.some((reply) => reply?.cut),
  same: (row, [one, other]) => one?.text === other?.text,
};

// The numbers of the metrics that have a better side, then those of the judges.
const sided = () => [
  ...all.metrics.flatMap((metric, k) => (metric.better ? [k] : [])), ...judges().map((_, j) => all.metrics.length + j)];

function disagreement(row) {
  const leads = sided().map((k) => lead(row, k) ?? 0);
  const [up, down] = [Math.max(0, ...leads), Math.max(0, ...leads.map((value) => -value))];
  return Math.min(up, down);
}

function says(row, wanted) {
  const texts = [...row.prompt.map(([, text]) => text), ...row.replies.map((reply) => reply?.text ?? "")];
  return texts.some((text) => text.toLowerCase().includes(wanted));
}

function select() {
  const { left, right } = pair();
  const k = Number(form.metric.value), order = form.order.value, wanted = form.words.value.trim().toLowerCase();
  chosen = all.rows.filter((row) => KEPT[form.only.value](row, [row.replies[left], row.replies[right]]));
  if (wanted) chosen = chosen.filter((row) => says(row, wanted));
  const key = { wins: (row) => lead(row, k), losses: (row) => -lead(row, k), disagreements: disagreement }[order];
  if (key && all.metrics.length + judges().length) {
    const keys = new Map(chosen.map((row) => [row, key(row)]));
    chosen = chosen.filter((row) => keys.get(row) > 0).sort((a, b) => keys.get(b) - keys.get(a));
  }
  $("count").textContent = `${chosen.length} of ${all.rows.length}`;
  $("cards").replaceChildren();
  shown = 0;
  more();
}

// Adds the next cards and returns the first of them.
function more() {
  const next = chosen.slice(shown, shown + PAGE).map(card);
  $("cards").append(...next);
  shown += next.length;
  $("more").hidden = shown >= chosen.length;
  $("chosen").textContent = choice();
  reach();
  return next[0];
}

// What is shown and by what it was chosen, for paper, which has no filters.
function choice() {
  const picked = (field) => form[field].selectedOptions[0].textContent;
  const order = { wins: 1, losses: 1 }[form.order.value] ? `${picked("order")} by ${picked("metric")}` : picked("order");
  const only = form.only.value ? `, only ${picked("only")}` : "";
  const wanted = form.words.value.trim() ? `, with the words “${form.words.value.trim()}”` : "";
  const sides = `${picked("left")} on the left, ${picked("right")} on the right`;
  return `${shown} of ${all.rows.length}, ${order}${only}${wanted}: ${sides}.`;
}

// A reply takes the focus where it has to be scrolled.
function reach() {
  for (const text of document.querySelectorAll(".text"))
    if (text.scrollHeight > text.clientHeight) {
      text.tabIndex = 0;
      text.setAttribute("role", "group");
      text.setAttribute("aria-label", `Reply of ${text.parentElement.dataset.policy}`);
    } else ["tabindex", "role", "aria-label"].forEach((name) => text.removeAttribute(name));
}

function options(select, names, value) {
  select.replaceChildren(...names.map((name, i) => new Option(name, i)));
  select.value = value;
}

function prepare() {
  options(form.left, all.policies, 0);
  options(form.right, all.policies, Math.max(0, all.policies.indexOf(form.dataset.right)));
  options(form.metric, [...all.metrics.map((metric) => metric.name), ...judges()], 0);
  const drop = (field, value) => form[field].querySelector(`[value="${value}"]`).remove();
  if (!refusals().length) drop("only", "refused");
  if (sided().length < 2) drop("order", "disagreements");
  form.hidden = false;
}

async function start() {
  all = await unpacked();
  prepare();
  select();
  form.addEventListener("input", select);
  form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("resize", reach);
  $("more").addEventListener("click", () => {
    const first = more(); // reading goes on there, also by keyboard, where the button may be gone
    first.tabIndex = -1;
    first.focus();
  });
  for (const link of document.querySelectorAll("a[data-metric]"))
    link.addEventListener("click", () => {
      const { left, right, metric } = link.dataset;
      options(form.left, all.policies, all.policies.indexOf(left));
      options(form.right, all.policies, all.policies.indexOf(right));
      const k = all.metrics.findIndex(({ name }) => name === metric);
      if (k >= 0) form.metric.value = k;
      form.order.value = k >= 0 ? "wins" : "asked";
      select();
    });
}

start();
