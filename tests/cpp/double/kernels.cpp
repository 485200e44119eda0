// The device code of Fit and Compose, which each_pixel.h runs pixel by pixel where there is no GPU.

#include "compose/compose_cuda.cu"
#include "fit/fit_cuda.cu"
