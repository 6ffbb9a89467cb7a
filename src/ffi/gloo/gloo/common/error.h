// Stands in for Gloo's own headers, which libtorch does not ship: ProcessGroupGloo.hpp includes them, and needs no more
// of them than that these names exist. Nothing here is ever constructed; Gloo itself lives in libtorch_cpu.
#pragma once
