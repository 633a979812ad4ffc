"""The style of the page: Gradio's base theme with system fonts, and CSS for our own elements."""

import gradio as gr

_FONTS = ("system-ui", "sans-serif")
_MONOSPACE = ("ui-monospace", "monospace")


def theme() -> gr.themes.Base:
    """Return Gradio's base theme in one color. Its default downloads fonts; these are on every machine."""
    return gr.themes.Base(
        primary_hue="teal", neutral_hue="slate", font=_FONTS, font_mono=_MONOSPACE, radius_size="md", text_size="md"
    ).set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_700",
        button_primary_text_color="white",
    )


CSS = """
.gradio-container { width: 100%; max-width: 1200px !important; margin: 0 auto; --tint: 20 160 140; }
.gradio-container, .gradio-container * { font-family: system-ui, sans-serif; }
.gradio-container code { font-family: ui-monospace, Consolas, monospace; }
#title { flex-wrap: nowrap; align-items: start; }
#title h1 { margin: 0; font-size: 1.5rem; } #title p { margin: .2rem 0 0; opacity: .75; }
#theme { flex: 0 0 auto; min-width: 0; width: auto; }
#controls { order: 1; }
.pane { border: 1px solid var(--border-color-primary); border-radius: var(--radius-lg); gap: 0 !important;
  background: var(--block-background-fill); overflow: hidden; }
html:has(body.dark), .dark { color-scheme: dark; }
.block.output, .block.foot, .block.output > *, .block.foot > * { padding: 0 !important; }
.block.output { height: min(42vh, 28rem); overflow-y: auto !important; border: 0; border-radius: 0; }
.block.foot { border-width: 1px 0 0; border-radius: 0; }
.text { padding: 1rem; white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.6; }
.facts, .note, .error { margin: 0; font-size: .85rem; }
.below { padding: .5rem 1rem; min-height: 2.3rem; }
.facts, .note { color: var(--body-text-color-subdued); }
.error { color: #b42318; } .dark .error { color: #ffa198; }
.given { opacity: .6; }
.turn { margin: 0 0 .8rem; padding: .5rem .8rem; border-radius: 12px; width: fit-content; max-width: 92%;
  min-height: 1.6em; min-width: 2rem; }
.turn.user { margin-left: auto; background: rgb(var(--tint) / .16); }
.turn.assistant { background: var(--background-fill-secondary); }
.token { border-radius: 3px; cursor: help; }
.token:hover { outline: 1px solid currentColor; }
.s0 { background: rgb(235 110 60 / .38); } .s1 { background: rgb(235 120 60 / .32); }
.s2 { background: rgb(235 130 60 / .26); } .s3 { background: rgb(235 140 60 / .21); }
.s4 { background: rgb(235 150 60 / .17); } .s5 { background: rgb(235 150 60 / .13); }
.s6 { background: rgb(235 150 60 / .09); } .s7 { background: rgb(235 150 60 / .06); }
.s8 { background: rgb(235 150 60 / .03); }
#token-tip { position: fixed; z-index: 1000; max-width: calc(100vw - 16px); padding: .45rem .6rem; border-radius: 8px;
  font-size: .82rem; line-height: 1.45; pointer-events: none; color: #f3f5f7; background: #1c2430;
  box-shadow: 0 4px 16px rgb(0 0 0 / .35); border: 1px solid rgb(255 255 255 / .12); }
#token-tip[hidden] { display: none; }
#token-tip div { display: flex; gap: .6rem; opacity: .75; } #token-tip div.own { opacity: 1; }
#token-tip b { min-width: 3.6em; text-align: right; font-weight: 600; }
#token-tip code { white-space: pre; overflow: hidden; text-overflow: ellipsis; background: none; color: inherit; }
"""
