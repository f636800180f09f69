/* The ring's inner loop: bytes of a slab into pinned slots, and asynchronous copies out of them.
 *
 * Owns pinned slots, their streams and events, and the copy loops; knows CUDA's driver only by the
 * symbols that it finds at run time, so that building it needs a C compiler and nothing else. Which
 * bytes go where, which thread works when, and what an error means is decided in Python: each lane
 * is used by one thread at a time, which calls without the interpreter lock; `lane_wait`
 * may be called by any other, and `ring_fence` by one at a time. Every call that can fail fills a
 * `struct failure` and returns nonzero.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define ABI 6
#define HUGE_PAGE ((uintptr_t)2 << 20)
#define NAME_LENGTH 64
#define STREAMS 2
#define PAGE 4096
#define FLAG_STRIDE 16        /* flags of slots lie in cache lines of their own */
#define MOST_DIMENSIONS 8
#define MOST_LANES 64         /* that serve the queue */
#define MOST_SLOTS (PAGE / 4 / FLAG_STRIDE)
#define SPINS 2000            /* some tens of microseconds, about what a small copy takes */
#define QUERY_EVERY 64
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14 */
#endif

enum kind { FAILED_NOT, FAILED_CUDA, FAILED_SYSTEM, FAILED_SHORT, FAILED_DRIVER };

struct failure {
    int32_t kind;
    int32_t code;      /* CUresult or errno */
    uint64_t at;       /* bytes of the call's range before the one that failed */
    char name[NAME_LENGTH];
};

/* --- CUDA's driver, as far as it is used (cuda.h of any release since 11) --- */

typedef int result;
typedef void *handle;
typedef uint64_t address;

enum {
    EVENT_DISABLE_TIMING = 2,
    STREAM_NON_BLOCKING = 1,
    HOST_PORTABLE = 1,
    HOST_DEVICEMAP = 2,
    NOT_READY = 600,
};

struct driver {
    result (*cuInit)(unsigned);
    result (*cuDeviceGet)(int *, int);
    result (*cuDevicePrimaryCtxRetain)(handle *, int);
    result (*cuDevicePrimaryCtxRelease_v2)(int);
    result (*cuCtxPushCurrent_v2)(handle);
    result (*cuCtxPopCurrent_v2)(handle *);
    result (*cuMemHostRegister_v2)(void *, size_t, unsigned);
    result (*cuMemHostUnregister)(void *);
    result (*cuStreamCreate)(handle *, unsigned);
    result (*cuStreamDestroy_v2)(handle);
    result (*cuStreamSynchronize)(handle);
    result (*cuStreamWaitEvent)(handle, handle, unsigned);
    result (*cuEventCreate)(handle *, unsigned);
    result (*cuEventDestroy_v2)(handle);
    result (*cuEventRecord)(handle, handle);
    result (*cuStreamQuery)(handle);
    result (*cuStreamWriteValue32_v2)(handle, address, uint32_t, unsigned);
    result (*cuMemHostGetDevicePointer_v2)(address *, void *, unsigned);
    result (*cuMemGetAddressRange_v2)(address *, size_t *, address);
    result (*cuMemcpyHtoDAsync_v2)(address, const void *, size_t, handle);
    result (*cuGetErrorName)(result, const char **);
};

static const struct {
    const char *name;
    size_t place;
} SYMBOLS[] = {
#define SYMBOL(name) {#name, offsetof(struct driver, name)}
    SYMBOL(cuInit),
    SYMBOL(cuDeviceGet),
    SYMBOL(cuDevicePrimaryCtxRetain),
    SYMBOL(cuDevicePrimaryCtxRelease_v2),
    SYMBOL(cuCtxPushCurrent_v2),
    SYMBOL(cuCtxPopCurrent_v2),
    SYMBOL(cuMemHostRegister_v2),
    SYMBOL(cuMemHostUnregister),
    SYMBOL(cuStreamCreate),
    SYMBOL(cuStreamDestroy_v2),
    SYMBOL(cuStreamSynchronize),
    SYMBOL(cuStreamWaitEvent),
    SYMBOL(cuEventCreate),
    SYMBOL(cuEventDestroy_v2),
    SYMBOL(cuEventRecord),
    SYMBOL(cuStreamQuery),
    SYMBOL(cuStreamWriteValue32_v2),
    SYMBOL(cuMemHostGetDevicePointer_v2),
    SYMBOL(cuMemGetAddressRange_v2),
    SYMBOL(cuMemcpyHtoDAsync_v2),
    SYMBOL(cuGetErrorName),
#undef SYMBOL
};

