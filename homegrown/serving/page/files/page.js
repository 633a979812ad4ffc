// The page: conversations with the models of this server, over its own API.

import { Markdown } from "./markdown.js";

const TOP = 5; // top tokens in a tooltip
const SHADES = 5; // s1 to s5, one per two bits of surprise
const ANSWER_SHARE = 4; // old messages are left out when less than this part of the context remains for an answer
const REDRAW = 100; // milliseconds between two drawings of a growing answer
const SAVE = 5000; // milliseconds between two times that it is kept: a page that is closed meanwhile loses no more
const ANOTHER_SEED = "another seed";

const $ = (id) => document.getElementById(id);
const make = (name, { text, on, ...attributes } = {}, ...children) => {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) if (value !== false && value != null) made.setAttribute(key, value === true ? "" : value);
  for (const [event, call] of Object.entries(on ?? {})) made.addEventListener(event, call);
  made.append(...children);
  return made;
};
const button = (text, label, click, more = {}) => make("button", { type: "button", text, "aria-label": label, title: label, on: { click }, ...more });

let models = [], kept = false, mode = "chat", running = null, saving = Promise.resolve();
let talk = fresh();

function fresh() {
  return { id: crypto.randomUUID?.() ?? [...crypto.getRandomValues(new Uint8Array(16))].map((one) => one.toString(16).padStart(2, "0")).join(""), mode, turns: [] };
}

// ---------------------------------------------------------------- the server

async function call(path, options = {}) {
  const { body, ...rest } = options;
  const answer = await fetch(path, { ...rest, headers: body ? { "Content-Type": "application/json" } : {}, body: body && JSON.stringify(body) });
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => null);
  const error = new Error(said?.error?.message ?? `The server answered with status ${answer.status}.`);
  error.code = said?.error?.code;
  throw error;
}
const json = async (path, options) => (await call(path, options)).json();

const why = (error) => error instanceof TypeError ? "The server does not answer; is it still running?" : error.message;

async function* events(path, body, signal) {
  const reader = (await call(path, { method: "POST", body, signal })).body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      if (part === "data: [DONE]") return;
      const event = JSON.parse(part.slice("data: ".length));
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}

// ---------------------------------------------------------------- settings

const settingsForm = $("settings").querySelector("form");

function settings() {
  if (!settingsForm.checkValidity()) {
    $("settings").showModal();
    settingsForm.reportValidity();
    return null;
  }
  const found = {};
  for (const input of settingsForm.querySelectorAll("[name]")) if (input.value.trim()) found[input.name] = input.type === "number" ? Number(input.value) : input.value;
  if (found.stop) found.stop = found.stop.split("\n").filter(Boolean);
  found.max_tokens ??= 200;
  return found;
}
const withoutTexts = ({ system, seed, ...rest }) => rest;
const randomSeed = () => crypto.getRandomValues(new Uint32Array(1))[0] >>> 1;

// ---------------------------------------------------------------- generation

const shown = (turn) => turn.variants[turn.chosen];

/** The messages before a turn, each answer being the one that is shown. */
function before(place, system) {
  const messages = system ? [{ role: "system", content: system }] : [];
  for (const turn of talk.turns.slice(0, place)) {
    const text = turn.role === "user" ? turn.text : shown(turn).text;
    // A question without an answer, as after an error, is not part of the conversation.
    if (turn.role === "user" || text) messages.push({ role: turn.role, content: text });
    else if (messages.at(-1)?.role === "user") messages.pop();
  }
  return messages;
}

/** The tokens of a prompt that fits the context: the oldest messages are left out. */
async function fitted(model, prompt, wanted) {
  const count = (given) => json("tokenize", { method: "POST", body: { model, ...given } });
  if (typeof prompt === "string") return { prompt, left: 0, ...(await count({ prompt })) };
  const messages = [...prompt], first = messages[0].role === "system" ? 1 : 0;
  for (let left = 0; ; left += 2) {
    const found = await count({ messages });
    const enough = Math.min(wanted, Math.max(1, Math.floor(found.max_model_len / ANSWER_SHARE)));
    if (found.max_model_len - found.count >= enough || messages.length - first < 3) return { prompt: messages, left, ...found };
    messages.splice(first, 2);
  }
}

