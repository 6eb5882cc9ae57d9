// A program that obeys commands on stdin, one a line, and answers each with one JSON line on stdout. README.md lists
// the commands.
#include <dlfcn.h>
#include <linux/sched.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "tt_metal.hpp"

using namespace tt::tt_metal;

namespace {

constexpr const char* BUFFER_TYPES[] = {"DRAM", "L1", "SYSTEM_MEMORY", "L1_SMALL", "TRACE"};
constexpr const char* LAYOUTS[] = {
    "INTERLEAVED", "SINGLE_BANK", "HEIGHT_SHARDED", "WIDTH_SHARDED", "BLOCK_SHARDED", "ND_SHARDED"};

template <typename Enum, std::size_t N>
Enum parse(const char* const (&names)[N], const std::string& name) {
    for (std::size_t i = 0; i < N; ++i) {
        if (name == names[i]) {
            return Enum(i);
        }
    }
    throw std::invalid_argument("unknown name: " + name);
}

#if GENERATION == 1
using Factory = Buffer;
void deallocate(Buffer& buffer) { buffer.deallocate(); }
#else
using Factory = BufferImpl;
void deallocate(Buffer& buffer) { buffer.impl()->deallocate(buffer); }
#endif

struct CaptureHook : IGraphHooks {
    bool hook_allocate(const Buffer*) override { return true; }
    bool hook_deallocate(Buffer*) override { return true; }
};

/// One owning buffer and the buffers made from it: on a mesh one non-owning buffer for each chip, as in MeshBuffer.
struct Held {
    std::shared_ptr<Buffer> buffer;
    bool owns_data;
    std::vector<std::shared_ptr<Buffer>> members;
};

std::string quoted(const std::string& text) {
    std::string out = "\"";
    for (char c : text) {
        if (c == '"' || c == '\\') {
            out += '\\';
        }
        out += c;
    }
    return out + '"';
}

std::string describe(const Buffer& buffer, bool owns_data) {
    std::ostringstream out;
    out << "\"address\":" << buffer.address() << ",\"size\":" << buffer.size()
        << ",\"page_size\":" << buffer.page_size() << ",\"buffer_type\":\"" << BUFFER_TYPES[int(buffer.buffer_type())]
        << "\",\"layout\":\"" << LAYOUTS[int(buffer.buffer_layout())] << "\",\"device_id\":" << buffer.device()->id()
        << ",\"unique_id\":" << buffer.unique_id() << ",\"owns_data\":" << (owns_data ? "true" : "false");
    return out.str();
}

class Session {
    std::vector<std::unique_ptr<Device>> chips_;
    std::shared_ptr<distributed::MeshDevice> mesh_;
    std::map<unsigned, Held> held_;
    unsigned next_ = 0;
    std::atomic<bool> stop_ = false;
    std::atomic<std::uint64_t> looped_ = 0;
    std::vector<std::thread> loops_;
    pid_t branch_ = -1;
    int branch_pipe_ = -1;
    std::mutex kept_mutex_;
    std::vector<std::shared_ptr<Buffer>> kept_;

    distributed::MeshDevice& mesh() {
        if (mesh_ == nullptr) {
            throw std::logic_error("no mesh is open");
        }
        return *mesh_;
    }

    Held& held(std::istream& words) {
        unsigned id = 0;
        words >> id;
        auto it = held_.find(id);
        if (words.fail() || it == held_.end()) {
            throw std::invalid_argument("no such buffer");
        }
        return it->second;
    }

    std::string keep(Held held) {
        std::string line = "\"id\":" + std::to_string(next_) + "," + describe(*held.buffer, held.owns_data);
        if (!held.members.empty()) {
            line += ",\"members\":[";
            for (const auto& member : held.members) {
                line += (member == held.members.front() ? "{" : ",{") + describe(*member, false) + "}";
            }
            line += "]";
        }
        held_.emplace(next_++, std::move(held));
        return line;
    }

