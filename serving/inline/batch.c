#include "item.h"

#include <stdlib.h>
#include <string.h>

Object *host_execute;

/* The request's input as bytes; the caller has the GIL. */
static Error *take(Item *item) {
    const void *buffer;
    uint64_t bytes = item->bytes, size;
    char *to;
    intptr_t length;
    Error *error;
    item->raw = py.Bytes_FromStringAndSize(NULL, (intptr_t)bytes);
    if (!item->raw || py.Bytes_AsStringAndSize(item->raw, &to, &length) != 0)
        return raised("no memory for the input");
    for (uint32_t i = 0; i < item->buffers; i++) {
        int memory = CPU;
        int64_t device = 0;
        if ((error = TRITONBACKEND_InputBuffer(item->input, i, &buffer, &size, &memory, &device)))
            return error;
        if (memory > CPU + 1) /* pinned memory is the CPU's too */
            return TRITONSERVER_ErrorNew(INTERNAL, "the input is not in the CPU's memory");
        if (size > bytes)
            return TRITONSERVER_ErrorNew(INTERNAL, "the input is longer than it says");
        memcpy(to, buffer, size);
        to += size;
        bytes -= size;
    }
    return bytes ? TRITONSERVER_ErrorNew(INTERNAL, "the input is shorter than it says") : NULL;
}

/* What host.execute answered to one request; the pointers in `item` live as long as the answer. */
static Error *understand(Object *answer, Item *item) {
    char *text, *data;
    intptr_t length, size;
    long long code = py.Long_AsLongLong(py.Tuple_GetItem(answer, 0)); /* -1 if all is well */
    if (py.Bytes_AsStringAndSize(py.Tuple_GetItem(answer, 1), &text, &length) != 0 ||
        py.Bytes_AsStringAndSize(py.Tuple_GetItem(answer, 2), &data, &size) != 0)
        return raised("host.execute gave no answer");
    if (code >= 0)
        return TRITONSERVER_ErrorNew((int)code, text);
    item->name = text;
    item->data = data;
    item->shape[0] = py.Long_AsLongLong(py.Tuple_GetItem(answer, 3));
    item->shape[1] = py.Long_AsLongLong(py.Tuple_GetItem(answer, 4));
    if (size != 4 * item->shape[0] * item->shape[1])
        return TRITONSERVER_ErrorNew(INTERNAL, "the model's output is not float32 of two dimensions");
    return NULL;
}

/* Has host.execute answer the items that have no error yet. Returns the answers, to be kept as long as the items. */
static Object *ask(Object *model, Item *batch) {
    intptr_t good = 0, at = 0;
    for (Item *item = batch; item; item = next(item))
        good += !item->error;
    Object *list = py.List_New(good), *answers = NULL;
    for (Item *item = batch; list && item; item = next(item))
        if (!item->error)
            py.List_SetItem(list, at++,
                            py.BuildValue("(OLL)", item->raw, (long long)item->waiting.rows, (long long)item->columns));
    if (list && good)
        answers = py.Object_CallFunctionObjArgs(host_execute, model, list, NULL);
    at = 0;
    for (Item *item = batch; item; item = next(item))
        if (!item->error)
            item->error = answers ? understand(py.List_GetItem(answers, at++), item) : raised("host.execute failed");
    if (list)
        py.DecRef(list);
    return answers;
}

/* Answers those whose clients have gone; returns the others. */
static Item *without_gone(Served *served, Item *batch) {
    Waiting *kept = NULL, **end = &kept;
    for (Item *item = batch, *following; item; item = following) {
        bool gone = false;
        following = next(item);
        log_and_delete(TRITONBACKEND_RequestIsCancelled(item->request, &gone));
        if (gone) {
            queue_count(served->queue, GONE);
            item->error = TRITONSERVER_ErrorNew(CANCELLED, "the client has gone");
            answer_without_scores(item);
            free(item);
        } else {
            *end = &item->waiting;
            end = &item->waiting.next;
        }
    }
    *end = NULL;
    return (Item *)kept;
}

void compute(Served *served, Waiting *waiting) {
    uint64_t begin = now(), rows = 0, cost = 0;
    Item *batch = without_gone(served, (Item *)waiting);
    int gil = enter();
    for (Item *item = batch; item; item = next(item))
        item->error = take(item);
    uint64_t compute_begin = now();
    Object *answers = batch ? ask(py.Tuple_GetItem(served->loaded, 0), batch) : NULL;
    uint64_t compute_end = now();
    py.GILState_Release(gil);
    for (Item *item = batch; item; item = next(item)) {
        rows += item->waiting.rows;
        cost += item->error ? 0 : item->waiting.cost;
    }
    /* Before anybody is answered: who then sends the next request finds the model idle. */
    queue_lock(served->queue);
    queue_done(served->queue, cost, compute_end - begin);
    queue_unlock(served->queue);
    for (Item *item = batch; item; item = next(item))
        respond(item);
    uint64_t end = now();
    if (batch)
        log_and_delete(
            TRITONBACKEND_ModelInstanceReportBatchStatistics(batch->instance, rows, begin, compute_begin, compute_end, end));
    for (Item *item = batch; item; item = next(item))
        give_back(item, begin, compute_begin, compute_end);
    gil = enter();
    for (Item *item = batch, *following; item; item = following) {
        following = next(item);
        if (item->raw)
            py.DecRef(item->raw);
        free(item);
    }
    if (answers)
        py.DecRef(answers);
    py.GILState_Release(gil);
}