/** Generate an answer into a variant; with `more`, continue the one that it has. */
async function generate(variant, prompt, given, more, redraw) {
  const controller = new AbortController(), kind = typeof prompt === "string" ? "completion" : "chat";
  Object.assign(variant, { error: "", note: "", finish: "" });
  running.add(controller);
  try {
    const fit = await fitted(variant.model, prompt, given.max_tokens);
    const spare = more ? 4 : 0; // the end of a turn, which a continued answer does not have yet
    const room = fit.max_model_len - fit.count + spare;
    if (room < 1) {
      const over = fit.count - fit.max_model_len + 1;
      throw new Error(`Too long: it has ${fit.count} tokens, and the context of ${variant.model} is ${fit.max_model_len}. Shorten it by ${over} tokens or more.`);
    }
    if (fit.left) variant.note = `The context is full: the oldest ${fit.left} messages were left out.`;
    const limit = Math.min(given.max_tokens, Math.max(1, room - spare));
    const { system, ...sampling } = given;
    const body = { ...sampling, model: variant.model, seed: variant.seed, max_tokens: limit, stream: true, stream_options: { include_usage: true } };
    let count = 0, start = 0, last = 0;
    const stream = kind === "chat"
      ? events("v1/chat/completions", { ...body, messages: fit.prompt, logprobs: true, top_logprobs: TOP }, controller.signal)
      : events("v1/completions", { ...body, prompt: fit.prompt, logprobs: TOP }, controller.signal);
    for await (const event of stream) {
      const choice = event.choices?.[0];
      if (event.usage) Object.assign(variant, { used: event.usage.total_tokens, count: event.usage.completion_tokens });
      if (!choice) continue;
      const text = (kind === "chat" ? choice.delta?.content : choice.text) ?? "";
      const tokens = tokensOf(choice.logprobs);
      if (text || tokens.length) {
        last = performance.now();
        start ||= last;
        count += Math.max(1, tokens.length);
        variant.text += text;
        if (text) variant.spans.push({ text, tokens });
      }
      if (choice.finish_reason) variant.finish = choice.finish_reason;
      variant.speed = last > start ? ((count - 1) * 1000) / (last - start) : 0;
      redraw();
    }
    if (!variant.finish) throw new Error("The server closed the connection before the end of the answer.");
    variant.context = fit.max_model_len;
    if (variant.finish === "length" && limit < given.max_tokens) variant.note = `The context of ${fit.max_model_len} tokens is full: only ${limit} of ${given.max_tokens} requested tokens fit.`;
  } catch (error) {
    if (error.name === "AbortError") variant.finish = "stopped";
    else variant.error = why(error);
  } finally {
    running.delete(controller);
  }
}

/** The tokens of a chunk as [{text, share, top: [[text, share]]}], from either of OpenAI's two shapes. */
function tokensOf(logprobs) {
  const share = (logprob) => Math.exp(logprob ?? 0);
  if (logprobs?.content) return logprobs.content.map((one) => ({ text: one.token, share: share(one.logprob), top: one.top_logprobs.map((top) => [top.token, share(top.logprob)]) }));
  return (logprobs?.tokens ?? []).map((text, place) => ({ text, share: share(logprobs.token_logprobs[place]), top: Object.entries(logprobs.top_logprobs?.[place] ?? {}).map(([other, logprob]) => [other, share(logprob)]) }));
}

function variantOf(model, given, seed) {
  return { model, seed: seed ?? given.seed ?? randomSeed(), settings: withoutTexts(given), system: given.system ?? "", text: "", spans: [], thumb: 0 };
}

