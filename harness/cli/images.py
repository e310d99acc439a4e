"""`moodbench images build | list | prune`. The answer goes to stdout, what happens meanwhile to stderr."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.output import echo_json, print_table

if TYPE_CHECKING:
    from harness.build_context import BuildInputs, ImageKind
    from harness.images import BuiltImage


@click.group()
def images() -> None:
    """Build, list and remove the images that cells run in."""


@images.command("build")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Kind of image.")
@click.option("--base-image", metavar="IMAGE", help="Image with Python 3.11 or newer.  [default: python:3.12-slim]")
@click.option(
    "--wheelhouse",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder of wheels to prefer.  [default: PIP_FIND_LINKS]",
)
@click.option(
    "--ca-bundle",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Certificates to trust while building.  [default: SSL_CERT_FILE]",
)
@click.option("--index-url", metavar="URL", help="Package index.  [default: PIP_INDEX_URL, else PyPI]")
@click.option("--torch-index-url", metavar="URL", help="Index of torch.  [default: PyTorch's, for the device]")
@click.option("--force", is_flag=True, help="Build anew, without what earlier builds left.")
def build_command(
    device: ImageKind,
    base_image: str | None,
    wheelhouse: Path | None,
    ca_bundle: Path | None,
    index_url: str | None,
    torch_index_url: str | None,
    force: bool,
) -> int:
    """Build the image of a device, unless it is there already. Prints its name and digest."""
    from harness.build_context import BuildInputs
    from harness.images import build_image, connect

    default = BuildInputs.from_environment()
    inputs = BuildInputs(
        base_image=base_image or default.base_image,
        wheelhouse=wheelhouse or default.wheelhouse,
        ca_bundle=ca_bundle or default.ca_bundle,
        index_url=index_url or default.index_url,
        torch_index_url=torch_index_url,
    )
    _say_inputs(inputs)
    client = connect()
    try:
        image = build_image(client, device, inputs, _say, force=force)
    finally:
        client.close()
    click.echo(f"{image.name} {image.digest}")
    return 0


@images.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_command(as_json: bool) -> int:
    """All images that MoodBench has built here."""
    from harness.images import connect, list_images

    client = connect()
    try:
        found = list_images(client)
    finally:
        client.close()
    if as_json:
        echo_json(found)
    else:
        columns = ("Image", "Device", "GB", "Created", "State")
        print_table(columns, [_row(image) for image in found], right=("GB",))
    return 0


@images.command("prune")
@click.option("--all", "everything", is_flag=True, help="Also the current images and the build cache.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def prune_command(everything: bool, yes: bool) -> int:
    """Remove old images; one that a container has is kept."""
    from harness.images import connect, find_unneeded, prune_images

    client = connect()
    try:
        found = find_unneeded(client, everything=everything)
        for image in found:
            state = "a container has it, kept" if image.in_use else image.why
            _say(f"{image.name}  {image.size_bytes / 1e9:.2f} GB  {state}")
        free = [image for image in found if not image.in_use]
        if not free:
            _say("nothing to remove")
        elif yes or click.confirm(f"remove {len(free)} of them?" if len(free) > 1 else "remove it?", err=True):
            for image in prune_images(client, everything=everything, chosen=free):
                click.echo(image.name)
    finally:
        client.close()
    return 0


def _row(image: BuiltImage) -> tuple[str, ...]:
    state = "stand-in" if image.standin else "current" if image.current else "old"
    created = image.created[:16].replace("T", " ")
    return (image.name, image.kind, f"{image.size_bytes / 1e9:.2f}", created, state)


def _say(line: str) -> None:
    click.echo(line, err=True)


def _say_inputs(inputs: BuildInputs) -> None:
    for line in inputs.described():
        _say(line)
