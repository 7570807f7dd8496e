/* What is used of Triton's C API: tritonbackend.h and tritonserver.h of triton-inference-server/core.
 *
 * Declared here, so that no header of Triton is needed: its functions have a stable C ABI and are found in the process
 * that loads the backend.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct TRITONSERVER_Error Error;
typedef struct TRITONSERVER_Message Message;
typedef struct TRITONSERVER_Server Server;
typedef struct TRITONBACKEND_Backend Backend;
typedef struct TRITONBACKEND_Input Input;
typedef struct TRITONBACKEND_Model Model;
typedef struct TRITONBACKEND_ModelInstance Instance;
typedef struct TRITONBACKEND_Output Output;
typedef struct TRITONBACKEND_Request Request;
typedef struct TRITONBACKEND_Response Response;

/* Of the Triton that this is tested with. Another major version may change a function, a lower minor one may lack one. */
enum { API_MAJOR = 1, API_MINOR = 19 };
enum { INTERNAL = 1, UNAVAILABLE = 4, CANCELLED = 7 }; /* TRITONSERVER_Error_Code */
enum { FP32 = 11 };                                    /* TRITONSERVER_DataType */
enum { CPU = 0 };                                      /* TRITONSERVER_MemoryType */
enum { STRING = 0 };                                   /* TRITONSERVER_ParameterType */
enum { LOG_ERROR = 2 };                                /* TRITONSERVER_LogLevel */
enum { FINAL = 1 };                                    /* TRITONSERVER_ResponseCompleteFlag */
enum { RELEASE_ALL = 1 };                              /* TRITONSERVER_RequestReleaseFlag */

Error *TRITONSERVER_ErrorNew(int code, const char *message);
const char *TRITONSERVER_ErrorMessage(Error *);
void TRITONSERVER_ErrorDelete(Error *);
Error *TRITONSERVER_LogMessage(int level, const char *file, int line, const char *text);
Error *TRITONSERVER_MessageSerializeToJson(Message *, const char **text, size_t *size);
Error *TRITONSERVER_MessageDelete(Message *);
Error *TRITONSERVER_ServerPollModelRepository(Server *);
Error *TRITONBACKEND_ApiVersion(uint32_t *major, uint32_t *minor);
Error *TRITONBACKEND_BackendArtifacts(Backend *, int *kind, const char **folder);
Error *TRITONBACKEND_ModelConfig(Model *, uint32_t version, Message **);
Error *TRITONBACKEND_ModelName(Model *, const char **name);
Error *TRITONBACKEND_ModelRepository(Model *, int *kind, const char **folder);
Error *TRITONBACKEND_ModelServer(Model *, Server **);
Error *TRITONBACKEND_ModelSetState(Model *, void *);
Error *TRITONBACKEND_ModelState(Model *, void **);
Error *TRITONBACKEND_ModelVersion(Model *, uint64_t *);
Error *TRITONBACKEND_ModelInstanceModel(Instance *, Model **);
Error *TRITONBACKEND_RequestInputByIndex(Request *, uint32_t index, Input **);
Error *TRITONBACKEND_RequestIsCancelled(Request *, bool *);
Error *TRITONBACKEND_RequestParameter(Request *, uint32_t index, const char **key, int *type, const void **value);
Error *TRITONBACKEND_RequestParameterCount(Request *, uint32_t *);
Error *TRITONBACKEND_RequestRelease(Request *, uint32_t flags);
Error *TRITONBACKEND_InferenceRequestTimeoutMicroseconds(Request *, uint64_t *);
Error *TRITONBACKEND_InputProperties(Input *, const char **name, int *type, const int64_t **shape, uint32_t *dimensions,
                                     uint64_t *bytes, uint32_t *buffers);
Error *TRITONBACKEND_InputBuffer(Input *, uint32_t index, const void **, uint64_t *bytes, int *memory, int64_t *device);
Error *TRITONBACKEND_ResponseNew(Response **, Request *);
Error *TRITONBACKEND_ResponseOutput(Response *, Output **, const char *name, int type, const int64_t *shape,
                                    uint32_t dimensions);
Error *TRITONBACKEND_OutputBuffer(Output *, void **, uint64_t bytes, int *memory, int64_t *device);
Error *TRITONBACKEND_ResponseSend(Response *, uint32_t flags, Error *);
Error *TRITONBACKEND_ModelInstanceReportStatistics(Instance *, Request *, bool success, uint64_t begin,
                                                   uint64_t compute_begin, uint64_t compute_end, uint64_t end);
Error *TRITONBACKEND_ModelInstanceReportBatchStatistics(Instance *, uint64_t texts, uint64_t begin,
                                                        uint64_t compute_begin, uint64_t compute_end, uint64_t end);
