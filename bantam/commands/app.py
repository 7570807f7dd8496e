"""The Typer application, and how a function becomes one of its commands."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, TypeVar, get_origin, get_type_hints

import typer
from typer import Option

from bantam import __version__

Function = TypeVar("Function", bound=Callable[..., None])

app = typer.Typer(
    name="bantam",
    help="Make a Hugging Face text classifier small and fast, serve it, and measure what was gained and lost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    add_completion=False,
)

Json = Annotated[bool, Option("--json", help="Print one JSON document to standard output, for scripts.")]


@app.callback(invoke_without_command=True)
def _options(
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def command(*, examples: str = "") -> Callable[[Function], Function]:
    """Register a function under its own name, ``load_test`` as ``load-test``; its docstring is the help.

    A parameter that is a dataclass stands for its fields: each one with an ``Annotated[..., Option(...)]`` becomes an
    option, so that a request declares an option once.
    """

    def register(function: Function) -> Function:
        app.command(function.__name__.replace("_", "-"), epilog=examples or None)(_with_fields_as_options(function))
        return function

    return register


def _with_fields_as_options(function: Callable[..., None]) -> Callable[..., None]:
    hints = get_type_hints(function, include_extras=True)
    requests = {name: kind for name, kind in hints.items() if isinstance(kind, type) and is_dataclass(kind)}
    options: dict[str, list[inspect.Parameter]] = {name: _options_of(kind) for name, kind in requests.items()}

    def call(**given: Any) -> None:
        for name, kind in requests.items():
            given[name] = kind(**{option.name: given.pop(option.name) for option in options[name]})
        function(**given)

    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        own = parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        parameters += options.get(name, [own])
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what Typer reads
    call.__doc__ = function.__doc__
    return call


def _options_of(request: type) -> list[inspect.Parameter]:
    hints = get_type_hints(request, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hint,
        )
        for field in fields(request)
        if get_origin(hint := hints[field.name]) is Annotated
    ]
