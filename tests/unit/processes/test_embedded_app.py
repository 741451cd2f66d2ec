"""The application that Envoy loads, by each name that a configuration may have for it."""

import taskgate.inside
from taskgate.processes import embedded_app


def test_former_name_in_printed_configurations_is_the_same_application() -> None:
    assert taskgate.inside.app is embedded_app.app
