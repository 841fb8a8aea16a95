"""`discovery demo`: shows discovery with etcd, HAProxy and web servers, in a quarter of a minute."""

from typing import Annotated

import typer


def demo(
    leave: Annotated[
        bool, typer.Option("--exit", help="End after the last step; exit with 1 if a step failed.")
    ] = False,
) -> int:
    """Show discovery at work on this machine.

    Starts a real etcd, a real HAProxy and three small web servers on loopback ports, and leaves nothing behind.
    """
    from discovery.demo import run_demo

    return run_demo(leave=leave)
