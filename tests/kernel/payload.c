/*
 * payload.c: the whole userland of a test container: one static program, one verb an argument group. Verbs are separated by "," and run in order; the exit
 * code is that of the last. Prints facts as the kernel tells them; judges nothing.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static int fail(const char *what) {
    printf("%s: %s\n", what, strerror(errno));
    return 1;
}

/* cat FILE: its contents. */
static int verb_cat(char **a) {
    char buffer[65536];
    int fd = open(a[0], O_RDONLY);
    ssize_t n;
    if (fd < 0)
        return fail(a[0]);
    while ((n = read(fd, buffer, sizeof buffer)) > 0)
        fwrite(buffer, 1, (size_t)n, stdout);
    close(fd);
    return n < 0 ? fail(a[0]) : 0;
}

/* write FILE TEXT: open without O_CREAT, or with it when FILE is new. */
static int verb_write(char **a) {
    int fd = open(a[0], O_WRONLY | O_CREAT, 0644);
    if (fd < 0 || write(fd, a[1], strlen(a[1])) < 0)
        return fail(a[0]);
    close(fd);
    printf("%s: written\n", a[0]);
    return 0;
}

/* stat PATH: type mode uid gid major:minor size fstype */
static int verb_stat(char **a) {
    struct stat st;
    struct statfs fs;
    if (lstat(a[0], &st))
        return fail(a[0]);
    char kind = S_ISDIR(st.st_mode) ? 'd' : S_ISREG(st.st_mode) ? 'f' : S_ISLNK(st.st_mode) ? 'l' : S_ISCHR(st.st_mode) ? 'c' : S_ISFIFO(st.st_mode) ? 'p' : '?';
    printf("%s: %c %04o %u:%u %u:%u %lld %#lx\n", a[0], kind, st.st_mode & 07777, st.st_uid, st.st_gid, major(st.st_rdev), minor(st.st_rdev), (long long)st.st_size,
           statfs(a[0], &fs) ? 0ul : (unsigned long)fs.f_type);
    return 0;
}

static int verb_ls(char **a) {
    DIR *d = opendir(a[0]);
    struct dirent *e;
    if (!d)
        return fail(a[0]);
    printf("%s:", a[0]);
    while ((e = readdir(d)))
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
            printf(" %s", e->d_name);
    printf("\n");
    closedir(d);
    return 0;
}

static int verb_readlink(char **a) {
    char link[4096];
    ssize_t n = readlink(a[0], link, sizeof link - 1);
    if (n < 0)
        return fail(a[0]);
    link[n] = 0;
    printf("%s -> %s\n", a[0], link);
    return 0;
}

static int verb_fds(char **a) {
    (void)a;
    struct stat st;
    printf("fds:");
    for (int fd = 0; fd < 1024; fd++)
        if (fstat(fd, &st) == 0)
            printf(" %d", fd);
    printf("\n");
    return 0;
}

static int verb_id(char **a) {
    (void)a;
    gid_t groups[1024];
    int n = getgroups(1024, groups);
    printf("id: uid=%u euid=%u gid=%u egid=%u groups=", getuid(), geteuid(), getgid(), getegid());
    for (int i = 0; i < n; i++)
        printf(i ? ",%u" : "%u", groups[i]);
    mode_t mask = umask(0);
    umask(mask);
    printf(" umask=%04o pid=%d ppid=%d sid=%d pgid=%d\n", mask, getpid(), getppid(), getsid(0), getpgrp());
    return 0;
}

static int verb_cwd(char **a) {
    (void)a;
    char cwd[4096];
    printf("cwd: %s\n", getcwd(cwd, sizeof cwd) ? cwd : strerror(errno));
    return 0;
}

static int verb_env(char **a) {
    (void)a;
    for (char **e = environ; *e; e++)
        printf("env: %s\n", *e);
    return 0;
}

static int verb_names(char **a) {
    (void)a;
    struct utsname u;
    uname(&u);
    printf("names: %s %s\n", u.nodename, u.domainname);
    return 0;
}

/* limit N: soft hard */
static int verb_limit(char **a) {
    struct rlimit r;
    if (getrlimit(atoi(a[0]), &r))
        return fail("limit");
    printf("limit %s: %llu %llu\n", a[0], (unsigned long long)r.rlim_cur, (unsigned long long)r.rlim_max);
    return 0;
}