/** Generate variants of the answer at a place, side by side if there are two; return whether any has text or ended. */
async function answer(place, made, { more = false } = {}) {
  const given = settings();
  if (!given || running) return false;
  const question = talk.turns[place - 1], action = focusedAction();
  running = new Set();
  busy(true);
  say(made.length > 1 ? "Two answers are being generated." : "An answer is being generated.");
  const prompts = made.map((variant) => talk.mode === "completion" ? question.text + (more ? variant.text : "") : [...before(place, given.system), ...(more ? [{ role: "assistant", content: variant.text }] : [])]);
  draw();
  if (action) $("stop").focus();
  let due = 0, saved = -SAVE;
  const redraw = () => {
    due ||= setTimeout(() => { due = 0; growTurn(place); }, REDRAW);
    if (performance.now() - saved < SAVE || made.every((variant) => !variant.text)) return;
    saved = performance.now();
    save();
  };
  await Promise.all(made.map((variant, index) => generate(variant, prompts[index], given, more, redraw)));
  clearTimeout(due);
  running = null;
  const waiting = document.activeElement === $("stop");
  busy(false);
  hint();
  drawTurn(place);
  if (waiting) (actions(place, action)[0] ?? $("send")).focus({ preventScroll: true });
  if (made.every((variant) => variant.error && !variant.text)) return false;
  say(made[0].error || `Answer: ${made.map((variant) => variant.text).join(" Other answer: ")}`);
  await save();
  return true;
}

/** Send a message; without any answer, it is no part of the conversation. Return whether it is. */
async function send(text) {
  const given = settings();
  if (!given || running || (!text.trim() && talk.mode === "chat")) return false;
  const other = $("compare").value, model = $("model").value;
  const first = variantOf(model, given), variants = [first];
  if (other === ANOTHER_SEED) variants.push(variantOf(model, given, given.seed === undefined ? undefined : given.seed + 1));
  else if (other) variants.push(variantOf(other, given, first.seed));
  talk.turns.push({ role: "user", text }, { role: "assistant", chosen: 0, variants, pair: variants.length > 1 });
  follow = true;
  failure("");
  if (await answer(talk.turns.length - 1, variants)) return true;
  talk.turns.splice(-2);
  draw();
  failure(first.error);
  return false;
}

/** Send the message in the box, which has it again if it could not be sent. */
async function compose() {
  if (running) return;
  const box = $("message"), text = box.value, sent = send(text);
  if (!running) return;
  box.value = "";
  grow();
  if (await sent || box.value) return;
  box.value = text;
  grow();
  box.focus();
}

async function regenerate(place) {
  const given = settings();
  if (!given || running) return;
  const whole = talk;
  talk = { ...talk, turns: structuredClone(talk.turns) };
  branch(place + 1);
  const turn = talk.turns[place], seed = given.seed === undefined ? undefined : given.seed + turn.variants.length;
  turn.variants.push(variantOf($("model").value, given, seed));
  turn.chosen = turn.variants.length - 1;
  turn.pair = false;
  failure("");
  if (await answer(place, [shown(turn)])) return;
  talk = whole;
  draw();
  failure(shown(turn).error);
}

/** Drop the turns from a place on; a copy of the conversation keeps them. */
function branch(place) {
  if (place >= talk.turns.length) return;
  talk = { ...talk, id: fresh().id, turns: structuredClone(talk.turns.slice(0, place)) };
}

async function rewrite(place, text) {
  if (!idle()) return;
  const whole = talk;
  branch(place);
  if (await send(text)) return;
  talk = whole;
  draw();
  editing(place, text, (again) => rewrite(place, again), "Send");
}

// ---------------------------------------------------------------- feedback

const rated = ({ text, model, seed, settings }) => ({ text, model, seed, settings });

async function teach(place, body) {
  if (!kept) return;
  try {
    await call("page/feedback", { method: "POST", body: { ...body, conversation: talk.id, prompt: before(place, shown(talk.turns[place]).system) } });
    say("Kept as feedback.");
  } catch (error) {
    say(why(error));
    notice(why(error));
  }
}

