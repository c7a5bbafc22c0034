"""``tideline completion``: what makes a shell complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_SHELLS = ("bash", "zsh", "fish")


@click.command(short_help="Print what makes a shell complete commands.")
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script for SHELL: bash, zsh or fish.

    \b
    bash: tideline completion bash > ~/.local/share/bash-completion/completions/tideline
    zsh:  tideline completion zsh > "${fpath[1]}/_tideline"
    fish: tideline completion fish > ~/.config/fish/completions/tideline.fish
    """
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(context.find_root().command, {}, "tideline", "_TIDELINE_COMPLETE").source())
