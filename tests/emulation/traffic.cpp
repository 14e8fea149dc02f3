/* Counts of accesses per place in the code: the n-th time that the lanes of a warp pass one access
 * is one request. Not known here: caches, and what the device's compiler would have merged. */
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <map>
#include <unordered_map>

#include "traffic.h"

enum { SECTOR_BYTES = 32, BANKS = 32, BANK_BYTES = 4 };

namespace {

struct place { /* an access of a kernel */
    const void *kernel, *pc;
    bool shared, write;
    int area;
    bool operator<(const place &o) const {
        return std::tie(kernel, shared, write, pc, area) <
               std::tie(o.kernel, o.shared, o.write, o.pc, o.area);
    }
};

struct request {
    unsigned lanes;
    int bytes; /* per lane */
    uintptr_t address[32];
};

struct open_place { /* of one warp, in the running block */
    unsigned passed[32];
    std::vector<request> requests;
};

struct site {
    emu_traffic traffic;
    int bytes;
};

} // namespace

/* `counting` is set by the host while the device may run; the tables are the device's, and are
 * read when it is idle. */
static std::atomic<bool> counting;
static std::unordered_map<uint64_t, open_place> &open_places =
    *new std::unordered_map<uint64_t, open_place>;
static std::map<place, site> &sites = *new std::map<place, site>;
static std::map<const void *, uint64_t> &launches = *new std::map<const void *, uint64_t>;
static struct {
    uintptr_t begin;
    uint64_t bytes;
} areas[EMU_AREAS];

static bool on(void) {
    return counting.load(std::memory_order_relaxed);
}

void emu_count(bool shared, bool write, const void *pc, uintptr_t address, int bytes) {
    if (!on()) return;
    const emu_thread *t = emu_self;
    uint64_t key = (uint64_t)(uintptr_t)pc << 7 | (uint64_t)t->warp << 2 |
                   (uint64_t)shared << 1 | (uint64_t)write;
    open_place &o = open_places[key];
    unsigned n = o.passed[t->lane]++;
    if (n >= o.requests.size()) o.requests.push_back({0, bytes, {}});
    request &r = o.requests[n];
    r.lanes |= 1u << t->lane;
    r.address[t->lane] = address;
    r.bytes = bytes;
}

void emu_count_launch(void) {
    static bool first = true;
    if (first && emu_environment().stats) counting = true;
    first = false;
    if (on()) launches[emu_now.kernel]++;
}

/* ---- a finished request ---- */

static uint64_t count_different(uintptr_t *v, size_t n) {
    std::sort(v, v + n);
    return (uint64_t)(std::unique(v, v + n) - v);
}

/* The different units of `unit` bytes that lanes [first, end) touch. */
static uint64_t
units(const request &r, int first, int end, uintptr_t unit, std::vector<uintptr_t> *work) {
    work->clear();
    for (int lane = first; lane < end; lane++) {
        if (!(r.lanes >> lane & 1)) continue;
        uintptr_t last = (r.address[lane] + (uintptr_t)r.bytes - 1) / unit;
        for (uintptr_t u = r.address[lane] / unit; u <= last; u++)
            work->push_back(u);
    }
    return count_different(work->data(), work->size());
}

static void add_global(const request &r, emu_traffic *to, std::vector<uintptr_t> *work) {
    uint64_t bytes = units(r, 0, 32, 1, work);
    to->bytes += bytes;
    to->units += units(r, 0, 32, SECTOR_BYTES, work);
    to->ideal += (bytes + SECTOR_BYTES - 1) / SECTOR_BYTES;
}

/* 4 bytes a lane go through the banks together, 8 per half of the warp, 16 per quarter. Different
 * words of one bank need a pass each. */
static void add_shared(const request &r, emu_traffic *to, std::vector<uintptr_t> *work) {
    int together = r.bytes <= 4 ? 32 : r.bytes <= 8 ? 16 : 8;
    to->bytes += units(r, 0, 32, 1, work);
    for (int first = 0; first < 32; first += together) {
        unsigned in_bank[BANKS] = {0}, most = 0;
        size_t words = units(r, first, first + together, BANK_BYTES, work);
        for (size_t i = 0; i < words; i++)
            most = std::max(most, ++in_bank[(*work)[i] % BANKS]);
        to->units += most;
        to->ideal += most > 0;
    }
}

