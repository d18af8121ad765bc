/* op_exec.c: the last op. The command is searched as the container's user, in its root, in its PATH; what goes wrong is told in the words people know. */
#include "setup.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

static char **pointers(char **into, const struct field *strings) {
    const char *at = strings->s;
    for (uint32_t i = 0; i < strings->count; i++)
        *into++ = (char *)(uintptr_t)next_str(&at);
    *into++ = NULL;
    return into;
}

static const char *path_of(char *const *envp) {
    for (; *envp; envp++)
        if (!strncmp(*envp, "PATH=", 5))
            return *envp + 5;
    return DEFAULT_PATH;
}

static int tell(struct setup *s, const char *file) {
    int saved = errno;
    struct stat st;
    if (saved == ENOENT && stat(file, &st) == 0)
        return refuse(s, saved, "\"%s\": its interpreter is missing", file);
    if (saved == EACCES && stat(file, &st) == 0 && S_ISDIR(st.st_mode))
        return refuse(s, saved, "\"%s\": is a directory", file);
    errno = saved;
    return fail(s, "\"%s\"", file);
}

static int exec_in_path(struct setup *s, const char *name, char **argv, char **envp) {
    char file[PATH_MAX], denied[PATH_MAX] = "";
    for (const char *dir = path_of(envp); *dir;) {
        size_t n = strcspn(dir, ":");
        int length = snprintf(file, sizeof file, "%.*s/%s", n ? (int)n : 1, n ? dir : ".", name);
        dir += n + (dir[n] == ':');
        if (length < 0 || (size_t)length >= sizeof file)
            continue;
        execve(file, argv, envp);
        struct stat st;
        if (errno == EACCES && !*denied) {
            if (stat(file, &st) || !S_ISDIR(st.st_mode))
                memcpy(denied, file, (size_t)length + 1);
        } else if (errno == ENOENT) {
            if (stat(file, &st) == 0) {
                errno = ENOENT;
                return tell(s, file);
            }
        } else if (errno != ENOTDIR && errno != EACCES && errno != ELOOP && errno != ENAMETOOLONG) {
            return tell(s, file);
        }
    }
    if (*denied)
        return refuse(s, EACCES, "\"%s\"", denied);
    return refuse(s, ENOENT, "\"%s\": executable file not found in $PATH", name);
}

int exec_prepare(struct setup *s, const struct op *op) {
    ARGS(exec, op);
    size_t count = (size_t)a->argv.count + a->envp.count + 2;
    s->argv = mmap(NULL, count * sizeof *s->argv, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (s->argv == MAP_FAILED)
        return fail(s, "%zu arguments and variables", count - 2);
    s->envp = pointers(s->argv, &a->argv);
    pointers(s->envp, &a->envp);
    return 0;
}

int op_exec(struct setup *s, const struct op *op) {
    ARGS(exec, op);
    if (!a->path.count)
        return refuse(s, ENOENT, "\"\": executable file not found in $PATH");
    if (!strchr(a->path.s, '/'))
        return exec_in_path(s, a->path.s, s->argv, s->envp);
    execve(a->path.s, s->argv, s->envp);
    return tell(s, a->path.s);
}
