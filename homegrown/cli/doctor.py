"""`homegrown doctor`: whether recipes run on this machine."""

import click

from homegrown.util.errors import UserError


@click.command()
@click.argument("pipeline", required=False)
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="SETTING=VALUE",
    help="Changed setting; repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON instead of tables.")
@click.pass_context
def doctor(context: click.Context, pipeline: str | None, changes: tuple[str, ...], as_json: bool) -> None:
    """Check whether PIPELINE runs on this machine.

    Without PIPELINE, only homegrown itself is checked. The exit code is 1 if a check is bad. A table lists the hardware
    that each recipe needs.
    """
    import json
    import shlex

    from homegrown.config.pipelines import load_recipe, pipeline_names
    from homegrown.planning.doctor import diagnose
    from homegrown.planning.machine import this_machine
    from homegrown.planning.render_doctor import print_diagnosis

    if pipeline is None and changes:
        raise UserError("--set needs a pipeline, as in `homegrown doctor tiny --set compute.processes=2`.")
    recipe = None if pipeline is None else load_recipe(pipeline, changes)
    named = shlex.join([pipeline or "", *(part for change in changes for part in ("--set", change))])
    found = diagnose(this_machine(), context.obj, [load_recipe(name) for name in pipeline_names()], recipe, named)
    if as_json:
        click.echo(json.dumps(found.as_json(), indent=2))
    else:
        print_diagnosis(found.checks, found.wants)
    context.exit(0 if found.healthy else 1)
