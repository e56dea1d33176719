/* A stand-in for NVIDIA's driver library, on the host's memory: the functions of the CUDA Driver API that edgekit calls, so that its
 * calls, their arguments and their order can be run where there is no GPU. A stream runs what it is given at once; while it
 * records, it keeps it, and the graph runs it then. Computes nothing: standInEnqueue is how the stand-in for TensorRT puts work on a stream. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct { int kind; void *to; const void *from; size_t size; void (*work)(void); } Op;
typedef struct { Op ops[16]; int count; } Graph;
typedef struct { int recording; Graph *graph; } Stream;

enum { COPY, WORK };
static int live, launches; /* allocations that were not freed; graphs that were launched */

static int put(Stream *stream, Op op) {
    if (stream->recording) {
        if (stream->graph->count == 16) return 2;
        stream->graph->ops[stream->graph->count++] = op;
    } else if (op.kind == COPY) {
        memcpy(op.to, op.from, op.size);
    } else {
        op.work();
    }
    return 0;
}

int standInLive(void) { return live; }
int standInLaunches(void) { return launches; }
int standInEnqueue(Stream *stream, void (*work)(void)) { Op op = {WORK, 0, 0, 0, work}; return put(stream, op); }

int cuInit(unsigned flags) { return flags || getenv("STAND_IN_NO_DEVICE") ? 100 : 0; }
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return index ? 101 : 0; }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "Stand-in GPU", length); return device; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    const char *capability = getenv("STAND_IN_CAPABILITY"); /* 87 where it is not set: a Jetson's */
    int number = capability ? atoi(capability) : 87;
    if (attribute != 75 && attribute != 76) return 1;
    *value = attribute == 75 ? number / 10 : number % 10;
    return device;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)8 << 30; return device; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = &live; return device; }
int cuDevicePrimaryCtxRelease_v2(int device) { return device; }
int cuCtxSetCurrent(void *context) { return context == &live ? 0 : 201; }
int cuMemAlloc_v2(uint64_t *address, size_t size) { *address = (uintptr_t)malloc(size); live++; return *address ? 0 : 2; }
int cuMemFree_v2(uint64_t address) { free((void *)(uintptr_t)address); live--; return 0; }
int cuMemHostAlloc(void **address, size_t size, unsigned flags) { *address = malloc(size); live++; return flags; }
int cuMemFreeHost(void *address) { free(address); live--; return 0; }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, Stream *stream) {
    Op op = {COPY, (void *)(uintptr_t)to, from, size, 0};
    return put(stream, op);
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, Stream *stream) {
    Op op = {COPY, to, (const void *)(uintptr_t)from, size, 0};
    return put(stream, op);
}
int cuStreamCreate(Stream **stream, unsigned flags) { *stream = calloc(1, sizeof(Stream)); live++; return flags == 1 ? 0 : 1; }
int cuStreamSynchronize(Stream *stream) { return stream->recording ? 900 : 0; }
int cuStreamDestroy_v2(Stream *stream) { free(stream); live--; return 0; }
int cuStreamBeginCapture_v2(Stream *stream, int mode) {
    if (stream->recording || mode != 1) return 900;
    stream->recording = 1;
    stream->graph = calloc(1, sizeof(Graph));
    live++;
    return 0;
}
int cuStreamEndCapture(Stream *stream, Graph **graph) {
    if (!stream->recording) return 901;
    stream->recording = 0;
    *graph = stream->graph;
    return 0;
}
int cuGraphInstantiateWithFlags(Graph **executable, Graph *graph, unsigned long long flags) {
    *executable = malloc(sizeof(Graph));
    **executable = *graph;
    live++;
    return (int)flags;
}
int cuGraphLaunch(Graph *executable, Stream *stream) {
    launches++;
    for (int i = 0; i < executable->count; i++) {
        int status = put(stream, executable->ops[i]);
        if (status) return status;
    }
    return 0;
}
int cuGraphDestroy(Graph *graph) { free(graph); live--; return 0; }
int cuGraphExecDestroy(Graph *executable) { free(executable); live--; return 0; }
int cuGetErrorString(int status, const char **text) {
    *text = status == 100 ? "no CUDA-capable device is detected" : "stand-in error";
    return 0;
}
