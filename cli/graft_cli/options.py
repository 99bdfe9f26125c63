"""Options that several commands share, and the printing of results."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args

import click

from graft.patch.registry import OVERLAP_RULES
from graft.specs.data import MIRROR
from graft.specs.runtime import Engine, Runtime
from graft_cli import streams

if TYPE_CHECKING:
    from graft.registry import Registry

F = TypeVar("F", bound=Callable[..., Any])


def _option(*names: str, **settings: Any) -> Callable[[F], F]:
    return click.option(*names, **settings)


as_json = _option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else.")
debug = _option("--debug", is_flag=True, expose_value=False, help="Show the full traceback of an error.")
force = _option("--force", is_flag=True, help="Overwrite an existing output.")
_device = _option(
    "--device",
    default="auto",
    show_default=True,
    help="auto, cpu, cuda or another torch device; auto-map spreads the model over all GPUs.",
)
plan = _option(
    "--plan",
    is_flag=True,
    help="Only estimate, from file headers, how much memory and disk each part will take, and whether it fits.",
)
_gradient_checkpointing = _option(
    "--gradient-checkpointing",
    is_flag=True,
    help="Recompute activations in the backward pass: less memory, more time.",
)
_parallel = _option(
    "--parallel",
    type=click.Choice(get_args(Engine)),
    default="ddp",
    show_default=True,
    help="Under torchrun or accelerate launch: ddp keeps the whole model in each process, fsdp a shard of it (FSDP2).",
)
_dtype = _option(
    "--dtype",
    default="auto",
    show_default=True,
    help="Precision of the loaded model: auto, float32, bfloat16 or float16.",
)


@contextlib.contextmanager
def _mirror_at(folder: Path) -> Iterator[None]:
    """Name the local mirror in the environment, where every TASK finds it."""
    before = os.environ.get(MIRROR)
    os.environ[MIRROR] = str(folder)
    try:
        yield
    finally:
        del os.environ[MIRROR]
        if before is not None:
            os.environ[MIRROR] = before


def _set_data_root(context: click.Context, _: click.Parameter, folder: Path | None) -> None:
    if folder is not None:
        context.with_resource(_mirror_at(folder))


data_root = _option(
    "--data-root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    expose_value=False,
    callback=_set_data_root,
    help="Folder with a local mirror of datasets: files that a TASK names as `local` are read from it, not from the "
    f"Hub. [default: ${MIRROR}]",
)


def _with_mirror(option: Callable[[F], F]) -> Callable[[F], F]:
    return lambda command: option(data_root(command))


task = _with_mirror(
    _option("--task", "task_file", required=True, type=click.Path(path_type=Path), help="The TASK file (YAML).")
)
task_or_none = _with_mirror(
    _option("--task", "task_file", type=click.Path(path_type=Path), help="The TASK file (YAML).")
)
seed = _option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    help="Seed of few-shot sampling, example order and random masks. [default: the task's]",
)
_SCOPE = "Tensors to look at: layers, embeddings, heads, a sum such as layers+embeddings, all, or a regex."
_from_layer = _option(
    "--from-layer",
    type=click.IntRange(0),
    metavar="L",
    help="Leave out embeddings and layers before L (the first is 0), so that what comes before them is as in the base.",
)


def takes_scope(default: str) -> Callable[[F], F]:
    """Declare --scope and --from-layer, and pass both to the command as its argument `scope`.

    The default is that of the command, which `scope` is None for without either option.
    """

    def declare(function: F) -> F:
        @functools.wraps(function)
        def command(**arguments: Any) -> Any:
            first = arguments.pop("from_layer")
            if first is not None:
                arguments["scope"] = f"{arguments['scope'] or default}>={first}"
            return function(**arguments)

        return _option("--scope", help=f"{_SCOPE} [default: {default}]")(_from_layer(cast(F, command)))

    return declare


density = _option("--density", type=float, help="Share of the model's parameters to keep, such as 1e-4.")
budget = _option("--budget", type=int, help="Number of weights to keep, instead of --density.")
base_values_from = _option("--base", metavar="MODEL", help="The base model, read where its values are needed.")
allow_mismatch = _option(
    "--allow-mismatch", is_flag=True, help="Do not check that MODEL holds the base's values where a patch lands."
)
assignments = _option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set any other key of this command's YAML block; may be repeated.",
)
with_base_values = _option(
    "--with-base-values", is_flag=True, help="Also store the base's values, so that a merged patch can be undone."
)


class RegistryChoice(click.ParamType[str]):
    """Choice among a registry's names, which are read each time, so that a row added later is a choice too."""

    name = "choice"

    def __init__(self, registry: Registry[Any]) -> None:
        """Take the names of `registry`."""
        self.registry = registry

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Return the names as click shows the choices of an option."""
        return f"[{'|'.join(self.registry)}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the name, or refuse it as click refuses a wrong choice."""
        return click.Choice(list(self.registry)).convert(value, param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        """Return the names that begin with `incomplete`."""
        return click.Choice(list(self.registry)).shell_complete(ctx, param, incomplete)


class FiniteRange(click.FloatRange):
    """Range of numbers, of which NaN and infinity are none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or refuse it as click refuses one that is out of range."""
        number = super().convert(value, param, ctx)
        return number if math.isfinite(number) else self.fail(f"{number} is no finite number.", param, ctx)


class RegistryOption(click.Option):
    """An option that takes one of a registry's names, and whose help lists every row."""

    def __init__(self, *args: Any, registry: Registry[Any], help: str = "", **settings: Any) -> None:
        """Make the option; `help` comes before the list of rows."""
        self.registry = registry
        settings |= {"type": RegistryChoice(registry), "help": help}
        super().__init__(*args, **settings)

    @property
    def help(self) -> str:
        """The help text, with the rows that there are now."""
        return f"{self._lead} {self.registry.describe()}".strip()

    @help.setter
    def help(self, lead: str | None) -> None:
        self._lead = lead or ""


class RegistryCommand(click.Command):
    """A command whose help ends with a list of a registry's rows."""

    def __init__(self, *args: Any, registry: Registry[Any], **settings: Any) -> None:
        """Make the command; `registry` is listed after its options."""
        self.registry = registry
        super().__init__(*args, **settings)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of the rows that there are now."""
        with formatter.section(f"{self.registry.noun.capitalize()}s"):
            formatter.write_dl([(entry.name, entry.help) for entry in self.registry.values()])


def choose(*names: str, registry: Registry[Any], **settings: Any) -> Callable[[F], F]:
    """Declare an option over the names of a registry; its help is read from the rows each time it is shown."""
    return _option(*names, cls=RegistryOption, registry=registry, **settings)


on_overlap = choose(
    "--on-overlap",
    registry=OVERLAP_RULES,
    default="error",
    show_default=True,
    help="Value of a weight that patches set differently; sign and slerp measure from the base's values.",
)


def is_given(name: str) -> bool:
    """Return whether the user gave an option of the running command, by its argument's name."""
    source = click.get_current_context().get_parameter_source(name)
    return source not in (None, click.core.ParameterSource.DEFAULT)


def runs_model(function: F) -> F:
    """Declare --device and --dtype, and pass them to the command as its argument `runtime`."""
    return _device(_dtype(_collect_runtime(function)))


def runs_model_backwards(function: F) -> F:
    """Declare what `runs_model` does and --gradient-checkpointing, for work in one process."""
    return _device(_dtype(_gradient_checkpointing(_collect_runtime(function))))


def takes_gradients(function: F) -> F:
    """Declare what `runs_model` does and, for work with a backward pass, --gradient-checkpointing and --parallel."""
    return _device(_dtype(_gradient_checkpointing(_parallel(_collect_runtime(function)))))


def _collect_runtime(function: F) -> F:
    """Collect the options of a `Runtime` into one for a command that takes it."""

    @functools.wraps(function)
    def command(**arguments: Any) -> Any:
        settings = {field.name: arguments.pop(field.name) for field in fields(Runtime) if field.name in arguments}
        return function(**arguments, runtime=Runtime(**settings))

    return cast(F, command)


def output(what: str) -> Callable[[F], F]:
    """Declare the required option -o."""
    return _option("-o", "--output", required=True, type=click.Path(path_type=Path), help=what)


def batch_size(default: int) -> Callable[[F], F]:
    """Declare --batch-size with the command's own default."""
    return _option(
        "--batch-size", type=click.IntRange(1), default=default, show_default=True, help="Examples per batch."
    )


def show(result: dict[str, Any], as_json: bool, lines: Iterable[str]) -> None:
    """Print a result on stdout: the JSON object, or lines for a person.

    Raises:
        OutputError: stdout does not take it.
    """
    from graft.errors import OutputError

    text = "\n".join(lines)
    if as_json:
        text = json.dumps(result, indent=2, ensure_ascii=False)
        text = text if streams.can_print(text) else json.dumps(result, indent=2)
    try:
        click.echo(text)
    except OSError as error:
        raise OutputError(f"stdout: the result cannot be written ({error.strerror or error})") from error


def load_task(path: Path, seed: int | None) -> Any:
    """Load the task of a file, with another seed where one is given."""
    from graft.tasks.task import Task

    task = Task.load(path)
    return task if seed is None else task.with_seed(seed)


def files_of(*tasks: tuple[Path | None, Any]) -> list[Path]:
    """List TASK files and the local files that these tasks read: inputs that no output may replace."""
    return [file for path, task in tasks if path is not None for file in (path, *task.files)]


def printable(text: str) -> str:
    """Replace the characters that steer a terminal, since the metadata of a stranger's patch may hold them."""
    return "".join(character if character.isprintable() else "�" for character in text)


def columns(rows: Iterable[tuple[str, object]]) -> list[str]:
    """Lay out names and values in two columns."""
    rows = [(name, printable(str(value))) for name, value in rows]
    width = max(len(name) for name, _ in rows)
    return [f"{name.ljust(width)}  {value}" for name, value in rows]
