// The page: shows what the server says, sends what people do. Everything that is not ours is written as text, never as
// markup; the policy in the server's headers would stop it otherwise.

const find = (id) => document.getElementById(id);
const PLACES = ["best", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th", "9th"];

let annotator = "";
let state = null; // as the server sent it
let ranking = []; // groups of equal replies, the best first: [[1], [0, 2]]
let joining = false; // the next reply is as good as the last
let flagged = false;
let since = 0;
let busy = false;

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

// Talking to the server

async function ask(path, body = {}) {
  let response;
  try {
    response = await fetch(`api/${path}`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ annotator, ...body }),
    });
  } catch {
    throw new Error("The server does not answer. Confirmed votes are saved; start it again and open the new address.");
  }
  const found = await response.json().catch(() => ({ error: `The server answered ${response.status}.` }));
  if (!response.ok) throw Object.assign(new Error(found.error), { status: response.status });
  return found;
}

async function act(path, body, said) {
  if (busy) return;
  busy = true;
  find("problem").hidden = true;
  try {
    show(await ask(path, body), said);
  } catch (error) {
    // A vote on an item that another tab has voted on, or that was confirmed although its answer got lost.
    if (error.status === 409) await ask("state").then((found) => show(found, ""), () => {});
    complain(error);
  } finally {
    busy = false;
  }
}

function complain(error) {
  find("problem").textContent = error.message;
  find("problem").hidden = false;
}

// Showing a state

function show(found, said = "") {
  state = found;
  ranking = [];
  joining = false;
  flagged = Boolean(found.draft?.flagged);
  since = performance.now();
  const { item, total, done } = state;
  const chat = state.kind === "chat";
  find("welcome").hidden = true;
  find("top").hidden = find("bottom").hidden = find("work").hidden = false;
  find("who").textContent = annotator;
  find("count").textContent = total === null ? `${done} voted` : `${done} of ${total}`;
  find("bar").hidden = total === null;
  find("bar").value = total ? done / total : 0;
  const named = state.prompt.length > 1 || state.prompt[0]?.role === "system";
  find("conversation").replaceChildren(...state.prompt.map((turn) => turnOf(turn, named)));
  find("replies").className = `replies ${["", "", "two"][item?.replies.length ?? 0] ?? "many"}`;
  find("replies").replaceChildren(...(item?.replies ?? []).map(replyOf));
  find("over").hidden = Boolean(item) || chat;
  find("restart").hidden = !chat;
  find("composer").hidden = !chat || item?.replies.length > 1;
  find("comment").value = found.draft?.comment ?? "";
  find("note").hidden = !find("comment").value;
  find("undo").disabled = !state.undoable;
  for (const id of ["write", "skip", "flag", "remark"]) find(id).hidden = !item;
  find("write-label").textContent = item?.replies.length ? "Write a better one" : "Write the reply";
  find("votes").replaceChildren(...voteButtons());
  showRanking();
  showFlag();
  tell(said || (item ? "" : "No more to vote on"));
  window.scrollTo(0, chat ? document.body.scrollHeight : 0);
  if (!find("composer").hidden) find("text").focus();
  else find(find("over").hidden ? "main" : "over").focus({ preventScroll: true });
  if (found.draft?.correction) openEditor(found.draft.correction, found.draft.corrects ?? 0);
}

function tell(said) {
  const next = state.total === null ? "" : ` ${state.done} of ${state.total} voted.`;
  find("said").textContent = `${said}${next}`;
}

function turnOf({ role, content }, named) {
  const turn = element("div", { class: `turn ${role}`, dir: "auto" });
  if (named) turn.append(element("span", { class: "role" }, role));
  turn.append(content);
  return turn;
}

function replyOf(reply, i) {
  const label = state.item.replies.length > 1
    ? [element("kbd", {}, String(i + 1)), `Reply ${i + 1}`]
    : [reply.shared ? "Both replied the same" : "Reply"];
  return element(
    "article",
    { class: "reply", id: `reply-${i}`, "aria-labelledby": `reply-title-${i}` },
    element("h3", { id: `reply-title-${i}` }, ...label, element("span", { class: "place" })),
    ...reply.turns.map((turn) => turnOf(turn, reply.turns.length > 1)),
    ...(reply.unfinished ? [element("p", { class: "cut" }, "(cut off here)")] : []),
  );
}

function voteButtons() {
  const count = state.item?.replies.length ?? 0;
  const button = (key, label, onclick, kind = "", spoken = label) =>
    element("button", { type: "button", class: kind, "aria-label": spoken, onclick }, element("kbd", {}, key), label);
  if (count === 1) return [button("1", "Good as it is", () => choose(0))];
  if (count === 2) {
    return [
      button("1", "Reply 1 is better", () => choose(0)),
      button("=", "Equally good", equal, "narrow"),
      button("2", "Reply 2 is better", () => choose(1)),
    ];
  }
  const replies = Array.from({ length: count }, (_, i) =>
    button(`${i + 1}`, "", () => choose(i), "narrow", `Reply ${i + 1} is next`),
  );
  return count ? [...replies, button("=", "as good", equal, "narrow"), button("Enter", "Save", saveRanking, "save")] : [];
}

