/* CUDA's driver for tests, as far as ring.c uses it: "device" memory is this process's own.
 *
 * Nothing that is sent to a stream is done before somebody waits for it, so whoever uses a slot again
 * too early, or believes bytes to be there that are not, is found out. `fake_fail` makes a call fail;
 * `fake_pinned` and `fake_living` tell what was not given back. One lock is held by every call.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID_VALUE = 1, NOT_READY = 600, INVALID_CONTEXT = 201, MOST_REGIONS = 4096 };

struct stream;

struct operation {
    struct operation *next;
    char *to;
    const void *from;   /* NULL: fill with `byte`, or write `value` if there is no size */
    size_t bytes;
    int byte;
    uint32_t value;
    struct stream *wait; /* not NULL: wait for what an event recorded of it until then */
    uint64_t until;
};

struct stream {
    struct operation *first, **last;
    uint64_t sent, done;
};

struct event {
    struct stream *stream;
    uint64_t until;
};

struct allocation { uint64_t start; size_t bytes; };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct { char *start; size_t bytes; } regions[MOST_REGIONS];
static uint64_t pinned, peak;
static int living, contexts;
static char failing[64];
static int fail_after, fail_code;
static struct allocation allocations[16];
static int copies;
static __thread int entered;

static int begin(const char *name) {
    pthread_mutex_lock(&lock);
    if (strcmp(name, failing) == 0 && fail_after-- == 0) return fail_code;
    return OK;
}

static int end(int code) {
    pthread_mutex_unlock(&lock);
    return code;
}

#define BEGIN() \
    do { \
        int injected = begin(__func__); \
        if (injected) return end(injected); \
    } while (0)

static void run_until(struct stream *stream, uint64_t until) {
    while (stream->done < until) {
        struct operation *one = stream->first;
        stream->first = one->next;
        if (stream->first == NULL) stream->last = &stream->first;
        stream->done++;
        if (one->wait != NULL) run_until(one->wait, one->until);
        else if (one->from != NULL) memcpy(one->to, one->from, one->bytes);
        else if (one->bytes == 0) memcpy(one->to, &one->value, sizeof one->value);
        else memset(one->to, one->byte, one->bytes);
        free(one);
    }
}

static void send(struct stream *stream, struct operation operation) {
    struct operation *one = malloc(sizeof *one);
    *one = operation;
    one->next = NULL;
    *stream->last = one;
    stream->last = &one->next;
    stream->sent++;
}

static int is_pinned(const char *start, size_t bytes) {
    for (int place = 0; place < MOST_REGIONS; place++)
        if (regions[place].start && start >= regions[place].start
            && start + bytes <= regions[place].start + regions[place].bytes)
            return 1;
    return 0;
}

/* --- what tests ask --- */

void fake_fail(const char *name, int after, int code) {
    pthread_mutex_lock(&lock);
    strncpy(failing, name, sizeof failing - 1);
    fail_after = after;
    fail_code = code;
    pthread_mutex_unlock(&lock);
}

uint64_t fake_pinned(void) { return pinned; }
uint64_t fake_peak(void) { return peak; }
void fake_forget_peak(void) { peak = 0; }
int fake_living(void) { return living + contexts; }

int fake_copies(void) { return copies; }

/* Memory of the device is known to be an allocation once it is named; of 0 bytes: forget them all. */
void fake_allocate(uint64_t start, size_t bytes) {
    static int count;
    pthread_mutex_lock(&lock);
    if (bytes == 0) memset(allocations, 0, sizeof allocations), count = 0;
    else allocations[count++ % 16] = (struct allocation){start, bytes};
    pthread_mutex_unlock(&lock);
}

static const struct allocation *allocation_of(uint64_t at) {
    for (int place = 0; place < 16; place++)
        if (at - allocations[place].start < allocations[place].bytes) return &allocations[place];
    return NULL;
}

void fake_fill(struct stream *stream, char *to, size_t bytes, int byte) {
    pthread_mutex_lock(&lock);
    send(stream, (struct operation){.to = to, .bytes = bytes, .byte = byte});
    pthread_mutex_unlock(&lock);
}

/* --- the driver --- */

int cuInit(unsigned flags) { (void)flags; BEGIN(); return end(OK); }
int cuDeviceGet(int *device, int ordinal) { BEGIN(); *device = ordinal; return end(OK); }

int cuDevicePrimaryCtxRetain(void **context, int device) {
    (void)device;
    BEGIN();
    *context = &contexts;
    contexts++;
    return end(OK);
}

