"""The command line: ``bantam optimize | serve | load-test | demo | report | card | compare | doctor``, behind ``make``.

Exit codes: 0 done, 1 a failure, 2 a user's mistake, 130 Ctrl-C. Results go to standard output, progress to standard
error.
"""

from __future__ import annotations

import json
import shlex
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from bantam import __version__
from bantam.commands import options
from bantam.errors import BantamError

# Everything else is imported where it is used: `bantam --help` answers at once.
if TYPE_CHECKING:
    from bantam.report.schema import Report

app = typer.Typer(
    name="bantam",
    help="Make a Hugging Face text classifier small and fast, serve it, and measure what was gained and lost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    add_completion=False,
)
progress = Console(stderr=True, highlight=False)

BUILD, REPOSITORY = Path("build"), Path("model_repo")
LOAD_TEST = BUILD / "load-test"


@app.callback(invoke_without_command=True)
def _options(debug: options.Debug = False, version: options.Version = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command(
    epilog="Examples:  bantam optimize minilm   |   bantam optimize ./my-model --data reviews.csv --max-drop 0.5   |   "
    "bantam optimize tinyllama --random-init"
)
def optimize(
    model: options.Model = "minilm",
    data: options.Data = "goemotions-ekman",
    recipe: options.RecipeName = "int8",
    profile: options.Profile = "quick",
    target: options.Target = options.Target.cpu,
    max_drop: options.MaxDrop = None,
    name: options.Name = None,
    random_init: options.RandomInit = False,
    text_column: options.TextColumn = None,
    label_column: options.LabelColumn = None,
    separator: options.Separator = None,
    build: options.Build = BUILD,
    repository: options.Repository = REPOSITORY,
    as_json: options.Json = False,
) -> None:
    """Fine-tune, quantize and export; serve every variant, measure all, publish the best; print the report.

    Run it again after a failure or a kill: what is finished is kept.
    """
    from bantam.run.optimize import Request, take_part
    from bantam.run.optimize import optimize as run
    from optimizer import distributed

    request = Request(
        model=model,
        data=data,
        recipe=recipe,
        profile=profile,
        device="cuda" if target is options.Target.gpu else "cpu",
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
    if distributed.is_main():
        _show(*run(request, _log), as_json)
    else:
        take_part(request)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@app.command(epilog="Examples:  bantam serve   |   bantam serve minilm --grpc-port 9001")
def serve(
    models: options.Published = None,
    repository: options.Repository = REPOSITORY,
    host: options.Host = "127.0.0.1",
    grpc_port: options.GrpcPort = 8001,
    http_port: options.HttpPort = 8000,
    isolated: options.Isolated = False,
    as_json: options.Json = False,
) -> None:
    """Serve published models until Ctrl-C or SIGTERM."""
    from bantam.commands.announce import announce
    from serving.server import Server

    # A service manager ends us with SIGTERM: stop the server, as on Ctrl-C. Not by SIGINT, which is ignored in what a
    # script starts in the background.
    signal.signal(signal.SIGTERM, _interrupt)
    with Server(
        repository, models=models or None, host=host, grpc_port=grpc_port, http_port=http_port, isolated=isolated
    ) as server:
        announce(server, as_json, _log)
        server.wait()


@app.command(
    "load-test",
    epilog="Examples:  bantam load-test minilm   |   bantam load-test minilm --slo p99=50ms   |   "
    "bantam load-test minilm --rate 200 --seconds 60 --data reviews.csv   |   "
    "bantam load-test sst2 --address models:8080 --protocol http --clients 8 --data texts.txt --words 64",
)
def load_test(
    model: options.ServedModel = "minilm",
    address: options.Address = "localhost:8001",
    protocol: options.Protocol = options.Protocol.grpc,
    data: options.TestTexts = "goemotions-ekman",
    words: options.Words = None,
    seconds: options.Seconds = 10.0,
    clients: options.ClosedClients = 1,
    rate: options.Rate = None,
    arrivals: options.Arrivals = options.Arrivals.poisson,
    slo: options.SloText = None,
    processes: options.Processes = "auto",
    timeout: options.Timeout = 10.0,
    warmup: options.Warmup = 20,
    tensor: options.InputName = None,
    seed: options.Seed = 0,
    output: options.LoadTestFolder = LOAD_TEST,
    as_json: options.Json = False,
) -> None:
    """Measure any served KServe v2 model that takes text: a closed loop, a fixed rate, and with --slo its limit.

    Latency counts from the intended sending. The results are shown, and written as JSON, CSV and a page.
    """
    from bantam.loadtest.files import to_json, write
    from bantam.loadtest.run import Request, run
    from bantam.loadtest.table import show

    asked = Request(
        model=model,
        address=address,
        protocol=protocol.value,
        data=data,
        words=words,
        seconds=seconds,
        clients=clients,
        rate=rate,
        arrivals=arrivals.value,
        slo=slo,
        processes=processes,
        timeout=timeout,
        warmup=warmup,
        input=tensor,
        seed=seed,
        command=shlex.join(["bantam", *sys.argv[1:]]),
    )
    found = run(asked, _log, progress)
    written = write(found, output)
    print(to_json(found), end="") if as_json else show(found, Console(), written)


@app.command(epilog="Examples:  bantam demo   |   bantam demo minilm --address models:8001 --data reviews.csv")
def demo(
    model: options.ServedModel = "minilm",
    address: options.GrpcAddress = "localhost:8001",
    data: options.Examples = None,
    build: options.Build = BUILD,
    host: options.Host = "127.0.0.1",
    port: options.PagePort = 7860,
    as_json: options.Json = False,
) -> None:
    """Show a served model beside its baseline on a page in the browser, until Ctrl-C or SIGTERM."""
    from bantam.demo.run import Request, run

    signal.signal(signal.SIGTERM, _interrupt)
    for url in run(Request(model, address, data, build, host, port), _log):
        print(json.dumps({"url": url}), flush=True) if as_json else _log(f"The demo is at {url}. Ctrl-C stops it.")


@app.command(epilog="Examples:  bantam report   |   bantam report build/minilm-goemotions-ekman-int8-quick --json")
def report(
    run: options.RunFolder = None,
    build: options.Build = BUILD,
    whole: options.AllVariants = False,
    as_json: options.Json = False,
) -> None:
    """Print a run's report again, and write its report.html anew."""
    from bantam.report.file import newest, read_report, write_report

    run = run or newest(build)
    folder = run if run.is_dir() else run.parent
    found = read_report(run)
    write_report(found, folder)
    _show(found, folder, as_json, whole=whole)


@app.command(epilog="Examples:  bantam card   |   bantam card build/minilm-goemotions-ekman-int8-quick")
def card(run: options.RunFolder = None, build: options.Build = BUILD, as_json: options.Json = False) -> None:
    """Write a run's model card for the Hugging Face hub: card/README.md in the run's folder."""
    from bantam.report.file import newest, read_report
    from bantam.report.model_card import metadata, write_card

    run = run or newest(build)
    found = read_report(run)
    path = write_card(found, run if run.is_dir() else run.parent)
    if as_json:
        print(json.dumps({"path": str(path), "metadata": metadata(found).to_dict()}, indent=1))
    else:
        print(path)
        _log("Read it, and say in it what only you know: what it is for, and where the texts come from. Then upload")
        _log("it with the model: hf upload OWNER/NAME FOLDER")


@app.command(
    epilog="Example:  bantam compare build/minilm-goemotions-ekman-int8-quick build/minilm-goemotions-ekman-small-quick"
)
def compare(a: options.RunA, b: options.RunB, as_json: options.Json = False) -> None:
    """Show two runs side by side: what differs, what can be compared, and by how much it changed."""
    from bantam.report.compare import compare as side_by_side
    from bantam.report.compare_table import show
    from bantam.report.file import read_report

    found = side_by_side(read_report(a), read_report(b))
    if as_json:
        print(json.dumps(found.as_dict(), indent=1))
    else:
        show(found, Console(), (str(a), str(b)))


@app.command()
def doctor(as_json: options.Json = False) -> None:
    """Say what is here, what is missing, and how to get it."""
    from bantam.doctor import as_text, diagnose

    checks = diagnose()
    print(json.dumps([vars(check) for check in checks], indent=1) if as_json else as_text(checks))


def _show(found: Report, folder: Path, as_json: bool, *, whole: bool = False) -> None:
    from bantam.report.file import REPORT_HTML, to_json
    from bantam.report.table import show

    if as_json:
        print(to_json(found), end="")
    else:
        show(found, Console(), html=folder / REPORT_HTML, whole=whole)


def _log(line: str) -> None:
    progress.print(line, markup=False, soft_wrap=True)


def main() -> NoReturn:
    """Run the command line; errors become one to three lines and an exit code. A traceback only with ``--debug``."""
    try:
        app()
    except BantamError as exc:
        _fail(exc, str(exc), exc.exit_code)
    except ModuleNotFoundError as exc:
        _fail(
            exc,
            f"{exc}. This command needs more than the client: pip install '.[optimize,demo]' in Bantam's folder.",
            2,
        )
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
