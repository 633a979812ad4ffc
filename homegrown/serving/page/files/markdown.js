// Markdown as DOM nodes. Text of a model is only ever set as text: there is no HTML to sanitize.

const element = (name, ...children) => {
  const made = document.createElement(name);
  made.append(...children);
  return made;
};

function link(address, ...children) {
  const made = element("a", ...children);
  for (const inner of made.querySelectorAll("a")) inner.replaceWith(...inner.childNodes);
  made.href = address;
  made.rel = "noopener noreferrer nofollow";
  made.target = "_blank";
  return made;
}

// A bare address without the punctuation of its sentence; a bracket that it opened is its own.
function withoutEnd(address) {
  const shorter = address.replace(/[?!.,:;*_~'"\u2019\u201d\u2026\u00bb\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f]+$/, "");
  const last = shorter.at(-1), opening = { ")": "(", "]": "[", "}": "{" }[last];
  const alone = opening && shorter.split(last).length > shorter.split(opening).length;
  if (alone) return withoutEnd(shorter.slice(0, -1));
  return shorter;
}

const INLINE = [
  [/`+/, (found, rest) => {
    const end = rest.indexOf(found[0], found[0].length);
    if (end < 0) return null;
    return [element("code", rest.slice(found[0].length, end).trim()), end + found[0].length];
  }],
  [/\\([\\`*_{}[\]()#+\-.!|<>~])/, (found) => [document.createTextNode(found[1]), 2]],
  [/\[([^[\]\n]+)\]\((https?:\/\/[^\s()<>]+(?:\([^\s()]*\)[^\s()<>]*)*)\)/, (found) => [link(found[2], ...inline(found[1])), found[0].length]],
  [/<(https?:\/\/[^\s<>]+)>|(?<![\p{L}\p{N}])https?:\/\/[^\s<>"`]{1,2000}/iu, (found) => {
    const address = found[1] ?? withoutEnd(found[0]);
    return URL.canParse(address) ? [link(address, address), found[1] ? found[0].length : address.length] : null;
  }],
  [/(\*\*\*|___)(?=[^\s*_])([^]*?[^\s*_])\1/, (found) => [element("strong", element("em", ...inline(found[2]))), found[0].length]],
  [/(\*\*|__)(?=\S)([^]*?\S)\1/, (found) => [element("strong", ...inline(found[2])), found[0].length]],
  [/~~(?=\S)([^]*?\S)~~/, (found) => [element("del", ...inline(found[1])), found[0].length]],
  [/\*(?=[^\s*])([^]*?[^\s*])\*(?!\*)/, (found) => [element("em", ...inline(found[1])), found[0].length]],
  [/(?<![\p{L}\p{N}])_(?=[^\s_])([^]*?[^\s_])_(?![\p{L}\p{N}])/u, (found) => [element("em", ...inline(found[1])), found[0].length]],
];

function inline(text) {
  const nodes = [];
  while (text) {
    let first = null;
    for (const [pattern, make] of INLINE) {
      const found = pattern.exec(text);
      if (found && (!first || found.index < first.found.index)) first = { found, make };
    }
    const made = first && first.make(first.found, text.slice(first.found.index));
    if (!made) {
      // A sign without its partner is itself.
      const end = first ? first.found.index + first.found[0].length : text.length;
      nodes.push(text.slice(0, end));
      text = text.slice(end);
      continue;
    }
    nodes.push(text.slice(0, first.found.index), made[0]);
    text = text.slice(first.found.index + made[1]);
  }
  return nodes.filter((node) => node !== "");
}

const broken = (text) => text.split("\n").flatMap((line, place) => place ? [element("br"), ...inline(line)] : inline(line));
const LIST = /^( *)([-*+]|\d{1,9}[.)]) +(.*)$/;
const FENCE = /^ {0,3}(`{3,}|~{3,}) *([^\s`]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6}) +(.*?)#* *$/;
const RULE = /^ {0,3}([-*_])( *\1){2,} *$/;
const ROW = /^ *\|.|[^|]\|/;
const DASHES = /^ *\|?( *:?-+:? *\|)+ *:?-* *:? *\|? *$/;
const DEEPEST = 8; // levels of lists and quotes; deeper ones are text

