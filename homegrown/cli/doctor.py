"""`homegrown doctor`: this machine, and what recipes want of it."""

import click

from homegrown.util.errors import UserError


@click.command()
@click.argument("pipeline", required=False)
@click.option("--set", "changes", multiple=True, metavar="SETTING=VALUE", help="Change one, as in compute.processes=2.")
@click.option("--json", "as_json", is_flag=True, help="Print the diagnosis as JSON.")
@click.pass_context
def doctor(context: click.Context, pipeline: str | None, changes: tuple[str, ...], as_json: bool) -> None:
    """Look at this machine: does homegrown run on it, and does PIPELINE?

    Ends with exit code 1 where something stands in the way, and says what to do. Below it is what hardware each recipe
    wants.
    """
    import json

    from rich.console import Console

    from homegrown.config.pipelines import load_recipe, pipeline_names
    from homegrown.planning.doctor import diagnose
    from homegrown.planning.machine import this_machine
    from homegrown.planning.render_doctor import print_diagnosis

    if pipeline is None and changes:
        raise UserError("--set changes a pipeline; name it, as in `homegrown doctor tiny --set compute.processes=2`.")
    recipe = None if pipeline is None else load_recipe(pipeline, changes)
    found = diagnose(this_machine(), context.obj, [load_recipe(name) for name in pipeline_names()], recipe)
    if as_json:
        click.echo(json.dumps(found.as_json(), indent=2))
    else:
        print_diagnosis(Console(), found.checks, found.wants)
    context.exit(0 if found.healthy else 1)
