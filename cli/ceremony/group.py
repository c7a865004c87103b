"""The group that the commands of ceremonies belong to."""

from __future__ import annotations

from typing import Final

import click

from cli.command import Group

LANGUAGE: Final = click.Choice(["en", "zh"])


@click.group(cls=Group)
def ceremony() -> None:
    """Key ceremonies: plan, rehearse, run, resume, verify, report."""
