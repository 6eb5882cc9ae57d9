// Stand-in for Tenstorrent's simulator (libttsim.so), for releases of ttnn that refuse a mock device: it
// remembers what is written, and what tells a core to start finishes at once. Kernels never run.
// PCI_ID: the simulated chip's device and vendor.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <map>
#include <mutex>
#include <tuple>

namespace {

constexpr uint64_t PAGE = 4096;
// The high byte of a go message: initialise, run; 0 is "done".
constexpr uint8_t INIT = 0x40, GO = 0x80, DONE = 0;

using Page = std::array<uint8_t, PAGE>;
std::map<std::tuple<uint32_t, uint32_t, uint64_t>, Page> memory;
std::mutex mutex;

// Calls back with each piece of the range that lies in one page, and how far into the range it is.
template <typename F>
void for_each_piece(uint32_t x, uint32_t y, uint64_t address, uint32_t size, F piece) {
  std::lock_guard lock(mutex);
  for (uint32_t done = 0; done < size;) {
    uint64_t offset = (address + done) % PAGE;
    auto count = uint32_t(std::min<uint64_t>(PAGE - offset, size - done));
    piece(memory[{x, y, (address + done) / PAGE}].data() + offset, done, count);
    done += count;
  }
}

}  // namespace

extern "C" {

void libttsim_init() {}
void libttsim_exit() {}
void libttsim_clock(uint32_t) {}
void libttsim_tensix_reset_assert(uint32_t, uint32_t) {}
void libttsim_tensix_reset_deassert(uint32_t, uint32_t) {}
uint32_t libttsim_pci_config_rd32(uint32_t, uint32_t) { return PCI_ID; }

void libttsim_tile_wr_bytes(uint32_t x, uint32_t y, uint64_t address, const void* data, uint32_t size) {
  auto from = static_cast<const uint8_t*>(data);
  uint8_t word[4];
  if (size == sizeof word) {
    memcpy(word, from, sizeof word);
    if (word[3] == INIT || word[3] == GO) word[3] = DONE;
    from = word;
  }
  for_each_piece(x, y, address, size, [&](uint8_t* page, uint32_t at, uint32_t n) { memcpy(page, from + at, n); });
}

void libttsim_tile_rd_bytes(uint32_t x, uint32_t y, uint64_t address, void* data, uint32_t size) {
  auto to = static_cast<uint8_t*>(data);
  for_each_piece(x, y, address, size, [&](uint8_t* page, uint32_t at, uint32_t n) { memcpy(to + at, page, n); });
}

}  // extern "C"
