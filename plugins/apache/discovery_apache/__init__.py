"""Provider plugin `apache`: finds Apache httpd, in Docker or on the machine, checks it and registers it."""
