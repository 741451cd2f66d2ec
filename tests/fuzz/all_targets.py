"""All fuzz targets, by name."""

from fuzz import documents, grpc_framing, imports, rows, settings_texts, task_ids, tokens, urls
from fuzz.target import Target

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (grpc_framing, task_ids, documents, rows, imports, tokens, urls, settings_texts)
    for target in module.TARGETS
}
