"""Prints every change of the services that the command line names: `python print_changes.py web 'api-*'`."""

import sys

import discovery


def main() -> None:
    """Follow the configured registry until Ctrl-C."""
    previous = None
    with discovery.follow(services=sys.argv[1:] or None) as follower:
        for snapshot in follower:
            changes = discovery.diff(previous, snapshot)
            for mark, backends in (("+", changes.added), ("~", changes.updated), ("-", changes.removed)):
                for backend in backends:
                    print(mark, backend.key, backend.address, flush=True)
            previous = snapshot


if __name__ == "__main__":
    main()
