"""The frame that every command stands in: its options, its session, its errors."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from cli import output
from infra.errors import Failure, Rejected, Unavailable

if TYPE_CHECKING:
    from cli.client import ApiClient
    from conf.load import Loaded
    from conf.schema import Settings


class Session:
    """What the options before and after a command's name say; settings are read when needed.

    ``home``: the instance's folder, absolute; ``flags``: settings from ``--set``, by key.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.home = Path("var").absolute()
        self.as_json = as_json
        self.verbose = False
        self.flags: dict[str, object] = {}
        self._loaded: Loaded | None = None

    @property
    def loaded(self) -> Loaded:
        """The settings with their origin. Errors: ``Rejected("bad-setting")``."""
        if self._loaded is None:
            from conf.load import BadSetting, load

            try:
                self._loaded = load(self.home, os.environ, self.flags)
            except BadSetting as error:
                raise Rejected("bad-setting", str(error)) from error
        return self._loaded

    @property
    def settings(self) -> Settings:
        """The settings. Errors: ``Rejected("bad-setting")``."""
        return self.loaded.settings

    @asynccontextmanager
    async def connect(self, *, watch: bool = True) -> AsyncIterator[ApiClient]:
        """The instance of the home folder: the running one, else one for this command.

        ``watch``: show on the terminal that something is under way.
        """
        from cli.instance import connect
        from cli.progress import working

        settings = self.settings
        # A question about a PIN and a moving line do not share a terminal.
        asks = "prompt" in (settings.keys.pin.scheme, settings.keys.passphrase.scheme)
        with working("working") if watch and not asks else nullcontext():
            async with connect(self.home, settings, self.note, self._warn_of_flags) as client:
                yield client

    def _warn_of_flags(self) -> None:
        if self.flags:
            output.say_aside(
                f"warning: the instance that runs keeps its own settings: {', '.join(self.flags)} "
                "of this command line do not reach it"
            )

    def note(self, text: str) -> None:
        """Say on standard error what happens, with ``-v``."""
        if self.verbose:
            output.say_aside(text)


def json_option() -> click.Option:
    """``--json``, which every command takes too."""

    def remember(context: click.Context, _: click.Parameter, value: bool) -> None:
        if value and isinstance(context.obj, Session):
            context.obj.as_json = True

    return click.Option(
        ["--json", "as_json"],
        is_flag=True,
        expose_value=False,
        callback=remember,
        help="Answer with one JSON document.",
    )


class Command(click.Command):
    """A command whose callback, plain or async, returns its ``Answer`` or None."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.params.append(json_option())

    def invoke(self, ctx: click.Context) -> Any:
        answer = super().invoke(ctx)
        if inspect.iscoroutine(answer):
            import asyncio

            answer = asyncio.run(answer)
        if isinstance(answer, output.Answer):
            output.show(answer, as_json=ctx.obj.as_json)
            ctx.exit(answer.exit_code)
        return None


class Group(click.Group):
    """Commands under one word."""

    command_class = Command


class Root(click.Group):
    """``digitalid``: imports a command's module only when it is that command's turn.

    ``modules``: for each command its module, which has an attribute of the command's name, and
    its line in ``--help``.
    """

    def __init__(self, *args: Any, modules: dict[str, tuple[str, str]], **named: Any) -> None:
        super().__init__(*args, **named)
        self.modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.modules:
            return None
        command: click.Command = getattr(import_module(self.modules[cmd_name][0]), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self.modules.items()])

    def main(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        *,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Run, answer, and exit with the code that ``cli.output`` lists; never a stack trace."""
        output.escape_unencodable()
        arguments = list(sys.argv[1:] if args is None else args)
        as_json = "--json" in arguments
        session = Session(as_json=as_json)
        code: object
        try:
            try:
                code = super().main(
                    arguments, prog_name or "digitalid", complete_var, False, obj=session, **extra
                )
            except OSError as error:
                if _is_of_click(error):
                    raise output.unwritten(error, sys.stdout) from error
                raise
        except click.ClickException as error:
            code = _usage(error, as_json)
        except click.Abort:
            output.show_error("interrupted", "stopped before it was done", as_json=as_json)
            code = output.INTERRUPTED
        except (Rejected, Unavailable) as failure:
            later = failure.retry_after if isinstance(failure, Unavailable) else None
            as_json = as_json and not isinstance(failure, output.Unwritten)
            output.show_error(failure.code, failure.detail, as_json=as_json, retry_after=later)
            code = output.exit_code(failure)
        except Exception as error:
            code = _incident(error, session.home, as_json)
        with output.aside():
            sys.stderr.flush()
        sys.exit(code if isinstance(code, int) else output.DONE)


def _is_of_click(error: OSError) -> bool:
    """Whether it was met in writing ``--help`` and the like, which click does by itself."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return at is not None and at.tb_frame.f_code is click.echo.__code__


def _usage(error: click.ClickException, as_json: bool) -> int:
    with output.aside():
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            error.show()
        elif not as_json and isinstance(error, click.UsageError) and error.ctx is not None:
            click.echo(error.ctx.get_usage(), err=True)
            click.echo(f"Try '{error.ctx.command_path} --help'.\n", err=True)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return output.USAGE
    # What is missing or was meant comes as a list, a line each.
    message = " ".join(error.format_message().split())
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        message = _misplaced(error.option_name, error.ctx) or message
    output.show_error("usage", message, as_json=as_json)
    return output.USAGE


def _misplaced(option: str, context: click.Context) -> str | None:
    """What to say of an option of the whole command that stands behind a command's name."""
    root = context.find_root()
    for known in root.command.params:
        if option in known.opts and context is not root:
            words = context.command_path.removeprefix(root.command_path)
            value = "" if getattr(known, "is_flag", False) else f" {known.make_metavar(root)}"
            return (
                f"{option} is an option of the whole command, and stands before the others: "
                f"{root.command_path} {option}{value}{words}"
            )
    return None


def _incident(error: Exception, home: Path, as_json: bool) -> int:
    from cli.incident import record

    incident, where = record(error, home)
    code = error.code if isinstance(error, Failure) else "internal-error"
    detail = f"a fault of this program or of its data; incident {incident} is described in {where}"
    if code.startswith("log-"):
        detail += "; run `digitalid log verify`, which names what was altered"
    output.show_error(code, detail, as_json=as_json)
    return output.BROKEN
