"""`homegrown serve`: serve models over OpenAI's API and a page."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from homegrown.cli.options.model import model_folder, precision_option, stored_name
from homegrown.config.starter import STARTER
from homegrown.store.artifacts import Store
from homegrown.util.errors import UserError

if TYPE_CHECKING:
    from homegrown.serving.loading import Source


@click.command()
@click.argument("names", nargs=-1, metavar="[MODEL]...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(1, 65535), help="Port to listen on.")
@click.option(
    "--engine",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "homegrown", "llama.cpp"]),
    help="Inference engine; auto takes the faster one.",
)
@precision_option
@click.option(
    "-c",
    "--ctx-size",
    type=click.IntRange(min=2),
    help="Maximum tokens of prompt and answer; default the model's context.",
)
@click.option("--parallel", default=8, show_default=True, type=click.IntRange(1, 256), help="Requests run at once.")
@click.option("--queue", default=64, show_default=True, type=click.IntRange(min=0), help="Requests that may wait.")
@click.option("-t", "--threads", type=click.IntRange(min=1), help="Computing threads; default one per processor.")
@click.option("--api-key", envvar="HOMEGROWN_API_KEY", show_envvar=True, help="Required API key; default none.")
@click.option("--system", metavar="TEXT", help="Default system prompt; default is the model's own.")
@click.option("--lora", "loras", multiple=True, metavar="NAME", help="Adapter on the first model; repeatable.")
@click.option("--alias", "aliases", multiple=True, metavar="NAME[=MODEL]", help="Other name of a model; repeatable.")
@click.option("--allow-host", "hosts", multiple=True, metavar="NAME", help="Host name of a proxy; repeatable.")
@click.option("--allow-origin", "origins", multiple=True, metavar="URL", help="Origin of other pages; repeatable.")
@click.pass_obj
def serve(
    store: Store,
    /,
    names: tuple[str, ...],
    host: str,
    port: int,
    loras: tuple[str, ...],
    aliases: tuple[str, ...],
    hosts: tuple[str, ...],
    origins: tuple[str, ...],
    **options: Any,
) -> None:
    """Serve models over OpenAI's API and a page.

    MODEL: pretrain@3, quantize@2:nf4, pretrain:q8_0 or starter; by default the latest of pretrain. Each --lora, such
    as finetune@2, is a model of its own by its name; all share the weights of their base.
    """
    import torch

    from homegrown.serving import loading
    from homegrown.serving.api import application
    from homegrown.serving.server import Server
    from homegrown.serving.service import Model, Service
    from homegrown.store.garbage import loaded
    from homegrown.util import devices
    from homegrown.util.guard import allowed_hosts, is_loopback, listen
    from homegrown.util.parallel import cpu_count

    _check_access(hosts, origins)
    device = devices.resolve("auto")
    found = {name: _find(store, name) for name in names or ("pretrain",)}
    sources = {source.name: source for source in found.values()}
    typed = {name: source.name for name, source in found.items() if name != source.name}
    first = next(iter(sources.values()))
    adapters = {one.artifact.name: one for one in (loading.lora(store, store.resolve(name), first) for name in loras)}
    typed |= {name: store.resolve(name).name for name in loras if name not in adapters}
    if twice := next((name for name in adapters if name in sources), None):
        raise UserError(f"{twice} is served twice, as a model and as an adapter; remove one.")
    other_names = _aliases(aliases, [*sources, *adapters], typed)
    engine, precision = options["engine"], options["precision"]
    engines = {name: loading.choose(source, engine, device, precision) for name, source in sources.items()}
    if adapters and engines[first.name] != "homegrown":
        raise UserError("--lora needs the engine homegrown; remove --engine llama.cpp.")
    threads = options["threads"] or cpu_count()
    limits = loading.Limits(rows=options["parallel"], context=options["ctx_size"], threads=threads, precision=precision)
    service = Service(
        [
            *(Model(name, source.created, _answers(store, source)) for name, source in sources.items()),
            *(Model(name, one.created) for name, one in adapters.items()),
        ],
        queue=options["queue"],
        system=options["system"],
        aliases=other_names,
        typed=typed,
    )
    listening = listen(host, port)
    if not (options["api_key"] or is_loopback(host)):
        click.echo("No API key: everyone who reaches this port can use the models; set HOMEGROWN_API_KEY.", err=True)

    def load() -> None:
        torch.set_num_threads(threads)
        for name, source in sources.items():
            on_it = list(adapters.values()) if source is first else []

            def fail(why: str, names: Sequence[str] = (name, *(one.artifact.name for one in on_it))) -> None:
                for failed in names:
                    service.failed(failed, why)

            for served, ready, chat in loading.load(store, source, engines[name], device, limits, fail, on_it):
                service.ready(served, ready, chat)
                shared = f"{ready.rows} requests at once" if served == name else f"on {name}"
                click.echo(f"{served} is ready ({ready.name}, context {ready.context}, {shared}).")

    def answering() -> None:
        shown = f"[{host}]" if ":" in host else host
        click.echo(f"Serving at http://{shown}:{port}, OpenAI's API at /v1 (Ctrl-C stops).")

    # What strangers can reach without a key keeps nothing and shows nothing that others wrote.
    trusted = options["api_key"] or (is_loopback(host) and not (hosts or origins))
    app = application(
        service,
        key=options["api_key"],
        hosts=[*allowed_hosts(host), *hosts],
        origins=origins,
        store=store if trusted else None,
    )
    in_use = [source.artifact for source in sources.values()]
    in_use += [artifact for one in adapters.values() for artifact in (one.artifact, one.merged)]
    with loaded(store, in_use):
        Server(app, service).serve_while(load, listening, answering)


def _check_access(hosts: tuple[str, ...], origins: tuple[str, ...]) -> None:
    from homegrown.util.guard import HOST_NAME

    for name in hosts:
        if not re.fullmatch(HOST_NAME, name):
            raise UserError(f"--allow-host {name} is not a host name; give one without scheme and port.")
    for origin in origins:
        if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/*]+", origin):
            raise UserError(f"--allow-origin {origin} is not an origin; give scheme and host: https://llm.example.org.")


def _answers(store: Store, source: "Source") -> bool:
    """Return whether a model was fine-tuned, or comes from elsewhere, where it may have been."""
    chain = [source.artifact, *store.lineage(source.artifact)]
    return any(one.manifest.stage in ("finetune", "dpo", "base") for one in chain)


def _aliases(given: Sequence[str], names: list[str], typed: dict[str, str]) -> dict[str, str]:
    """Return each alias with the name of its model; without one, that of the first."""
    found: dict[str, str] = {}
    for alias in given:
        name, equals, model = alias.partition("=")
        model = typed.get(model, model) if equals else names[0]
        if not name.strip() or name in names or {**typed, **found}.get(name, model) != model:
            raise UserError(f"--alias {alias} is not a new name; give NAME or NAME=MODEL.")
        if model not in names:
            raise UserError(f"--alias {alias} names a model that is not served; use one of {', '.join(names)}.")
        found[name] = model
    return found


def _find(store: Store, name: str) -> "Source":
    from homegrown.export.gguf import KINDS
    from homegrown.serving.loading import source

    stage, colon, variant = name.partition(":")
    artifact = store.resolve(stored_name(store, stage))
    # Unless the artifact has it as a variant, a kind of GGUF file is made from the weights.
    converted = variant in KINDS and not (artifact.path / variant).is_dir()
    folder = model_folder(store, f"{artifact.name}:{variant}" if colon and not converted else artifact.name)
    # The weights of an adapter are in another artifact.
    owner = next(one for one in store.all() if one.path in folder.parents)
    if problem := store.damage(owner):
        raise UserError(f"{owner.name} is damaged ({problem}); run its pipeline again.")
    return source(STARTER if stage == STARTER else artifact.name, owner, folder, variant or None)
