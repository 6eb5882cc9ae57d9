#include "tt_metal.hpp"

#include <algorithm>
#include <stdexcept>

namespace tt::tt_metal {

namespace {
constexpr DeviceAddr ALIGNMENT = 32;
constexpr DeviceAddr GIB = DeviceAddr(1) << 30;
}  // namespace

AllocatorImpl::AllocatorImpl(int device_id) :
    device_id_(device_id), view_(std::make_unique<Allocator>(this)) {
    banks_[int(BufferType::DRAM)] = {1, 0x100020, 0x100020 + 3 * GIB, {}};
    banks_[int(BufferType::L1)] = {1, 0x19000, 0x16e000, {}};
    banks_[int(BufferType::SYSTEM_MEMORY)] = {1, 0x1000, GIB, {}};
    banks_[int(BufferType::L1_SMALL)] = {1, 0x16e000, 0x176000, {}};
    banks_[int(BufferType::TRACE)] = {1, 0xe0000000, 0xe4000000, {}};
}
AllocatorImpl::~AllocatorImpl() = default;

DeviceAddr AllocatorImpl::allocate_buffer(Buffer* buffer) {
    std::lock_guard lock(mutex_);
    const DeviceAddr size = (buffer->size() + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    Bank& bank = banks_[int(buffer->buffer_type())];
    DeviceAddr address = bank.base;
    auto next = bank.taken.begin();
    for (; next != bank.taken.end() && next->first - address < size; ++next) {
        address = next->second;
    }
    if (size > bank.end - address) {
        throw std::runtime_error(
            "Out of Memory: Not enough space to allocate " + std::to_string(buffer->size()) + " B, " +
            std::to_string(bank.end - address) + " B free at the end of the bank");
    }
    bank.taken.insert(next, {address, address + size});
    allocated_buffers_.insert(buffer);
    allocated_.emplace(
        buffer,
        AllocatedBuffer{address, buffer->size(), buffer->buffer_type(), device_id_, buffer->unique_id()});
    return address;
}

void AllocatorImpl::deallocate_buffer(Buffer* buffer) {
    std::lock_guard lock(mutex_);
    auto& taken = banks_[int(buffer->buffer_type())].taken;
    // `address()` returns 32 bits of it.
    const auto& allocated = allocated_.at(buffer);
    taken.erase(std::lower_bound(taken.begin(), taken.end(), std::pair(allocated.address, DeviceAddr(0))));
    allocated_.erase(buffer);
    allocated_buffers_.erase(buffer);
}

void AllocatorImpl::deallocate_buffers() {
    std::lock_guard lock(mutex_);
    for (Bank& bank : banks_) {
        bank.taken.clear();
    }
    allocated_.clear();
    allocated_buffers_.clear();
}

std::unordered_set<Buffer*> AllocatorImpl::get_allocated_buffers() const {
    std::lock_guard lock(mutex_);
    return allocated_buffers_;
}

Statistics AllocatorImpl::get_statistics(const BufferType& buffer_type) const {
    std::lock_guard lock(mutex_);
    const Bank& bank = banks_[int(buffer_type)];
    Statistics statistics;
    statistics.total_allocatable_size_bytes = bank.end - bank.base;
    DeviceAddr free_from = bank.base;
    for (const auto& [address, end] : bank.taken) {
        statistics.total_allocated_bytes += end - address;
        statistics.largest_free_block_bytes =
            std::max<std::size_t>(statistics.largest_free_block_bytes, address - free_from);
        free_from = end;
    }
    statistics.largest_free_block_bytes =
        std::max<std::size_t>(statistics.largest_free_block_bytes, bank.end - free_from);
    statistics.total_free_bytes = statistics.total_allocatable_size_bytes - statistics.total_allocated_bytes;
    return statistics;
}

std::uint32_t AllocatorImpl::get_num_banks(const BufferType& buffer_type) const {
    return banks_[int(buffer_type)].count;
}

const std::unique_ptr<Allocator>& AllocatorImpl::view() const { return view_; }

std::vector<AllocatedBuffer> AllocatorImpl::live() const {
    std::lock_guard lock(mutex_);
    std::vector<AllocatedBuffer> live;
    for (const auto& [buffer, allocated] : allocated_) {
        live.push_back(allocated);
    }
    return live;
}

}  // namespace tt::tt_metal
