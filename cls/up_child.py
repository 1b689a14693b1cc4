"""Runs a command that ends when the process that started it does, however that one ends (Linux).

    python up_child.py SIGNAL PARENT COMMAND [ARGUMENT ...]

The kernel sends SIGNAL when the parent's thread is gone; that survives the exec which replaces this process by the command.
"""

from __future__ import annotations

import os
import sys

_PR_SET_PDEATHSIG = 1  # sys/prctl.h


def main(arguments: list[str]) -> None:
    """Tie this process to its parent and become the command."""
    signal, parent, *command = arguments
    if sys.platform == "linux":
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, int(signal), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) was refused")
        if os.getppid() != int(parent):  # it died before the kernel knew
            sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 - the command comes from `cls up`, no shell in between


if __name__ == "__main__":
    main(sys.argv[1:])