struct ring {
    struct driver cuda;
    void *library;
    int device;
    handle context;
    handle fence;              /* what streams of callers had to do at all fences until now */
    enum { NO_STREAM, ONE_STREAM, SEVERAL_STREAMS } fenced;
    handle only;               /* the stream of all fences so far, where it is one */
    handle asked;              /* of several: what the last fence's stream had to do */
    handle order;              /* of several: waits for all that was asked, and does nothing else */
    atomic_uint fences;
    atomic_uint lanes;
    handle streams[STREAMS];   /* shared: creating one takes a millisecond while others pin */
    uint32_t slots;
    uint64_t slot_bytes;

    pthread_mutex_t lock;      /* guards the queue of slices, see queue.h */
    pthread_cond_t work, done;
    struct slice *first[2], *last[2]; /* foretold ones, and those that somebody asked for */
    struct slice *newest;
    struct lane *serving[MOST_LANES];
    _Atomic uint64_t calls;
    int ended;
};

struct lane {
    struct ring *ring;
    handle stream;
    unsigned fences_seen;
    char *arena;               /* a page of flags, then the slots */
    size_t arena_bytes;
    volatile uint32_t *flags;  /* NULL until pinned; for each slot, `sent` after its last arrival */
    address flags_there;
    uint64_t sent;             /* slots sent so far; slot `sent % slots` is the next */
    address allocation;        /* the allocation of the device that was asked about last */
    size_t allocation_bytes;
    char *slots[];             /* NULL until the first use: pinning takes time */
};

struct piece {
    address to;
    uint64_t bytes;
};

/* --- failures --- */

static int fail(struct failure *failure, int kind, int code, const char *name) {
    failure->kind = kind;
    failure->code = code;
    snprintf(failure->name, NAME_LENGTH, "%s", name);
    return -1;
}

static int checked(struct ring *ring, result code, struct failure *failure) {
    const char *name = NULL;
    if (code == 0) return 0;
    if (ring->cuda.cuGetErrorName(code, &name) != 0 || name == NULL) name = "unknown CUDA error";
    return fail(failure, FAILED_CUDA, code, name);
}

#define CUDA(ring, call) \
    do { \
        if (checked(ring, (ring)->cuda.call, failure)) return -1; \
    } while (0)

static int enter(struct ring *ring, struct failure *failure) {
    return checked(ring, ring->cuda.cuCtxPushCurrent_v2(ring->context), failure);
}

static void leave(struct ring *ring) {
    handle ignored;
    ring->cuda.cuCtxPopCurrent_v2(&ignored);
}

/* --- the ring --- */

int ring_abi(void) { return ABI; }

static int load_driver(struct ring *ring, const char *path, struct failure *failure) {
    ring->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (ring->library == NULL) return fail(failure, FAILED_DRIVER, 0, path);
    for (size_t place = 0; place < sizeof SYMBOLS / sizeof *SYMBOLS; place++) {
        void *found = dlsym(ring->library, SYMBOLS[place].name);
        if (found == NULL) return fail(failure, FAILED_DRIVER, 0, SYMBOLS[place].name);
        memcpy((char *)&ring->cuda + SYMBOLS[place].place, &found, sizeof found);
    }
    return 0;
}

static int begin_ring(struct ring *ring, struct failure *failure) {
    CUDA(ring, cuEventCreate(&ring->asked, EVENT_DISABLE_TIMING));
    CUDA(ring, cuEventCreate(&ring->fence, EVENT_DISABLE_TIMING));
    CUDA(ring, cuStreamCreate(&ring->order, STREAM_NON_BLOCKING));
    for (uint32_t place = 0; place < STREAMS; place++)
        CUDA(ring, cuStreamCreate(&ring->streams[place], STREAM_NON_BLOCKING));
    return 0;
}

static int open_device(struct ring *ring, int ordinal, struct failure *failure) {
    CUDA(ring, cuInit(0));
    CUDA(ring, cuDeviceGet(&ring->device, ordinal));
    CUDA(ring, cuDevicePrimaryCtxRetain(&ring->context, ring->device));
    if (enter(ring, failure)) return -1;
    int failed = begin_ring(ring, failure);
    leave(ring);
    return failed;
}

