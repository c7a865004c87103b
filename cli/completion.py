"""``digitalid completion``: the script that teaches a shell the commands and options."""

from __future__ import annotations

import click

from cli.command import Command
from cli.output import Answer, Verbatim


@click.command("completion", cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> Answer:
    """Completion for bash, zsh or fish, as a script for the shell to read.

    \b
    Example:
      digitalid completion bash > /etc/bash_completion.d/digitalid
      digitalid completion fish > ~/.config/fish/completions/digitalid.fish
      echo 'eval "$(digitalid completion zsh)"' >> ~/.zshrc
    """
    from click.shell_completion import get_completion_class

    root = click.get_current_context().find_root()
    found = get_completion_class(shell)
    if found is None:  # pragma: no cover
        raise click.UsageError(f"no completion for {shell}")
    script = found(root.command, {}, "digitalid", "_DIGITALID_COMPLETE").source()
    return Answer({"shell": shell, "script": script}, (Verbatim(script),))
