/*
 * oom.c: how many processes of a container the kernel has killed for memory. v1: an eventfd on memory.oom_control; v2: inotify on memory.events.
 * The counter is the truth, the event only says when to look; the exit record looks once more, because an event may come after the exit.
 */
#include "killtree.h"
#include "monitor.h"

#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <time.h>

#define LOOK_AGAIN_NS 20000000u
#define LOOKS 5

static int watch_v1(const struct container *k) {
    int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    SCOPED_FD control = openat(k->oom, "memory.oom_control", O_RDONLY | O_CLOEXEC), door = openat(k->oom, "cgroup.event_control", O_WRONLY | O_CLOEXEC);
    char text[48];
    int n = snprintf(text, sizeof text, "%d %d", event, control);
    if (event >= 0 && control >= 0 && door >= 0 && write(door, text, (size_t)n) == n)
        return event;
    close_fd(&event);
    return -1;
}

static int watch_v2(const struct container *k) {
    char path[64];
    int events = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    snprintf(path, sizeof path, "/proc/self/fd/%d/memory.events", k->oom);
    if (events >= 0 && inotify_add_watch(events, path, IN_MODIFY) >= 0)
        return events;
    close_fd(&events);
    return -1;
}

/* A watch that fails costs only the early notice: the count at the exit is still read. */
void watch_oom(struct container *k) {
    if (k->oom < 0)
        return;
    k->oom_base = oom_kill_count(k->oom, k->v2);
    watch(&k->oom_event, SOURCE_OOM, k->v2 ? watch_v2(k) : watch_v1(k), k, EPOLLIN);
}

void look_for_oom(struct container *k) {
    uint64_t kills = k->oom < 0 ? 0 : oom_kill_count(k->oom, k->v2);
    k->oom_look_ns = 0;
    if (kills > k->oom_base + k->oom_kills) {
        k->oom_kills = kills - k->oom_base;
        announce_oom(k);
    } else if (k->oom_looks-- > 0) {
        k->oom_look_ns = now_ns(CLOCK_MONOTONIC) + LOOK_AGAIN_NS;
    }
}

void oom_readable(struct container *k) {
    char drained[512];
    while (read(k->oom_event.fd, drained, sizeof drained) > 0)
        ;
    /* v1 tells before it kills: the counter grows a moment later. */
    k->oom_looks = k->v2 ? 0 : LOOKS;
    look_for_oom(k);
}