    std::string open_mesh(std::istream& words) {
        int count = 0;
        words >> count;
        if (mesh_ != nullptr || words.fail() || count < 1) {
            throw std::invalid_argument("mesh N [unlisted], once");
        }
        std::string unlisted;
        words >> unlisted;
        std::vector<IDevice*> devices;
        for (int id = 0; id < count; ++id) {
            chips_.push_back(std::make_unique<Device>(id));
            devices.push_back(chips_.back().get());
        }
        // TT-Metal numbers meshes and chips apart: the first mesh and the first chip are both 0.
        mesh_ = std::make_shared<distributed::MeshDevice>(0, devices);
        devices.push_back(mesh_.get());
        if (unlisted != "unlisted") {
            for (IDevice* device : devices) {
                DevicePool::add(device);
            }
        }
        return "\"mesh\":" + std::to_string(mesh_->id()) + ",\"chips\":" + std::to_string(count);
    }

    std::string alloc(std::istream& words) {
        std::string type;
        DeviceAddr size = 0;
        DeviceAddr page_size = 0;
        words >> type >> size >> page_size;
        if (words.fail()) {
            throw std::invalid_argument("alloc TYPE SIZE PAGE_SIZE [mesh|chip N] [LAYOUT]");
        }
        const auto buffer_type = parse<BufferType>(BUFFER_TYPES, type);
        IDevice* device = &mesh();
        auto layout = TensorMemoryLayout::INTERLEAVED;
        for (std::string word; words >> word;) {
            if (word == "mesh") {
                device = &mesh();
            } else if (word == "chip") {
                std::size_t chip = 0;
                words >> chip;
                device = chips_.at(chip).get();
            } else {
                layout = parse<TensorMemoryLayout>(LAYOUTS, word);
            }
        }
        const BufferShardingArgs sharding(layout);
        Held held{Factory::create(device, size, page_size, buffer_type, sharding), true, {}};
        if (device == mesh_.get()) {
            for (const auto& chip : chips_) {
                held.members.push_back(Factory::create(
                    chip.get(), DeviceAddr(held.buffer->address()), size, page_size, buffer_type, sharding));
            }
        }
        return keep(std::move(held));
    }

    std::string view(std::istream& words) {
        const Buffer& of = *held(words).buffer;
        DeviceAddr offset = 0;
        DeviceAddr size = 0;
        words >> offset >> size;
        if (words.fail()) {
            throw std::invalid_argument("create-view ID OFFSET SIZE");
        }
        return keep(Held{
            Factory::create(of.device(), of.address() + offset, size, of.page_size(), of.buffer_type()), false, {}});
    }

    OUT_OF_LINE void churn(IDevice* device, std::uint64_t count) {
        for (std::uint64_t i = 0; i < count; ++i) {
            Factory::create(device, 2048 * (1 + i % 4), 2048, i % 8 == 7 ? BufferType::L1 : BufferType::DRAM);
        }
    }

    std::string threads(std::istream& words) {
        unsigned threads = 0;
        std::uint64_t count = 0;
        words >> threads >> count;
        if (words.fail()) {
            throw std::invalid_argument("threads N COUNT");
        }
        IDevice* device = &mesh();
        std::vector<std::thread> running;
        for (unsigned i = 0; i < threads; ++i) {
            running.emplace_back([this, device, count] { churn(device, count); });
        }
        for (auto& thread : running) {
            thread.join();
        }
        return "\"allocations\":" + std::to_string(threads * count);
    }

    std::string burst(std::istream& words) {
        std::uint64_t count = 0;
        words >> count;
        churn(&mesh(), count);
        return "\"allocations\":" + std::to_string(count);
    }

    // Each thread keeps that many buffers, and replaces one of them at a time, in no particular order.
    void stir(IDevice* device, unsigned seed, unsigned keep) {
        std::vector<std::shared_ptr<Buffer>> kept(keep);
        std::uint64_t random = 88172645463325252u + seed;
        while (!stop_) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            auto& replaced = kept[random % keep];
            replaced.reset();
            replaced = Factory::create(
                device, 2048 * (1 + random / keep % 4), 2048,
                random % 64 == 0 ? BufferType::L1 : BufferType::DRAM);
            ++looped_;
        }
        std::lock_guard lock(kept_mutex_);
        kept_.insert(kept_.end(), kept.begin(), kept.end());
    }

