// A stand-in for NVIDIA's management library with three GPUs. Number 2 tells neither its power nor its utilisation, as
// one that is divided by MIG.

#include <stdio.h>
#include <stdint.h>

enum { SUCCESS = 0, INVALID = 2, NOT_SUPPORTED = 3 };

typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory;

int nvmlInit_v2(void) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = 3;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    *device = (void *)(uintptr_t)(index + 1);
    return index < 3 ? SUCCESS : INVALID;
}

static unsigned index_of(void *device) { return (unsigned)(uintptr_t)device - 1; }

int nvmlDeviceGetUUID(void *device, char *uuid, unsigned length) {
    snprintf(uuid, length, "GPU-%c0", 'a' + index_of(device));
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(void *device, Utilization *rates) {
    rates->gpu = 90 + index_of(device);
    rates->memory = 1;
    return index_of(device) < 2 ? SUCCESS : NOT_SUPPORTED;
}

int nvmlDeviceGetMemoryInfo_v2(void *device, Memory *memory) {
    memory->total = 80ull << 30;
    memory->used = (unsigned long long)(index_of(device) + 1) << 30;
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) {
    *milliwatts = 350250;
    return index_of(device) < 2 ? SUCCESS : NOT_SUPPORTED;
}

int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius) {
    *celsius = 60 + index_of(device);
    return sensor == 0 ? SUCCESS : INVALID;
}
