// The whole library as one unit: libtorch's headers take most of the time that compiling takes. In the order in which
// its parts must come to life when it is loaded.

#include "settings.cpp"

#include "report.cpp"

#include "copies.cpp"

#include "memory.cpp"

#include "bridge.cpp"

#include "dry.cpp"

#include "hooks.cpp"

#include "nccl.cpp"

#include "tensors.cpp"

#include "libraries.cpp"

#include "kernels.cpp"
