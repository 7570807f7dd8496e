"""The command line: ``bantam optimize | serve | load-test | report | doctor``. ``make`` calls it.

Exit codes: 0 done, 1 a failure, 2 a user's mistake, 130 Ctrl-C. Results go to standard output, progress to standard error.
"""

from __future__ import annotations

import json
import shlex
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from optimizer import __version__
from optimizer.errors import BantamError, UserError

# Everything else is imported where it is used: `bantam --help` answers at once.

app = typer.Typer(
    name="bantam",
    help="Make a Hugging Face text classifier small and fast, serve it with Triton, and measure what was gained and lost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    add_completion=False,
)
progress = Console(stderr=True, highlight=False)

REPOSITORY = Path("model_repo")
BUILD = Path("build")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document to standard output, for scripts.")]
Repository = Annotated[Path, typer.Option(help="The model repository.")]
Data = Annotated[
    str, typer.Option(help="A bundled data set, a CSV, TSV, JSONL or Parquet file, a folder of them, or a hub data set id.")
]


@app.callback()
def _options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command(
    epilog="Examples:  bantam optimize minilm   |   bantam optimize ./my-model --data reviews.csv --max-drop 0.5   |   "
    "bantam optimize tinyllama --random-init"
)
def optimize(
    model: Annotated[str, typer.Argument(help="A short name (minilm, bert, distilbert, ...), a hub id or a folder.")] = "minilm",
    data: Data = "goemotions-ekman",
    recipe: Annotated[str, typer.Option(help="Which variants to make: a recipe's name, or a .toml file.")] = "int8",
    profile: Annotated[str, typer.Option(help="quick: minutes, on a part of the data; full: all of it.")] = "quick",
    target: Annotated[str, typer.Option(help="cpu or gpu.")] = "cpu",
    max_drop: Annotated[
        float | None, typer.Option(help="Budget: macro-F1 points that may be lost. The recipe's own if left out.", min=0.01)
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name to publish under; the model's own if left out.")] = None,
    random_init: Annotated[
        bool, typer.Option("--random-init", help="Random weights: plan size, latency and memory before a download.")
    ] = False,
    text_column: Annotated[str | None, typer.Option(help="Column of the texts, if it is not found.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Column of the labels, if it is not found.")] = None,
    separator: Annotated[str | None, typer.Option(help="Separates several labels in one cell.")] = None,
    build: Annotated[Path, typer.Option(help="Where the run's folder goes.")] = BUILD,
    repository: Repository = REPOSITORY,
    as_json: Json = False,
) -> None:
    """Fine-tune, quantize and export a classifier; serve every variant, measure all, publish the best; print the report.

    Run it again after a failure or a kill: what is finished is kept.
    """
    if target not in ("cpu", "gpu"):
        raise UserError(f"Unknown target {target!r}. Known: cpu, gpu.")
    from bantam.run import Request
    from bantam.run import optimize as run
    from serving.report_file import REPORT_HTML, to_json

    request = Request(
        model=model,
        data=data,
        recipe=recipe,
        profile=profile,
        device="cuda" if target == "gpu" else "cpu",
        max_drop=max_drop,
        name=name,
        random_init=random_init,
        text_column=text_column,
        label_column=label_column,
        separator=separator,
        build=build,
        repository=repository,
        command=shlex.join(["bantam", *sys.argv[1:]]),
    )
    report, folder = run(request, _say)
    if as_json:
        print(to_json(report), end="")
    else:
        _show(report, folder / REPORT_HTML)


@app.command(epilog="Examples:  bantam serve   |   bantam serve minilm --grpc-port 9001")
def serve(
    models: Annotated[list[str] | None, typer.Argument(help="Published names; all if left out.")] = None,
    repository: Repository = REPOSITORY,
    host: Annotated[str, typer.Option(help="Address to listen on. The default can be reached from this machine only.")] = "127.0.0.1",
    grpc_port: Annotated[int, typer.Option(help="Port for gRPC.", min=0, max=65535)] = 8001,
    http_port: Annotated[int, typer.Option(help="Port for HTTP.", min=0, max=65535)] = 8000,
    as_json: Json = False,
) -> None:
    """Serve published models until Ctrl-C or SIGTERM."""
    from serving.server import Server

    # A service manager ends us with SIGTERM: stop the server, as on Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with Server(repository, models=models or None, host=host, grpc_port=grpc_port, http_port=http_port) as server:
        addresses = {"grpc": server.grpc_address, "http": server.http_address, "models": list(server.models)}
        if as_json:
            print(json.dumps(addresses), flush=True)
        else:
            progress.print(f"Serving {', '.join(server.models)} on {server.grpc_address} (gRPC) and {server.http_address} (HTTP).")
            progress.print(f"  from serving import Classifier\n  Classifier('{server.grpc_address}', '{server.models[0]}')(['I love it'])")
            progress.print("Ctrl-C stops it.")
        server.wait()


@app.command("load-test", epilog="Examples:  bantam load-test minilm   |   bantam load-test minilm --rate 200 --seconds 30 --json")
def load_test(
    model: Annotated[str, typer.Argument(help="Name of the served model.")] = "minilm",
    address: Annotated[str, typer.Option(help="host:port of the server's gRPC port (or HTTP port, with --protocol http).")] = "localhost:8001",
    protocol: Annotated[str, typer.Option(help="grpc or http.")] = "grpc",
    data: Data = "goemotions-ekman",
    seconds: Annotated[float, typer.Option(help="Length of each of the two tests.", min=1)] = 10.0,
    rate: Annotated[float | None, typer.Option(help="Requests per second of the fixed-rate test; half of what one client gets if left out.", min=0.1)] = None,
    as_json: Json = False,
) -> None:
    """Measure a served model: one client in a closed loop, then a fixed rate. Texts: the test split, at their real lengths."""
    from bantam.load_test import run, table

    if protocol not in ("grpc", "http"):
        raise UserError(f"Unknown protocol {protocol!r}. Known: grpc, http.")
    results = run(model, address, protocol, data, seconds=seconds, rate=rate, say=_say)
    if as_json:
        print(json.dumps(results, indent=1))
    else:
        Console().print(table(results))


@app.command(epilog="Examples:  bantam report   |   bantam report build/minilm-goemotions-ekman-int8-quick --json")
def report(
    run: Annotated[Path | None, typer.Argument(help="A run's folder; the newest if left out.")] = None,
    build: Annotated[Path, typer.Option(help="Where the runs are.")] = BUILD,
    as_json: Json = False,
) -> None:
    """Print a run's report again, and write its report.html anew."""
    from serving.report_file import REPORT_HTML, REPORT_JSON, read_report, to_json, write_report

    if run is None:
        reports = sorted(build.glob(f"*/{REPORT_JSON}"), key=lambda path: path.stat().st_mtime)
        if not reports:
            raise UserError(f"No report in {build}/. `make optimize` makes one; or give a run's folder.")
        run = reports[-1].parent
    found = read_report(run)
    write_report(found, run if run.is_dir() else run.parent)
    if as_json:
        print(to_json(found), end="")
    else:
        _show(found, (run if run.is_dir() else run.parent) / REPORT_HTML)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what is here, what is missing, and how to get it."""
    from bantam.doctor import as_text, diagnose

    checks = diagnose()
    if as_json:
        print(json.dumps([vars(check) for check in checks], indent=1))
    else:
        print(as_text(checks))


def _show(found: Any, html: Path) -> None:
    from serving.report_table import show

    show(found, Console(), html=html)


def _say(line: str) -> None:
    progress.print(line, markup=False)


def main() -> NoReturn:
    """Run the command line; errors become one to three lines and an exit code. A traceback only with ``--debug``."""
    try:
        app()
    except BantamError as exc:
        _fail(exc, str(exc), exc.exit_code)
    except KeyboardInterrupt as exc:
        _fail(exc, "Stopped. The same command goes on from where it was.", 130)
    except Exception as exc:  # noqa: BLE001 the last place that can turn a defect of ours into something readable
        _fail(exc, f"{type(exc).__name__}: {exc}\nThis is a defect of Bantam. `bantam --debug ...` shows where.", 1)
    raise SystemExit(0)


def _fail(exc: BaseException, message: str, code: int) -> NoReturn:
    if "--debug" in sys.argv:
        progress.print("".join(traceback.format_exception(exc)), markup=False, soft_wrap=True)
    if "--json" in sys.argv:
        print(json.dumps({"error": {"type": type(exc).__name__, "message": message}}))
    progress.print("[bold red]error:[/] " + escape(message), soft_wrap=True)
    raise SystemExit(code)