async function thumb(place, value) {
  const variant = shown(talk.turns[place]);
  variant.thumb = variant.thumb === value ? 0 : value;
  drawTurn(place);
  await teach(place, { kind: "thumb", answer: rated(variant), value: variant.thumb });
  await save();
}

async function prefer(place, index) {
  const turn = talk.turns[place];
  const [chosen, other] = [turn.variants[index], turn.variants[1 - index]];
  // What follows was an answer to the first one.
  if (place === talk.turns.length - 1) turn.chosen = index;
  turn.pair = false;
  drawTurn(place);
  focusTurn(place);
  await teach(place, { kind: "choice", answer: rated(chosen), other: rated(other) });
  await save();
}

async function correct(place, text) {
  const turn = talk.turns[place], original = shown(turn);
  if (text.trim() === original.text.trim() || !text.trim()) {
    drawTurn(place);
    return focusTurn(place);
  }
  turn.variants.push({ ...original, text, spans: [], edited: true, thumb: 0, finish: "", note: "" });
  turn.chosen = turn.variants.length - 1;
  drawTurn(place);
  focusTurn(place);
  await teach(place, { kind: "edit", answer: { ...rated(original), text }, other: rated(original) });
  await save();
}

// ---------------------------------------------------------------- conversations

/** Keep the conversation as it is now, one time after the other. */
function save() {
  if (!kept || !talk.turns.length) return saving;
  const turns = talk.turns.map((turn) => turn.role === "user" ? turn : { ...turn, variants: turn.variants.map(({ spans, ...rest }) => rest) });
  const path = `page/conversations/${talk.id}`, body = { title: title(), content: { mode: talk.mode, turns } };
  saving = saving.then(async () => {
    await call(path, { method: "PUT", body });
    await list();
  }).catch((error) => notice(why(error)));
  return saving;
}

/** Whether no answer is being generated; says what to do otherwise. */
function idle() {
  if (running) notice("An answer is being generated: wait for its end, or stop it.");
  return !running;
}

/** The beginning of a text of so many code points at most, without a part of what a reader sees as one character. */
function beginning(text, most) {
  let found = "", count = 0;
  for (const { segment } of new Intl.Segmenter().segment(text.slice(0, 3 * most))) {
    count += [...segment].length;
    if (count > most) break;
    found += segment;
  }
  return found;
}

const title = () => beginning(talk.turns[0]?.text.trim().split("\n")[0] ?? "", 80) || "(empty prompt)";

async function list() {
  const { conversations } = await json("page/conversations");
  const focused = document.activeElement.closest("#conversations button"), talkId = focused?.parentElement.dataset.id;
  $("conversations").replaceChildren(...conversations.map(({ id, title: name }) => make("li", { "data-id": id },
    make("button", { type: "button", class: "open", dir: "auto", text: name, title: name, "aria-current": id === talk.id ? "true" : false, on: { click: () => open(id) } }),
    button("✕", `Delete ${name}`, async () => {
      if (!confirm(`Delete "${name}"? Feedback on its answers is kept.`)) return;
      await call(`page/conversations/${id}`, { method: "DELETE" });
      if (id === talk.id) begin();
      else await list();
    }, { class: "delete" }))));
  if (focused) ($("conversations").querySelector(`[data-id="${talkId}"] .${focused.className}`) ?? $("new")).focus();
}

async function open(id) {
  if (!idle()) return;
  await saving;
  const { content } = await json(`page/conversations/${id}`).catch(async (error) => {
    await list(); // it may have been deleted elsewhere
    throw error;
  });
  talk = { id, mode: content.mode, turns: content.turns };
  failure("");
  for (const turn of talk.turns) for (const variant of turn.variants ?? []) {
    variant.spans = [];
    if (variant.text && !variant.edited) variant.finish ||= "stopped"; // by closing its page
  }
  follow = true;
  setMode(talk.mode);
  toggleList(false);
  scroller.focus();
  await list();
}

function begin() {
  if (!idle()) return;
  talk = fresh();
  failure("");
  toggleList(false);
  draw();
  if (kept) list();
  $("message").focus();
}

