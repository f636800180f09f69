/* The queue of slices that lanes gather without the interpreter. Part of `ring.c`, which includes it.
 *
 * A loader that gives up the interpreter lock waits for it behind every thread that asks for it
 * meanwhile. So threads that gather stay here, and the loader adds slices whose bytes can all be read.
 * Python calls the threads back when it has other work for them. One mutex guards the queue; lanes
 * claim a few megabytes at a time, so that it is rarely held. */

#define CLAIM_BYTES ((uint64_t)4 << 20)
#define SHARED_BYTES ((uint64_t)1 << 20) /* at least, of a slice that all lanes share */

enum { DONE, BROKEN, ENDED, NOT_YET };

struct slice {
    struct slice *next, *before; /* of the queue, while bytes can be claimed */
    struct slice *older, *newer; /* of all slices that were not freed */
    struct gathering whole;
    uint64_t claimed;            /* how many bytes, from the first on, lanes have claimed */
    _Atomic uint64_t left;       /* how many bytes are neither gathered nor given up */
    int queued, asked, awaited;
    struct failure failure;      /* the first one of a part */
    uint64_t sent[MOST_LANES];   /* of each lane: slots it had sent after its last part; 0: none */
};

static void put_in_queue(struct ring *ring, struct slice *one) {
    struct slice **last = &ring->last[one->asked];
    one->next = NULL;
    one->before = *last;
    if (*last == NULL) ring->first[one->asked] = one;
    else (*last)->next = one;
    *last = one;
    one->queued = 1;
}

static void take_from_queue(struct ring *ring, struct slice *one) {
    if (one->before == NULL) ring->first[one->asked] = one->next;
    else one->before->next = one->next;
    if (one->next == NULL) ring->last[one->asked] = one->before;
    else one->next->before = one->before;
    one->queued = 0;
}

/* Adds a slice; NULL if there is no memory for it or the queue has ended. */
struct slice *ring_add(struct ring *ring, const struct gathering *whole, int asked) {
    struct slice *one = calloc(1, sizeof *one);
    if (one == NULL) return NULL;
    one->whole = *whole;
    one->asked = asked != 0;
    atomic_store(&one->left, whole->total);
    pthread_mutex_lock(&ring->lock);
    one->older = ring->newest;
    if (ring->newest != NULL) ring->newest->newer = one;
    ring->newest = one;
    put_in_queue(ring, one);
    if (whole->total > CLAIM_BYTES || asked) pthread_cond_broadcast(&ring->work);
    else pthread_cond_signal(&ring->work);
    pthread_mutex_unlock(&ring->lock);
    return one;
}

/* How many bytes of a slice a lane claims. All lanes share a slice that somebody waits for, but only
 * where they have nothing else to do: less than a slot costs as much time as a whole one. */
static uint64_t most_bytes(struct ring *ring, const struct slice *one) {
    uint64_t share = one->whole.total / (atomic_load(&ring->lanes) + 1);
    if (!one->asked || ring->first[0] != NULL || share > CLAIM_BYTES) return CLAIM_BYTES;
    return share < SHARED_BYTES ? SHARED_BYTES : share;
}

/* Claims bytes of the next slice. */
static struct slice *claim(struct ring *ring, struct gathering *part) {
    struct slice *one = ring->first[1] != NULL ? ring->first[1] : ring->first[0];
    if (one == NULL) return NULL;
    uint64_t bytes = one->whole.total - one->claimed, most = most_bytes(ring, one);
    if (bytes > most) bytes = most;
    *part = one->whole;
    part->first += one->claimed;
    part->to += one->claimed;
    part->total = bytes;
    one->claimed += bytes;
    if (one->claimed == one->whole.total) take_from_queue(ring, one);
    return one;
}

static void give_up(struct ring *ring, struct slice *one, uint64_t bytes) {
    if (atomic_fetch_sub(&one->left, bytes) == bytes && one->awaited)
        pthread_cond_broadcast(&ring->done);
}

/* Gathers one part with the lock given up, and notes what became of it. */
static void serve_one(
    struct lane *lane, uint32_t number, struct slice *one, const struct gathering *part) {
    struct ring *ring = lane->ring;
    struct failure failure = {0};
    int failed = 0, skipped = one->failure.kind != FAILED_NOT;
    if (!skipped) {
        pthread_mutex_unlock(&ring->lock);
        failed = catch_up(lane, &failure) || gather_one(lane, part, &failure);
        pthread_mutex_lock(&ring->lock);
        one->sent[number] = lane->sent;
    }
    if (failed && one->failure.kind == FAILED_NOT) {
        failure.at += part->first - one->whole.first;
        one->failure = failure;
    }
    give_up(ring, one, part->total);
}

