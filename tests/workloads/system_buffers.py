"""system_buffers.py ROWSxCOLUMNS PHASE [binaries] [exit]: what device memory holds, and when; see docs/system-buffers.md.

Goes through the phases up to PHASE: open, tensors, operations, freed, cleared, closed. At each it prints TT-Metal's own list
of live buffers. At the last one it waits for a line on stdin and kills itself by signal 9, so that live buffers stay live;
after the phase closed it ends by itself. exit: exits with code 0 instead.

binaries: keeps kernel binaries in DRAM, as on hardware, if the release can be made to. The stand-in compiler makes them, so
their sizes mean nothing.
"""
import os, signal, sys

from common import binaries_are_gathered, live, say, ttnn, wait

def memory(device):
    """For each type: the number of banks, the allocatable bytes of a bank, and the allocated ones."""
    views = {
        name: ttnn.get_memory_view(device, getattr(ttnn.BufferType, name)) for name in ("DRAM", "L1", "L1_SMALL", "TRACE")
    }
    return {
        name: [view.num_banks, view.total_bytes_per_bank, view.total_bytes_allocated_per_bank]
        for name, view in views.items()
    }


def at(phase, **more):
    if phase != "closed":
        more |= dict(live=live(mesh), memory=memory(mesh), programs=mesh.num_program_cache_entries())
    say(phase=phase, **more)
    if phase == last:
        wait()
        if "exit" in sys.argv:
            os._exit(0)
        if phase != "closed":
            os.kill(os.getpid(), signal.SIGKILL)
        sys.exit()


shape, last = sys.argv[1:3]
gathers = "binaries" in sys.argv and binaries_are_gathered()
mesh = ttnn.open_mesh_device(ttnn.MeshShape(*map(int, shape.split("x"))))
at("open", pid=os.getpid(), mesh=mesh.id(), chips=sorted(mesh.get_device_ids()), gathers=gathers)

# On each chip, its part of (8, 8, …) tensors that are spread over eight chips.
spec = dict(dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=mesh)
tensors = [ttnn.empty((4, 2, *sides), **spec) for sides in ((512, 512), (512, 512), (256, 128), (128, 256))]
at("tensors")

tensors.append(ttnn.add(tensors[0], tensors[1]))
# The grid is given, since t3000's chips have fewer rows than matmul uses by default.
tensors.append(ttnn.matmul(tensors[2], tensors[3], core_grid=ttnn.CoreGrid(y=4, x=4)))
at("operations")

while tensors:
    ttnn.deallocate(tensors.pop())
at("freed")

mesh.disable_and_clear_program_cache()
at("cleared")

ttnn.close_mesh_device(mesh)
at("closed")
