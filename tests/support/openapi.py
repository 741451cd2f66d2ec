"""Compare answers with the OpenAPI document that the server itself serves."""

import json
from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator


class Described:
    """A document, which judges answers."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document

    def check(self, method: str, path: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Fail unless the answer to ``method`` and ``path`` (with its parameters' names) is one that is described."""
        responses = self.document["paths"][path][method]["responses"]
        assert str(status) in responses, f"{method} {path}: {status} is not described: {body!r}"
        response = responses[str(status)]
        for name, reference in response["headers"].items():
            header = self._resolved(reference)
            assert name in headers or not header.get("required"), f"{status} has no {name}"
            if name in headers:
                kind = header["schema"]["type"]
                value = int(headers[name]) if kind == "integer" else headers[name]
                self._validate(header["schema"], value)
        assert headers["content-type"] == "application/json"
        self._validate(response["content"]["application/json"]["schema"], json.loads(body))

    def _resolved(self, reference: Mapping[str, str]) -> Any:
        node: Any = self.document
        for step in reference["$ref"].removeprefix("#/").split("/"):
            node = node[step]
        return node

    def _validate(self, schema: Any, value: Any) -> None:
        Draft202012Validator({**schema, "components": self.document["components"]}).validate(value)
