"""system_buffers.py ROWSxCOLUMNS PHASE [binaries]: what lies in device memory, and when; see docs/system-buffers.md.

Goes through the phases up to PHASE: open, tensors, operations, freed, cleared, closed. It says at each one what TT-Metal
itself lists as live, waits at the last one for a line on stdin, and dies there by signal 9, so that the trace ends with
what was live then; after closed it ends by itself.

binaries: kernel binaries are kept in DRAM, as on hardware, if that can be had from the release. They are those of the
stand-in compiler, so their sizes mean nothing.
"""
import ctypes, mmap, os, signal, sys

from common import live, say, ttnn, wait

# ProgramImpl::populate_dispatch_data and program_dispatch::finalize_kernel_bins do nothing if the device is a mock one.
GATHER = "_ZN2tt8tt_metal6detail11ProgramImpl22populate_dispatch_dataEPNS0_7IDeviceE"
FINALIZE = (
    "_ZN2tt8tt_metal16program_dispatch20finalize_kernel_binsEPNS0_7IDeviceEjRKSt13unordered_mapIjSt10shared_ptrINS0_6"
    "KernelEESt4hashIjESt8equal_toIjESaISt4pairIKjS7_EEERSt6vectorIS5_INS0_11KernelGroupEESaISL_EEjRjSP_"
)
CHECK = b"\x24\xfe\x3c\x02\x75"  # and $0xfe,%al; cmp $2,%al; jne: on if it isn't
ALWAYS = b"\xeb"  # jmp


def gather_binaries():
    """Has this process gather kernel binaries on a mock device too; says whether it does."""
    with open("/proc/self/maps") as maps:
        path = next(line.split()[-1] for line in maps if "/libtt_metal.so" in line)
    library = ctypes.CDLL(path)
    protect = ctypes.CDLL(None).mprotect
    protect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    changed = set()
    for name in (GATHER, FINALIZE):
        if hasattr(library, name):
            function = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
            at = ctypes.string_at(function, 96).find(CHECK)
            if at >= 0:
                jump = function + at + len(CHECK) - 1
                page = jump & -mmap.PAGESIZE
                assert not protect(page, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
                ctypes.memmove(jump, ALWAYS, len(ALWAYS))
                assert not protect(page, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC)
                changed.add(name)
    return GATHER in changed


def memory(device):
    """Of each type: banks, bytes of a bank that the allocator may give, bytes that it gave."""
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
        if phase != "closed":
            os.kill(os.getpid(), signal.SIGKILL)
        sys.exit()


shape, last = sys.argv[1:3]
fast_dispatch = "TT_METAL_SLOW_DISPATCH_MODE" not in os.environ
gathers = "binaries" in sys.argv and fast_dispatch and gather_binaries()
mesh = ttnn.open_mesh_device(ttnn.MeshShape(*map(int, shape.split("x"))))
at("open", pid=os.getpid(), mesh=mesh.id(), chips=sorted(mesh.get_device_ids()), gathers=gathers)

# On each chip what it has of (8, 8, …) tensors that are spread over eight.
spec = dict(dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=mesh)
tensors = [ttnn.empty((4, 2, *sides), **spec) for sides in ((512, 512), (512, 512), (256, 128), (128, 256))]
at("tensors")

tensors.append(ttnn.add(tensors[0], tensors[1]))
# The grid is told, since t3000's chips have fewer rows than matmul takes by itself.
tensors.append(ttnn.matmul(tensors[2], tensors[3], core_grid=ttnn.CoreGrid(y=4, x=4)))
at("operations")

while tensors:
    ttnn.deallocate(tensors.pop())
at("freed")

mesh.disable_and_clear_program_cache()
at("cleared")

ttnn.close_mesh_device(mesh)
at("closed")
