/* Problems, and names of places in the code. */
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cxxabi.h>
#include <dlfcn.h>
#include <map>
#include <unistd.h>

#include "inside.h"

enum { MOST_PRINTED = 40 };

/* Never destroyed: the device's thread may outlive main. */
static std::mutex &lock = *new std::mutex;
static std::vector<std::string *> &problems = *new std::vector<std::string *>;

void emu_report(const char *format, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    std::lock_guard<std::mutex> held(lock);
    if (problems.size() < MOST_PRINTED) fprintf(stderr, "emu: %s\n", text);
    problems.push_back(new std::string(text));
}

int emu_problems(void) {
    std::lock_guard<std::mutex> held(lock);
    return (int)problems.size();
}

const char *emu_problem(int i) {
    std::lock_guard<std::mutex> held(lock);
    return i >= 0 && i < (int)problems.size() ? problems[(size_t)i]->c_str() : nullptr;
}

void emu_forget_problems(void) {
    emu_wait_idle();
    {
        std::lock_guard<std::mutex> held(emu_lock);
        emu_sticky = cudaSuccess;
    }
    emu_error(cudaSuccess);
    std::lock_guard<std::mutex> held(lock);
    for (std::string *p : problems)
        delete p;
    problems.clear();
}

/* ---- names, by addr2line ---- */

static void read_line(FILE *f, std::string *out) {
    char buf[1024];
    out->clear();
    if (fgets(buf, sizeof buf, f) != nullptr) *out = buf;
    while (!out->empty() && (out->back() == '\n' || out->back() == ' '))
        out->pop_back();
}

/* "void (anonymous namespace)::gemm<3>(float*)" -> "gemm<3>". */
static std::string short_name(const std::string &demangled) {
    int depth = 0;
    size_t begin = 0, end = demangled.size();
    for (size_t i = 0; i < demangled.size(); i++) {
        char c = demangled[i];
        if (c == '<') depth++;
        if (c == '>') depth--;
        if (depth > 0) continue;
        if (c == ' ' || c == ':') begin = i + 1;
        if (c == '(' && i > begin) {
            end = i;
            break;
        }
    }
    return demangled.substr(begin, end - begin);
}

static void look_up(const void *address, std::string *name, std::string *place) {
    Dl_info info;
    char command[512];
    *name = "?";
    *place = "";
    if (dladdr(address, &info) == 0) return;
    bool library = strstr(info.dli_fname, ".so") != nullptr;
    std::string file = library ? info.dli_fname : "/proc/" + std::to_string(getpid()) + "/exe";
    snprintf(command, sizeof command, "addr2line -s -f -C -e '%s' 0x%zx 2>/dev/null",
             file.c_str(), (size_t)((const char *)address - (const char *)info.dli_fbase));
    FILE *f = popen(command, "r");
    if (f == nullptr) return;
    std::string function;
    read_line(f, &function);
    read_line(f, place);
    pclose(f);
    size_t note = place->find(" (discriminator");
    if (note != std::string::npos) place->resize(note);
    if (!function.empty()) *name = short_name(function);
}

struct code_names {
    std::string name, place;
};

static code_names names_of(const void *address) {
    static std::map<const void *, code_names> &known = *new std::map<const void *, code_names>;
    static std::mutex &known_lock = *new std::mutex;
    std::lock_guard<std::mutex> held(known_lock);
    auto found = known.find(address);
    if (found != known.end()) return found->second;
    code_names n;
    look_up(address, &n.name, &n.place);
    known[address] = n;
    return n;
}

std::string emu_kernel_name(const void *kernel) {
    return names_of(kernel).name;
}

std::string emu_place(const void *return_address) {
    code_names n = names_of((const char *)return_address - 1); /* the call, not what follows */
    return n.name + " (" + n.place + ")";
}

std::string emu_where(void) {
    char text[160];
    const uint3 t = emu_self != nullptr ? emu_self->tid : uint3{0, 0, 0};
    snprintf(text, sizeof text, ", block (%u,%u,%u), thread (%u,%u,%u), seed %llu", blockIdx.x,
             blockIdx.y, blockIdx.z, t.x, t.y, t.z, (unsigned long long)emu_environment().seed);
    return "kernel " + emu_kernel_name(emu_now.kernel) + text;
}
