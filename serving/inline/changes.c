/* Has Triton look at its model repository as soon as something in it is replaced.
 *
 * A Triton that polls looks once a second at most (--repository-poll-secs takes whole seconds), which is most of what a
 * rollback takes. The backend may ask for a look whenever it wants: inotify says when. Where there is none, Triton's own
 * look comes within a second.
 */
#include "changes.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <unistd.h>

static struct {
    pthread_mutex_t lock; /* a pool of threads loads models */
    bool runs;
    pthread_t thread;
    Server *server;
    int changed, ended; /* of inotify, and an eventfd */
} watch = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void *look(void *unused) {
    (void)unused;
    char events[16 * (sizeof(struct inotify_event) + NAME_MAX + 1)];
    struct pollfd files[] = {{.fd = watch.changed, .events = POLLIN}, {.fd = watch.ended, .events = POLLIN}};
    while ((poll(files, 2, -1) > 0 || errno == EINTR) && !files[1].revents) {
        if (!files[0].revents || read(watch.changed, events, sizeof events) <= 0)
            continue;
        /* Refused where Triton does not poll, and while it starts or stops; what fails to load is in its log. */
        Error *error = TRITONSERVER_ServerPollModelRepository(watch.server);
        if (error)
            TRITONSERVER_ErrorDelete(error);
    }
    return NULL;
}

static bool start(const char *models) {
    watch.changed = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    watch.ended = eventfd(0, EFD_CLOEXEC);
    if (watch.changed >= 0 && watch.ended >= 0 && inotify_add_watch(watch.changed, models, IN_MOVED_TO) >= 0 &&
        pthread_create(&watch.thread, NULL, look, NULL) == 0)
        return true;
    close(watch.changed);
    close(watch.ended);
    return false;
}

void watch_repository_of(Model *model) {
    int kind;
    const char *folder, *end;
    char models[PATH_MAX];
    pthread_mutex_lock(&watch.lock);
    if (!watch.runs && !TRITONBACKEND_ModelServer(model, &watch.server) &&
        !TRITONBACKEND_ModelRepository(model, &kind, &folder) && (end = strrchr(folder, '/')) &&
        snprintf(models, sizeof models, "%.*s", (int)(end - folder), folder) < (int)sizeof models)
        watch.runs = start(models);
    pthread_mutex_unlock(&watch.lock);
}

void end_watch(void) {
    const uint64_t one = 1;
    if (watch.runs && write(watch.ended, &one, sizeof one) == sizeof one) {
        pthread_join(watch.thread, NULL);
        close(watch.changed);
        close(watch.ended);
        watch.runs = false;
    }
}
