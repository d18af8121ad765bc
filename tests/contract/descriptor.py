"""A .proto as lines: message, field, enum and call, as the Go programs of the contract tests print the published ones."""

from __future__ import annotations

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor

SCALARS = {
    getattr(FieldDescriptor, name): name.removeprefix("TYPE_").lower()
    for name in dir(FieldDescriptor)
    if name.startswith("TYPE_")
}


def lines_of_file(file: FileDescriptor) -> set[str]:
    def local(name: str) -> str:
        return name.removeprefix(f"{file.package}.")

    def lines_of_enum(enum: EnumDescriptor) -> list[str]:
        return [f"enum {local(enum.full_name)} {value.number} {value.name}" for value in enum.values]

    def lines_of_message(message: Descriptor) -> list[str]:
        name = local(message.full_name)
        lines = [f"message {name}"]
        for field in message.fields:
            kind = SCALARS[field.type]
            if field.message_type:
                kind = local(field.message_type.full_name)
            elif field.enum_type:
                kind = local(field.enum_type.full_name)
            cardinality = "repeated" if field.is_repeated else "optional"
            lines.append(f"field {name} {field.number} {field.name} {cardinality} {kind}")
        for enum in message.enum_types:
            lines += lines_of_enum(enum)
        for nested in message.nested_types:
            lines += lines_of_message(nested)
        return lines

    lines: list[str] = []
    for message in file.message_types_by_name.values():
        lines += lines_of_message(message)
    for enum in file.enum_types_by_name.values():
        lines += lines_of_enum(enum)
    for service in file.services_by_name.values():
        for method in service.methods:
            output = ("stream " if method.server_streaming else "") + local(method.output_type.full_name)
            lines.append(f"call {service.name} {method.name} {local(method.input_type.full_name)} {output}")
    return set(lines)
