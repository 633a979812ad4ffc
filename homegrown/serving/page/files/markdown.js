// Markdown as DOM nodes, by the rules of CommonMark and GitHub's tables, task lists and deleted text.
// Text of a model is only ever set as text: there is no HTML to sanitize. The time is linear in the length.

const DEEPEST = 20; // levels of lists, quotes and emphasis; deeper ones are text
const FILLED = 10000; // cells that a table adds to rows that are shorter than its head

function element(name, children = []) {
  const made = document.createElement(name);
  for (const child of children) made.append(child); // one by one: a call has less than 100,000 arguments
  return made;
}

// ---------------------------------------------------------------- inside a line

const PUNCTUATION = /[\p{P}\p{S}]/u, SPACE = /^\s?$/;
// Chinese, Japanese and Korean have no spaces around emphasis: their punctuation does not prevent it.
const WIDE = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}\u3000-\u303f\uff00-\uffef]/u;
const SPECIAL = /[\\`*_~[\]<&$\n]|!\[|https?:\/\//gi;
const ESCAPE = /\\([!-/:-@[-`{-~])/y;
const ENTITY = /&(?:#(\d{1,7})|#x([\da-f]{1,6})|(amp|lt|gt|quot|apos|nbsp));/iy;
const NAMED = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0" };
const BREAK = /<br ?\/?>/iy;
const ANGLED = /<(https?:\/\/[^\s<>]+)>/iy;
const BARE = /https?:\/\/(?:(?!\]\()[^\s<>"`\u3001\u3002\u300c-\u3011\uff01\uff08\uff09\uff0c\uff1a\uff1b\uff1f]){1,2000}/iy;
const TARGET = /\]\(\s*<?(https?:\/\/[^\s()<>]+(?:\([^\s()]*\)[^\s()<>]*)*)>?(?:\s+(?:"[^"\n]*"|'[^'\n]*'))?\s*\)/iy;
// A formula between single dollars by Pandoc's rule, by which prices are none.
const FORMULA = /\$(?![\s$])[^$\n]{1,500}(?<!\s)\$(?!\d)/y;
const FORMULA_ENDS = { "\\(": "\\)", "\\[": "\\]", "$$": "$$" };
const SENTENCE_END = "?!.,:;*_~'\"\u2019\u201d\u2026\u00bb";
const OPENING = { ")": "(", "]": "[", "}": "{" };

const matched = (pattern, text, at) => {
  pattern.lastIndex = at;
  return pattern.exec(text);
};

/** A bare address without the punctuation of its sentence; a bracket that it opened is its own. */
function withoutEnd(address) {
  const count = (sign) => address.split(sign).length, more = {};
  for (const [closing, opening] of Object.entries(OPENING)) more[closing] = count(closing) - count(opening);
  let end = address.length;
  for (let last; (last = address[end - 1]) && (SENTENCE_END.includes(last) || more[last] > 0); end -= 1) if (last in more) more[last] -= 1;
  return address.slice(0, end);
}

/** A link to an address; a bare one reads from left to right wherever it is. */
function link(address, bare) {
  const made = element("a");
  if (bare) made.dir = "ltr";
  made.href = address;
  made.rel = "noopener noreferrer nofollow";
  made.target = "_blank";
  if (bare) made.textContent = address;
  return made;
}

function codeSpan(text) {
  const whole = text.replaceAll("\n", " "), padded = whole.startsWith(" ") && whole.endsWith(" ") && whole.trim();
  const made = element("code", [padded ? whole.slice(1, -1) : whole]);
  made.dir = "ltr";
  return made;
}

/** A formula as the model wrote it. */
const formulaNode = (text) => element("span", text.split(/(\n)/).map((line) => line === "\n" ? element("br") : line));

/** What a reference to a character stands for. */
function entity([, decimal, hexadecimal, name]) {
  if (name) return NAMED[name.toLowerCase()];
  const code = decimal ? parseInt(decimal, 10) : parseInt(hexadecimal, 16);
  return code > 0 && code <= 0x10ffff ? String.fromCodePoint(code) : "\ufffd";
}

/** The characters, of one or two units, before and after a part of a text; empty at its ends. */
function around(text, start, end) {
  const before = /[^]?$/u.exec(text.slice(Math.max(0, start - 2), start))[0];
  return [before, end < text.length ? String.fromCodePoint(text.codePointAt(end)) : ""];
}

/** The pieces of a text: strings, nodes, runs of signs of emphasis, and the ends of links. */
function pieces(text) {
  const found = [], brackets = [], runs = new Map(), absent = new Set();
  for (const { 0: { length }, index } of text.matchAll(/`+/g)) {
    if (!runs.has(length)) runs.set(length, { places: [], next: 0 });
    runs.get(length).places.push(index);
  }
  const closing = (length, from) => {
    const run = runs.get(length);
    while (run && run.places[run.next] < from) run.next += 1;
    return run?.places[run.next] ?? -1;
  };
  const formula = (at) => {
    const end = FORMULA_ENDS[text.slice(at, at + 2)];
    if (!end) return matched(FORMULA, text, at)?.[0];
    const to = absent.has(end) ? -1 : text.indexOf(end, at + 2);
    if (to < 0) absent.add(end);
    return to < 0 ? null : text.slice(at, to + 2);
  };
  const address = (at) => {
    const angled = matched(ANGLED, text, at)?.[1];
    if (angled) return [angled, angled.length + 2];
    if (text[at] === "<" || /[\p{L}\p{N}]$/u.test(text.slice(Math.max(0, at - 2), at))) return [];
    const bare = withoutEnd(matched(BARE, text, at)?.[0] ?? "");
    return [bare, bare.length];
  };
  let at = 0;
  const take = (piece, length) => { found.push(piece); at += length; };
  while (at < text.length) {
    SPECIAL.lastIndex = at;
    const special = SPECIAL.exec(text), start = special?.index ?? text.length;
    if (start > at) take(text.slice(at, start), start - at);
    if (!special) break;
    const sign = special[0], first = sign[0];
    let one;
    if (sign === "\n") take(element("br"), 1);
    else if ((first === "\\" || first === "$") && (one = formula(at))) take(formulaNode(one), one.length);
    else if ((one = matched(ESCAPE, text, at))) take(one[1], 2);
    else if (first === "\\" && text[at + 1] === "\n") take("", 1);
    else if (first === "`") {
      let length = 1;
      while (text[at + length] === "`") length += 1;
      const end = closing(length, at + length);
      if (end < 0) take("`".repeat(length), length);
      else take(codeSpan(text.slice(at + length, end)), end + length - at);
    } else if (/[*_~]/.test(first)) {
      let end = at + 1;
      while (text[end] === first) end += 1;
      take(run(first, end - at, ...around(text, at, end)), end - at);
    } else if (sign === "[" || sign === "![") {
      brackets.push(found.length);
      take({ bracket: sign }, sign.length);
    } else if (first === "]") {
      const open = brackets.pop(), target = open === undefined ? null : matched(TARGET, text, at);
      if (target && URL.canParse(target[1])) {
        found[open].address = target[1];
        brackets.length = 0; // no link has another inside
        take({ end: true }, target[0].length);
      } else take("]", 1);
    } else if ((one = matched(ENTITY, text, at))) take(entity(one), one[0].length);
    else if (matched(BREAK, text, at)) take(element("br"), BREAK.lastIndex - at);
    else {
      const [target, length] = address(at);
      if (target && URL.canParse(target)) take(link(target, true), length);
      else take(sign, sign.length);
    }
  }
  return found;
}

/** A run of signs of emphasis between two characters, with what it can do by CommonMark's rules. */
function run(sign, length, before, after) {
  const wide = sign !== "_" && (WIDE.test(before) || WIDE.test(after));
  const [beforeSign, afterSign] = [before, after].map((one) => PUNCTUATION.test(one));
  const left = !SPACE.test(after) && (!afterSign || SPACE.test(before) || beforeSign || wide);
  const right = !SPACE.test(before) && (!beforeSign || SPACE.test(after) || afterSign || wide);
  const fits = sign !== "~" || length === 2;
  return { sign, length, count: length, opens: fits && left && (sign !== "_" || !right || beforeSign), closes: fits && right && (sign !== "_" || !left || afterSign) };
}

/** What is being built inside a line: the parent, and the runs in it that may open emphasis. */
class Line {
  constructor(parent) {
    this.parent = parent;
    this.deep = 0; // levels of emphasis before the first open run
    this.open = [];
    this.tried = new Map(); // for a kind of closing run, how many runs were there when none of them opened it
    this.count = 0;
  }

  add(run) {
    if (run.closes) this.close(run);
    if (!run.count) return;
    run.node = document.createTextNode(run.sign.repeat(run.count));
    this.parent.append(run.node);
    if (run.opens) this.open.push(Object.assign(run, { place: this.count++, deep: 0 }));
  }

  close(run) {
    const kind = `${run.sign}${run.opens}${run.length % 3}`;
    while (run.count) {
      let at = this.open.length - 1;
      const first = this.tried.get(kind) ?? 0;
      while (at >= 0 && this.open[at].place >= first && !this.pairs(this.open[at], run)) at -= 1;
      if (at < 0 || this.open[at].place < first) {
        this.tried.set(kind, this.count);
        return;
      }
      const opener = this.open[at], deep = 1 + this.cut(at + 1);
      if (deep > DEEPEST) {
        this.cut(at);
        continue;
      }
      const used = run.sign === "~" || (opener.count > 1 && run.count > 1) ? 2 : 1;
      const made = element(run.sign === "~" ? "del" : used === 2 ? "strong" : "em");
      while (opener.node.nextSibling) made.append(opener.node.nextSibling);
      opener.count -= used;
      run.count -= used;
      opener.node.data = opener.node.data.slice(used);
      opener.node.after(made);
      opener.deep = deep;
      if (!opener.count) {
        opener.node.remove();
        this.cut(at);
      }
    }
  }

  pairs(opener, run) {
    if (opener.sign !== run.sign) return false;
    const either = (opener.closes || run.opens) && run.sign !== "~";
    return !either || (opener.length + run.length) % 3 > 0 || (opener.length % 3 === 0 && run.length % 3 === 0);
  }

  /** Drop the open runs from a place on; return the levels of emphasis after the one before it. */
  cut(at) {
    const deep = this.open.splice(at).reduce((most, one) => Math.max(most, one.deep), 0);
    if (!at) return (this.deep = Math.max(this.deep, deep));
    const last = this.open[at - 1];
    return (last.deep = Math.max(last.deep, deep));
  }
}

function inline(text) {
  const whole = document.createDocumentFragment();
  let line = new Line(whole), outer = null;
  for (const piece of pieces(text)) {
    if (piece.sign) line.add(piece);
    else if (piece.address) {
      const made = link(piece.address, false);
      line.parent.append(made);
      outer = line;
      line = new Line(made);
    } else if (piece.end) {
      if (!line.parent.hasChildNodes()) line.parent.append(line.parent.href); // a picture without a text
      [line, outer] = [outer, null];
    } else if (outer && piece.localName === "a") line.parent.append(piece.textContent);
    else line.parent.append(piece.bracket ?? piece);
  }
  return whole;
}

// ---------------------------------------------------------------- lines

const LIST = /^([ \t]*)([-*+]|\d{1,9}[.)])(?:([ \t]+)(\S.*)|[ \t]*)$/;
const FENCE = /^ {0,3}(`{3,}|~{3,})(.*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*))?$/;
const UNDERLINE = /^ {0,3}(==+|--+)[ \t]*$/; // one sign may be the beginning of a list
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}>/;
const TASK = /^\[([ xX])\][ \t]+(?=\S)/;
const CODE_INDENT = 4;

const blank = (line) => !line?.trim();

/** The column of the first character that is not white. */
function indent(line) {
  let column = 0;
  for (const sign of line) {
    if (sign === "\t") column += CODE_INDENT - column % CODE_INDENT;
    else if (sign === " ") column += 1;
    else break;
  }
  return column;
}

/** A line without so many columns of white space. */
function outdent(line, columns) {
  let at = 0, column = 0;
  for (; column < columns && /[ \t]/.test(line[at] ?? ""); at += 1) column += line[at] === "\t" ? CODE_INDENT - column % CODE_INDENT : 1;
  return " ".repeat(Math.max(0, column - columns)) + line.slice(at);
}

const fenceOf = (line) => {
  const found = FENCE.exec(line);
  return found && !(found[1][0] === "`" && found[2].includes("`")) ? found : null;
};
const closes = (line, fence) => {
  const found = FENCE.exec(line);
  return found && found[1][0] === fence[0] && found[1].length >= fence.length && blank(found[2]);
};
const heading = (level, text) => element(`h${Math.min(6, level + 3)}`, [inline(text)]);

/** A heading's text without the signs that close it. */
function withoutClosing(text) {
  const trimmed = text.trim();
  let end = trimmed.length;
  while (trimmed[end - 1] === "#") end -= 1;
  return end === 0 || /\s/.test(trimmed[end - 1]) ? trimmed.slice(0, end).trim() : trimmed;
}

/** Whether a line ends a paragraph before it. */
function interrupts(lines, at) {
  const line = lines[at], item = LIST.exec(line);
  if (item && item[4] && (!/\d/.test(item[2]) || parseInt(item[2], 10) === 1)) return true;
  return fenceOf(line) || [HEADING, RULE, QUOTE].some((one) => one.test(line)) || sidesOf(lines, at);
}

/** Follows the lines of a list item or quote: whether a line without its sign goes on with its paragraph. */
class Open {
  constructor() { this.fence = this.paragraph = null; }

  add(line) {
    const fence = fenceOf(line);
    if (this.fence) {
      if (closes(line, this.fence)) this.fence = null;
      this.paragraph = false;
    } else {
      this.fence = fence?.[1] ?? null;
      const inside = line.replace(/^[ \t>]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)?/, "");
      this.paragraph = !fence && !blank(inside) && !HEADING.test(inside) && !RULE.test(line) && (this.paragraph || indent(line) < CODE_INDENT);
    }
  }
}

const cells = (line) => line.trim().replace(/^\||(?<!\\)\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));

/** The sides of the columns of a table that begins at a line, or null. */
function sidesOf(lines, at) {
  const dashes = lines[at + 1] ?? "";
  if (!lines[at].includes("|") || !dashes.includes("|") || !/^[-:|\s]+$/.test(dashes)) return null;
  const found = cells(dashes);
  if (!found.every((one) => /^:?-+:?$/.test(one)) || cells(lines[at]).length !== found.length) return null;
  return found.map((one) => one.endsWith(":") ? (one.startsWith(":") ? "center" : "end") : "");
}

function table(lines, at, sides) {
  let filled = 0;
  const row = (line, kind) => {
    const texts = cells(line).slice(0, sides.length);
    for (; texts.length < sides.length && filled < FILLED; filled += 1) texts.push("");
    return element("tr", texts.map((text, place) => {
      const cell = element(kind, [element("span", [inline(text)])]);
      if (sides[place]) cell.style.textAlign = sides[place];
      return cell;
    }));
  };
  const head = row(lines[at], "th"), body = element("tbody");
  for (at += 2; at < lines.length && lines[at].includes("|") && !blank(lines[at]); at += 1) body.append(row(lines[at], "td"));
  return [element("table", [element("thead", [head]), body]), at];
}

function code(lines, language) {
  const box = element("div", [element("pre", [element("code", [lines.join("\n")])])]);
  box.className = "codebox";
  box.dir = "ltr";
  if (language) box.dataset.language = language;
  return box;
}

function fenced(lines, at, [opening, fence, info]) {
  let end = at + 1;
  while (end < lines.length && !closes(lines[end], fence)) end += 1;
  const columns = indent(opening), inner = lines.slice(at + 1, end).map((line) => outdent(line, columns));
  return [code(inner, info.trim().split(/\s/, 1)[0]), end + 1];
}

function indented(lines, at) {
  let end = at;
  for (let next = at; next < lines.length && (blank(lines[next]) || indent(lines[next]) >= CODE_INDENT); next += 1) if (!blank(lines[next])) end = next + 1;
  return [code(lines.slice(at, end).map((line) => outdent(line, CODE_INDENT)), ""), end];
}

function quote(lines, at, depth) {
  const inner = [], open = new Open();
  for (; at < lines.length; at += 1) {
    const own = QUOTE.test(lines[at]);
    if (!own && (!open.paragraph || blank(lines[at]) || UNDERLINE.test(lines[at]) || interrupts(lines, at))) break;
    const line = own ? lines[at].replace(/^ {0,3}> ?/, "") : lines[at].trimStart();
    inner.push(line);
    open.add(line);
  }
  return [element("blockquote", blocks(inner, depth + 1).nodes), at];
}

function list(lines, at, depth) {
  const mark = LIST.exec(lines[at])[2], ordered = /\d/.test(mark), made = element(ordered ? "ol" : "ul");
  if (ordered) made.start = parseInt(mark, 10);
  let loose = false;
  while (at < lines.length) {
    const found = LIST.exec(lines[at]);
    if (!found || found[2].at(-1) !== mark.at(-1) || RULE.test(lines[at])) break;
    const [item, end, gap] = listItem(lines, at, found);
    let next = end;
    while (next < lines.length && blank(lines[next])) next += 1;
    const follows = LIST.exec(lines[next] ?? "")?.[2].at(-1) === mark.at(-1);
    if (gap || (follows && next > end)) loose = true;
    made.append(asItem(item, depth));
    at = follows ? next : end;
  }
  if (loose) made.className = "loose";
  return [made, at];
}

/** The lines of a list's item, where it ends, and whether there is a blank line in it. */
function listItem(lines, at, [, white, mark, space = " ", text = ""]) {
  const own = indent(white), width = mark.length + (text && indent(space) <= CODE_INDENT ? indent(space) : 1);
  // Lists inside need less than CommonMark's columns: many models write two for each level.
  const least = own + Math.min(width, 2), inner = [text && indent(space) > CODE_INDENT ? space.slice(1) + text : text], open = new Open();
  let gap = false, columns = own + width;
  open.add(inner[0]);
  for (at += 1; at < lines.length; at += 1) {
    let next = at;
    while (next < lines.length && blank(lines[next])) next += 1;
    const deep = next < lines.length && indent(lines[next]) >= least;
    if (next > at) {
      if (!deep || (inner.length === 1 && !text)) break;
      gap ||= !open.fence && !LIST.test(lines[next]) && indent(lines[next]) < own + width + 2;
      inner.push(...lines.slice(at, next).map(() => ""));
      open.paragraph = false;
      at = next;
    } else if (!deep && (!open.paragraph || LIST.test(lines[at]) || UNDERLINE.test(lines[at]) || interrupts(lines, at))) break;
    if (deep) columns = Math.min(columns, indent(lines[at]));
    const line = outdent(lines[at], deep ? columns : indent(lines[at]));
    inner.push(line);
    open.add(line);
  }
  return [inner, at, gap];
}

function asItem(lines, depth) {
  const task = TASK.exec(lines[0]);
  if (!task) return element("li", blocks(lines, depth + 1).nodes);
  const box = element("input"), done = task[1] !== " ";
  Object.assign(box, { type: "checkbox", disabled: true, checked: done, ariaLabel: done ? "Done" : "To do" });
  const item = element("li", blocks(lines.with(0, lines[0].slice(task[0].length)), depth + 1).nodes);
  item.className = "task";
  item.firstElementChild.prepend(box);
  return item;
}

/** The block that begins at a line, and the line after it. */
function block(lines, at, depth) {
  const line = lines[at], fence = fenceOf(line), title = HEADING.exec(line);
  if (fence) return fenced(lines, at, fence);
  if (title) return [heading(title[1].length, withoutClosing(title[2] ?? "")), at + 1];
  if (RULE.test(line)) return [element("hr"), at + 1];
  if (QUOTE.test(line) && depth < DEEPEST) return quote(lines, at, depth);
  if (LIST.test(line) && depth < DEEPEST) return list(lines, at, depth);
  if (indent(line) >= CODE_INDENT && !LIST.test(line)) return indented(lines, at);
  const sides = sidesOf(lines, at);
  if (sides) return table(lines, at, sides);
  let end = at + 1;
  while (end < lines.length && !blank(lines[end]) && !UNDERLINE.test(lines[end]) && !interrupts(lines, end)) end += 1;
  const text = lines.slice(at, end).map((one) => one.trim()).join("\n");
  const under = UNDERLINE.exec(lines[end] ?? "");
  return under ? [heading(under[1][0] === "=" ? 1 : 2, text), end + 1] : [element("p", [inline(text)]), end];
}

/** The blocks of lines, and the line at which each begins. */
function blocks(lines, depth = 0) {
  const nodes = [], starts = [];
  for (let at = 0; at < lines.length;) {
    if (blank(lines[at])) {
      at += 1;
      continue;
    }
    starts.push(at);
    const [made, end] = block(lines, at, depth);
    nodes.push(made);
    at = end;
  }
  return { nodes, starts };
}

/** A text that grows, as blocks in a box, each in the direction of its first letter; code is from left to right. */
export class Markdown {
  constructor(box) {
    this.box = box;
    this.done = 0; // characters whose blocks remain as they are
    this.last = []; // the blocks after them
  }

  /** Show a text, which begins with the previous one; return the new blocks. */
  show(text) {
    const lines = text.slice(this.done).split("\n"), { nodes, starts } = blocks(lines.map((line) => line.replace(/\r$/, "")));
    for (const node of nodes) if (!node.matches(".codebox, hr")) node.dir = "auto";
    for (const node of this.last) node.remove();
    for (const node of nodes) this.box.append(node);
    // The last line is not complete: it may still belong to the block before it.
    const kept = Math.max(0, starts.findLastIndex((start) => start < lines.length - 1));
    this.last = nodes.slice(kept);
    for (const line of lines.slice(0, starts[kept] ?? 0)) this.done += line.length + 1;
    return nodes;
  }
}