function showRanking() {
  const count = state.item?.replies.length ?? 0;
  const placed = ranking.flat().length;
  find("order").hidden = count < 3;
  const written = ranking.map((group) => group.map((i) => i + 1).join(" = ")).join("  >  ");
  const open = joining ? " = …" : placed && placed < count ? "  > …" : "";
  find("order").textContent = placed ? written + open : "The best first, then the next";
  for (let i = 0; i < count; i++) {
    const place = ranking.findIndex((group) => group.includes(i));
    find(`reply-${i}`).classList.toggle("ranked", place >= 0);
    find(`reply-${i}`).querySelector(".place").textContent = place < 0 ? "" : PLACES[place] ?? `${place + 1}th`;
  }
  const save = document.querySelector("#votes .save");
  if (save) save.disabled = placed < count;
}

function showFlag() {
  find("flag").setAttribute("aria-pressed", String(flagged));
}

// What people do

function vote(said, fields) {
  const seconds = Math.round(performance.now() - since) / 1000;
  const comment = find("comment").value.trim();
  return act("vote", { item: state.item.id, flagged, comment, seconds, ...fields }, said);
}

function choose(i) {
  const count = state.item?.replies.length ?? 0;
  if (i >= count) return;
  if (count < 3) {
    const ranks = count === 1 ? [0] : i === 0 ? [0, 1] : [1, 0];
    vote(count === 1 ? "Approved." : `Reply ${i + 1} is better.`, { ranks });
    return;
  }
  if (ranking.flat().includes(i)) return;
  if (joining) ranking.at(-1).push(i);
  else ranking.push([i]);
  joining = false;
  showRanking();
  find("said").textContent = find("order").textContent;
}

function equal() {
  const count = state.item?.replies.length ?? 0;
  if (count === 2) vote("Equally good.", { ranks: [0, 0] });
  else if (ranking.length && ranking.flat().length < count) {
    joining = true;
    showRanking();
  }
}

function saveRanking() {
  const count = state.item?.replies.length ?? 0;
  if (count < 3 || ranking.flat().length < count) return;
  const ranks = Array.from({ length: count }, (_, i) => ranking.findIndex((group) => group.includes(i)));
  vote("Ranking saved.", { ranks });
}

function takePlaceBack() {
  if (joining) joining = false;
  else {
    ranking.at(-1)?.pop();
    ranking = ranking.filter((group) => group.length);
  }
  showRanking();
}

function openEditor(text = null, base = 0) {
  if (!state.item) return;
  const written = state.item.replies.map((reply) => reply.turns.map((turn) => turn.content).join("\n"));
  find("base").hidden = written.length < 2;
  find("bases").replaceChildren(
    ...written.map((_, i) => {
      const input = element("input", { type: "radio", name: "base", value: i, checked: i === base });
      // Whoever has typed nothing yet begins with the reply they now choose.
      input.addEventListener("change", () => {
        if (written.includes(find("correction").value)) find("correction").value = written[i];
      });
      return element("label", {}, input, `Reply ${i + 1}`);
    }),
  );
  find("correction").value = text ?? written[base] ?? "";
  if (!find("editor").open) find("editor").showModal();
  find("correction").focus();
}

function saveCorrection() {
  const correction = find("correction").value.trim();
  const chosen = document.querySelector("#bases input:checked");
  const corrects = chosen ? Number(chosen.value) : null;
  const written = corrects === null ? "" : state.item.replies[corrects].turns.map((turn) => turn.content).join("\n");
  if (!correction || correction === written.trim()) {
    find("correction").focus();
    complain(new Error(correction ? "This is the reply as it was." : "The reply is empty."));
    return;
  }
  find("editor").close();
  vote("Correction saved.", { correction, corrects });
}

function comment() {
  if (!state.item) return;
  find("note").hidden = false;
  find("comment").focus();
}

async function say() {
  const text = find("text").value.trim();
  if (!text || busy) return;
  find("text").value = "";
  const before = state.item ? [...state.prompt, ...state.item.replies[0].turns] : state.prompt;
  find("conversation").replaceChildren(...[...before, { role: "user", content: text }].map((turn) => turnOf(turn, true)));
  find("replies").replaceChildren();
  find("composer").hidden = true;
  find("waiting").hidden = false;
  find("said").textContent = "Writing";
  await act("say", { text }, "Replied.");
  find("waiting").hidden = true;
  if (find("problem").hidden) return;
  find("composer").hidden = false;
  find("text").value = text;
}