    std::string start(std::istream& words) {
        unsigned threads = 0;
        unsigned keep = 0;
        words >> threads >> keep;
        IDevice* device = &mesh();
        stop_ = false;
        looped_ = 0;
        for (unsigned i = 0; i < threads; ++i) {
            loops_.emplace_back([this, device, i, keep] {
                if (keep > 0) {
                    stir(device, i, keep);
                    return;
                }
                while (!stop_) {
                    churn(device, 1);
                    ++looped_;
                }
            });
        }
        return "\"threads\":" + std::to_string(threads);
    }

    std::string stop() {
        stop_ = true;
        for (auto& thread : loops_) {
            thread.join();
        }
        loops_.clear();
        return "\"allocations\":" + std::to_string(looped_);
    }

    std::string live() {
        std::string list;
        auto add = [&list](const IDevice& device, const char* kind) {
            for (const auto& buffer : device.allocator_impl()->live()) {
                std::ostringstream out;
                out << (list.empty() ? "" : ",") << "{\"address\":" << buffer.address << ",\"size\":" << buffer.size
                    << ",\"buffer_type\":\"" << BUFFER_TYPES[int(buffer.buffer_type)]
                    << "\",\"device_id\":" << buffer.device_id << ",\"kind\":\"" << kind
                    << "\",\"unique_id\":" << buffer.unique_id << "}";
                list += out.str();
            }
        };
        add(mesh(), "mesh");
        for (const auto& chip : chips_) {
            add(*chip, "chip");
        }
        return "\"live\":[" + list + "]";
    }

    std::string banks() {
        std::string list;
        auto add = [&list](const IDevice& device, const char* kind) {
            for (int type = 0; type < 5; ++type) {
                const auto& allocator = *device.allocator_impl();
                const auto statistics = allocator.get_statistics(BufferType(type));
                std::ostringstream out;
                out << (list.empty() ? "" : ",") << "{\"kind\":\"" << kind << "\",\"device_id\":" << device.id()
                    << ",\"buffer_type\":\"" << BUFFER_TYPES[type]
                    << "\",\"count\":" << allocator.get_num_banks(BufferType(type))
                    << ",\"bytes\":" << statistics.total_allocatable_size_bytes
                    << ",\"allocated\":" << statistics.total_allocated_bytes
                    << ",\"free\":" << statistics.total_free_bytes
                    << ",\"largest_free\":" << statistics.largest_free_block_bytes << "}";
                list += out.str();
            }
        };
        add(mesh(), "mesh");
        for (const auto& chip : chips_) {
            add(*chip, "chip");
        }
        return "\"banks\":[" + list + "]";
    }

    /// Forks a child that frees the buffers that it inherited, allocates one and exits. A number is the child's pid.
    std::string forked(std::istream& words) {
        pid_t wanted = 0;
        words >> wanted;
        clone_args arguments{};
        arguments.exit_signal = SIGCHLD;
        arguments.set_tid = reinterpret_cast<std::uint64_t>(&wanted);
        arguments.set_tid_size = wanted != 0 ? 1 : 0;
        const pid_t child = wanted != 0 ? pid_t(syscall(SYS_clone3, &arguments, sizeof arguments)) : fork();
        if (child < 0) {
            throw std::runtime_error("can't fork");
        }
        if (child == 0) {
            be_a_child();
        }
        int status = -1;
        waitpid(child, &status, 0);
        return "\"child\":" + std::to_string(child) + ",\"status\":" + std::to_string(status);
    }

    [[noreturn]] void be_a_child() {
        for (auto& [id, inherited] : held_) {
            deallocate(*inherited.buffer);
            inherited.members.clear();
        }
        auto buffer = Factory::create(&mesh(), 4096, 4096, BufferType::DRAM);
        _exit(buffer->is_allocated() ? 0 : 1);
    }

    // Forks a child that waits for the command `join`.
    std::string branch() {
        int ends[2];
        if (pipe2(ends, O_CLOEXEC) != 0) {
            throw std::runtime_error("can't make a pipe");
        }
        branch_ = fork();
        if (branch_ == 0) {
            close(ends[1]);
            char byte;
            [[maybe_unused]] const ssize_t count = read(ends[0], &byte, 1);
            be_a_child();
        }
        close(ends[0]);
        branch_pipe_ = ends[1];
        return "\"child\":" + std::to_string(branch_);
    }

