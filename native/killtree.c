#include "killtree.h"

#include "sys.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define DEPTH_MAX 8
#define FREEZE_POLLS 200
#define UNFROZEN_ROUNDS 8

static int write_file(int dir, const char *name, const char *text) {
    SCOPED_FD fd = openat(dir, name, O_WRONLY | O_CLOEXEC);
    size_t n = strlen(text);
    return fd >= 0 && write(fd, text, n) == (ssize_t)n ? 0 : -1;
}

static ssize_t read_file(int dir, const char *name, char *text, size_t size) {
    SCOPED_FD fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, size - 1);
    text[n > 0 ? n : 0] = 0;
    return n;
}

/* Calls visit(pid) for each process of the cgroup and its children cgroups until it returns non-zero; that value, 0 at the end, -1 with errno. */
static int each_member(int dir, int (*visit)(pid_t pid, void *cookie), void *cookie, int depth) {
    SCOPED_FD fd = openat(dir, "cgroup.procs", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    char text[4096];
    long pid = 0;
    int verdict = 0;
    for (ssize_t n; (n = read(fd, text, sizeof text)) > 0;)
        for (ssize_t i = 0; i < n; i++) {
            if (text[i] >= '0' && text[i] <= '9') {
                pid = pid * 10 + (text[i] - '0');
            } else if (pid > 0) {
                if ((verdict = visit((pid_t)pid, cookie)))
                    return verdict;
                pid = 0;
            }
        }
    struct stat st;
    if (depth == DEPTH_MAX || (fstat(dir, &st) == 0 && st.st_nlink == 2)) /* a cgroup's directory counts its children */
        return 0;
    int again = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *entries = again < 0 ? NULL : fdopendir(again);
    if (!entries) {
        close_fd(&again);
        return -1;
    }
    for (struct dirent *entry; !verdict && (entry = readdir(entries));)
        if (entry->d_type == DT_DIR && entry->d_name[0] != '.') {
            SCOPED_FD child = openat(dir, entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
            int found = child < 0 ? 0 : each_member(child, visit, cookie, depth + 1);
            verdict = found > 0 ? found : 0; /* a child cgroup that goes away meanwhile is no failure */
        }
    closedir(entries);
    return verdict;
}

struct signalling {
    int signal, count;
};

/* By number, not by pidfd: a frozen process keeps its number, and one that we are the parent of keeps it until we reap it. */
static int signal_one(pid_t pid, void *cookie) {
    struct signalling *s = cookie;
    s->count += kill(pid, s->signal) == 0;
    return 0;
}

/* Returns how many were signalled, or -1. */
static int signal_members(int dir, int signal) {
    struct signalling s = {.signal = signal};
    return each_member(dir, signal_one, &s, 0) < 0 ? -1 : s.count;
}

static int is_another(pid_t pid, void *cookie) { return pid != *(const pid_t *)cookie; }

int signal_tree(int cgroup_dir, int signal) { return signal_members(cgroup_dir, signal) < 0 ? -1 : 0; }

int kill_tree(int cgroup_dir, int v2, pid_t killed) {
    if (v2)
        return write_file(cgroup_dir, "cgroup.kill", "1");
    /* Alone, and with SIGKILL pending it cannot fork: nobody to freeze. A frozen process dies some 10 ms later, because a dying one does not freeze
       and the whole cgroup waits for it. */
    if (each_member(cgroup_dir, is_another, &killed, 0) == 0) {
        thaw_tree(cgroup_dir, 0);
        return 0;
    }
    /* 1 freeze, so that nobody forks; 2 wait until all are; 3 kill; 4 thaw, then the signals take effect. */
    char state[32] = "";
    int frozen = 0, count;
    if (write_file(cgroup_dir, "freezer.state", "FROZEN") == 0)
        for (int i = 0; i < FREEZE_POLLS && !frozen; i++) {
            frozen = read_file(cgroup_dir, "freezer.state", state, sizeof state) > 0 && strncmp(state, "FROZEN", 6) == 0;
            if (!frozen)
                nanosleep(&(struct timespec){0, 100000}, NULL);
        }
    count = signal_members(cgroup_dir, SIGKILL);
    thaw_tree(cgroup_dir, 0);
    /* Another hierarchy than the freezer's, or one that would not freeze: who forked in between is met in the next round. */
    for (int round = 0; !frozen && count > 0 && round < UNFROZEN_ROUNDS; round++)
        count = signal_members(cgroup_dir, SIGKILL);
    return count < 0 ? -1 : 0;
}

void thaw_tree(int cgroup_dir, int v2) {
    char state[32];
    if (!v2 && read_file(cgroup_dir, "freezer.state", state, sizeof state) > 0 && strncmp(state, "THAWED", 6) != 0)
        write_file(cgroup_dir, "freezer.state", "THAWED"); /* not for nothing: the write takes every lock of the hierarchy */
}

uint64_t oom_kill_count(int memory_dir, int v2) {
    char text[1024];
    if (memory_dir < 0 || read_file(memory_dir, v2 ? "memory.events" : "memory.oom_control", text, sizeof text) <= 0)
        return 0;
    for (char *at = text; at; at = strchr(at, '\n')) {
        at += *at == '\n';
        if (strncmp(at, "oom_kill ", 9) == 0)
            return strtoull(at + 9, NULL, 10);
    }
    return 0;
}