function asText() {
  return talk.turns.map((turn) => turn.role === "user" ? `## You\n\n${turn.text}\n` : `## ${shown(turn).model}\n\n${shown(turn).text}\n`).join("\n");
}

function download(name, text, type) {
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  URL.revokeObjectURL(link.href);
}

const fileName = (ending) => `${beginning(title().toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, ""), 40) || "conversation"}.${ending}`;

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Only pages by https or of this machine have the clipboard.
    const box = make("textarea", { class: "hidden", text });
    document.body.append(box);
    box.select();
    document.execCommand("copy");
    box.remove();
  }
  say("Copied.");
}

// ---------------------------------------------------------------- drawing

let follow = true; // whether the conversation follows its text: until the reader scrolls up
let top = 0;
const scroller = $("scroller");
scroller.addEventListener("scroll", () => {
  if (scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 40) follow = true;
  else if (scroller.scrollTop < top) follow = false;
  top = scroller.scrollTop;
  $("end").hidden = follow;
}, { passive: true });

function followText() {
  if (follow) scroller.scrollTop = scroller.scrollHeight;
  $("end").hidden = follow;
}

new ResizeObserver(followText).observe(scroller); // a phone that is turned, or opens its keyboard

function say(text) { $("status").textContent = text; }

function notice(text, action) {
  $("notice").hidden = !text;
  $("notice").replaceChildren(...(text ? [make("span", { text }), ...(action ? [action] : [])] : []));
}

/** Show why a message or an answer is not in the conversation. */
function failure(text) {
  $("failure").textContent = text;
  $("failure").hidden = !text;
}

function busy(value) {
  const pressed = document.activeElement === $("send");
  $("send").hidden = value;
  $("stop").hidden = !value;
  if (value && pressed) $("stop").focus();
  $("turns").setAttribute("aria-busy", String(value));
}

function draw() {
  $("turns").replaceChildren(...talk.turns.map((turn, place) => drawn(turn, place)));
  $("empty").hidden = talk.turns.length > 0;
  $("empty").textContent = mode === "chat" ? "Ask something. Everything stays on this server." : "Type the beginning of a text: the model continues it. Without one, it starts a new document.";
  followText();
}

/** The label of the button or group in the conversation that has the focus, if one has it. */
const focusedAction = () => document.activeElement.closest("#turns [aria-label]")?.getAttribute("aria-label");
const actions = (place, label) => label ? [...$("turns").children[place].querySelectorAll(`[aria-label="${CSS.escape(label)}"]`)] : [];

function drawTurn(place) {
  const old = $("turns").children[place], label = old?.contains(document.activeElement) ? focusedAction() : null;
  const which = actions(place, label).indexOf(document.activeElement.closest("[aria-label]"));
  old?.replaceWith(drawn(talk.turns[place], place));
  actions(place, label)[which]?.focus({ preventScroll: true });
  followText();
}

/** Show what the answers at a place have now; what was shown remains, with a selection in it. */
function growTurn(place) {
  for (const one of $("turns").children[place].querySelectorAll(".answer")) growing.get(one)();
  followText();
}

const focusTurn = (place) => $("turns").children[place].querySelector("button")?.focus();

function drawn(turn, place) {
  if (turn.role === "user") {
    const name = talk.mode === "chat" ? "You" : "Prompt";
    const edit = button("Edit", "Edit this message and continue from there", () => editing(place, turn.text, (text) => rewrite(place, text), "Send"));
    return make("li", { class: "turn user" }, make("h2", { class: "hidden", text: name }), make("div", { class: "text", text: turn.text || "(empty prompt)" }),
      make("div", { class: "tools" }, edit, button("Copy", "Copy this message", () => copy(turn.text), { class: "copy" })));
  }
  const answers = turn.pair ? turn.variants : [shown(turn)];
  return make("li", { class: turn.pair ? "turn assistant pair" : "turn assistant" },
    make("div", { class: "answers" }, ...answers.map((variant, index) => drawnAnswer(turn, place, variant, index))));
}

