/* Python in Triton's process: its C API, and the lock that whoever calls it has to hold. */
#pragma once

#include "triton.h"

typedef struct Object Object; /* PyObject */

/* Python's C API by the names of https://docs.python.org/3/c-api/, without the leading Py. */
extern struct Python {
    int (*IsInitialized)(void);
    void (*InitializeEx)(int install_signal_handlers);
    int (*Run_SimpleString)(const char *);
    void *(*Eval_SaveThread)(void);
    int (*GILState_Ensure)(void);
    void (*GILState_Release)(int);
    Object *(*Import_ImportModule)(const char *);
    Object *(*Object_GetAttrString)(Object *, const char *);
    Object *(*Object_CallFunction)(Object *, const char *format, ...);
    Object *(*Object_CallFunctionObjArgs)(Object *, ...);
    Object *(*List_New)(intptr_t);
    int (*List_SetItem)(Object *, intptr_t, Object *);
    Object *(*List_GetItem)(Object *, intptr_t);
    Object *(*Tuple_GetItem)(Object *, intptr_t);
    Object *(*BuildValue)(const char *format, ...);
    Object *(*Bytes_FromStringAndSize)(const char *, intptr_t);
    int (*Bytes_AsStringAndSize)(Object *, char **, intptr_t *);
    long long (*Long_AsLongLong)(Object *);
    void (*Err_Print)(void);
    void (*DecRef)(Object *);
} py;

/* Whether all of it is in this libpython. Nothing above may be called before. */
bool find_python(void *library);

/* Takes the GIL for the calling thread, which py.GILState_Release gives back; makes the thread known to Python for good. */
int enter(void);

/* For what Python raised: its traceback follows the message in the log, where those who look for errors find both. */
Error *raised(const char *message);
