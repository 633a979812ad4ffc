"""`homegrown why`: in what an artifact differs from the previous one."""

import click

from homegrown.store.artifacts import Store
from homegrown.store.manifest import Artifact


@click.command()
@click.argument("artifact")
@click.pass_obj
def why(store: Store, artifact: str) -> None:
    """Explain why a stage ran again.

    ARTIFACT is a stage or a version, such as pretrain@3. It is compared with what the same recipe used before, as are
    the inputs that differ. `homegrown run --dry-run` explains what would run next.
    """
    from homegrown.store.differences import previous_version, reasons_between

    waiting = [store.resolve(artifact)]
    shown: set[str] = set()
    while waiting:
        now = waiting.pop(0)
        if now.name in shown:
            continue
        shown.add(now.name)
        before = previous_version(store, now)
        if before is None:
            click.echo(f"{now.name} is the first of its recipe.")
            continue
        found = reasons_between(store, before.manifest, now.manifest)
        click.echo(f"{now.name} differs from {before.name}:" if found else f"{now.name} repeats {before.name}.")
        for reason in found:
            click.echo(f"  {reason}")
            if reason.kind == "input":
                waiting += _input(store, now, reason.name)


def _input(store: Store, artifact: Artifact, role: str) -> list[Artifact]:
    key = artifact.manifest.inputs.get(role)
    return [one for one in store.inputs(artifact) if one.manifest.key == key]