static void free_slices(struct ring *ring);
static void stop_serving(struct lane *lane);

void ring_close(struct ring *ring) {
    struct failure ignored;
    free_slices(ring);
    if (ring->context != NULL && !enter(ring, &ignored)) {
        for (uint32_t place = 0; place < STREAMS; place++)
            if (ring->streams[place] != NULL) ring->cuda.cuStreamDestroy_v2(ring->streams[place]);
        if (ring->order != NULL) ring->cuda.cuStreamDestroy_v2(ring->order);
        if (ring->fence != NULL) ring->cuda.cuEventDestroy_v2(ring->fence);
        if (ring->asked != NULL) ring->cuda.cuEventDestroy_v2(ring->asked);
        leave(ring);
    }
    if (ring->context != NULL) ring->cuda.cuDevicePrimaryCtxRelease_v2(ring->device);
    if (ring->library != NULL) dlclose(ring->library);
    pthread_cond_destroy(&ring->work);
    pthread_cond_destroy(&ring->done);
    pthread_mutex_destroy(&ring->lock);
    free(ring);
}

struct ring *ring_open(
    const char *driver, int ordinal, uint32_t slots, uint64_t slot_bytes,
    struct failure *failure) {
    struct ring *ring = calloc(1, sizeof *ring);
    if (ring == NULL) {
        fail(failure, FAILED_SYSTEM, ENOMEM, "calloc");
        return NULL;
    }
    pthread_mutex_init(&ring->lock, NULL);
    pthread_cond_init(&ring->work, NULL);
    pthread_cond_init(&ring->done, NULL);
    ring->slots = slots < MOST_SLOTS ? slots : MOST_SLOTS;
    ring->slot_bytes = slot_bytes;
    if (load_driver(ring, driver, failure) || open_device(ring, ordinal, failure)) {
        ring_close(ring);
        return NULL;
    }
    return ring;
}

/* What one stream had to do at its last fence includes what it had to do at earlier ones; of several
 * streams no event does, so that a stream of the ring's own collects them. */
static int order_after(struct ring *ring, handle stream, struct failure *failure) {
    if (ring->fenced == NO_STREAM) {
        ring->only = stream;
        ring->fenced = ONE_STREAM;
    }
    if (ring->fenced == ONE_STREAM && stream == ring->only) {
        CUDA(ring, cuEventRecord(ring->fence, stream));
        return 0;
    }
    if (ring->fenced == ONE_STREAM) {
        CUDA(ring, cuStreamWaitEvent(ring->order, ring->fence, 0));
        ring->fenced = SEVERAL_STREAMS;
    }
    CUDA(ring, cuEventRecord(ring->asked, stream));
    CUDA(ring, cuStreamWaitEvent(ring->order, ring->asked, 0));
    CUDA(ring, cuEventRecord(ring->fence, ring->order));
    return 0;
}

/* Copies that are sent from now on wait for what `stream` has to do now. They also wait for all
 * earlier fences: another may be for another stream, and no lane need have caught up with it yet. */
int ring_fence(struct ring *ring, handle stream, struct failure *failure) {
    if (enter(ring, failure)) return -1;
    int failed = order_after(ring, stream, failure);
    leave(ring);
    atomic_fetch_add(&ring->fences, 1);
    return failed;
}

/* --- lanes --- */

/* Takes the lane's memory in whole huge pages: pinning those takes a tenth of the time. */
static int reserve(struct lane *lane, struct failure *failure) {
    size_t bytes = lane->ring->slots * lane->ring->slot_bytes + 2 * HUGE_PAGE;
    char *arena = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (arena == MAP_FAILED) return fail(failure, FAILED_SYSTEM, errno, "mmap");
    madvise(arena, bytes, MADV_HUGEPAGE);
    madvise(arena, bytes, MADV_DONTFORK); /* the device reads this process's own pages */
    lane->arena = arena;
    lane->arena_bytes = bytes;
    return 0;
}