/* The area in which the lowest lane's address lies; lanes of one request do not mix areas. */
static int area_of(const request &r) {
    uintptr_t at = r.address[__builtin_ctz(r.lanes)];
    for (int i = 1; i < EMU_AREAS; i++)
        if (at - areas[i].begin < areas[i].bytes) return i;
    return 0;
}

void emu_count_block(void) {
    std::vector<uintptr_t> work;
    for (auto &o : open_places) {
        bool shared = (o.first >> 1 & 1) != 0, write = (o.first & 1) != 0;
        for (const request &r : o.second.requests) {
            site &s = sites[{emu_now.kernel, (const void *)(o.first >> 7), shared, write,
                             shared ? 0 : area_of(r)}];
            s.bytes = r.bytes;
            s.traffic.requests++;
            s.traffic.lanes += (uint64_t)__builtin_popcount(r.lanes);
            if (shared)
                add_shared(r, &s.traffic, &work);
            else
                add_global(r, &s.traffic, &work);
        }
    }
    open_places.clear();
}

/* ---- for tests, and at exit ---- */

void emu_stats_reset(void) {
    emu_wait_idle();
    sites.clear();
    launches.clear();
    for (auto &a : areas)
        a = {};
    counting = true;
}

void emu_stats_area(int area, const void *p, uint64_t bytes) {
    emu_wait_idle();
    if (area > 0 && area < EMU_AREAS) areas[area] = {(uintptr_t)p, bytes};
}

static void add(emu_traffic *to, const emu_traffic &t) {
    to->requests += t.requests;
    to->lanes += t.lanes;
    to->bytes += t.bytes;
    to->units += t.units;
    to->ideal += t.ideal;
}

/* area < 0: all memory. */
static bool stats_of(const char *kernel, int area, emu_stats *out) {
    *out = emu_stats();
    emu_wait_idle();
    for (auto &l : launches) {
        if (emu_kernel_name(l.first).find(kernel) == std::string::npos) continue;
        out->launches += l.second;
        for (auto &s : sites)
            if (s.first.kernel == l.first && (area < 0 || area == s.first.area))
                add(s.first.shared ? (s.first.write ? &out->shared_write : &out->shared_read)
                                   : (s.first.write ? &out->global_write : &out->global_read),
                    s.second.traffic);
    }
    return out->launches > 0;
}

bool emu_stats_for(const char *kernel, emu_stats *out) {
    return stats_of(kernel, -1, out);
}

const char *emu_stats_kernel(int i) {
    static std::vector<std::string> &names = *new std::vector<std::string>;
    emu_wait_idle();
    names.clear();
    for (auto &l : launches)
        names.push_back(emu_kernel_name(l.first));
    std::sort(names.begin(), names.end());
    return i >= 0 && i < (int)names.size() ? names[(size_t)i].c_str() : nullptr;
}

bool emu_stats_in(const char *kernel, int area, emu_stats *out) {
    bool ran = stats_of(kernel, area, out);
    out->shared_read = out->shared_write = emu_traffic();
    return ran;
}

void emu_print_traffic(void) {
    printf("%-6s %-5s %5s %9s %6s %9s %9s  %s\n", "memory", "", "bytes", "requests", "lanes",
           "units", "ideal", "kernel: where");
    for (auto &x : sites) {
        const emu_traffic &t = x.second.traffic;
        double n = (double)t.requests;
        printf("%-6s %-5s %5d %9llu %6.1f %9.2f %9.2f  %s: %s\n",
               x.first.shared ? "shared" : "global", x.first.write ? "write" : "read",
               x.second.bytes, (unsigned long long)t.requests, (double)t.lanes / n,
               (double)t.units / n, (double)t.ideal / n,
               emu_kernel_name(x.first.kernel).c_str(), emu_place(x.first.pc).c_str());
    }
}
