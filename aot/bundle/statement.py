"""The provenance of a bundle, read back: an in-toto statement, which has to speak about this very bundle."""

from collections.abc import Iterable, Mapping
from typing import Any

from aot import digest, nesting, strict_json
from aot.bundle.store import Bundle
from aot.errors import BundleError

TYPE = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"

Statement = Mapping[str, Any]


def subjects(name: str, keys: Iterable[str]) -> list[dict[str, Any]]:
    """What a statement about the bundle of a digest is about: the bundle, and each of its keys."""
    named = [("bundle", digest.hex_of(name)), *(("key", key) for key in keys)]
    return [{"name": kind, "digest": {"sha256": value}} for kind, value in named]


def parse_statement(bundle: Bundle) -> Any:
    """The JSON of the attachment, whatever it says; None where there is none. Raises BundleError for other bytes."""
    data = bundle.attachment("provenance")
    if data is None:
        return None
    try:
        found = strict_json.parse_strictly(data)
        nesting.check_nesting(found)
    except ValueError as error:
        raise _fault(bundle, error) from error
    return found


def read_statement(bundle: Bundle) -> Statement | None:
    """The statement; None where there is none. Raises BundleError unless it is one about this bundle."""
    found = parse_statement(bundle)
    if found is None and "provenance" not in bundle.attachments:
        return None
    try:
        return _checked(found, subjects(bundle.digest, (combo.key for combo in bundle.index.combos)))
    except ValueError as error:
        raise _fault(bundle, error) from error


def dependencies(statement: Statement) -> list[dict[str, Any]]:
    """What a statement says the bundle was built from and by."""
    found: list[dict[str, Any]] = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    return found


def _fault(bundle: Bundle, error: ValueError) -> BundleError:
    return BundleError(f"bundle {bundle.path}: provenance: {error}; fetch it again or rebuild")


def _checked(found: Any, about: list[dict[str, Any]]) -> Statement:
    fields: dict[str, type] = {"_type": str, "subject": list, "predicateType": str, "predicate": dict}
    statement = strict_json.expect(found, "it", fields)
    for name, value in (("_type", TYPE), ("predicateType", PREDICATE)):
        if statement[name] != value:
            raise ValueError(f"{name} must be {value!r}, got {statement[name]!r:.80}")
    if statement["subject"] != about:
        raise ValueError("it speaks about another bundle: its subject is not the digest and the keys of this one")
    predicate = strict_json.expect(statement["predicate"], "predicate", {"buildDefinition": dict, "runDetails": dict})
    parts: dict[str, type] = {
        "buildType": str,
        "externalParameters": dict,
        "internalParameters": dict,
        "resolvedDependencies": list,
    }
    definition = strict_json.expect(predicate["buildDefinition"], "buildDefinition", parts)
    for place, item in enumerate(definition["resolvedDependencies"]):
        _check_dependency(item, f"resolvedDependencies[{place}]")
    return statement


def _check_dependency(item: Any, where: str) -> None:
    optional: dict[str, type] = {"uri": str, "annotations": dict}
    fields = strict_json.expect(item, where, {"name": str, "digest": dict}, optional)
    annotations = strict_json.expect(fields.get("annotations", {}), f"{where}.annotations", {}, {"files": dict})
    for place, table in (("digest", fields["digest"]), ("annotations.files", annotations.get("files", {}))):
        if not all(isinstance(value, str) for value in table.values()):
            raise ValueError(f"{where}.{place} must map names to digests")
