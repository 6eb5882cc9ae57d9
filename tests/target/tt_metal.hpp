// The parts of TT-Metal that a tracer of device memory sees from outside, in two generations, written from the output
// of `nm` and `objdump` on the released libraries:
//   GENERATION 1   as ttnn 0.77.0: the fields of a buffer lie in Buffer itself
//   GENERATION 2   as ttnn 0.81.1: they lie in a BufferImpl behind a pointer in Buffer
// The exported names are the real library's, so that the same probes and the same derivation of field offsets work on
// both. The order of the members differs from every release: a tracer can find an offset only in this library's
// machine code, not in a table.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#if GENERATION != 1 && GENERATION != 2
#error "GENERATION is 1 (as ttnn 0.77.0) or 2 (as ttnn 0.81.1)"
#endif

// Real TT-Metal's functions are too large to be inlined, or lie in another source file.
#define OUT_OF_LINE __attribute__((noinline))
// Device::id() and its neighbours are local symbols in the real library.
#define LOCAL __attribute__((visibility("hidden")))

namespace ttsl {
template <typename T, typename Tag>
class StrongType {
    T value_;

public:
    explicit constexpr StrongType(T value) : value_(value) {}
    constexpr T operator*() const { return value_; }
};
}  // namespace ttsl

namespace tt::tt_metal {

struct SubDeviceIdTag;
struct SubDeviceManagerIdTag;
struct ContextIdTag;
using SubDeviceId = ttsl::StrongType<std::uint8_t, SubDeviceIdTag>;
using SubDeviceManagerId = ttsl::StrongType<std::uint64_t, SubDeviceManagerIdTag>;
using ContextId = ttsl::StrongType<int, ContextIdTag>;
using DeviceAddr = std::uint64_t;

enum class BufferType { DRAM, L1, SYSTEM_MEMORY, L1_SMALL, TRACE };
enum class TensorMemoryLayout { INTERLEAVED, SINGLE_BANK, HEIGHT_SHARDED, WIDTH_SHARDED, BLOCK_SHARDED, ND_SHARDED };
inline bool is_sharded(TensorMemoryLayout layout) { return static_cast<unsigned>(layout) - 2u < 4u; }

class Buffer;
class AllocatorImpl;
class IDevice;
namespace distributed {
class MeshDevice;
class MeshDeviceImpl;
}  // namespace distributed

struct ShardSpecBuffer {
    std::vector<std::uint32_t> cores;
    std::uint32_t shape[2] = {0, 0};
};

struct BufferRegion {
    DeviceAddr offset = 0;
    DeviceAddr size = 0;
};

struct BufferPageMapping {
    std::vector<std::uint32_t> host_page_of_device_page;
};

class BufferShardingArgs {
#if GENERATION == 1
    std::optional<ShardSpecBuffer> shard_spec_;
    TensorMemoryLayout buffer_layout_ = TensorMemoryLayout::INTERLEAVED;

public:
    BufferShardingArgs() = default;
    explicit BufferShardingArgs(TensorMemoryLayout layout) : buffer_layout_(layout) {
        if (is_sharded(layout)) {
            shard_spec_ = ShardSpecBuffer{{0}, {32, 32}};
        }
    }
    TensorMemoryLayout buffer_layout() const { return buffer_layout_; }
    const std::optional<ShardSpecBuffer>& shard_spec() const { return shard_spec_; }
#else
    struct Impl {
        std::optional<ShardSpecBuffer> shard_spec;
        TensorMemoryLayout buffer_layout = TensorMemoryLayout::INTERLEAVED;
    };
    std::unique_ptr<Impl> pimpl_;

public:
    explicit BufferShardingArgs(TensorMemoryLayout layout = TensorMemoryLayout::INTERLEAVED) :
        pimpl_(std::make_unique<Impl>()) {
        pimpl_->buffer_layout = layout;
        if (is_sharded(layout)) {
            pimpl_->shard_spec = ShardSpecBuffer{{0}, {32, 32}};
        }
    }
    TensorMemoryLayout buffer_layout() const { return pimpl_->buffer_layout; }
    const std::optional<ShardSpecBuffer>& shard_spec() const { return pimpl_->shard_spec; }
#endif
};

/// A live owning buffer in the allocator's own list, which a test compares with a trace.
struct AllocatedBuffer {
    DeviceAddr address;
    DeviceAddr size;
    BufferType buffer_type;
    int device_id;
    std::uint64_t unique_id;
};

/// What Buffer::allocator() returns: the public interface of an AllocatorImpl.
class Allocator {
public:
    explicit Allocator(AllocatorImpl* impl) : impl_(impl) {}
    AllocatorImpl* impl_;
};

/// What one bank of a type of memory holds, in bytes.
struct Statistics {
    std::size_t total_allocatable_size_bytes = 0;
    std::size_t total_allocated_bytes = 0;
    std::size_t total_free_bytes = 0;
    std::size_t largest_free_block_bytes = 0;
};

/// First fit over one address range a buffer type, behind a mutex. Address 0 is never given out.
class AllocatorImpl {
public:
    explicit AllocatorImpl(int device_id);
    virtual ~AllocatorImpl();
    DeviceAddr allocate_buffer(Buffer* buffer);
    void deallocate_buffer(Buffer* buffer);
    void deallocate_buffers();
    const std::unique_ptr<Allocator>& view() const;
    std::vector<AllocatedBuffer> live() const;
    std::unordered_set<Buffer*> get_allocated_buffers() const;
    Statistics get_statistics(const BufferType& buffer_type) const;
    std::uint32_t get_num_banks(const BufferType& buffer_type) const;

private:
    struct Bank {
        std::uint32_t count = 0;
        DeviceAddr base = 0;
        DeviceAddr end = 0;
        std::vector<std::pair<DeviceAddr, DeviceAddr>> taken;  // address and end, in order
    };
    mutable std::mutex mutex_;
    int device_id_;
    Bank banks_[5];
    std::unordered_set<Buffer*> allocated_buffers_;
    std::map<const Buffer*, AllocatedBuffer> allocated_;
    std::unique_ptr<Allocator> view_;
};

/// Returns its argument. A reader of the machine code can't know that, since the call goes through the PLT.
std::uint64_t opaque(std::uint64_t value);

class IDevice {
public:
    virtual ~IDevice() = default;                      // vtable +0x00, +0x08
    virtual int arch() const = 0;                      // +0x10
    virtual int id() const = 0;                        // +0x18
    virtual std::uint64_t build_id() const = 0;        // +0x20
    virtual std::uint8_t num_hw_cqs() const = 0;       // +0x28
    virtual bool is_initialized() const = 0;           // +0x30
    virtual int num_dram_channels() const = 0;         // +0x38
    virtual std::uint32_t l1_size_per_core() const = 0;
    virtual const std::unique_ptr<AllocatorImpl>& allocator_impl() const = 0;
    virtual SubDeviceManagerId get_active_sub_device_manager_id() const = 0;
    virtual bool close() = 0;
};

class Device : public IDevice {
public:
    explicit Device(int id);
    ~Device() override;
    int arch() const override;
#ifdef UNSEEN
    LOCAL int id() const override { return opaque(id_); }
#else
    LOCAL int id() const override { return id_; }
#endif
    LOCAL std::uint64_t build_id() const override { return 0; }
    LOCAL std::uint8_t num_hw_cqs() const override { return 1; }
    LOCAL bool is_initialized() const override { return initialized_; }
    int num_dram_channels() const override;
    std::uint32_t l1_size_per_core() const override;
    const std::unique_ptr<AllocatorImpl>& allocator_impl() const override;
    SubDeviceManagerId get_active_sub_device_manager_id() const override;
    bool close() override;

private:
    std::unique_ptr<AllocatorImpl> allocator_;
    [[maybe_unused]] std::uint64_t serial_ = 0;
    bool initialized_ = true;
    int id_;
};

namespace distributed {

class MeshDeviceImpl : public IDevice {
public:
    MeshDeviceImpl(int id, std::vector<IDevice*> devices);
    ~MeshDeviceImpl() override;
    int arch() const override;
    int id() const override;
    std::uint64_t build_id() const override;
    std::uint8_t num_hw_cqs() const override;
    bool is_initialized() const override;
    int num_dram_channels() const override;
    std::uint32_t l1_size_per_core() const override;
    const std::unique_ptr<AllocatorImpl>& allocator_impl() const override;
    SubDeviceManagerId get_active_sub_device_manager_id() const override;
    bool close() override;
    const std::vector<IDevice*>& devices() const { return devices_; }

private:
    std::vector<IDevice*> devices_;
    std::unique_ptr<AllocatorImpl> allocator_;
    bool initialized_ = true;
    std::string name_ = "mesh";
    int mesh_id_;
};

class MeshDevice : public IDevice, public std::enable_shared_from_this<MeshDevice> {
public:
    MeshDevice(int id, std::vector<IDevice*> devices);
    ~MeshDevice() override;
    int arch() const override;
    int id() const override;
    std::uint64_t build_id() const override;
    std::uint8_t num_hw_cqs() const override;
    bool is_initialized() const override;
    int num_dram_channels() const override;
    std::uint32_t l1_size_per_core() const override;
    const std::unique_ptr<AllocatorImpl>& allocator_impl() const override;
    SubDeviceManagerId get_active_sub_device_manager_id() const override;
    bool close() override;
    std::vector<IDevice*> get_devices() const;
    std::size_t num_devices() const;

private:
    [[maybe_unused]] std::uint64_t reserved_ = 0;
    std::unique_ptr<MeshDeviceImpl> pimpl_;
};

}  // namespace distributed

/// The devices that the library knows of.
class DevicePool {
public:
    static void add(IDevice* device);
};

enum class AllocationStatus : std::uint8_t { ALLOCATION_REQUESTED, ALLOCATED, DEALLOCATED };

#if GENERATION == 1

class Buffer : public std::enable_shared_from_this<Buffer> {
    struct Private {};

public:
    static std::shared_ptr<Buffer> create(
        IDevice* device,
        DeviceAddr size,
        DeviceAddr page_size,
        BufferType buffer_type,
        const BufferShardingArgs& sharding_args = BufferShardingArgs(),
        std::optional<bool> bottom_up = std::nullopt,
        std::optional<SubDeviceId> sub_device_id = std::nullopt);
    static std::shared_ptr<Buffer> create(
        IDevice* device,
        DeviceAddr address,
        DeviceAddr size,
        DeviceAddr page_size,
        BufferType buffer_type,
        const BufferShardingArgs& sharding_args = BufferShardingArgs(),
        std::optional<bool> bottom_up = std::nullopt,
        std::optional<SubDeviceId> sub_device_id = std::nullopt);

