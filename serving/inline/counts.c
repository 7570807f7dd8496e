#include "counts.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { HEADER_BYTES = 1024, BYTES = 2 * HEADER_BYTES };

/* {"model": "minilm", "version": "3", "names": ["one", "two"]} and the end of the line; false if that is too long. */
static int head(char *text, const char *model, uint64_t version, const char *const *names, int count) {
    int length = snprintf(text, HEADER_BYTES, "{\"model\": \"%s\", \"version\": \"%llu\", \"names\": [", model,
                          (unsigned long long)version);
    for (int i = 0; i < count && length < HEADER_BYTES; i++)
        length += snprintf(text + length, (size_t)(HEADER_BYTES - length), "%s\"%s\"", i ? ", " : "", names[i]);
    if (length < HEADER_BYTES)
        length += snprintf(text + length, (size_t)(HEADER_BYTES - length), "]}\n");
    return length < HEADER_BYTES;
}

static char *map(int file) {
    char *found = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, file < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, file, 0);
    return found == MAP_FAILED ? NULL : found;
}

int64_t *counts_new(const char *model, uint64_t version, const char *const *names, int count) {
    const char *folder = getenv("BANTAM_COUNTS");
    char path[PATH_MAX], header[HEADER_BYTES];
    char *found = NULL;
    if (folder && *folder && head(header, model, version, names, count) &&
        snprintf(path, sizeof path, "%s/%s-%llu.queue", folder, model, (unsigned long long)version) < (int)sizeof path) {
        int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        /* All of it on the disk: where that is full, writing into a hole of the file would end the process. */
        if (file >= 0 && posix_fallocate(file, 0, BYTES) == 0 && (found = map(file)))
            memcpy(found, header, strlen(header));
        if (file >= 0)
            close(file);
    }
    if (!found)
        found = map(-1);
    return found ? (int64_t *)(found + HEADER_BYTES) : NULL;
}

void counts_free(int64_t *counts) {
    if (counts)
        munmap((char *)counts - HEADER_BYTES, BYTES);
}
