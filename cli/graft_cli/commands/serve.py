"""The command `graft serve`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from graft.specs.runtime import Runtime
from graft_cli import options


@click.command("serve")
@click.argument("base")
@click.option("--skill", "skills", multiple=True, metavar="NAME=PATCH", help="Serve this patch; may be repeated.")
@click.option(
    "--task",
    "tasks",
    multiple=True,
    metavar="NAME=TASK",
    help="The TASK file whose labels a skill reads, instead of what its patch records; may be repeated.",
)
@click.option(
    "--calibrate", is_flag=True, help="Fit a temperature for each skill with --task on its validation examples."
)
@click.option(
    "--router",
    is_flag=True,
    help="Send requests that name no skill to the one whose texts they are like, or to none; learned from --task.",
)
@click.option(
    "--reference",
    "references",
    multiple=True,
    metavar="NAME=FILE",
    help="What a skill's texts look like, for --router, as graft.save_reference writes it; may be repeated.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port; 0 for a free one.")
@click.option(
    "--token-env",
    metavar="VARIABLE",
    help="Environment variable that holds the token by which skills of the Hub can be added and removed.",
)
@options.on_overlap
@click.option("--exact", is_flag=True, help="Compute what a patch touches anew, for the bits of its own grafted model.")
@click.option("--batch-rows", type=click.IntRange(1), default=64, show_default=True, help="Most rows of a batch.")
@click.option("--waiting", type=click.IntRange(1), default=1024, show_default=True, help="Most rows that may wait.")
@click.option(
    "--timeout",
    type=options.FiniteRange(0, min_open=True),
    default=60.0,
    show_default=True,
    help="Most seconds that one request may take.",
)
@options.data_root
@options.runs_model
@options.plan
@options.as_json
@options.debug
def command(
    base: str,
    skills: tuple[str, ...],
    tasks: tuple[str, ...],
    calibrate: bool,
    router: bool,
    references: tuple[str, ...],
    host: str,
    port: int,
    token_env: str | None,
    on_overlap: Any,
    exact: bool,
    batch_rows: int,
    waiting: int,
    timeout: float,
    runtime: Runtime,
    plan: bool,
    as_json: bool,
) -> None:
    """Serve BASE once, with many skills: every request names its own, and requests of all of them share batches.

    The API is OpenAI's (/v1/models, /v1/embeddings, /v1/completions, /v1/chat/completions) with a skill's name as the
    model, "base" for none and "a+b" for two together; and /classify, /skills, /health, /metrics. The page at / compares
    skills side by side. SIGINT or SIGTERM finishes what runs, and ends it.

    \b
    Example:
      graft serve embedded:all-MiniLM-L6-v2 --skill topics=topics.safetensors --skill reviews=me/reviews
    """
    from graft.server.limits import Limits
    from graft.server.opening import open_service
    from graft.server.running import is_loopback, listen_at, require_packages, run_service

    if calibrate and not tasks:
        raise click.UsageError("--calibrate needs --task, whose validation examples it reads")
    if router and not (tasks or references):
        raise click.UsageError("--router needs --task or --reference, which say what a skill's texts look like")
    if references and not router:
        raise click.UsageError("--reference needs --router")
    settings: dict[str, Any] = {
        "skills": _pairs(skills, "--skill"),
        "tasks": _files(tasks, "--task"),
        "router": router,
        "references": _files(references, "--reference"),
        "token": _read_token(token_env),
        "runtime": runtime,
        "limits": Limits(batch_rows=batch_rows, waiting=waiting, seconds=timeout),
    }
    if plan:
        _show_plan(base, settings, as_json)
        return
    require_packages()
    with listen_at(host, port) as listener:
        service = open_service(base, calibrate=calibrate, on_overlap=on_overlap, exact=exact, **settings)
        if not is_loopback(listener.getsockname()[0]):
            click.echo(f"note: {host} can be reached from other machines, and requests need no token", err=True)
        run_service(service, listener, tell=lambda url: _tell(service, url, as_json))


def _show_plan(base: str, settings: dict[str, Any], as_json: bool) -> None:
    from graft.server.plan import plan_service

    planned = plan_service(base, **settings)
    options.show(planned.to_json(), as_json, [options.printable(line) for line in planned.lines()])


def _tell(service: Any, url: str, as_json: bool) -> None:
    resident = service.resident
    rows = [f"{name}: {skill.n_bytes:,} bytes" for name, skill in resident.skills.items()]
    lines = [f"serving {resident.base} with {len(rows)} skills at {url}", *rows]
    result = {"url": url, "base": resident.base, "skills": list(resident.skills)}
    options.show(result, as_json, [options.printable(line) for line in lines])


def _files(given: tuple[str, ...], option: str) -> dict[str, Path]:
    return {name: Path(path) for name, path in _pairs(given, option).items()}


def _pairs(given: tuple[str, ...], option: str) -> dict[str, str]:
    """Read NAME=VALUE of an option that may be repeated."""
    pairs: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise click.UsageError(f"{option} {text}: write it as NAME=VALUE")
        if name in pairs:
            raise click.UsageError(f"{option}: {name} is there twice")
        pairs[name] = value
    return pairs


def _read_token(variable: str | None) -> str | None:
    if variable is None:
        return None
    token = os.environ.get(variable, "").strip()
    if len(token) < 16 or not (token.isascii() and token.isprintable()):  # what a header can carry as it is
        fact = "the variable must hold a token of 16 characters or more, printable ASCII alone"
        raise click.UsageError(f"--token-env {variable}: {fact}")
    return token
