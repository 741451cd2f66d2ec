"""Ways in: each module carries calls between one wire and ``taskgate.service.calls``."""
