"""A Flask application that registers itself: `gunicorn --workers 4 --bind :8000 flask_app:app`.

The workers share one record, which is withdrawn with the last of them. With `--preload` the registration begins in
gunicorn's main process, and each forked worker joins.
"""

import os

from flask import Flask

import discovery
from discovery.addresses import primary_address

HOST = primary_address(4) or primary_address(6) or "127.0.0.1"
ADDRESS = os.environ.get("ADDRESS") or discovery.join_host_port(HOST, 8000)

app = Flask(__name__)
# The server may listen only later, so a check awaits the port. The end of the process ends the registration.
registration = discovery.registered(None, "web", ADDRESS, check={"type": "tcp"}).start()


@app.get("/")
def hello() -> str:
    """Answer a request."""
    return "hello"
