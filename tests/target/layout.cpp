// Prints where the compiler put the fields of the target's classes, to compare with what a tracer found in the machine
// code. One line `NAME PATH` for each field, with paths as tt-memtrace writes them.
// offsetof on a class that isn't standard-layout is conditionally supported; gcc and clang both support it.
#pragma GCC diagnostic ignored "-Winvalid-offsetof"
#include <cstdio>
#include <sstream>  // libstdc++'s own headers don't compile after the next line
#define private public
#include "tt_metal.hpp"

using namespace tt::tt_metal;

#if GENERATION == 1
#define FIELD(NAME, MEMBER) std::printf("%s [buffer+%#zx]\n", NAME, offsetof(Buffer, MEMBER))
#else
#define FIELD(NAME, MEMBER) \
    std::printf("%s [[buffer+%#zx]+%#zx]\n", NAME, offsetof(Buffer, impl_), offsetof(BufferImpl, MEMBER))
#endif

int main() {
    FIELD("device", device_);
    FIELD("size", size_);
    FIELD("page_size", page_size_);
    FIELD("buffer_type", buffer_type_);
    FIELD("layout", buffer_layout_);
    FIELD("owns_data", owns_data_);
    FIELD("allocator", allocator_);
    FIELD("status", allocation_status_);
    FIELD("hooked", hooked_allocation_);
    FIELD("address", address_);
    FIELD("unique_id", unique_id_);
    std::printf("chip_id [device+%#zx]\n", offsetof(Device, id_));
    std::printf(
        "mesh_id [[mesh_device+%#zx]+%#zx]\n",
        offsetof(distributed::MeshDevice, pimpl_),
        offsetof(distributed::MeshDeviceImpl, mesh_id_));
}
