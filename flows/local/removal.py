"""Deletes deployments and schedules of this project that `pipelines.yaml` no longer has; Prefect keeps them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule

_SET_DIRECTORY = "prefect.deployments.steps.set_working_directory"


def remove_deleted(
    client: SyncPrefectClient, folder: Path, schedules: Mapping[str, Sequence[Mapping[str, Any]]], file: Path
) -> list[str]:
    """Delete the deployments and schedules of a project that its file no longer has; return a message for each.

    A deployment belongs to the project if its pull steps set the working directory to `folder`.

    Args:
        client: Client of the server.
        folder: The project's folder.
        schedules: The schedules in the file of every deployment in the file, by its name `flow/deployment`.
        file: The file, for the messages.
    """
    removed = []
    flows = {flow.id: flow.name for flow in all_pages(client.read_flows)}
    for deployment in all_pages(client.read_deployments):
        name = f"{flows[deployment.flow_id]}/{deployment.name}"
        if not is_of(deployment, folder):
            continue
        if name not in schedules:
            client.delete_resource_owned_automations(f"prefect.deployment.{deployment.id}")
            client.delete_deployment(deployment.id)
            removed.append(f"Removed the deployment {name}: {file} does not have it.")
            continue
        slugs = {schedule.get("slug") for schedule in schedules[name]} - {None}
        times = [_time(schedule) for schedule in schedules[name]]
        for schedule in client.read_deployment_schedules(deployment.id):
            if schedule.slug in slugs:
                continue
            client.delete_deployment_schedule(deployment.id, schedule.id)  # `prefect deploy` creates those of the file
            if _time_of(schedule) not in times:
                kind, value = _time_of(schedule)
                removed.append(f"Removed the schedule {kind} {value} of {name}: {file} does not have it.")
    return removed


def all_pages(read: Callable[..., list[Any]]) -> list[Any]:
    """Return the results of all pages of a request."""
    found: list[Any] = []
    while page := read(offset=len(found)):
        found += page
    return found


def is_of(deployment: DeploymentResponse, folder: Path) -> bool:
    """Return whether a deployment belongs to the project of a folder."""
    directories = [
        step[_SET_DIRECTORY].get("directory") for step in deployment.pull_steps or [] if _SET_DIRECTORY in step
    ]
    return str(folder) in directories


def _time(schedule: Mapping[str, Any]) -> tuple[str, str]:
    """Return the kind and value of a schedule in the file."""
    if schedule.get("interval") is not None:
        return "interval", f"{float(schedule['interval']):g} s"
    return next((kind, str(schedule[kind])) for kind in ("cron", "rrule") if schedule.get(kind))


def _time_of(schedule: DeploymentSchedule) -> tuple[str, str]:
    """Return the kind and value of a schedule on the server."""
    times = schedule.schedule
    if isinstance(times, IntervalSchedule):
        return "interval", f"{times.interval.total_seconds():g} s"
    if isinstance(times, CronSchedule):
        return "cron", times.cron
    return "rrule", getattr(times, "rrule", "")
