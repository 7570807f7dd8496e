#include "python.h"

#include <dlfcn.h>
#include <string.h>

struct Python py;

bool find_python(void *library) {
    const struct {
        void *place;
        const char *name;
    } functions[] = {
        {&py.IsInitialized, "Py_IsInitialized"},
        {&py.InitializeEx, "Py_InitializeEx"},
        {&py.Run_SimpleString, "PyRun_SimpleString"},
        {&py.Eval_SaveThread, "PyEval_SaveThread"},
        {&py.GILState_Ensure, "PyGILState_Ensure"},
        {&py.GILState_Release, "PyGILState_Release"},
        {&py.Import_ImportModule, "PyImport_ImportModule"},
        {&py.Object_GetAttrString, "PyObject_GetAttrString"},
        {&py.Object_CallFunction, "PyObject_CallFunction"},
        {&py.Object_CallFunctionObjArgs, "PyObject_CallFunctionObjArgs"},
        {&py.List_New, "PyList_New"},
        {&py.List_SetItem, "PyList_SetItem"},
        {&py.List_GetItem, "PyList_GetItem"},
        {&py.Tuple_GetItem, "PyTuple_GetItem"},
        {&py.BuildValue, "Py_BuildValue"},
        {&py.Bytes_FromStringAndSize, "PyBytes_FromStringAndSize"},
        {&py.Bytes_AsStringAndSize, "PyBytes_AsStringAndSize"},
        {&py.Long_AsLongLong, "PyLong_AsLongLong"},
        {&py.Err_Print, "PyErr_Print"},
        {&py.DecRef, "Py_DecRef"},
    };
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        void *found = dlsym(library, functions[i].name);
        if (!found)
            return false;
        memcpy(functions[i].place, &found, sizeof found);
    }
    return true;
}

Error *raised(const char *message) {
    TRITONSERVER_LogMessage(LOG_ERROR, "python.c", 0, message);
    py.Err_Print();
    return TRITONSERVER_ErrorNew(INTERNAL, message);
}

/* For good, because otherwise each call would make and destroy a thread state, and with it whatever the model keeps in
 * a threading.local; and where that takes the GIL as it ends, as OpenVINO's requests do, Python 3.11 frees the thread
 * state twice (https://github.com/python/cpython/issues/119585). Few threads come here: a fixed pool loads models, and
 * each version that is loaded has a worker. Each unloading has a thread of its own, which does not come here.
 */
int enter(void) {
    static __thread bool known;
    if (!known) {
        py.GILState_Ensure();
        py.Eval_SaveThread();
        known = true;
    }
    return py.GILState_Ensure();
}