/** For an answer on the page, the function that shows what it has now. */
const growing = new WeakMap();

function drawnAnswer(turn, place, variant, index) {
  const [text, grow] = drawnText(turn, place, variant);
  const facts = make("p", { class: "facts" }), parts = [make("h2", { class: "hidden", text: `${variant.model} answers` }), text, facts];
  const waiting = running && !variant.text && !variant.error ? make("span", { class: "hint waiting", text: "Reading the prompt " }) : null;
  if (waiting) parts.splice(1, 0, waiting);
  if (variant.note) parts.push(make("p", { class: "note", text: variant.note }));
  if (variant.error) parts.push(make("p", { class: "error", role: "alert", text: variant.error }));
  const made = make("article", { class: "answer" }, ...parts, tools(turn, place, variant, index));
  growing.set(made, () => {
    if (variant.text) waiting?.remove();
    grow();
    facts.textContent = factsOf(variant);
  });
  growing.get(made)();
  return made;
}

/** The box of an answer's text, and a function that shows the text that the answer has now. */
function drawnText(turn, place, variant) {
  const known = variant.spans.reduce((length, span) => length + span.text.length, 0);
  const tokens = $("probabilities").checked && (known > 0 || (running && !variant.text));
  const text = make("div", { class: tokens || talk.mode === "completion" ? "text plain" : "text" });
  if (talk.mode === "completion") text.append(make("span", { class: "given", text: talk.turns[place - 1].text }));
  if (tokens) {
    // The beginning of one that was continued after a reload has no probabilities.
    text.append(variant.text.slice(0, variant.text.length - known));
    let count = 0;
    return [text, () => {
      text.append(...variant.spans.slice(count).map(token));
      count = variant.spans.length;
      if (count && !text.hasAttribute("tabindex")) for (const [name, value] of Object.entries({ tabindex: 0, role: "group", "aria-label": "Answer with probabilities; arrow keys move between tokens" })) text.setAttribute(name, value);
    }];
  }
  if (talk.mode === "completion") {
    const rest = text.appendChild(document.createTextNode(""));
    return [text, () => rest.appendData(variant.text.slice(rest.length))];
  }
  const shownText = new Markdown(text);
  return [text, () => {
    for (const block of shownText.show(variant.text)) for (const box of [block, ...block.querySelectorAll(".codebox")]) {
      if (box.matches(".codebox")) box.prepend(button("Copy", "Copy this code", () => copy(box.querySelector("code").textContent)));
    }
  }];
}

/** What is known of an answer, as a line. */
function factsOf(variant) {
  const facts = [variant.edited ? `${variant.model}, edited` : variant.model];
  if (variant.speed) facts.push(`${variant.speed.toFixed(1)} tokens/s`);
  if (variant.used) facts.push(`${variant.count} tokens`, `context ${variant.used} of ${variant.context}`);
  const ends = { stop: "finished", length: "maximum length reached", stopped: "stopped" };
  if (ends[variant.finish]) facts.push(ends[variant.finish]);
  return [...facts, `seed ${variant.seed}`].join(" · ");
}