    Buffer(
        IDevice* device,
        DeviceAddr size,
        DeviceAddr page_size,
        BufferType buffer_type,
        const BufferShardingArgs& sharding_args,
        std::optional<bool> bottom_up,
        std::optional<SubDeviceId> sub_device_id,
        bool owns_data,
        Private);
    Buffer(const Buffer&) = delete;
    ~Buffer();

    void deallocate();
    void mark_as_deallocated();

    // Inline in the real library as well: there are no functions of these names.
    IDevice* device() const { return device_; }
    DeviceAddr size() const { return size_; }
    BufferType buffer_type() const { return buffer_type_; }
    TensorMemoryLayout buffer_layout() const { return buffer_layout_; }
    std::size_t unique_id() const { return unique_id_; }

    std::uint32_t address() const;
    DeviceAddr page_size() const;
    bool is_allocated() const;
    bool is_dram() const;
    bool is_l1() const;
    bool is_trace() const;
    std::uint32_t num_pages() const;
    ShardSpecBuffer shard_spec() const;
    bool is_valid_region(const BufferRegion& region) const;
    bool is_valid_partial_region(const BufferRegion& region) const;
    const std::shared_ptr<const BufferPageMapping>& get_buffer_page_mapping();
    Allocator* allocator() const;

    static std::atomic<std::size_t> next_unique_id;

private:
    void allocate_impl();
    void deallocate_impl();

