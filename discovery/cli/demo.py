"""`discovery demo`: the whole thing in a quarter of a minute."""

from typing import Annotated

import typer


def demo(
    leave: Annotated[bool, typer.Option("--exit", help="End after the last step; 1 if one failed.")] = False,
) -> int:
    """Show it at work, here and now.

    Starts a real etcd, a real HAProxy and three small web servers on loopback ports, and leaves nothing behind.
    """
    from discovery.demo import run_demo

    return run_demo(leave=leave)
