"""How commands end: the exit codes, and what is said about an error. The only place that knows both.

0  ok
1  failed, or refused because it contradicts the current state
2  a fault in the command line or in cls.toml
3  nothing found under that name or number, or not set up yet
4  unavailable: a database, store or process does not answer; trying again later may help
130  stopped by Ctrl-C
"""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from cls.cli.output import clean
from cls.errors import CLSError, NotFound, Temporary

OK, FAILED, USAGE, NOT_FOUND, UNAVAILABLE, INTERRUPTED = 0, 1, 2, 3, 4, 130
EPILOG = "Exit codes: 0 ok, 1 failed or refused, 2 usage or configuration, 3 not found or not set up, 4 unavailable."


class Root(TyperGroup):
    """The command at the top: whatever CLS raises on purpose below it ends in one clear line and its exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except CLSError as error:
            end(str(error), code_of(error))
        except KeyboardInterrupt:
            end("stopped", INTERRUPTED)
        except BrokenPipeError:  # `cls ledger | head`: click ends quietly
            raise
        except (OSError, UnicodeError) as error:  # a file that cannot be written, or is no text
            end(str(error), FAILED)
        except Exception as error:
            if faults := getattr(error, "faults", None):  # ConfigError, which is not imported just for this
                say(f"cls: {len(faults)} fault{'s' if len(faults) > 1 else ''} in the configuration")
                for fault in faults:
                    say(f"  {fault}")
                raise typer.Exit(USAGE) from None
            raise


def code_of(error: CLSError) -> int:
    """Return the exit code of an error, by its type."""
    if isinstance(error, NotFound):
        return NOT_FOUND
    return UNAVAILABLE if isinstance(error, Temporary) else FAILED


def say(line: str) -> None:
    """Write a line for people to stderr, without secrets: stdout belongs to what was asked for."""
    sys.stderr.write(f"{clean(line)}\n")


def end(line: str, code: int) -> NoReturn:
    """Say why, and end with an exit code."""
    say(f"cls: {line}")
    raise typer.Exit(code)