static char *slot_place(struct lane *lane, uint64_t slot) {
    uintptr_t first = ((uintptr_t)lane->arena + PAGE + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
    return (char *)first + slot * lane->ring->slot_bytes;
}

static int begin_lane(struct lane *lane, struct failure *failure) {
    struct ring *ring = lane->ring;
    lane->stream = ring->streams[atomic_fetch_add(&ring->lanes, 1) % STREAMS];
    if (reserve(lane, failure)) return -1;
    CUDA(ring, cuMemHostRegister_v2(lane->arena, PAGE, HOST_PORTABLE | HOST_DEVICEMAP));
    lane->flags = (volatile uint32_t *)lane->arena;
    CUDA(ring, cuMemHostGetDevicePointer_v2(&lane->flags_there, lane->arena, 0));
    return 0;
}

/* Waits for all that was sent and gives everything back; tells the first error. */
int lane_close(struct lane *lane, struct failure *failure) {
    struct ring *ring = lane->ring;
    stop_serving(lane);
    int failed = enter(ring, failure);
    if (!failed) {
        if (lane->stream != NULL)
            failed = checked(ring, ring->cuda.cuStreamSynchronize(lane->stream), failure);
        for (uint32_t slot = 0; slot < ring->slots; slot++)
            if (lane->slots[slot] != NULL) ring->cuda.cuMemHostUnregister(lane->slots[slot]);
        if (lane->flags != NULL) ring->cuda.cuMemHostUnregister(lane->arena);
        leave(ring);
    }
    if (lane->arena != NULL) munmap(lane->arena, lane->arena_bytes);
    free(lane);
    return failed;
}

struct lane *lane_open(struct ring *ring, struct failure *failure) {
    struct lane *lane = calloc(1, sizeof *lane + ring->slots * sizeof *lane->slots);
    struct failure ignored;
    if (lane == NULL) {
        fail(failure, FAILED_SYSTEM, ENOMEM, "calloc");
        return NULL;
    }
    lane->ring = ring;
    int failed = enter(ring, failure);
    if (!failed) {
        failed = begin_lane(lane, failure);
        leave(ring);
    }
    if (failed) {
        lane_close(lane, &ignored);
        return NULL;
    }
    return lane;
}

uint64_t lane_sent(struct lane *lane) { return lane->sent; }

/* Pins one slot. This thread makes the pages before that, as pinning holds a lock of the driver. */
static int pin(struct lane *lane, uint64_t slot, struct failure *failure) {
    char *memory = slot_place(lane, slot);
    for (uint64_t at = 0; at < lane->ring->slot_bytes; at += PAGE) ((volatile char *)memory)[at] = 0;
    CUDA(lane->ring, cuMemHostRegister_v2(memory, lane->ring->slot_bytes, HOST_PORTABLE));
    lane->slots[slot] = memory;
    return 0;
}

static void pause_a_little(unsigned turn) {
    static const struct timespec little = {0, 20000};
    if (turn > SPINS) nanosleep(&little, NULL);
#if defined(__x86_64__)
    else __builtin_ia32_pause();
#endif
}

/* Waits until the first `sent` slots have arrived: the device says so in a flag, which is looked at
 * without the driver and its lock. A device that failed writes no flag, so it is asked now and then. */
static int arrived(struct lane *lane, uint64_t sent, struct failure *failure) {
    struct ring *ring = lane->ring;
    volatile uint32_t *flag = &lane->flags[(sent - 1) % ring->slots * FLAG_STRIDE];
    for (unsigned turn = 1; (int32_t)(*flag - (uint32_t)sent) < 0; turn++) {
        pause_a_little(turn);
        if (turn > SPINS && turn % QUERY_EVERY == SPINS % QUERY_EVERY + 1) {
            result code = ring->cuda.cuStreamQuery(lane->stream);
            if (code != NOT_READY && checked(ring, code, failure)) return -1;
        }
    }
    atomic_thread_fence(memory_order_acquire);
    return 0;
}

/* Finds the next slot, pins it at its first use, and waits until its last copy has arrived. */
static int free_slot(struct lane *lane, char **memory, struct failure *failure) {
    uint64_t place = lane->sent % lane->ring->slots;
    if (lane->slots[place] == NULL) {
        if (pin(lane, place, failure)) return -1;
    } else if (lane->sent >= lane->ring->slots) {
        if (arrived(lane, lane->sent - lane->ring->slots + 1, failure)) return -1;
    }
    *memory = lane->slots[place];
    return 0;
}

static int catch_up(struct lane *lane, struct failure *failure) {
    unsigned fences = atomic_load(&lane->ring->fences);
    if (fences == lane->fences_seen) return 0;
    CUDA(lane->ring, cuStreamWaitEvent(lane->stream, lane->ring->fence, 0));
    lane->fences_seen = fences;
    return 0;
}

/* Where the next byte goes: `offset` bytes of `piece` are sent. */
struct cursor {
    const struct piece *piece;
    uint64_t offset;
};

static uint64_t advance(struct cursor *to, uint64_t most) {
    uint64_t left = to->piece->bytes - to->offset;
    uint64_t part = left < most ? left : most;
    to->offset += part;
    if (to->offset == to->piece->bytes) {
        to->piece++;
        to->offset = 0;
    }
    return part;
}

/* Whether these bytes lie in one allocation of the device: CUDA refuses a copy past its end, even
 * where another allocation begins there. */
static int in_one_allocation(struct lane *lane, address start, uint64_t bytes) {
    if (start - lane->allocation >= lane->allocation_bytes
        && lane->ring->cuda.cuMemGetAddressRange_v2(
               &lane->allocation, &lane->allocation_bytes, start) != 0)
        lane->allocation_bytes = 0;
    return start - lane->allocation + bytes <= lane->allocation_bytes;
}

/* Takes what the next copy takes of `most` bytes: the next piece, and those after it that lie right
 * behind it on the device too. Small tensors often do, and each copy costs as much as 100 KiB. */
static uint64_t next_copy(struct lane *lane, struct cursor *to, uint64_t most) {
    address start = to->piece->to + to->offset;
    uint64_t bytes = advance(to, most);
    while (bytes < most && (to->piece->bytes == 0 || to->piece->to == start + bytes)) {
        uint64_t more = to->piece->bytes < most - bytes ? to->piece->bytes : most - bytes;
        if (more && !in_one_allocation(lane, start, bytes + more)) break;
        bytes += advance(to, more);
    }
    return bytes;
}

static int send_slot(
    struct lane *lane, const char *memory, uint64_t bytes, struct cursor *to,
    struct failure *failure) {
    struct ring *ring = lane->ring;
    for (uint64_t at = 0; at < bytes;) {
        address there = to->piece->to + to->offset;
        uint64_t part = next_copy(lane, to, bytes - at);
        if (part) {
            failure->at += at;
            CUDA(ring, cuMemcpyHtoDAsync_v2(there, memory + at, part, lane->stream));
            failure->at -= at;
        }
        at += part;
    }
    CUDA(ring, cuStreamWriteValue32_v2(
                   lane->stream, lane->flags_there + lane->sent % ring->slots * FLAG_STRIDE * 4,
                   (uint32_t)(lane->sent + 1), 0));
    lane->sent++;
    return 0;
}

static int read_file(int fd, char *to, uint64_t bytes, uint64_t start, struct failure *failure) {
    while (bytes) {
        ssize_t count = pread(fd, to, bytes, (off_t)start);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return fail(failure, FAILED_SYSTEM, errno, "pread");
        if (count == 0) return fail(failure, FAILED_SHORT, 0, "end of file");
        to += count;
        start += count;
        bytes -= count;
    }
    return 0;
}

/* --- reading a slab where it is mapped ---
 *
 * Its huge pages make that cheaper than system calls by a fifth. Stores go through the cache, as the
 * device then finds there what a small slot holds; past it they take the memory's own bandwidth,
 * which ranks share (two H100: 55 GB/s against 75). */

#if defined(__x86_64__)
#include <immintrin.h>

__attribute__((target("avx512f"))) static void copy_512(char *to, const char *from, size_t bytes) {
    for (; bytes >= 256; to += 256, from += 256, bytes -= 256) {
        __m512i a = _mm512_loadu_si512(from), b = _mm512_loadu_si512(from + 64);
        __m512i c = _mm512_loadu_si512(from + 128), d = _mm512_loadu_si512(from + 192);
        _mm512_store_si512((void *)to, a);
        _mm512_store_si512((void *)(to + 64), b);
        _mm512_store_si512((void *)(to + 128), c);
        _mm512_store_si512((void *)(to + 192), d);
    }
    memcpy(to, from, bytes);
}

/* `to` is the beginning of a slot: aligned to a page. */
static void copy_to_slot(char *to, const char *from, size_t bytes) {
    if (__builtin_cpu_supports("avx512f")) copy_512(to, from, bytes);
    else memcpy(to, from, bytes);
}
#else
static void copy_to_slot(char *to, const char *from, size_t bytes) { memcpy(to, from, bytes); }
#endif

/* Whether bytes can be read there: pages that are missing are found out now, not by a signal. */
static int readable(const char *from, uint64_t bytes) {
    uintptr_t start = (uintptr_t)from & ~(uintptr_t)(getpagesize() - 1);
    return madvise((void *)start, (uintptr_t)from + bytes - start, MADV_POPULATE_READ) == 0;
}

/* Maps an image read-only, at an address where huge pages fit; NULL if that fails. */
void *image_map(int fd, uint64_t bytes) {
    uint64_t room_bytes = bytes + 2 * HUGE_PAGE;
    char *room = mmap(NULL, room_bytes, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED) return NULL;
    char *place = (char *)(((uintptr_t)room + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
    if (mmap(place, bytes, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
        munmap(room, room_bytes);
        return NULL;
    }
    munmap(room, place - room);
    char *end = (char *)(((uintptr_t)place + bytes + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
    munmap(end, room + room_bytes - end);
    return place;
}

void image_unmap(void *mapped, uint64_t bytes) {
    munmap(mapped, (bytes + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
}

/* Copies `total` bytes of `fd` from `start` on to the pieces, one after the other.
 * On return they are read; `lane_wait(lane, lane_sent(lane))` waits until they have arrived.
 * `mapped` is where `fd` is mapped, or NULL. */
static int copy_all(
    struct lane *lane, int fd, const char *mapped, uint64_t start, uint64_t total,
    const struct piece *pieces, struct failure *failure) {
    struct cursor to = {pieces, 0};
    char *memory;
    if (catch_up(lane, failure)) return -1;
    if (mapped != NULL && !readable(mapped + start, total)) mapped = NULL;
    for (uint64_t at = 0; at < total;) {
        uint64_t bytes = total - at;
        if (bytes > lane->ring->slot_bytes) bytes = lane->ring->slot_bytes;
        failure->at = at;
        if (free_slot(lane, &memory, failure)) return -1;
        if (mapped != NULL) copy_to_slot(memory, mapped + start + at, bytes);
        else if (read_file(fd, memory, bytes, start + at, failure)) return -1;
        if (send_slot(lane, memory, bytes, &to, failure)) return -1;
        at += bytes;
    }
    return 0;
}

int lane_copy(
    struct lane *lane, int fd, const char *mapped, uint64_t start, uint64_t total,
    const struct piece *pieces, struct failure *failure) {
    if (enter(lane->ring, failure)) return -1;
    int failed = copy_all(lane, fd, mapped, start, total, pieces, failure);
    leave(lane->ring);
    return failed;
}

/* --- rows ---
 *
 * A slice of a tensor lies in its slab as rows of equal length at regular distances. Gathered one
 * after the other they are a stream of bytes, of which a call takes a part. */

struct rows {
    uint64_t start;            /* of the first row in the image */
    uint64_t row_bytes;
    uint64_t dimensions;       /* how many of `outer` are used, the widest stride first */
    struct {
        uint64_t times, stride_bytes;
    } outer[MOST_DIMENSIONS];
};

/* Where byte `at` of the gathered stream lies in the image. */
static uint64_t place_of(const struct rows *rows, uint64_t at) {
    uint64_t row = at / rows->row_bytes, place = rows->start + at % rows->row_bytes;
    for (uint64_t dimension = rows->dimensions; dimension-- > 0;) {
        place += row % rows->outer[dimension].times * rows->outer[dimension].stride_bytes;
        row /= rows->outer[dimension].times;
    }
    return place;
}

/* Whether the whole range can be read in which bytes `at` to `at + bytes` lie: rows ascend. */
static int all_readable(const char *mapped, const struct rows *rows, uint64_t at, uint64_t bytes) {
    uint64_t first = place_of(rows, at), last = place_of(rows, at + bytes - 1);
    return readable(mapped + first, last - first + 1);
}

/* Reads bytes `at` to `at + bytes` of the rows into a slot: from the mapping, or by system calls where
 * there is none, or where pages of it are missing. */
static int fill_slot(
    char *memory, int fd, const char *mapped, const struct rows *rows, uint64_t at, uint64_t bytes,
    struct failure *failure) {
    if (mapped != NULL && !all_readable(mapped, rows, at, bytes)) mapped = NULL;
    while (bytes) {
        uint64_t part = rows->row_bytes - at % rows->row_bytes, place = place_of(rows, at);
        if (part > bytes) part = bytes;
        if (mapped == NULL) {
            if (read_file(fd, memory, part, place, failure)) return -1;
        } else if (((uintptr_t)memory & 63) == 0) copy_to_slot(memory, mapped + place, part);
        else memcpy(memory, mapped + place, part);
        memory += part;
        at += part;
        bytes -= part;
    }
    return 0;
}

/* Bytes `first` to `first + total` of the gathered rows of a file, and where on the device they go.
 * Python fills it with 64-bit numbers. `mapped` is where the file is mapped, or NULL. */
struct gathering {
    uint64_t fd;
    const char *mapped;
    uint64_t first, total;
    address to;
    struct rows rows;
};

static int gather_one(
    struct lane *lane, const struct gathering *one, struct failure *failure) {
    for (uint64_t at = 0; at < one->total;) {
        uint64_t bytes = one->total - at;
        char *memory;
        if (bytes > lane->ring->slot_bytes) bytes = lane->ring->slot_bytes;
        struct piece piece = {one->to + at, bytes};
        struct cursor cursor = {&piece, 0};
        failure->at = at;
        if (free_slot(lane, &memory, failure)) return -1;
        if (fill_slot(
                memory, (int)one->fd, one->mapped, &one->rows, one->first + at, bytes, failure))
            return -1;
        if (send_slot(lane, memory, bytes, &cursor, failure)) return -1;
        at += bytes;
    }
    return 0;
}

static int gather_all(
    struct lane *lane, const struct gathering *gatherings, uint64_t count,
    struct failure *failure) {
    failure->at = 0;
    if (catch_up(lane, failure)) return -1;
    for (uint64_t place = 0; place < count; place++)
        if (gather_one(lane, &gatherings[place], failure)) return -1;
    return 0;
}

/* Sends the rows of each gathering to the device. On return they are read, as after `lane_copy`.
 * A failure tells its place in the gathering that failed. */
int lane_gather(
    struct lane *lane, const struct gathering *gatherings, uint64_t count,
    struct failure *failure) {
    if (enter(lane->ring, failure)) return -1;
    int failed = gather_all(lane, gatherings, count, failure);
    leave(lane->ring);
    return failed;
}

/* A slot for the caller to fill; `lane_send` sends it. */
char *lane_slot(struct lane *lane, struct failure *failure) {
    char *memory = NULL;
    if (enter(lane->ring, failure)) return NULL;
    int failed = free_slot(lane, &memory, failure);
    leave(lane->ring);
    return failed ? NULL : memory;
}

/* Sends `bytes` of the slot that `lane_slot` gave, without its first `skip`. */
int lane_send(
    struct lane *lane, uint64_t skip, uint64_t bytes, const struct piece *pieces,
    struct failure *failure) {
    struct cursor to = {pieces, 0};
    if (enter(lane->ring, failure)) return -1;
    int failed = catch_up(lane, failure);
    if (!failed)
        failed = send_slot(
            lane, lane->slots[lane->sent % lane->ring->slots] + skip, bytes, &to, failure);
    leave(lane->ring);
    return failed;
}

/* Whether the first `sent` slots that the lane sent have arrived. Any thread may call it. */
int lane_arrived(struct lane *lane, uint64_t sent) {
    if (sent == 0) return 1;
    if (lane->flags == NULL) return 0;
    volatile uint32_t *flag = &lane->flags[(sent - 1) % lane->ring->slots * FLAG_STRIDE];
    if ((int32_t)(*flag - (uint32_t)sent) < 0) return 0;
    atomic_thread_fence(memory_order_acquire);
    return 1;
}

/* Waits until the first `sent` slots that the lane sent have arrived. Any thread may call it. */
int lane_wait(struct lane *lane, uint64_t sent, struct failure *failure) {
    if (sent == 0) return 0;
    if (enter(lane->ring, failure)) return -1;
    int failed = arrived(lane, sent, failure);
    leave(lane->ring);
    return failed;
}

#include "queue.h"
