"""The page: a Gradio application on the server's own address."""

import os
from html import escape
from typing import Any, cast

# Gradio reads these on import; they turn off its analytics and its monitoring.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "1"
os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(2**62)

import gradio as gr
from fastapi import FastAPI
from starlette.routing import Mount

from homegrown.serving.page.chat_tab import chat_tab
from homegrown.serving.page.completion import completion_tab
from homegrown.serving.page.controls import Controls
from homegrown.serving.page.script import ON_LOAD, SWITCH_THEME
from homegrown.serving.page.style import CSS, theme
from homegrown.serving.service import Service


def application(service: Service) -> FastAPI:
    """Return the page as an application at `/`; access is checked by the application that mounts it."""
    app = FastAPI(openapi_url=None)
    gr.mount_gradio_app(
        app,
        _blocks(service),
        "/",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=theme(),
        css=CSS,
        js=ON_LOAD,
    )
    mounted = cast(Mount, app.routes[-1])
    # Each open page keeps a connection, which would delay the shutdown.
    service.at_stop.append(cast(Any, mounted.app).stop_event.set)
    return app


def _blocks(service: Service) -> Any:
    with gr.Blocks(title="Homegrown", analytics_enabled=False, fill_width=True) as blocks:
        with gr.Row(elem_id="title"):
            gr.HTML(_greeting(service), js_on_load=None)
            switch = gr.Button("◐ Theme", elem_id="theme", size="sm", min_width=90)
        switch.click(None, js=SWITCH_THEME, api_visibility="private")
        with gr.Row():
            # First, because the tabs need them; the style puts them after the tabs.
            with gr.Column(scale=1, min_width=280, elem_id="controls"):
                controls = Controls(service.names)
            with gr.Column(scale=3, min_width=320), gr.Tabs():
                with gr.Tab("Chat"):
                    chat_tab(service, controls)
                with gr.Tab("Completion"):
                    completion_tab(service, controls)
    return blocks


def _greeting(service: Service) -> str:
    names = ", ".join(f"<b>{escape(name)}</b>" for name in service.names)
    return (
        f"<h1>Homegrown</h1><p>Chat with {names}. Nothing leaves this server. Hover over a word, or tap it, "
        "to see its probability.</p>"
    )