    // This order is that of no release.
    [[maybe_unused]] std::uint64_t reserved_ = 0;
    DeviceAddr size_;
    IDevice* device_;
    TensorMemoryLayout buffer_layout_;
    BufferType buffer_type_;
    std::optional<SubDeviceId> sub_device_id_;
    bool bottom_up_;
    bool owns_data_;
    std::optional<SubDeviceManagerId> sub_device_manager_id_;
    DeviceAddr page_size_;
    DeviceAddr address_ = 0;
    AllocatorImpl* allocator_ = nullptr;
    AllocationStatus allocation_status_ = AllocationStatus::ALLOCATION_REQUESTED;
    bool hooked_allocation_ = false;
    std::size_t unique_id_ = 0;
    std::optional<ShardSpecBuffer> shard_spec_;
    std::shared_ptr<const BufferPageMapping> buffer_page_mapping_;
};

#else

class BufferImpl {
public:
    BufferImpl(
        IDevice* device,
        DeviceAddr size,
        DeviceAddr page_size,
        BufferType buffer_type,
        const BufferShardingArgs& sharding_args,
        std::optional<bool> bottom_up,
        std::optional<SubDeviceId> sub_device_id,
        bool owns_data);
    BufferImpl(BufferImpl&&) = default;

    static std::shared_ptr<Buffer> create(
        IDevice* device,
        DeviceAddr size,
        DeviceAddr page_size,
        BufferType buffer_type,
        const BufferShardingArgs& sharding_args = BufferShardingArgs(),
        std::optional<bool> bottom_up = std::nullopt,
        std::optional<SubDeviceId> sub_device_id = std::nullopt);
    static std::shared_ptr<Buffer> create(
        IDevice* device,
        DeviceAddr address,
        DeviceAddr size,
        DeviceAddr page_size,
        BufferType buffer_type,
        const BufferShardingArgs& sharding_args = BufferShardingArgs(),
        std::optional<bool> bottom_up = std::nullopt,
        std::optional<SubDeviceId> sub_device_id = std::nullopt);

