"""What generated protobuf code says on the wire, as plain values that two processes can compare."""

from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor


def protocol(*files: FileDescriptor) -> dict[str, Any]:
    """Return the fields of every message, and the types of every method, of these files, by name."""
    messages: dict[str, Any] = {}
    for file in files:
        for message in file.message_types_by_name.values():
            _describe(message, messages)
    return {
        "messages": messages,
        "methods": {
            method.name: [
                method.input_type.full_name,
                method.output_type.full_name,
                method.client_streaming,
                method.server_streaming,
            ]
            for file in files
            for service in file.services_by_name.values()
            for method in service.methods
        },
    }


def _describe(message: Descriptor, into: dict[str, Any]) -> None:
    into[message.full_name] = {field.name: _numbered(field) for field in message.fields}
    for nested in message.nested_types:
        _describe(nested, into)


def _numbered(field: FieldDescriptor) -> list[Any]:
    """Return what a field is: its number, type, whether repeated, and the message or the enum's values in it."""
    held = field.message_type.full_name if field.message_type else None
    values = {value.name: value.number for value in field.enum_type.values} if field.enum_type else None
    return [field.number, field.type, field.is_repeated, held, values]
