"""The door of the command line: shared options, and mistakes told in one message.

What goes wrong for a reason that a person can mend ends with exit code 2 and one message; with
``--debug`` the whole traceback is shown.
"""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from recollect.memory import Memory

__all__ = [
    "AsJson",
    "MemoryPath",
    "ModelName",
    "Since",
    "Teaching",
    "Until",
    "Where",
    "moment",
    "open_memory",
]

MemoryPath = Annotated[str, typer.Argument(metavar="PATH", help="The memory: a folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Where = Annotated[
    str | None, typer.Option("--where", help="SQL over time, source and labels.", metavar="SQL")
]
Since = Annotated[
    str | None, typer.Option("--since", help="Start of the window, included.", metavar="TIME")
]
Until = Annotated[
    str | None, typer.Option("--until", help="End of the window, excluded.", metavar="TIME")
]
ModelName = Annotated[
    str | None,
    typer.Option("--model", help="Network for pictures; else the one of watch.", metavar="MODEL"),
]


class Teaching(TyperGroup):
    """A group of commands that tells mistakes in one message instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except (ValueError, OSError, ImportError, KeyError) as error:
            from recollect._checks import NotRemembered

            # A KeyError that is not ours is a mistake of the program.
            foreign = isinstance(error, KeyError) and not isinstance(error, NotRemembered)
            # Who reads us has stopped reading (`| head`): click ends the program quietly.
            deaf = isinstance(error, BrokenPipeError)
            debug = os.environ.get("RECOLLECT_DEBUG") or ctx.params.get("debug")
            if foreign or deaf or debug:
                raise
            _tell(error)
            raise typer.Exit(2) from error
        except KeyboardInterrupt:
            sys.stderr.write("interrupted\n")
            raise typer.Exit(130) from None


def _tell(error: BaseException) -> None:
    """Print what went wrong, and how to mend it."""
    from rich.console import Console

    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.strerror}: {error.filename}"
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print("error: ", style="bold red", end="")
    console.print(text, markup=False)


def open_memory(path: str, *, write: bool = False) -> AbstractContextManager[Memory]:
    """Open a memory that exists; reading needs no torch.

    Raises:
        CorruptMemory: if it is not one.
        FileNotFoundError: if there is nothing at the path.
    """
    from pathlib import Path

    from recollect.memory import Memory

    if not Path(path).exists():
        raise FileNotFoundError(
            f"there is no memory at {path!r}; make one with: recollect watch SOURCE --model MODEL "
            f"--memory {path}"
        )
    return Memory(path, read_only=not write)


def moment(text: str | None, memory: Memory) -> Any:
    """Return the time that a person typed, in the memory's calendar."""
    if text is None:
        return None
    from recollect.app.times import read_time, zone_of

    return read_time(text, zone_of(memory.timezone))
