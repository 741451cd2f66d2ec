"""A supervisor for tests to kill: ``python hold_envoy.py`` starts Envoy, prints its process ID, and waits for ever."""

import asyncio
import sys

from taskgate.base.addresses import Address
from taskgate.processes.envoy import EnvoyProcess, GatewaySettings


async def main() -> None:
    envoy = EnvoyProcess(GatewaySettings(listen=Address("127.0.0.1", 0)))
    await envoy.start()
    sys.stdout.write(f"{envoy.pid}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
