"""A group of commands whose own name lists: `cls drift flights --alarms` is `cls drift list flights --alarms`."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


class ListingGroup(TyperGroup):
    """Takes whatever does not begin with the name of a command for arguments of `list`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `list` in front where it was left out."""
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["list", *args]
        return super().parse_args(ctx, args)
