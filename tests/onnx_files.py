"""ONNX networks of one operator, in place of published ones."""


def field(number: int, value: bytes | str | int) -> bytes:
    """One field of a protocol buffer."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    result = b""
    while value > 127:
        result, value = result + bytes([value & 127 | 128]), value >> 7
    return result + bytes([value])


def onnx_file(path, operator="Neg", shape=(1, 3, 32, 32)):
    """An ONNX network of one operator on one float tensor (onnx.proto: ModelProto, GraphProto, NodeProto)."""
    dims = b"".join(field(1, field(1, size)) for size in shape)
    tensor = field(2, field(1, field(1, 1) + field(2, dims)))
    node = field(1, "given") + field(2, "made") + field(4, operator)
    graph = (
        field(1, node) + field(2, "g") + field(11, field(1, "given") + tensor) + field(12, field(1, "made") + tensor)
    )
    path.write_bytes(field(1, 8) + field(7, graph) + field(8, field(2, 13)))
    return path