    std::string join() {
        close(branch_pipe_);
        int status = -1;
        waitpid(branch_, &status, 0);
        return "\"status\":" + std::to_string(status);
    }

    /// Executes another program in this process.
    static void execute(std::istream& words) {
        std::string path;
        words >> path;
        std::cout << "{\"ok\":true}" << std::endl;
        execl(path.c_str(), path.c_str(), nullptr);
        throw std::runtime_error("can't execute " + path);
    }

    /// Loads another copy of the library beside this one, and continues as its session.
    static void load(std::istream& words) {
        std::string path;
        words >> path;
        void* library = dlmopen(LM_ID_NEWLM, path.c_str(), RTLD_NOW);
        if (library == nullptr) {
            throw std::runtime_error(dlerror());
        }
        std::cout << "{\"ok\":true}" << std::endl;
        reinterpret_cast<int (*)()>(dlsym(library, "run_session"))();
    }

    std::string bytes(std::istream& words) {
        std::size_t count = 0;
        words >> count;
        for (std::size_t i = 0; i < count; ++i) {
            std::cout.put(char(i % 256));
        }
        return "\"bytes\":" + std::to_string(count);
    }

public:
    std::string obey(const std::string& line) {
        std::istringstream words(line);
        std::string command;
        words >> command;
        if (command == "mesh") {
            return open_mesh(words);
        }
        if (command == "alloc") {
            return alloc(words);
        }
        if (command == "oom") {
            return keep(Held{Factory::create(&mesh(), DeviceAddr(1) << 40, 4096, BufferType::DRAM), true, {}});
        }
        if (command == "create-view") {
            return view(words);
        }
        if (command == "deallocate") {
            deallocate(*held(words).buffer);
            return "";
        }
        if (command == "free") {
            Held& freed = held(words);
            deallocate(*freed.buffer);
            freed.members.clear();
            freed.buffer.reset();
            std::erase_if(held_, [](const auto& entry) { return entry.second.buffer == nullptr; });
            return "";
        }
        if (command == "drop") {
            Held& dropped = held(words);
            dropped.buffer.reset();
            std::erase_if(held_, [](const auto& entry) { return entry.second.buffer == nullptr; });
            return "";
        }
        if (command == "hook") {
            std::string state;
            words >> state;
            if (state == "on") {
                GraphTracker::instance().add_hook(std::make_shared<CaptureHook>());
            } else {
                GraphTracker::instance().clear_hook();
            }
            return "";
        }
        if (command == "close") {
            mesh().close();
            held_.clear();
            kept_.clear();
            return "";
        }
        if (command == "live") {
            return live();
        }
        if (command == "branch") {
            return branch();
        }
        if (command == "join") {
            return join();
        }
        if (command == "banks") {
            return banks();
        }
        if (command == "threads") {
            return threads(words);
        }
        if (command == "burst") {
            return burst(words);
        }
        if (command == "start") {
            return start(words);
        }
        if (command == "stop") {
            return stop();
        }
        if (command == "fork") {
            return forked(words);
        }
        if (command == "exec") {
            execute(words);
        }
        if (command == "load") {
            load(words);
        }
        if (command == "bytes") {
            return bytes(words);
        }
        if (command == "pid") {
            return "\"pid\":" + std::to_string(getpid());
        }
        if (command == "sleep") {
            unsigned ms = 0;
            words >> ms;
            usleep(ms * 1000);
            return "";
        }
        if (command == "exit") {
            int code = 0;
            words >> code;
            std::cout.flush();
            _exit(code);
        }
        if (command == "abort") {
            abort();
        }
        throw std::invalid_argument("unknown command: " + command);
    }
};

}  // namespace

/// Obeys the commands on stdin to its end. Buffers that are allocated then are freed by the end of the process.
extern "C" int run_session() {
    auto* session = new Session;
    for (std::string line; std::getline(std::cin, line);) {
        std::string answer;
        try {
            answer = session->obey(line);
            answer = answer.empty() ? "{\"ok\":true}" : "{\"ok\":true," + answer + "}";
        } catch (const std::exception& error) {
            answer = "{\"ok\":false,\"error\":" + quoted(error.what()) + "}";
        }
        std::cout << answer << std::endl;
    }
    _exit(0);
}