function tools(turn, place, variant, index) {
  const row = make("div", { class: "tools" }), last = place === talk.turns.length - 1;
  if (turn.pair) {
    const both = turn.variants.every((one) => one.text && !one.error);
    if (both && kept && talk.mode === "chat") row.append(button("Prefer this", `Prefer answer ${index + 1}`, () => prefer(place, index), { class: "prefer" }));
    row.append(button("Copy", `Copy answer ${index + 1}`, () => copy(variant.text), { class: "copy" }));
    return row;
  }
  if (turn.variants.length > 1) {
    const step = (by) => () => { turn.chosen += by; drawTurn(place); save(); };
    row.append(button("‹", "Previous answer", step(-1), { disabled: turn.chosen === 0 }), make("span", { class: "hint", text: `${turn.chosen + 1}/${turn.variants.length}` }),
      button("›", "Next answer", step(1), { disabled: turn.chosen === turn.variants.length - 1 }));
  }
  if (variant.text && kept && talk.mode === "chat") {
    row.append(button("▲ Good", "Good answer", () => thumb(place, 1), { "aria-pressed": String(variant.thumb === 1) }), button("▼ Bad", "Bad answer", () => thumb(place, -1), { "aria-pressed": String(variant.thumb === -1) }));
    row.append(button("Edit", "Edit this answer, which teaches the model", () => editing(place, variant.text, (text) => correct(place, text), "Keep")));
  }
  if (variant.text && last && ["length", "stopped"].includes(variant.finish)) row.append(button("Continue", "Continue this answer", () => answer(place, [variant], { more: true })));
  row.append(button("Regenerate", "Generate another answer", () => regenerate(place)), button("Copy", "Copy this answer", () => copy(variant.text), { class: "copy" }));
  if (last) row.append(button("Export", "Export this conversation as Markdown", () => download(fileName("md"), asText(), "text/markdown")), button("JSON", "Export this conversation as JSON", () => {
    const messages = before(talk.turns.length);
    download(fileName("json"), JSON.stringify({ messages }, null, 2), "application/json");
  }));
  return row;
}

function editing(place, text, keep, verb) {
  const box = make("textarea", { "aria-label": "Edited text", dir: "auto", text });
  const cancel = () => { drawTurn(place); focusTurn(place); };
  const editor = make("li", { class: "turn editor" }, box, make("div", { class: "tools" }, button(verb, verb, () => keep(box.value)), button("Cancel", "Cancel", cancel)));
  box.addEventListener("keydown", (event) => { if (event.key === "Escape") cancel(); });
  box.addEventListener("input", () => grow(box));
  $("turns").children[place].replaceWith(editor);
  box.focus();
  grow(box);
  box.setSelectionRange(text.length, text.length);
  box.scrollTop = box.scrollHeight; // to the caret
}

// ---------------------------------------------------------------- token probabilities

function token({ text, tokens }) {
  if (!tokens.length) return text;
  const surprise = -Math.log2(Math.max(Math.min(...tokens.map((one) => one.share)), Number.MIN_VALUE));
  const made = make("span", { class: `token s${Math.min(SHADES, Math.floor(surprise / 2))}`, tabindex: "-1", text });
  made.tokens = tokens;
  return made;
}

const percent = (share) => share < 0.0005 ? "<0.1%" : `${(share * 100).toFixed(1)}%`;
const visible = (text) => text ? text.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll("\r", "␍") : "(end)";
const tip = $("tip");

function showTip(over) {
  const rows = over.tokens.flatMap((one) => [[one.text, one.share, true], ...one.top.filter(([text]) => text !== one.text).map(([text, share]) => [text, share, false])]);
  tip.replaceChildren(...rows.map(([text, share, own]) => make("div", { class: own ? "own" : false }, make("span", { text: percent(share) }), make("code", { text: visible(text) }))));
  tip.hidden = false;
  over.setAttribute("aria-describedby", "tip");
  const at = over.getClientRects()[0], own = tip.getBoundingClientRect();
  const below = at.bottom + 6 + own.height < innerHeight;
  tip.style.left = `${Math.max(8, Math.min(at.left, document.documentElement.clientWidth - own.width - 8))}px`;
  tip.style.top = `${below ? at.bottom + 6 : Math.max(8, at.top - own.height - 6)}px`;
}
const hover = (event) => {
  const over = event.target.closest?.(".token");
  if (over) showTip(over);
  else tip.hidden = true;
};
for (const event of ["mouseover", "click", "focusin"]) document.addEventListener(event, hover);
scroller.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
$("turns").addEventListener("keydown", (event) => {
  const text = event.target.closest(".text"), step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!text || !step) return;
  const all = [...text.querySelectorAll(".token")], next = all[all.indexOf(document.activeElement) + step] ?? (step > 0 ? all[0] : null);
  if (next) { event.preventDefault(); next.focus(); }
});

