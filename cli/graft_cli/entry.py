"""The command group: lazy commands, one clear line for errors, exit codes."""

from __future__ import annotations

import contextlib
import importlib
import keyword
import sys
from typing import Any

import click

from graft.version import __version__
from graft_cli import options, processes, streams
from graft_cli.explaining import explain_failure, shorten_message
from graft_cli.signals import Signals

COMMANDS = {
    "run": "Run a whole experiment from a YAML recipe.",
    "train": "Fine-tune a base model on a task.",
    "importance": "Find the weights that matter most to what a model knows.",
    "diff": "Make a patch from two checkpoints, without data.",
    "localize": "Find the weights that hold a skill, with data.",
    "refit": "Fit few weights to a tuned model's outputs.",
    "rollback": "Put the fewest weights back, so that a lost ability returns.",
    "evaluate": "Measure accuracy, calibration and out-of-distribution behavior.",
    "apply": "Write a merged checkpoint that any server loads.",
    "inspect": "Show what is in a patch.",
    "explain": "Explain what a patch is made of, dimension by dimension.",
    "verify": "Check whether a patch fits a model.",
    "compose": "Join several patches of one base into one.",
    "exclude": "Remove the regions of other skills from a patch.",
    "overlap": "Compare the overlap of patches with what chance would give.",
    "fuse": "Fuse several fine-tuned models into one.",
    "push": "Publish a patch on the Hub.",
    "pull": "Fetch a patch from the Hub.",
    "export": "Write a patch in another tool's format.",
    "import": "Make a patch from another tool's file.",
    "serve": "Serve one model with many skills over HTTP.",
    "report": "Show finished runs on one HTML page, with plots.",
}

EXIT_CODES = """
\b
Exit codes:
  0    done
  1    refused or failed, with one line that says why; of verify also: does not fit
  2    wrong usage
  130  interrupted (Ctrl-C); nothing half-written is left
  143  terminated (SIGTERM), likewise
"""


class LazyGroup(click.Group):
    """A group that imports a command's file only when that command runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the commands in the order in which a person meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command of that name; None where there is none."""
        if cmd_name not in COMMANDS:
            return None
        file = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name  # a file named import could not be imported
        module = importlib.import_module(f"graft_cli.commands.{file}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table above, so that `--help` imports nothing."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(
    cls=LazyGroup, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="graft")
def group() -> None:
    """Find the few weights that hold a skill, graft them on, and take them off again bit for bit.

    \b
    MODEL is a local path, a Hub id (ORG/NAME[@revision]) or a model that a package
    carries: embedded:all-MiniLM-L6-v2, embedded:SmolLM2-135M-Instruct.
    PATCH is a local file or folder, or a Hub id. TASK and RECIPE are YAML files.

    \b
    Start here:
      graft run recipes/quickstart.yaml -o runs/quickstart
      graft train BASE --task task.yaml -o runs/tuned
      graft refit BASE runs/tuned --task task.yaml -o skill.safetensors
      graft evaluate BASE --task task.yaml --patch skill.safetensors
    """


def main(arguments: list[str] | None = None) -> Any:
    """Run a command; exit 0 done, 1 refused or failed with one line, 2 wrong usage, 128 + n ended by signal n."""
    arguments = sys.argv[1:] if arguments is None else arguments
    with Signals() as signals:
        try:
            code = _run(arguments)
        except (click.exceptions.Abort, KeyboardInterrupt):
            code = _say(signals.line, signals.code)
        except Exception as error:
            if signals.received is not None:  # a library turned the signal into an error of its own
                code = _say(signals.line, signals.code)
            else:
                code = _explain(error, debug="--debug" in arguments)
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    try:
        streams.open_streams()
        processes.join(arguments)
        code = group.main(arguments, prog_name="graft", standalone_mode=False)
        processes.leave()
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except SystemExit as error:  # raised by `verify` where a patch does not fit, and by click where stdout is closed
        code = error.code
    streams.flush()
    return code if isinstance(code, int) else 0


def _explain(error: Exception, *, debug: bool) -> int:
    from graft.errors import GraftError

    if debug:
        processes.may_speak_of_failure()
        raise error
    if isinstance(error, GraftError):
        return _say(f"error: {error}", error.exit_code)
    line = explain_failure(error)
    bug = f"{type(error).__name__}: {shorten_message(error)} (a bug; --debug shows where)"
    return _say(f"error: {bug if line is None else line}", 1)


def _say(line: str, code: int) -> int:
    if processes.may_speak_of_failure():
        with contextlib.suppress(OSError):  # stderr may be as full as what failed; the exit code tells it
            click.echo(options.printable(line.replace("\n", " ")), err=True)
    return code
