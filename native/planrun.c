/*
 * planrun.c: test driver, not shipped. Runs plans as the monitor would and reports one line an event.
 *
 *   planrun [--pod POD_PLAN] [--report FD] [--stdio] [--hold] [--after-end] [--repeat N] PLAN [FD...] [-- EXEC_PLAN [FD...]]
 *
 * FD: @N an inherited one, r:PATH, w:PATH or p:PATH (O_PATH) opened here, overlay:LOWER:UPPER:WORK a detached overlay made here.
 * --stdio hands our 0, 1, 2 to op stdio; --hold waits at the gate for a line on fd 0; --repeat launches N times and reports the microseconds of each.
 * The container has the id "c" for the exec plan, which is launched once it runs, or with --after-end when it has ended but is not reaped. The exit code is 0 if every launch ran.
 */
#include "launch.h"
#include "plan.h"
#include "sys.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

struct file {
    uint8_t *bytes;
    size_t length;
    int fds[64];
    char **names;
    uint32_t fd_count;
};

static FILE *report;
static int running_pidfd = -1;

static void __attribute__((noreturn)) die(const char *what) {
    fprintf(stderr, "planrun: %s: %s\n", what, strerror(errno));
    exit(125);
}

static int detached_overlay(char *spec) {
    char *lower = strtok(spec, ":"), *upper = strtok(NULL, ":"), *work = strtok(NULL, ":");
    char mark[4200];
    /* A volatile overlay's mark that it was in use: a second launch on the same directories is what --repeat is for. */
    snprintf(mark, sizeof mark, "%s/work/incompat/volatile/dirty", work ? work : "");
    if (work && unlink(mark) && errno != ENOENT)
        die(mark);
    *strrchr(mark, '/') = 0;
    if (work && rmdir(mark) && errno != ENOENT)
        die(mark);
    int fs = sys_fsopen("overlay", FSOPEN_CLOEXEC);
    if (fs < 0 || sys_fsconfig(fs, FSCONFIG_SET_STRING, "lowerdir+", lower, 0) || (upper && sys_fsconfig(fs, FSCONFIG_SET_STRING, "upperdir", upper, 0)) ||
        (work && (sys_fsconfig(fs, FSCONFIG_SET_STRING, "workdir", work, 0) || sys_fsconfig(fs, FSCONFIG_SET_FLAG, "volatile", NULL, 0))) ||
        sys_fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
        die("overlay");
    int tree = sys_fsmount(fs, FSMOUNT_CLOEXEC, 0);
    if (tree < 0)
        die("overlay mount");
    close(fs);
    return tree;
}

static int open_named(const char *name) {
    char copy[4096];
    int fd;
    snprintf(copy, sizeof copy, "%s", name);
    if (copy[0] == '@') {
        fd = atoi(copy + 1);
        fcntl(fd, F_SETFD, FD_CLOEXEC);
    } else if (!strncmp(copy, "overlay:", 8)) {
        fd = detached_overlay(copy + 8);
    } else {
        fd = open(copy + 2, (copy[0] == 'w' ? O_WRONLY : copy[0] == 'p' ? O_PATH : O_RDONLY) | O_CLOEXEC);
    }
    if (fd < 0)
        die(name);
    return fd;
}

static void load(struct file *f, const char *path, char **names, uint32_t count) {
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st))
        die(path);
    f->length = (size_t)st.st_size;
    f->bytes = mmap(NULL, f->length, PROT_READ, MAP_PRIVATE, fd, 0);
    if (f->bytes == MAP_FAILED)
        die(path);
    close(fd);
    f->names = names;
    f->fd_count = count;
}

static void open_fds(struct file *f) {
    if (f->fd_count > 64)
        die("too many fds");
    for (uint32_t i = 0; i < f->fd_count; i++)
        f->fds[i] = open_named(f->names[i]);
}

static void close_fds(struct file *f) {
    for (uint32_t i = 0; i < f->fd_count; i++)
        close(f->fds[i]);
}

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int tell_failure(const char *who, const struct launch_error *e) {
    fprintf(report, "%sfailed errno=%u index=%d op=%s detail=%s\n", who, e->errnum, (int)e->op_index, e->op, e->detail);
    fflush(report);
    return 1;
}

static int pidfd_of(void *cookie, const char *id) {
    (void)cookie;
    return strcmp(id, "c") ? -1 : running_pidfd;
}

static void relay(int master) {
    char buffer[4096];
    ssize_t n = read(master, buffer, sizeof buffer);
    if (n > 0 && write(1, buffer, (size_t)n) != n)
        die("stdout");
}

/* Waits for what the launch says until it left `state`. */
static enum launch_state pump_past(struct launch *launch, enum launch_state state) {
    enum launch_state now;
    while ((now = launch_pump(launch)) == state) {
        struct pollfd p = {launch->status, POLLIN, 0};
        if (poll(&p, 1, 20000) == 0)
            die("launch hangs");
    }
    return now;
}

static void wait_for_end(const char *who, struct launch *launch) {
    siginfo_t info;
    struct pollfd p[2] = {{launch->pidfd, POLLIN, 0}, {launch->terminal_master, POLLIN, 0}};
    while (poll(p, launch->terminal_master < 0 ? 1 : 2, 30000) > 0) {
        if (p[1].revents & POLLIN && launch->terminal_master >= 0)
            relay(launch->terminal_master);
        else if (p[0].revents)
            break;
        else if (p[1].revents)
            p[1].fd = -1;
    }
    if (syscall(SYS_waitid, P_PID, launch->pid, &info, WEXITED, NULL))
        die("waitid");
    if (launch->state == LAUNCH_RUNNING)
        fprintf(report, "%sexit %s=%d\n", who, info.si_code == CLD_EXITED ? "code" : "signal", info.si_status);
    close(launch->pidfd);
    if (launch->terminal_master >= 0)
        close(launch->terminal_master);
}

