"""How a command ends: with a sentence and the right exit code, never with a traceback."""

import functools
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import typer

from cnnkit.errors import CnnkitError

Command = TypeVar("Command", bound=Callable[..., Any])
INTERRUPTED = 130


def well_mannered(command: Command) -> Command:
    """Turn what a command raises into one line on stderr and an exit code; `--debug` shows everything."""

    @functools.wraps(command)
    def mannered(*arguments: Any, **options: Any) -> Any:
        try:
            return command(*arguments, **options)
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except Exception as error:
            if debugging():
                raise
            typer.echo(f"error: {_sentence(error)}", err=True)
            raise typer.Exit(error.exit_code if isinstance(error, CnnkitError) else 1) from None

    return mannered  # type: ignore[return-value]


def debugging() -> bool:
    return "--debug" in sys.argv


def _sentence(error: Exception) -> str:
    if isinstance(error, CnnkitError):
        return str(error)
    if isinstance(error, MemoryError):
        return "there is not enough memory; a smaller picture or --max-memory needs less."
    return f"cnnkit itself failed ({type(error).__name__}: {error}); --debug shows where, please report it."
