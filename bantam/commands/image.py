"""``bantam image``."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from bantam.commands.app import Json, command
from bantam.commands.terminal import log
from bantam.errors import UserError
from bantam.run.request import REPOSITORY, Repository


@dataclass(frozen=True)
class BuildOptions:
    """Where a build takes things from."""

    base: Annotated[str, Option(help="Image to start from, best by its digest; the Dockerfile's own if left out.")] = ""
    pip_conf: Annotated[
        Path | None, Option(help="A pip.conf for the build; what pip here is configured with if left out.")
    ] = None
    apt_sources: Annotated[Path | None, Option(help="A sources.list for the build; the base's own if left out.")] = None
    certificates: Annotated[
        Path | None, Option(help="Certificates (PEM) to trust in the build; those of pip here if left out.")
    ] = None
    torch_index: Annotated[str, Option(help="Package index to take PyTorch from, for the optimizer.")] = ""
    triton: Annotated[
        str,
        Option(help="NVIDIA's Triton image for kind gpu, as your registry has it; the Dockerfile's own if left out."),
    ] = ""
    fresh: Annotated[
        bool,
        Option(
            "--fresh", help="Take the base and Debian's packages anew, with their security fixes; nothing is cached."
        ),
    ] = False
    network: Annotated[str, Option(help="The build's network: host where containers cannot reach a package index.")] = (
        "default"
    )


@command(examples="Examples:  bantam image   |   bantam image minilm --tag registry.example.com/texts:1")
def image(
    sources: BuildOptions,
    models: Annotated[
        list[str] | None, Argument(help="Published names to bake in; none if left out: a repository is mounted.")
    ] = None,
    repository: Repository = REPOSITORY,
    kind: Annotated[
        Literal["cpu", "gpu", "optimizer"],
        Option(
            help="cpu serves; gpu too, what was made for one on an NVIDIA GPU; optimizer has the whole of Bantam, to "
            "make models. The last two: not run by us."
        ),
    ] = "cpu",
    tag: Annotated[
        str | None, Option(help="Name of the image; bantam-cpu and the like if left out, with the first model as tag.")
    ] = None,
    engines: Annotated[str, Option(help="What runs models in the image for CPUs.")] = "onnxruntime,openvino",
    as_json: Json = False,
) -> None:
    """Build a container image, with published models in it or without; see docs/containers.md."""
    from serving.image import build

    if models and kind == "optimizer":
        raise UserError(f"Got {', '.join(models)} for the optimizer's image, which serves none; expected no names.")
    server = tag if tag and not models else f"bantam-{kind}"
    arguments = build.arguments_of(kind, engines=engines, base=sources.base, triton=sources.triton)
    with build.pips_own(sources.torch_index) as own:
        secrets = replace(
            own, pip=sources.pip_conf or own.pip, apt=sources.apt_sources, ca=sources.certificates or own.ca
        )
        build.build(kind, server, secrets, arguments=arguments, network=sources.network, fresh=sources.fresh)
    name = server
    if models:
        name = tag or f"{server}:{models[0]}"
        build.bake(models, repository, name, server=server)
    if as_json:
        print(json.dumps({"image": name, "models": models or []}))
    log(f"Built {name} with {', '.join(models) if models else 'no model: mount what it needs'}.")