    void allocate_impl(Buffer& owner);
    void deallocate_impl(Buffer& owner);
    void deallocate(Buffer& owner);
    bool is_valid_region(const BufferRegion& region) const;
    bool is_valid_partial_region(const BufferRegion& region) const;

    static std::atomic<std::size_t> next_unique_id;

private:
    friend class Buffer;

    // This order is that of no release.
    [[maybe_unused]] std::uint64_t reserved_ = 0;
    DeviceAddr page_size_;
    IDevice* device_;
    std::size_t unique_id_ = 0;
    DeviceAddr size_;
    TensorMemoryLayout buffer_layout_;
    bool bottom_up_;
    bool owns_data_;
    std::optional<SubDeviceId> sub_device_id_;
    BufferType buffer_type_;
    std::optional<SubDeviceManagerId> sub_device_manager_id_;
    AllocatorImpl* allocator_ = nullptr;
    DeviceAddr address_ = 0;
    AllocationStatus allocation_status_ = AllocationStatus::ALLOCATION_REQUESTED;
    bool hooked_allocation_ = false;
    std::optional<ShardSpecBuffer> shard_spec_;
    std::shared_ptr<const BufferPageMapping> buffer_page_mapping_;
};

class Buffer : public std::enable_shared_from_this<Buffer> {
public:
    explicit Buffer(BufferImpl impl);
    Buffer(const Buffer&) = delete;
    ~Buffer();

    IDevice* device() const;
    DeviceAddr size() const;
    BufferType buffer_type() const;
    TensorMemoryLayout buffer_layout() const;
    std::size_t unique_id() const;
    std::uint32_t address() const;
    DeviceAddr page_size() const;
    bool is_allocated() const;
    bool is_dram() const;
    bool is_l1() const;
    std::uint32_t num_pages() const;
    bool has_shard_spec() const;
    ShardSpecBuffer shard_spec() const;
    const std::shared_ptr<const BufferPageMapping>& get_buffer_page_mapping();
    Allocator* allocator() const;
    BufferImpl* impl();
    const BufferImpl* impl() const;

private:
    friend class BufferImpl;

    [[maybe_unused]] std::uint64_t reserved_ = 0;
    std::unique_ptr<BufferImpl> impl_;
};

#endif

/// Replaces allocation in a thread that has it set (a graph capture that does not dispatch).
class IGraphHooks {
public:
    virtual bool hook_allocate(const Buffer* buffer) = 0;
    virtual bool hook_deallocate(Buffer* buffer) = 0;
    virtual ~IGraphHooks() = default;
};

class IGraphProcessor {
public:
    virtual ~IGraphProcessor() = default;
    virtual void track_allocate(const Buffer*) {}
    virtual void track_deallocate(Buffer*) {}
};

class GraphTracker {
public:
    static GraphTracker& instance();
    void add_hook(const std::shared_ptr<IGraphHooks>& new_hook);
    void clear_hook();
    bool hook_allocate(const Buffer* buffer);
    bool hook_deallocate(Buffer* buffer);
    void track_allocate(const Buffer* buffer);
    void track_deallocate(Buffer* buffer);

private:
    GraphTracker() = default;
    std::mutex hooked_buffers_mutex_;
    std::set<const Buffer*> hooked_buffers_;
    static thread_local std::vector<std::shared_ptr<IGraphProcessor>> processors;
    static thread_local std::shared_ptr<IGraphHooks> hook;
};

enum class TargetDevice : std::uint8_t { Silicon, Simulator, Mock, Emule };

class Cluster {
public:
    std::uint32_t chips = 1;
    TargetDevice target_type = TargetDevice::Mock;
};

class MetalContext {
public:
    static MetalContext& instance(ContextId id);
    Cluster& get_cluster();

private:
    Cluster cluster_;
};
ContextId extract_context_id(const IDevice* device);

class LightMetalCaptureContext {
public:
    static LightMetalCaptureContext& get();
    bool is_tracing() const;

private:
    LightMetalCaptureContext();
    std::vector<std::string> captured_;
    bool tracing_ = false;
};
void CaptureBufferCreate(const std::shared_ptr<Buffer>& buffer);
void CaptureBufferDelete(const Buffer& buffer);
void CaptureBufferDeallocate(const Buffer& buffer);

struct TraceScope {
    static constinit thread_local int depth;
    TraceScope() { ++depth; }
    ~TraceScope() { --depth; }
    static bool capturing() { return LightMetalCaptureContext::get().is_tracing() && depth == 1; }
};

}  // namespace tt::tt_metal
