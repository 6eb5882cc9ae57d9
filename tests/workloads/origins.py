"""origins.py ROWSxCOLUMNS held|freed [binaries]: creates buffers of many kinds, and prints what each of them is for.

What a buffer is for follows from the call of ttnn that created it. Its address is what the step adds to TT-Metal's own list.
Each step stands on one line. held: kills itself while all buffers are live. freed: frees all of them before.
binaries: as in system_buffers.py.
"""
import gc, os, signal, sys, traceback

from common import binaries_are_gathered, live, say, ttnn

shape, end = sys.argv[1:3]
gathers = "binaries" in sys.argv and binaries_are_gathered()
mesh = ttnn.open_mesh_device(ttnn.MeshShape(*map(int, shape.split("x"))))
one_chip = mesh.get_num_devices() == 1
kept, owning, views = [], [], []


def listed():
    return {(buffer["buffer_type"], buffer["address"]) for buffer in live(mesh)}


def step(make):
    """Calls make. Returns its result, its line, the addresses of new buffers, and the number of new cached programs."""
    before, programs = listed(), mesh.num_program_cache_entries()
    made = make()
    kept.append(made)
    line = next(frame.lineno for frame in reversed(traceback.extract_stack()) if frame.name == "<module>")
    return made, line, listed() - before, mesh.num_program_cache_entries() - programs


def own(origin, line, places):
    owning.extend(dict(origin=origin, line=line, buffer_type=kind, address=address) for kind, address in sorted(places))


def place(tensor):
    return tensor.memory_config().buffer_type.name, tensor.buffer_address()


def tensor(make):
    """A tensor with memory of its own, and the binaries of the programs that made it."""
    made, line, new, programs = step(make)
    assert place(made) in new, (line, new)
    own("tensor", line, {place(made)})
    others = new - {place(made)}
    assert len(others) == (programs if gathers else 0), (line, others, programs)
    own("program", line, others)
    return made


def view(make):
    """A tensor in the memory of another tensor."""
    made, line, new, _ = step(make)
    assert not new, (line, new)
    kind, address = place(made)
    views.append(dict(line=line, buffer_type=kind, address=address))
    return made


def other(origin, make, count):
    made, line, new, _ = step(make)
    assert len(new) == count, (line, new)
    own(origin, line, new)


tile = dict(dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=mesh)
row = dict(tile, layout=ttnn.ROW_MAJOR_LAYOUT)
strategies = ttnn.ShardStrategy.BLOCK, ttnn.ShardStrategy.HEIGHT, ttnn.ShardStrategy.WIDTH
grid = ttnn.CoreGrid(y=4, x=4)
square = [ttnn.create_sharded_memory_config((1, 1, 512, 512), core_grid=grid, strategy=way) for way in strategies]
first, third = (ttnn.CoreRange(ttnn.CoreCoord(at, at), ttnn.CoreCoord(at, at)) for at in (0, 2))
cores = ttnn.CoreRangeSet({first, third})

a = tensor(lambda: ttnn.empty((1, 1, 64, 128), **tile))
b = tensor(lambda: ttnn.empty((1, 1, 64, 128), **row))
c = tensor(lambda: ttnn.empty((64, 128), **tile))
d = tensor(lambda: ttnn.empty((1, 1, 64, 64), **tile))
tensor(lambda: ttnn.zeros((1, 1, 32, 32), **tile))
tensor(lambda: ttnn.arange(0, 64, 1, device=mesh))
tensor(lambda: ttnn.Tensor([0.0] * 4096, [1, 1, 64, 64], ttnn.bfloat16, ttnn.ROW_MAJOR_LAYOUT).to(mesh))
tensor(lambda: ttnn.empty((1, 1, 64, 128), memory_config=ttnn.L1_MEMORY_CONFIG, **tile))
tensor(lambda: ttnn.empty((1, 1, 512, 512), memory_config=square[0], **tile))
tensor(lambda: ttnn.empty((1, 1, 512, 512), memory_config=square[1], **tile))
tensor(lambda: ttnn.empty((1, 1, 512, 512), memory_config=square[2], **tile))

view(lambda: ttnn.reshape(a, (1, 2, 32, 128)))
view(lambda: a.reshape(2, 1, 32, 128))
view(lambda: b.reshape(2, 1, 32, 128))
view(lambda: ttnn.experimental.view(a, (1, 2, 32, 128)))
view(lambda: ttnn.unsqueeze_to_4D(c))
view(lambda: ttnn.squeeze(a, 0))
if hasattr(ttnn, "narrow"):
    view(lambda: ttnn.narrow(a, 2, 0, 32))
if hasattr(ttnn, "view"):
    view(lambda: ttnn.view(a, (1, 2, 32, 128)))

# Each of these runs a program: a new one for a new shape, the cached one for the same shape.
tensor(lambda: a[:, :, :32, :])
tensor(lambda: ttnn.slice(a, [0, 0, 0, 0], [1, 1, 64, 32]))
tensor(lambda: ttnn.add(d, d))
tensor(lambda: ttnn.add(d, d))
tensor(lambda: ttnn.matmul(d, d, core_grid=ttnn.CoreGrid(y=2, x=2)))
tensor(lambda: ttnn.softmax(d, dim=-1))
tensor(lambda: ttnn.softmax(d, dim=1))
if one_chip:
    # These fail on the core grid of the cluster with two chips.
    tensor(lambda: ttnn.reshape(b, (1, 1, 32, 256)))
    tensor(lambda: ttnn.to_memory_config(a, ttnn.L1_MEMORY_CONFIG))

other("semaphore", lambda: ttnn.create_global_semaphore(mesh, cores, 0), 1)
# It has two buffers: its data and its configuration.
sender_receivers = [(ttnn.CoreCoord(0, 0), ttnn.CoreRangeSet({third}))]
other("global_circular_buffer", lambda: ttnn.create_global_circular_buffer(mesh, sender_receivers, 4096), 2)

say(mesh=mesh.id(), chips=mesh.get_device_ids(), gathers=gathers, owning=owning, views=views, live=sorted(listed()))
if end == "freed":
    del a, b, c, d
    kept.clear()
    gc.collect()
    mesh.disable_and_clear_program_cache()
    say(live=sorted(listed()))
os.kill(os.getpid(), signal.SIGKILL)