const cells = (line) => line.trim().replace(/^\||(?<!\\)\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
const startsTable = (lines, at) => ROW.test(lines[at]) && DASHES.test(lines[at + 1] ?? "");
const interrupts = (line) => [FENCE, HEADING, LIST, RULE, /^ {0,3}>/].some((one) => one.test(line));

function table(lines, at) {
  const sides = cells(lines[at + 1]).map((dashes) => dashes.endsWith(":") ? (dashes.startsWith(":") ? "center" : "end") : "");
  const row = (line, kind) => {
    const texts = cells(line);
    return element("tr", ...sides.map((side, place) => {
      const cell = element(kind, ...inline(texts[place] ?? ""));
      if (side) cell.style.textAlign = side;
      return cell;
    }));
  };
  const head = row(lines[at], "th"), body = element("tbody");
  for (at += 2; at < lines.length && ROW.test(lines[at]); at += 1) body.append(row(lines[at], "td"));
  return [element("table", element("thead", head), body), at];
}

function code(lines, language) {
  const box = element("div", element("pre", element("code", lines.join("\n"))));
  box.className = "codebox";
  box.dir = "ltr";
  if (language) box.dataset.language = language;
  return box;
}

function list(lines, at, depth) {
  const [, indent, mark] = LIST.exec(lines[at]);
  const ordered = /\d/.test(mark), made = element(ordered ? "ol" : "ul");
  if (ordered) made.start = parseInt(mark, 10);
  while (at < lines.length) {
    const found = LIST.exec(lines[at]);
    if (!found || found[1].length !== indent.length || /\d/.test(found[2]) !== ordered) break;
    const inner = [found[3]], width = lines[at].length - found[3].length;
    for (at += 1; at < lines.length; at += 1) {
      const line = lines[at], deep = line.length - line.trimStart().length;
      const next = lines[at + 1] ?? "";
      if (line.trim() ? deep <= indent.length : next.length - next.trimStart().length <= indent.length) break;
      inner.push(line.slice(Math.min(deep, width)));
    }
    made.append(element("li", ...blocks(inner, depth + 1)));
    if (at < lines.length && !lines[at].trim() && LIST.test(lines[at + 1] ?? "")) at += 1;
  }
  return [made, at];
}

function blocks(lines, depth = 0) {
  const nodes = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at], fence = FENCE.exec(line), heading = HEADING.exec(line);
    if (!line.trim()) at += 1;
    else if (fence) {
      let end = at + 1;
      while (end < lines.length && !(lines[end].trim().startsWith(fence[1]) && !lines[end].trim().slice(fence[1].length).replaceAll(fence[1][0], ""))) end += 1;
      nodes.push(code(lines.slice(at + 1, end), fence[2]));
      at = end + 1;
    } else if (heading) {
      nodes.push(element(`h${Math.min(6, heading[1].length + 3)}`, ...inline(heading[2])));
      at += 1;
    } else if (RULE.test(line)) {
      nodes.push(element("hr"));
      at += 1;
    } else if (/^ {0,3}>/.test(line) && depth < DEEPEST) {
      let end = at;
      while (end < lines.length && /^ {0,3}>/.test(lines[end])) end += 1;
      nodes.push(element("blockquote", ...blocks(lines.slice(at, end).map((one) => one.replace(/^ {0,3}> ?/, "")), depth + 1)));
      at = end;
    } else if (LIST.test(line) && depth < DEEPEST) {
      const [made, end] = list(lines, at, depth);
      nodes.push(made);
      at = end;
    } else if (startsTable(lines, at)) {
      const [made, end] = table(lines, at);
      nodes.push(made);
      at = end;
    } else {
      let end = at + 1;
      while (end < lines.length && lines[end].trim() && !interrupts(lines[end]) && !startsTable(lines, end)) end += 1;
      nodes.push(element("p", ...broken(lines.slice(at, end).map((one) => one.trim()).join("\n"))));
      at = end;
    }
  }
  return nodes;
}

/** A text as blocks, each in the direction of its first letter; code is from left to right. */
export function markdown(text) {
  const nodes = blocks(text.replaceAll("\r\n", "\n").split("\n"));
  for (const node of nodes) if (!node.matches(".codebox, hr")) node.dir = "auto";
  return nodes;
}
