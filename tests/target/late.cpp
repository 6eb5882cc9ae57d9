// The session in a program that is not linked against the library: it starts when the command `load PATH` loads a
// library, as Python does with `import ttnn`.
#include <dlfcn.h>
#include <unistd.h>

#include <iostream>
#include <string>

int main() {
    for (std::string line; std::getline(std::cin, line);) {
        if (line.rfind("load ", 0) == 0) {
            void* library = dlopen(line.substr(5).c_str(), RTLD_NOW | RTLD_LOCAL);
            if (library == nullptr) {
                std::cout << "{\"ok\":false,\"error\":\"dlopen failed\"}" << std::endl;
                std::cerr << dlerror() << std::endl;
                continue;
            }
            std::cout << "{\"ok\":true}" << std::endl;
            if (auto* session = reinterpret_cast<int (*)()>(dlsym(library, "run_session"))) {
                return session();
            }
        } else if (line == "pid") {
            std::cout << "{\"ok\":true,\"pid\":" << getpid() << "}" << std::endl;
        } else {
            std::cout << "{\"ok\":false,\"error\":\"unknown command before load\"}" << std::endl;
        }
    }
    return 0;
}