static int start(const char *who, struct launch *launch, struct file *f, const struct launch_context *context, int hold) {
    struct plan plan;
    struct launch_error error;
    char line[16];
    if (plan_decode(&plan, f->bytes, f->length, f->fds, f->fd_count, &error) || launch_begin(launch, &plan, context, &error))
        return tell_failure(who, &error) + 1;
    if (pump_past(launch, LAUNCH_SETTING_UP) == LAUNCH_AT_GATE) {
        fprintf(report, "%sgate pid=%d\n", who, (int)launch->pid);
        fflush(report);
        if (hold && !fgets(line, sizeof line, stdin))
            die("stdin");
        if (launch_pump(launch) == LAUNCH_AT_GATE && launch_open_gate(launch))
            die("gate");
        pump_past(launch, LAUNCH_SETTING_UP);
    }
    if (launch->state == LAUNCH_FAILED)
        return tell_failure(who, &launch->error);
    fprintf(report, "%srunning pid=%d\n", who, (int)launch->pid);
    fflush(report);
    return 0;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static int bench(struct file *f, const struct launch_context *context, int n) {
    double *times = calloc((size_t)n, sizeof *times);
    if (!times)
        die("memory");
    for (int i = 0; i < n; i++) {
        struct launch launch;
        struct plan plan;
        struct launch_error error;
        open_fds(f);
        double begin = now_us();
        if (plan_decode(&plan, f->bytes, f->length, f->fds, f->fd_count, &error) || launch_begin(&launch, &plan, context, &error))
            return tell_failure("", &error);
        if (pump_past(&launch, LAUNCH_SETTING_UP) == LAUNCH_AT_GATE && launch_open_gate(&launch) == 0)
            pump_past(&launch, LAUNCH_SETTING_UP);
        times[i] = now_us() - begin;
        if (launch.state == LAUNCH_FAILED)
            return tell_failure("", &launch.error);
        siginfo_t info;
        syscall(SYS_waitid, P_PID, launch.pid, &info, WEXITED, NULL);
        close(launch.pidfd);
        close_fds(f);
    }
    qsort(times, (size_t)n, sizeof *times, by_value);
    fprintf(report, "bench n=%d min_us=%.0f p50_us=%.0f p95_us=%.0f\n", n, times[0], times[n / 2], times[n * 95 / 100]);
    free(times);
    return 0;
}

int main(int argc, char **argv) {
    struct launch_context context = {.pod_pidns = -1, .container_pidfd = pidfd_of, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1};
    const char *pod = NULL;
    int hold = 0, after_end = 0, repeat = 0, i = 1;
    pid_t init_pid = 0;
    report = stderr;
    signal(SIGPIPE, SIG_IGN); /* as the monitor does: the children must not inherit it */
    for (; i < argc && !strncmp(argv[i], "--", 2); i++) {
        if (!strcmp(argv[i], "--pod"))
            pod = argv[++i];
        else if (!strcmp(argv[i], "--report")) {
            fcntl(atoi(argv[++i]), F_SETFD, FD_CLOEXEC);
            report = fdopen(atoi(argv[i]), "w");
        } else if (!strcmp(argv[i], "--stdio"))
            context.stdin_fd = 0, context.stdout_fd = 1, context.stderr_fd = 2;
        else if (!strcmp(argv[i], "--hold"))
            hold = 1;
        else if (!strcmp(argv[i], "--after-end"))
            after_end = 1;
        else if (!strcmp(argv[i], "--repeat"))
            repeat = atoi(argv[++i]);
        else
            die(argv[i]);
    }
    if (i >= argc || !report)
        die("usage");
    int split = i + 1;
    while (split < argc && strcmp(argv[split], "--"))
        split++;
    struct file main_file = {0}, exec_file = {0};
    struct launch launch, exec_launch;
    load(&main_file, argv[i], argv + i + 1, (uint32_t)(split - i - 1));
    if (pod) {
        struct file f = {0};
        struct plan plan;
        struct launch_error error;
        load(&f, pod, NULL, 0);
        if (plan_decode(&plan, f.bytes, f.length, NULL, 0, &error) || plan_run_pod(&plan, &init_pid, &context.pod_pidns, &error))
            return tell_failure("pod_", &error);
        fprintf(report, "pod init_pid=%d\n", (int)init_pid);
        fflush(report);
    }
    if (repeat)
        return bench(&main_file, &context, repeat);
    open_fds(&main_file);
    int failed = start("", &launch, &main_file, &context, hold);
    close_fds(&main_file);
    if (!failed && split < argc) {
        running_pidfd = launch.pidfd;
        struct pollfd end = {launch.pidfd, POLLIN, 0};
        if (after_end && poll(&end, 1, 20000) != 1)
            die("the container does not end");
        load(&exec_file, argv[split + 1], argv + split + 2, (uint32_t)(argc - split - 2));
        open_fds(&exec_file);
        failed = start("exec_", &exec_launch, &exec_file, &context, 0);
        close_fds(&exec_file);
        if (failed != 2)
            wait_for_end("exec_", &exec_launch);
        sys_pidfd_send_signal(launch.pidfd, SIGKILL);
        wait_for_end("", &launch);
    } else if (failed != 2) {
        wait_for_end("", &launch);
    }
    if (init_pid) {
        kill(init_pid, SIGTERM);
        int status;
        while (waitpid(-1, &status, 0) > 0)
            ;
        fprintf(report, "pod end=%d\n", status);
    }
    fflush(report);
    return failed ? 1 : 0;
}
