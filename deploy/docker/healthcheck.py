"""Exit with 0 if the taskgate of this container answers ``/healthz`` with 200, else with 1 and the reason."""

import http.client
import os
import ssl
import sys

port = int(os.environ.get("TASKGATE_HTTP", "127.0.0.1:8080").rpartition(":")[2])
connection: http.client.HTTPConnection
if os.environ.get("TASKGATE_TLS_CERT"):
    anyone = ssl.create_default_context()
    anyone.check_hostname = False  # the certificate is for the name that callers know
    anyone.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=4, context=anyone)
else:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4)
try:
    connection.request("GET", "/healthz")
    status = connection.getresponse().status
except (OSError, http.client.HTTPException) as error:
    sys.exit(f"no answer: {error}")
sys.exit(None if status == 200 else f"status {status}")  # noqa: PLR2004 - HTTP's
