"""``digitalid init``: make the home folder and the first hierarchy, and stop."""

from __future__ import annotations

import click

from cli.command import Command, Session
from cli.output import GOOD, Answer, Fields, Json, Line


@click.command(cls=Command)
@click.pass_obj
async def init(session: Session) -> Answer:
    """Make the home folder, the keys and the development hierarchy, unless they are there.

    ``digitalid serve`` does the same when it starts. Interrupted, it is simply run again.

    \b
    Example:
      digitalid --home /srv/ca init
    """
    from cli.compose import running
    from cli.progress import working

    settings = session.settings
    with working("keys, CAs and the check of every profile"):
        async with running(settings, create=True, serving=False) as instance:
            authorities = sorted(instance.hierarchy.authorities)
            keys = instance.keys_note
            awaited = instance.hierarchy.awaited
            first_step = instance.hierarchy.first_step
    if not authorities:
        return Answer(
            {"home": str(settings.home), "authorities": [], "keys": keys, "awaited": [*awaited]},
            (Line(f"There is no CA yet: {first_step}."),),
        )
    document: Json = {"home": str(settings.home), "authorities": [*authorities], "keys": keys}
    return Answer(
        document,
        (
            Line("The home folder is ready.", GOOD),
            Fields((("home", str(settings.home)), ("CAs", ", ".join(authorities)), ("keys", keys))),
        ),
    )
