"""``digitalid init``: make the state folder and the first hierarchy, and stop."""

from __future__ import annotations

import click

from cli.command import Command, Session
from cli.output import GOOD, Answer, Fields, Json, Line


@click.command(cls=Command)
@click.pass_obj
async def init(session: Session) -> Answer:
    """Make the state folder, the keys and the development hierarchy, unless they are there.

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
    document: Json = {"home": str(settings.home), "authorities": [*authorities], "keys": keys}
    return Answer(
        document,
        (
            Line("The state is ready.", GOOD),
            Fields((("home", str(settings.home)), ("CAs", ", ".join(authorities)), ("keys", keys))),
        ),
    )
