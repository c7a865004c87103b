"""``digitalid config``: what is set, by whom, and what it means."""

from __future__ import annotations

import click

from cli.command import Group, Session
from cli.output import Answer, Fields, Json, Line, Table
from infra.errors import Rejected


@click.group(cls=Group)
def config() -> None:
    """Settings: show, check, explain.

    They come from the built-in defaults, then HOME/digitalid.toml, then environment variables
    (DIGITALID_HTTP_APP_PORT), then --set; the last one wins.
    """


@config.command("show")
@click.option("--changed", is_flag=True, help="Only those that are not at their default.")
@click.pass_obj
def show(session: Session, changed: bool) -> Answer:
    """Every setting in force, and the layer that set it.

    \b
    Example:
      digitalid config show --changed
    """
    loaded = session.loaded
    rows = [
        (key, _text(loaded.value(key)), loaded.origin(key))
        for key in loaded.provenance
        if not changed or loaded.origin(key) != "default"
    ]
    document: dict[str, Json] = {"home": str(session.home)}
    document["settings"] = {
        key: {"value": loaded.value(key), "layer": layer} for key, _, layer in rows
    }
    if not rows:
        return Answer(document, (Line("Every setting is at its default."),))
    return Answer(document, (Table(("KEY", "VALUE", "SET BY"), tuple(rows)),))


@config.command("check")
@click.pass_obj
def check(session: Session) -> Answer:
    """Check every layer, without starting anything.

    A mistake ends with exit code 3 and names the file or variable, the key and the reason.

    \b
    Example:
      digitalid config check && systemctl restart digitalid
    """
    count = len(session.loaded.provenance)
    return Answer(
        {"home": str(session.home), "settings": count, "ok": True},
        (Line(f"All {count} settings are well."),),
    )


@config.command("explain")
@click.argument("key", metavar="KEY")
@click.pass_obj
def explain(session: Session, key: str) -> Answer:
    """What one setting means, and which layer set it.

    \b
    Example:
      digitalid config explain http.app_port
    """
    from conf.load import BadSetting, variable

    try:
        found = session.loaded.explain(key)
    except BadSetting as error:
        raise Rejected("unknown-setting", str(error)) from error
    said = [(saying.layer, saying.where, _text(saying.raw)) for saying in found.sayings]
    return Answer(
        {
            "key": key,
            "value": found.value,
            "layer": found.layer,
            "layers": [
                {"layer": layer, "where": where, "value": value} for layer, where, value in said
            ],
            "allowed": found.allowed,
            "variable": variable(key),
            "documentation": found.documentation,
        },
        (
            Fields(
                (
                    (key, _text(found.value)),
                    ("set by", f"{found.layer} ({found.sayings[-1].where})"),
                    ("allowed", found.allowed),
                    ("variable", variable(key)),
                    ("meaning", found.documentation),
                )
            ),
            Table(("LAYER", "WHERE", "SAYS"), tuple(said)),
        ),
    )


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return '""' if value is None or value == "" else str(value)