/* Gathers slices until Python has called the threads more than `calls` times, or the queue ends.
 * `number` is the lane's place in `sent` of slices. */
int lane_serve(struct lane *lane, uint32_t number, uint64_t calls, struct failure *failure) {
    struct ring *ring = lane->ring;
    if (enter(ring, failure)) return -1;
    pthread_mutex_lock(&ring->lock);
    ring->serving[number] = lane;
    while (ring->calls == calls && !ring->ended) {
        struct gathering part;
        struct slice *one = claim(ring, &part);
        if (one != NULL) serve_one(lane, number, one, &part);
        else pthread_cond_wait(&ring->work, &ring->lock);
    }
    pthread_mutex_unlock(&ring->lock);
    leave(ring);
    return 0;
}

/* No thread serves this lane any more. */
static void stop_serving(struct lane *lane) {
    struct ring *ring = lane->ring;
    pthread_mutex_lock(&ring->lock);
    for (uint32_t number = 0; number < MOST_LANES; number++)
        if (ring->serving[number] == lane) ring->serving[number] = NULL;
    pthread_mutex_unlock(&ring->lock);
}

uint64_t ring_calls(struct ring *ring) { return atomic_load(&ring->calls); }

/* Calls all threads that serve back into Python. */
void ring_call(struct ring *ring) {
    pthread_mutex_lock(&ring->lock);
    atomic_fetch_add(&ring->calls, 1);
    pthread_cond_broadcast(&ring->work);
    pthread_mutex_unlock(&ring->lock);
}

/* Lets nothing more be gathered, and ends every wait. */
void ring_end(struct ring *ring) {
    pthread_mutex_lock(&ring->lock);
    ring->ended = 1;
    pthread_cond_broadcast(&ring->work);
    pthread_cond_broadcast(&ring->done);
    pthread_mutex_unlock(&ring->lock);
}

/* Whether all bytes of a slice have arrived on the device without a failure. */
int slice_arrived(struct ring *ring, struct slice *one) {
    int all = 1;
    pthread_mutex_lock(&ring->lock);
    if (atomic_load(&one->left) || one->failure.kind != FAILED_NOT) all = 0;
    for (uint32_t number = 0; all && number < MOST_LANES; number++)
        if (one->sent[number] && ring->serving[number] != NULL)
            all = lane_arrived(ring->serving[number], one->sent[number]);
    pthread_mutex_unlock(&ring->lock);
    return all;
}

/* Waits a tenth of a second at most, so that Python can look after signals. */
static int wait_a_while(struct ring *ring, struct slice *one) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 100000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    while (atomic_load(&one->left) && !ring->ended)
        if (pthread_cond_timedwait(&ring->done, &ring->lock, &until)) break;
    if (!atomic_load(&one->left)) return one->failure.kind == FAILED_NOT ? DONE : BROKEN;
    return ring->ended ? ENDED : NOT_YET;
}

/* Waits until a slice is gathered, before all that nobody waits for. The last slots may still be on
 * their way: `sent` gets what `lane_wait` of each lane takes. */
int slice_wait(
    struct ring *ring, struct slice *one, uint64_t *sent, struct failure *failure) {
    pthread_mutex_lock(&ring->lock);
    if (one->queued && !one->asked) {
        take_from_queue(ring, one);
        one->asked = 1;
        put_in_queue(ring, one);
        pthread_cond_broadcast(&ring->work);
    }
    one->awaited = 1;
    int found = wait_a_while(ring, one);
    *failure = one->failure;
    memcpy(sent, one->sent, sizeof one->sent);
    pthread_mutex_unlock(&ring->lock);
    return found;
}

/* Gives up what no lane has claimed of a slice. */
void slice_withdraw(struct ring *ring, struct slice *one) {
    pthread_mutex_lock(&ring->lock);
    if (one->queued) {
        take_from_queue(ring, one);
        give_up(ring, one, one->whole.total - one->claimed);
    }
    pthread_mutex_unlock(&ring->lock);
}

/* Frees a slice of which no bytes are left. */
void slice_free(struct ring *ring, struct slice *one) {
    pthread_mutex_lock(&ring->lock);
    if (one->older != NULL) one->older->newer = one->newer;
    if (one->newer != NULL) one->newer->older = one->older;
    else ring->newest = one->older;
    pthread_mutex_unlock(&ring->lock);
    free(one);
}

/* Frees all slices; nobody serves or waits any more. */
static void free_slices(struct ring *ring) {
    for (struct slice *one = ring->newest, *older; one != NULL; one = older) {
        older = one->older;
        free(one);
    }
    ring->newest = NULL;
}