// ---------------------------------------------------------------- controls

function setMode(value) {
  if (!idle()) return;
  mode = value;
  if (!talk.turns.length) talk.mode = value;
  else if (talk.mode !== value) talk = fresh();
  $("mode-chat").setAttribute("aria-pressed", String(value === "chat"));
  $("mode-completion").setAttribute("aria-pressed", String(value === "completion"));
  $("message").placeholder = value === "chat" ? "Message" : "Text to continue";
  $("send").textContent = value === "chat" ? "Send" : "Generate";
  hint();
  draw();
}

/** Say what stands against chatting with the chosen models. */
function hint() {
  const chosen = [$("model").value, $("compare").value].map((name) => models.find((model) => model.name === name)).filter(Boolean);
  const state = chosen.find((model) => model.state !== "ready"), only = chosen.find((model) => !model.answers);
  if (state) notice(state.state === "loading" ? `${state.name} is loading.` : `${state.name} has failed: ${state.state}`);
  else if (only && mode === "chat") notice(`${only.name} has only been pretrained: it continues text and does not answer questions.`, make("button", { type: "button", text: "Use completion", id: "use-completion", on: { click: () => setMode("completion") } }));
  else notice("");
}

async function refresh() {
  const found = await json("page/models");
  ({ models, kept } = found);
  hint();
  if (models.some((model) => model.state === "loading")) setTimeout(() => refresh().catch(() => {}), 1000);
}

function toggleList(shown) {
  $("list").classList.toggle("shown", shown);
  $("show-list").setAttribute("aria-expanded", String(shown));
}

/** Make a box as high as its text. */
function grow(box = $("message")) {
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight + 2}px`;
  followText();
}

function theme(value) {
  if (value) document.documentElement.dataset.theme = value;
}

$("composer").addEventListener("submit", (event) => { event.preventDefault(); compose(); });
$("message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && mode === "chat") { event.preventDefault(); compose(); }
});
$("message").addEventListener("input", () => grow());
$("end").addEventListener("click", () => { follow = true; followText(); $("message").focus(); });
$("stop").addEventListener("click", () => { for (const one of running ?? []) one.abort(); });
$("new").addEventListener("click", begin);
$("mode-chat").addEventListener("click", () => setMode("chat"));
$("mode-completion").addEventListener("click", () => setMode("completion"));
$("model").addEventListener("change", hint);
$("compare").addEventListener("change", hint);
$("show-settings").addEventListener("click", () => $("settings").showModal());
$("probabilities").addEventListener("change", (event) => { localStorage.setItem("homegrown-probabilities", event.target.checked ? "yes" : ""); draw(); });
$("show-list").addEventListener("click", () => toggleList(!$("list").classList.contains("shown")));
document.addEventListener("click", (event) => { if (!event.target.closest("#list, #show-list")) toggleList(false); });
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && $("list").classList.contains("shown")) { toggleList(false); $("show-list").focus(); } });
$("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark" || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  localStorage.setItem("homegrown-theme", dark ? "light" : "dark");
  theme(dark ? "light" : "dark");
});

addEventListener("unhandledrejection", (event) => notice(why(event.reason)));

theme(localStorage.getItem("homegrown-theme"));
$("probabilities").checked = Boolean(localStorage.getItem("homegrown-probabilities"));
try {
  await refresh();
  $("model").replaceChildren(...models.map(({ name }) => make("option", { text: name, value: name })));
  $("compare").replaceChildren(make("option", { text: "no comparison", value: "" }), make("option", { text: ANOTHER_SEED, value: ANOTHER_SEED }), ...models.map(({ name }) => make("option", { text: name, value: name })));
  $("kept").textContent = kept ? "Conversations and feedback are kept in the store of this server." : "Conversations and feedback are not kept: other machines can reach this server, and it has no key.";
  setMode(models[0].answers ? "chat" : "completion");
  if (kept) await list();
  document.body.dataset.ready = "yes";
} catch (error) {
  notice(why(error));
}
