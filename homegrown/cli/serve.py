"""`homegrown serve`: models behind OpenAI's wire format, and a page to talk to them."""

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from homegrown.cli.options.model import model_folder, precision_option
from homegrown.store.artifacts import Store
from homegrown.util.errors import UserError

if TYPE_CHECKING:
    from homegrown.serving.loading import Source


@click.command()
@click.argument("names", nargs=-1, metavar="[STAGE[@VERSION][:VARIANT]]...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(1, 65535), help="Port to listen at.")
@click.option(
    "--engine",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "homegrown", "llama.cpp"]),
    help="Who writes; auto: llama.cpp for GGUF variants on a CPU where it is installed, else ours.",
)
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
@precision_option
@click.option(
    "-c", "--ctx-size", type=click.IntRange(min=2), help="Most tokens of a prompt and its answer; else all there are."
)
@click.option("--parallel", default=8, show_default=True, type=click.IntRange(1, 256), help="Texts written at once.")
@click.option("--queue", default=64, show_default=True, type=click.IntRange(min=0), help="Texts that may wait.")
@click.option("-t", "--threads", type=click.IntRange(min=1), help="Threads that compute; else one a processor.")
@click.option(
    "--api-key",
    envvar="HOMEGROWN_API_KEY",
    show_envvar=True,
    help="Ask for this key; better in the environment, where other users do not see it.",
)
@click.option("--system", metavar="TEXT", help="What the models are told where a conversation does not say it.")
@click.pass_obj
def serve(store: Store, /, names: tuple[str, ...], host: str, port: int, **options: Any) -> None:
    """Serve models to OpenAI's clients and on a page: pretrain@3, quantize@2:nf4, pretrain:q8_0, several at once.

    Without a name it is the latest of pretrain. Ctrl-C ends.
    """
    import torch

    from homegrown.serving import loading
    from homegrown.serving.api import application
    from homegrown.serving.server import Server
    from homegrown.serving.service import Model, Service
    from homegrown.tokenizer.system import load_system
    from homegrown.util import devices
    from homegrown.util.guard import allowed_hosts, is_loopback, listen
    from homegrown.util.parallel import cpu_count

    device = devices.resolve(options["device"])
    sources = {found.name: found for found in (_find(store, name) for name in names or ("pretrain",))}
    engine, precision = options["engine"], options["precision"]
    engines = {name: loading.choose(source, engine, device, precision) for name, source in sources.items()}
    threads = options["threads"] or cpu_count()
    limits = loading.Limits(rows=options["parallel"], context=options["ctx_size"], threads=threads, precision=precision)
    service = Service(
        [Model(name, source.created) for name, source in sources.items()],
        queue=options["queue"],
        system=options["system"],
    )
    listening = listen(host, port)
    if not (options["api_key"] or is_loopback(host)):
        click.echo("Whoever reaches this port can use the models; set HOMEGROWN_API_KEY to ask for a key.", err=True)

    def load() -> None:
        torch.set_num_threads(threads)
        for name, source in sources.items():
            ready, tokenizer = loading.load(store, source, engines[name], device, limits, partial(service.failed, name))
            service.ready(name, ready, tokenizer, load_system(source.folder))
            click.echo(f"{name} is ready ({ready.name}, context {ready.context}, {ready.rows} at once).")

    def answering() -> None:
        shown = f"[{host}]" if ":" in host else host
        click.echo(f"Serving http://{shown}:{port} with OpenAI's API at /v1 (Ctrl-C ends).")

    app = application(service, key=options["api_key"], hosts=allowed_hosts(host))
    Server(app, service).serve_while(load, listening, answering)


def _find(store: Store, named: str) -> "Source":
    from homegrown.export.gguf import KINDS
    from homegrown.serving.loading import source

    name, colon, variant = named.partition(":")
    asked = store.resolve(name)
    # A kind of GGUF file that no variant is can still be made of the weights.
    made = variant in KINDS and not (asked.path / variant).is_dir()
    folder = model_folder(store, asked.name, variant if colon and not made else None)
    # The weights of an adapter are in another artifact than the adapter.
    artifact = next(one for one in store.all() if one.path in folder.parents)
    if problem := store.damage(artifact):
        raise UserError(f"{artifact.name} is damaged ({problem}); run its pipeline again, then serve it.")
    return source(asked.name, artifact, folder, variant or None)
