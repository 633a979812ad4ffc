"""The page's JavaScript: tooltips of tokens, outputs that follow their text, the switch between dark and light."""

ON_LOAD = """
() => {
  const kept = localStorage.getItem("homegrown-theme");
  if (kept) document.body.classList.toggle("dark", kept === "dark");

  const tip = document.createElement("div");
  tip.id = "token-tip";
  tip.setAttribute("role", "tooltip");
  tip.hidden = true;
  document.querySelector(".gradio-container").appendChild(tip);
  let shown = null;

  const show = (token) => {
    if (token === shown && !tip.hidden) return;
    shown = token;
    tip.replaceChildren(...token.dataset.tip.split("\\n").map((line) => {
      const [, own, share, text] = line.match(/^(\\*?)([^\\t]*)\\t(.*)$/);
      const [row, value, name] = ["div", "b", "code"].map((kind) => document.createElement(kind));
      row.className = own ? "own" : "";
      value.textContent = share;
      name.textContent = text;
      row.append(value, name);
      return row;
    }));
    tip.hidden = false;
    const at = token.getClientRects()[0], own = tip.getBoundingClientRect();
    const left = Math.max(8, Math.min(at.left, document.documentElement.clientWidth - own.width - 8));
    const below = at.bottom + 6 + own.height < window.innerHeight;
    tip.style.left = `${left}px`;
    tip.style.top = `${below ? at.bottom + 6 : Math.max(8, at.top - own.height - 6)}px`;
  };
  const hide = () => { tip.hidden = true; shown = null; };
  const over = (event) => {
    const token = event.target.closest?.(".token");
    token ? show(token) : hide();
  };
  document.addEventListener("mouseover", over);

  // Outputs follow their text, unless the reader scrolled up; a new message of the user is always followed.
  const away = new WeakSet(), turns = new WeakMap(), tops = new WeakMap();
  document.addEventListener("scroll", ({ target }) => {
    if (!target.matches?.(".block.output")) return;
    const atEnd = target.scrollHeight - target.scrollTop - target.clientHeight < 40;
    if (atEnd) away.delete(target);
    else if (target.scrollTop < (tops.get(target) ?? 0)) away.add(target);
    tops.set(target, target.scrollTop);
  }, true);
  const follow = () => document.querySelectorAll(".block.output").forEach((output) => {
    const count = output.querySelectorAll(".turn.user").length;
    if (count !== (turns.get(output) ?? 0)) away.delete(output);
    turns.set(output, count);
    if (!away.has(output)) output.scrollTop = output.scrollHeight;
  });
  new MutationObserver(follow).observe(document.querySelector(".gradio-container"), {
    childList: true, subtree: true, characterData: true,
  });
  document.addEventListener("click", over);
  document.addEventListener("scroll", hide, true);
}
"""
"""Runs once when the page is loaded: tooltips, and outputs that follow their text.

A tap on a phone does what hovering does elsewhere; tokens are set as text.
"""

SWITCH_THEME = """
() => {
  const dark = document.body.classList.toggle("dark");
  localStorage.setItem("homegrown-theme", dark ? "dark" : "light");
}
"""