int cuDevicePrimaryCtxRelease_v2(int device) { (void)device; BEGIN(); contexts--; return end(OK); }
int cuCtxPushCurrent_v2(void *context) { (void)context; BEGIN(); entered++; return end(OK); }

int cuCtxPopCurrent_v2(void **context) {
    BEGIN();
    *context = &contexts;
    entered--;
    return end(OK);
}

int cuMemHostRegister_v2(void *start, size_t bytes, unsigned flags) {
    (void)flags;
    BEGIN();
    for (int place = 0; place < MOST_REGIONS; place++)
        if (regions[place].start == NULL) {
            regions[place].start = start;
            regions[place].bytes = bytes;
            pinned += bytes;
            if (pinned > peak) peak = pinned;
            return end(entered ? OK : INVALID_CONTEXT);
        }
    return end(INVALID_VALUE);
}

int cuMemHostUnregister(void *start) {
    BEGIN();
    for (int place = 0; place < MOST_REGIONS; place++)
        if (regions[place].start == start) {
            pinned -= regions[place].bytes;
            regions[place].start = NULL;
            return end(OK);
        }
    return end(INVALID_VALUE);
}

int cuStreamCreate(struct stream **stream, unsigned flags) {
    (void)flags;
    BEGIN();
    if (!entered) return end(INVALID_CONTEXT);
    *stream = calloc(1, sizeof **stream);
    (*stream)->last = &(*stream)->first;
    living++;
    return end(OK);
}

int cuStreamSynchronize(struct stream *stream) {
    BEGIN();
    run_until(stream, stream->sent);
    return end(OK);
}

/* What nobody waited for is lost: its memory may be gone. */
int cuStreamDestroy_v2(struct stream *stream) {
    BEGIN();
    for (struct operation *one = stream->first, *next; one != NULL; one = next) {
        next = one->next;
        free(one);
    }
    free(stream);
    living--;
    return end(OK);
}

int cuStreamWaitEvent(struct stream *stream, struct event *event, unsigned flags) {
    (void)flags;
    BEGIN();
    if (event->stream != NULL)
        send(stream, (struct operation){.wait = event->stream, .until = event->until});
    return end(OK);
}

int cuEventCreate(struct event **event, unsigned flags) {
    (void)flags;
    BEGIN();
    *event = calloc(1, sizeof **event);
    living++;
    return end(OK);
}

int cuEventDestroy_v2(struct event *event) { BEGIN(); free(event); living--; return end(OK); }

int cuEventRecord(struct event *event, struct stream *stream) {
    BEGIN();
    event->stream = stream;
    event->until = stream == NULL ? 0 : stream->sent;
    return end(OK);
}

/* Who asks is waiting. */
int cuStreamQuery(struct stream *stream) {
    BEGIN();
    int ready = stream->done == stream->sent;
    run_until(stream, stream->sent);
    return end(ready ? OK : NOT_READY);
}

int cuStreamWriteValue32_v2(struct stream *stream, uint64_t to, uint32_t value, unsigned flags) {
    (void)flags;
    BEGIN();
    send(stream, (struct operation){.to = (char *)(uintptr_t)to, .value = value});
    return end(OK);
}

int cuMemHostGetDevicePointer_v2(uint64_t *there, void *here, unsigned flags) {
    (void)flags;
    BEGIN();
    *there = (uint64_t)(uintptr_t)here;
    return end(OK);
}

int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, struct stream *stream) {
    BEGIN();
    if (!entered) return end(INVALID_CONTEXT);
    if (!is_pinned(from, bytes)) return end(INVALID_VALUE);
    const struct allocation *in = allocation_of(to);
    if (in != NULL && to + bytes > in->start + in->bytes) return end(INVALID_VALUE);
    copies++;
    send(stream, (struct operation){.to = (char *)(uintptr_t)to, .from = from, .bytes = bytes});
    return end(OK);
}

int cuMemGetAddressRange_v2(uint64_t *start, size_t *bytes, uint64_t at) {
    BEGIN();
    if (!entered) return end(INVALID_CONTEXT);
    const struct allocation *found = allocation_of(at);
    if (found == NULL) return end(INVALID_VALUE);
    *start = found->start;
    *bytes = found->bytes;
    return end(OK);
}

int cuGetErrorName(int code, const char **name) {
    *name = code == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR_OF_THE_FAKE";
    return OK;
}
