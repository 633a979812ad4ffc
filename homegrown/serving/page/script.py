"""The page's JavaScript: the tooltip of tokens, and the switch between dark and light."""

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
  document.addEventListener("click", over);
  document.addEventListener("scroll", hide, true);
}
"""
"""Runs once when the page is loaded. A tap on a phone does what hovering does elsewhere; tokens are set as text."""

SWITCH_THEME = """
() => {
  const dark = document.body.classList.toggle("dark");
  localStorage.setItem("homegrown-theme", dark ? "dark" : "light");
}
"""