static int verb_tty(char **a) {
    (void)a;
    struct winsize w = {0};
    ioctl(0, TIOCGWINSZ, &w);
    printf("tty: %d%d%d %s %dx%d ctty=%s\n", isatty(0), isatty(1), isatty(2), isatty(0) ? ttyname(0) : "-", w.ws_row, w.ws_col,
           open("/dev/tty", O_RDWR) >= 0 ? "yes" : "no");
    return 0;
}

static int verb_socket(char **a) {
    int fd = socket(atoi(a[0]), SOCK_STREAM, 0);
    if (fd < 0)
        return fail("socket");
    close(fd);
    printf("socket: ok\n");
    return 0;
}

static int verb_mkdir(char **a) {
    if (mkdir(a[0], 0755))
        return fail(a[0]);
    printf("%s: made\n", a[0]);
    return 0;
}

static int verb_chmod(char **a) {
    if (chmod(a[0], (mode_t)strtol(a[1], NULL, 8)))
        return fail(a[0]);
    printf("%s: mode set\n", a[0]);
    return 0;
}

static int verb_time(char **a) {
    (void)a;
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    printf("boottime: %lld\n", (long long)t.tv_sec);
    return 0;
}

/* signals: the blocked and ignored masks. */
static int verb_signals(char **a) {
    (void)a;
    char line[256];
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, "Sig", 3))
            printf("%s", line);
    return 0;
}

/* kill PID SIGNAL */
static int verb_kill(char **a) {
    if (kill(atoi(a[0]), atoi(a[1])))
        return fail("kill");
    printf("kill: sent\n");
    return 0;
}

/* orphan FILE: a grandchild whose parent ends; the grandchild writes its parent's pid to FILE when that has changed, and ends. */
static int verb_orphan(char **a) {
    int ends[2];
    if (pipe(ends))
        return fail("pipe");
    pid_t child = fork();
    if (child == 0) {
        pid_t me = getpid();
        if (fork() == 0) {
            while (getppid() == me)
                usleep(1000);
            char text[32];
            int n = snprintf(text, sizeof text, "%d %d", getpid(), getppid());
            _exit(write(ends[1], text, (size_t)n) == n ? 0 : 1);
        }
        _exit(0);
    }
    close(ends[1]);
    waitpid(child, NULL, 0);
    char text[32];
    ssize_t n = read(ends[0], text, sizeof text - 1);
    text[n > 0 ? n : 0] = 0;
    printf("orphan: %s\n", text);
    /* the reaper has taken it once its pid is gone */
    int pid = atoi(text), i = 0;
    while (kill(pid, 0) == 0 && i++ < 2000)
        usleep(1000);
    printf("orphan: %s\n", kill(pid, 0) && errno == ESRCH ? "reaped" : "still there");
    (void)a;
    return 0;
}

static int verb_echo(char **a) {
    printf("%s\n", a[0]);
    return 0;
}

static int verb_exit(char **a) {
    fflush(stdout);
    _exit(atoi(a[0]));
}

/* wait: until killed. */
static int __attribute__((noreturn)) verb_wait(char **a) {
    (void)a;
    fflush(stdout);
    for (;;)
        pause();
}

static const struct verb { const char *name; int arguments; int (*run)(char **); } verbs[] = {
    {"cat", 1, verb_cat}, {"write", 2, verb_write}, {"stat", 1, verb_stat}, {"ls", 1, verb_ls}, {"readlink", 1, verb_readlink}, {"fds", 0, verb_fds}, {"id", 0, verb_id},
    {"cwd", 0, verb_cwd}, {"env", 0, verb_env}, {"names", 0, verb_names}, {"limit", 1, verb_limit}, {"tty", 0, verb_tty}, {"socket", 1, verb_socket},
    {"mkdir", 1, verb_mkdir}, {"chmod", 2, verb_chmod}, {"time", 0, verb_time}, {"signals", 0, verb_signals}, {"kill", 2, verb_kill}, {"orphan", 0, verb_orphan},
    {"echo", 1, verb_echo}, {"exit", 1, verb_exit}, {"wait", 0, verb_wait},
};

int main(int argc, char **argv) {
    int code = 0;
    for (int i = 1; i < argc; i++) {
        const struct verb *v = NULL;
        for (size_t k = 0; k < sizeof verbs / sizeof verbs[0]; k++)
            if (!strcmp(argv[i], verbs[k].name))
                v = &verbs[k];
        if (!v || i + v->arguments >= argc) {
            printf("payload: %s?\n", argv[i]);
            return 64;
        }
        code = v->run(argv + i + 1);
        i += v->arguments;
    }
    fflush(stdout);
    return code;
}
