"""programs.py ROWSxCOLUMNS: runs programs with circular and dataflow buffers, and prints TT-Metal's own figures of them.

Runs three operations, each twice: the first lays out a program, the second uses the cached one. Prints the circular
buffers that TT-Metal's graph capture reports, and the regions that its errors name when tensors fill all of L1. Then
obeys lines on stdin: "again" dispatches all operations once more, "sharded" runs an operation whose circular buffers lie
in a tensor's buffer, "clear" clears the program cache, "end" kills the process.
"""
import os, re, signal, sys, time

from common import say, ttnn, wait

mesh = ttnn.open_mesh_device(ttnn.MeshShape(*map(int, sys.argv[1].split("x"))))
tile = dict(dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=mesh)
a = ttnn.empty((1, 1, 512, 512), **tile)
operations = dict(
    matmul=lambda: ttnn.matmul(a, a, core_grid=ttnn.CoreGrid(y=4, x=4)),
    softmax=lambda: ttnn.softmax(a, dim=-1),
    binary_ng=lambda: ttnn.add(a, a),
)
# Releases write {[0-0 - 7-7]} or {[(x=0,y=0) - (x=7,y=7)]}.
NUMBERS = re.compile(r"\d+")


def ranges(text):
    """A core range set, which is given as text, as a sorted list [[[x, y], [x, y]], …]."""
    numbers = [int(number) for number in NUMBERS.findall(text)]
    assert len(numbers) % 4 == 0, text
    return sorted([numbers[at : at + 2], numbers[at + 2 : at + 4]] for at in range(0, len(numbers), 4))


def circular_buffers(operation):
    """The operation's circular buffers, as the library's graph capture reports them."""
    graph = ttnn._ttnn.graph
    graph.begin_graph_capture(graph.RunMode.NORMAL)
    operation()
    nodes = [node for node in graph.end_graph_capture() if node["node_type"] == "circular_buffer_allocate"]
    reported = []
    for node in nodes:
        params = node["params"]
        # A mesh reports each buffer once for each chip.
        buffer = dict(address=int(params["address"]), size=int(params["size"]), cores=ranges(params["core_range_set"]))
        if buffer not in reported:
            reported.append(buffer)
    return reported


def fill_l1():
    """Fills all of L1 with tensors, in ever smaller pieces."""
    tensors = []
    for side in (2048, 512, 256):
        try:
            while True:
                tensors.append(ttnn.empty((1, 1, side, side), memory_config=ttnn.L1_MEMORY_CONFIG, **tile))
        except RuntimeError:
            pass
    return tensors


def clash(operation):
    """The program that has no room, and the end of its region, from the library's error."""
    try:
        operation()
    except RuntimeError as error:
        found = re.search(r"in program (\d+) clash.*region ends at (\d+)", str(error), re.S)
        return dict(program=int(found[1]), end=int(found[2]))
    return None


def pace():
    """Waits, since the library updates its statistics in /dev/shm at most ten times a second."""
    time.sleep(0.15)


reported = {}
for name, operation in operations.items():
    pace()
    reported[name] = circular_buffers(operation)
    operation()
filled = fill_l1()
# Not the matmul: with less room it chooses another program.
clashes = {name: clash(operations[name]) for name in ("softmax", "binary_ng")}
del filled
pace()
for operation in operations.values():
    operation()
say(pid=os.getpid(), mesh=mesh.id(), chips=list(mesh.get_device_ids()), reported=reported, clashes=clashes)

kept = []
for word in iter(wait, "end"):
    address = None
    if word == "again":
        for operation in operations.values():
            operation()
    elif word == "sharded":
        memory = ttnn.create_sharded_memory_config(
            (1, 1, 512, 512), core_grid=ttnn.CoreGrid(x=4, y=4), strategy=ttnn.ShardStrategy.BLOCK
        )
        sharded = ttnn.empty((1, 1, 512, 512), memory_config=memory, **tile)
        kept += sharded, ttnn.relu(sharded)
        address = sharded.buffer_address()
    elif word == "clear":
        mesh.disable_and_clear_program_cache()
    say(done=word, address=address)
os.kill(os.getpid(), signal.SIGKILL)
