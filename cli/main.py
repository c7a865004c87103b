"""``digitalid``: the command that operators, scripts and services start."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Final

import click

from cli.command import Root, Session
from infra.memory import keep_to_ourselves

COMMANDS: Final = {
    "init": ("cli.init", "Set up a home folder: keys, root and issuing CA, log."),
    "serve": ("cli.serve", "Run the CA, or a validation authority, in the foreground."),
    "status": ("cli.status", "Whether the instance does its work, and what to do if not."),
    "ca": ("cli.ca", "Certificate authorities: list, show, export."),
    "ceremony": ("cli.ceremony", "Key ceremonies: plan, rehearse, run, resume, verify, report."),
    "profile": ("cli.profile", "Certificate profiles: list, show, check."),
    "cert": ("cli.cert", "Certificates: issue, show, find, hold, release, revoke, export."),
    "crl": ("cli.crl", "Revocation lists: issue, import, show, diff, verify, history."),
    "directory": ("cli.directory", "The LDAP directory: status, check, repair, erase, filter."),
    "ocsp": ("cli.ocsp", "OCSP: query; followers of the feed; other CAs that are served."),
    "verify": ("cli.verify", "Validate a certificate up to a trust anchor, and say why."),
    "log": ("cli.log", "The tamper-evident log: verify, prove, checkpoint."),
    "backup": ("cli.backup", "Backups of a running instance: create, check, restore."),
    "config": ("cli.config", "Settings: show, check, explain."),
    "completion": ("cli.completion", "Completion for bash, zsh or fish."),
}
"""For each command its module and its line in ``--help``."""


class _Folder(click.Path):
    """A folder; an empty name, as of a variable that is not set, is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the name of the folder is empty; is a variable not set?", param, ctx)
        return super().convert(value, param, ctx)


@click.group(
    cls=Root,
    modules=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    epilog="Exit codes: 0 done; 1 the answer is no; 2 usage; 3 rejected; 4 unavailable, try "
    "later; 5 a fault of this program; 130 stopped.",
)
@click.option(
    "--home",
    envvar="DIGITALID_HOME",
    default="var",
    show_default=True,
    show_envvar=True,
    metavar="DIR",
    type=_Folder(file_okay=False, path_type=Path),
    help="The instance's folder: settings, keys, ledger, log.",
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a setting, as in http.app_port=9080; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Answer with one JSON document.")
@click.option("-v", "--verbose", is_flag=True, help="Say on standard error what happens.")
@click.version_option(package_name="digitalid", message="%(prog)s %(version)s")
@click.pass_obj
def digitalid(
    session: Session,
    home: Path,
    assignments: tuple[str, ...],
    as_json: bool,
    verbose: bool,
) -> None:
    """A certificate authority.

    Commands act on the instance that runs in the home folder, or on its state directly when none
    runs.

    \b
    Example:
      digitalid cert issue --profile tls-server --csr web.csr --out web.pem
    """
    session.home = home.absolute()
    session.as_json = session.as_json or as_json
    session.verbose = verbose
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise click.BadParameter(
                f"{assignment!r} is not KEY=VALUE, as in http.app_port=9080", param_hint="--set"
            )
        session.flags[key] = value


def main() -> None:
    """Entry point of the installed command."""
    _open_streams()
    keep_to_ourselves()
    os.umask(os.umask(0o022) | 0o022)  # what is made here is not for others to write in
    digitalid.main(prog_name="digitalid")


def _open_streams() -> None:
    """What is closed of standard input, output and error is opened, lest a file that is opened
    later take its place: output takes nothing then, and says so."""
    for number, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free; our own processes need it, too.
            os.set_inheritable(os.open(os.devnull, flags), True)
            if number == 0:
                sys.stdin = os.fdopen(number, closefd=False)
            elif number == 1:
                sys.stdout = os.fdopen(number, "w", closefd=False)
            elif number == 2:
                sys.stderr = os.fdopen(number, "w", closefd=False)


if __name__ == "__main__":
    main()
