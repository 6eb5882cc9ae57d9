"""Stand-in for the simulator process of ttnn 0.62: remembers what it is told to write, and answers.

TT-Metal starts `run.sh` of the folder that TT_METAL_SIMULATOR names, and talks to it over a Unix socket
(NNG_SOCKET_ADDR): nng's pair version 1, each message a flatbuffer DeviceRequestResponse { command: byte;
data: [uint32]; core: struct { x, y: uint64 }; address: uint64; size: uint32 }. Cores finish at once, as
in ttsim.cpp: kernels never run, so results are meaningless.
"""
import os, socket, struct, sys

WRITE, READ, EXIT = 0, 1, 5
PAGE = 4096
HELLO = b"\0SP\0\0\x11\0\0"  # pair version 1
DONE = 0
memory = {}


def connect():
    path = os.environ["NNG_SOCKET_ADDR"].removeprefix("ipc://")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    listener.settimeout(60)
    link, _ = listener.accept()
    os.unlink(path)
    link.settimeout(None)
    link.sendall(HELLO)
    return link, link.makefile("rb")


def exactly(stream, count):
    data = stream.read(count)
    if len(data) < count:
        sys.exit()  # TT-Metal has ended.
    return data


def receive(stream):
    """A message's command, data, core, address and size."""
    _, length = struct.unpack(">BQ", exactly(stream, 9))
    message = exactly(stream, length)[4:]  # behind the number of hops
    (table,) = struct.unpack_from("<I", message)
    vtable = table - struct.unpack_from("<i", message, table)[0]
    (size,) = struct.unpack_from("<H", message, vtable)

    def field(index, kind, default):
        at = 4 + 2 * index
        offset = struct.unpack_from("<H", message, vtable + at)[0] if at < size else 0
        return struct.unpack_from(kind, message, table + offset) + (table + offset,) if offset else default

    command = field(0, "<b", (0, 0))[0]
    relative, at = field(1, "<I", (0, 0))
    count = struct.unpack_from("<I", message, at + relative)[0] if at else 0
    start = at + relative + 4
    x, y, _ = field(2, "<QQ", (0, 0, 0))
    return command, message[start : start + 4 * count], (x, y), field(3, "<Q", (0, 0))[0], field(4, "<I", (0, 0))[0]


def send(link, command, data=b"\0\0\0\0", core=(0, 0), address=0):
    vtable = struct.pack("<7H", 14, 40, 36, 4, 12, 28, 8)
    table = struct.pack("<iIIQQQb3x", 16, 36, len(data), *core, address, command)
    body = struct.pack("<I", 20) + vtable + b"\0\0" + table + struct.pack("<I", len(data) // 4) + data
    link.sendall(struct.pack(">BQI", 1, len(body) + 4, 1) + body)


def pieces(core, address, size):
    while size:
        offset = address % PAGE
        count = min(size, PAGE - offset)
        yield memory.setdefault((core, address // PAGE), bytearray(PAGE)), offset, count
        address += count
        size -= count


def write(core, address, data):
    if len(data) == 4 and data[3] in (0x40, 0x80):
        # What says "start" to a core: it has finished.
        data = data[:3] + bytes([DONE])
    for page, offset, count in pieces(core, address, len(data)):
        page[offset : offset + count] = data[:count]
        data = data[count:]


def read(core, address, size):
    return b"".join(bytes(page[offset : offset + count]) for page, offset, count in pieces(core, address, size))


def main():
    link, stream = connect()
    exactly(stream, len(HELLO))
    send(link, EXIT)  # "here I am"
    while True:
        command, data, core, address, size = receive(stream)
        if command == WRITE:
            write(core, address, data)
        elif command == READ:
            # In whole words.
            send(link, READ, read(core, address, (size + 3) // 4 * 4), core, address)
        elif command == EXIT:
            return


main()
