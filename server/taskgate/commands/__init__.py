"""The ``taskgate`` commands: ``cli`` parses the command line, each other module runs one command."""