// Results

function table(head, rows) {
  return element(
    "table", {},
    element("thead", {}, element("tr", {}, ...head.map((cell) => element("th", { scope: "col" }, cell)))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((cell) => element("td", {}, String(cell)))))),
  );
}

function agreementOf(found) {
  if (!found) return "Agreement is measured once two people have voted on the same replies.";
  const bounds = found.low === null ? "" : ` [${found.low.toFixed(2)}, ${found.high.toFixed(2)}]`;
  const value = found.value === null ? "says nothing where all votes are alike" : `${found.value.toFixed(2)}${bounds}`;
  const same = `${Math.round(100 * found.same)} % of votes on the same pair are equal`;
  const within = found.clusters === null ? "" : ` in ${found.clusters} clusters`;
  return `${found.measure} ${value}; ${same}, n = ${found.n}${within}.`;
}

function winRate(row) {
  const bounds = "low" in row ? ` [${(100 * row.low).toFixed(0)}, ${(100 * row.high).toFixed(0)}]` : "";
  const rate = `${(100 * row.rate).toFixed(0)} %${bounds}`;
  return [`${row.policy} over ${row.baseline}`, rate, row.win, row.tie, row.loss, row.n];
}

async function openResults() {
  let found;
  try {
    found = await ask("results");
  } catch (error) {
    return complain(error);
  }
  const people = Object.entries(found.annotators).map(([name, counts]) => [name, ...Object.values(counts)]);
  const kept = found.ties === "drop" ? "left out" : "label 0.5";
  const even = found.even ? ` Pairs that came out even: ${found.even}, ${kept}.` : "";
  const parts = [
    table(["", "votes", "skipped", "corrections", "flagged"], people),
    element("h3", {}, "Agreement"), element("p", {}, agreementOf(found.agreement)),
    element("h3", {}, "Who was preferred"),
    found.win_rates === undefined ? element("p", {}, "Shown once you have voted on everything, so that it sways nobody.")
      : table(["", "won, ties half", "won", "tie", "lost", "prompts"], found.win_rates.map(winRate)),
    element("h3", {}, "For a recipe"),
    element("p", {}, `${found.preferences} preferences and ${found.demonstrations} demonstrations.${even}`),
  ];
  if (found.entries) {
    const onclick = () => navigator.clipboard.writeText(found.entries);
    const copy = element("button", { type: "button", class: "quiet", onclick }, "Copy");
    parts.push(element("pre", { tabindex: "0" }, found.entries), copy);
  }
  find("results-body").replaceChildren(...parts);
  if (!find("results").open) find("results").showModal();
}

// Keys and buttons

const KEYS = {
  "=": equal, "0": equal, Enter: saveRanking, Backspace: takePlaceBack,
  e: () => openEditor(), s: () => state.item && vote("Skipped.", {}), f: flag, c: comment,
  u: () => state.undoable && act("undo", {}, "Taken back."),
  n: () => state.kind === "chat" && act("restart", {}, "A new conversation."),
  t: () => find("text").focus(),
  r: openResults, "?": () => find("help").showModal(),
};

function flag() {
  if (!state.item) return;
  flagged = !flagged;
  showFlag();
  find("said").textContent = flagged ? "Flagged." : "Not flagged.";
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("textarea, input");
  if (event.key === "Escape" && typing && !document.querySelector("dialog[open]")) event.target.blur();
  if (!state || typing || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "Enter" && event.target.matches("button")) return; // presses it
  const doing = /^[1-9]$/.test(event.key) ? () => choose(Number(event.key) - 1) : KEYS[event.key];
  if (!doing) return;
  event.preventDefault();
  doing();
});

for (const [id, doing] of Object.entries({
  write: () => openEditor(), skip: KEYS.s, flag, remark: comment, undo: KEYS.u, restart: KEYS.n,
  "show-results": openResults, "show-help": KEYS["?"], save: saveCorrection, cancel: () => find("editor").close(),
  who: welcome,
})) find(id).addEventListener("click", doing);

find("correction").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) saveCorrection();
});
find("text").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  say();
});
find("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  say();
});

// The name is the tab's, so that two people can vote in two tabs.

function welcome() {
  state = null;
  find("welcome").hidden = false;
  find("top").hidden = find("bottom").hidden = find("work").hidden = true;
  find("annotator").value = annotator;
  find("annotator").focus();
}

function begin(name) {
  annotator = name;
  sessionStorage.setItem("annotator", name);
  return act("state", {}, "");
}

find("welcome").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = find("annotator").value.trim();
  if (name) begin(name);
});

const known = sessionStorage.getItem("annotator");
if (known) await begin(known);
if (!state) welcome();
