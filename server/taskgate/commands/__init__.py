"""One module for each command of ``taskgate``; ``cli`` parses, these do."""
