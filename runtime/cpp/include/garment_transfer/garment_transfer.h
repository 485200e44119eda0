/* Garment transfer: two people in, the first in the second's upper garment out. The C interface.
 *
 * A bundle (a folder with manifest.json and one ONNX graph per stage) is loaded once into a
 * pipeline; each worker has a session on it. Pixels come and go at the bundle's size: fitting a
 * photo to it and bringing the result back to the photo's own size is the caller's (examples/cpp).
 *
 * Threads: a pipeline may be used by any number of threads at once. A session holds the buffers of
 * one run: use it from one thread at a time, any thread. A session that is running refuses every
 * other call on it with GT_SESSION_BUSY; gt_session_free then leaves it as it is. Do not free a
 * session or pipeline that another thread may still pass to a call. A child process must not use
 * what its parent loaded before fork().
 *
 * Errors: every function that can fail returns a gt_status, and no exception leaves the library.
 * gt_last_message() then says what was wrong, what was expected and what mends it. */

#ifndef GARMENT_TRANSFER_H_
#define GARMENT_TRANSFER_H_

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define GT_API __attribute__((visibility("default")))
#else
#define GT_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum gt_status {
  GT_OK = 0,
  GT_INVALID_ARGUMENT = 1, /* what the caller passed: a null pointer, a size, a stride, a name */
  GT_BUNDLE_ERROR = 2,     /* the bundle is missing, not whole, not valid, or too new */
  GT_BACKEND_ERROR = 3,    /* the backend is not there, or does not load or run a graph */
  GT_SESSION_BUSY = 4,     /* the session is in use by another thread */
  GT_OUT_OF_MEMORY = 5,
  GT_INTERNAL_ERROR = 6 /* a fault of the library */
} gt_status;

/* Where pixels lie. */
typedef enum gt_memory {
  GT_HOST = 0,
  GT_DEVICE = 1 /* memory of the pipeline's CUDA device */
} gt_memory;

typedef struct gt_pipeline gt_pipeline;
typedef struct gt_session gt_session;

/* How to load a bundle. Begin with GT_PIPELINE_OPTIONS_INIT. A null string is the default. */
typedef struct gt_pipeline_options {
  size_t struct_size; /* sizeof(gt_pipeline_options) */

  /* "onnxruntime" (default) or "tensorrt"; gt_backends() names those that are built in. */
  const char* backend;

  /* "cpu" or "cuda"; default: "cpu" for onnxruntime, "cuda" for tensorrt. */
  const char* device;

  /* Number of the CUDA device. */
  int32_t device_id;

  /* ONNX Runtime: threads that each graph runs on, beside the callers' own; 0: one per physical
   * core. With as many sessions as cores, 1 gives the highest throughput. */
  int32_t threads;

  /* Library with FlowWarp's kernel or plugin. Default: the one beside this library; where there is
   * none, or for "", ONNX Runtime runs FlowWarp by standard operators, several times slower. */
  const char* flow_warp_library;

  /* "float32" or "float16" where the bundle has such graphs; default: its main precision. */
  const char* precision;
} gt_pipeline_options;

#define GT_PIPELINE_OPTIONS_INIT {sizeof(gt_pipeline_options), NULL, NULL, 0, 0, NULL, NULL}

/* Pixels of `batch` pictures or maps: uint8, channels last and close together.
 *
 * `height` and `width` are the caller's and have to be the bundle's. `row_stride` is the distance
 * in bytes from one row to the next, `batch_stride` from one picture to the next; 0 means that they
 * lie close together. */
typedef struct gt_input {
  const void* data;
  int32_t height;
  int32_t width;
  size_t row_stride;
  size_t batch_stride;
} gt_input;

/* Where a result goes, close together. `data` may be null: then it is not given out. */
typedef struct gt_output {
  void* data;
  size_t capacity; /* bytes that `data` has room for */
} gt_output;

/* One run over a batch of N pairs at the bundle's size H, W. Set all to zero, then struct_size. */
typedef struct gt_transfer {
  size_t struct_size; /* sizeof(gt_transfer) */
  int32_t batch;      /* N, 1 or more */

  gt_memory memory; /* of all inputs and outputs; GT_DEVICE needs backend tensorrt */

  /* GT_DEVICE: a cudaStream_t, null for the default stream. The work is put on it and the call
   * returns; pixels have to stay until the stream has come past it. Runs of one session follow one
   * another, on whichever streams. GT_HOST: null; the call returns when the results are there. */
  void* stream;

  /* The person who gets the garment, and the one who wears it: RGB [N,H,W,3], class ids 0..6
   * [N,H,W] (background, hair, face, skin, garment, lower, legs), DensePose [N,H,W,3] (part 0..24,
   * U and V scaled from 0..1 to 0..255). Values are taken on trust. */
  gt_input person_image;
  gt_input person_parsing;
  gt_input person_densepose;
  gt_input garment_image;
  gt_input garment_parsing;
  gt_input garment_densepose;

  gt_output image;            /* uint8 RGB [N,H,W,3]: the person in the garment */
  gt_output transfer_parsing; /* uint8 [N,H,W]: its classes */
  gt_output warped_garment;   /* uint8 RGB [N,H,W,3]: the garment as worn, 0 around it */
  gt_output flow;             /* float32 [N,2,H,W]: (dx, dy) in pixels; the warped garment at p is
                                 garment_image at p + flow(p) */
} gt_transfer;

/* The library's version, "0.1.0". */
GT_API const char* gt_version(void);

/* The backends that are built in, separated by commas. */
GT_API const char* gt_backends(void);

/* What the last failed call of this thread met, UTF-8; empty before any. Valid until this thread's
 * next failure. Never null. */
GT_API const char* gt_last_message(void);

/* Reads and verifies the bundle in the folder `bundle` (schema, contract, sizes, hashes) and loads
 * its graphs. `options` may be null. On success *pipeline is to be freed; otherwise it is null.
 * GT_INVALID_ARGUMENT, GT_BUNDLE_ERROR, GT_BACKEND_ERROR, GT_OUT_OF_MEMORY. */
GT_API gt_status gt_pipeline_load(const char* bundle, const gt_pipeline_options* options,
                                  gt_pipeline** pipeline);

/* The bundle's image size in pixels. */
GT_API gt_status gt_pipeline_size(const gt_pipeline* pipeline, int32_t* height, int32_t* width);

/* One line on what runs it: the backend and its version, and what runs FlowWarp. Lives as long as
 * the pipeline; null for a null pipeline. */
GT_API const char* gt_pipeline_description(const gt_pipeline* pipeline);

/* Frees a pipeline; null is allowed. Its sessions go on working. */
GT_API void gt_pipeline_free(gt_pipeline* pipeline);

/* A session on a pipeline. On success *session is to be freed; otherwise it is null. */
GT_API gt_status gt_session_create(gt_pipeline* pipeline, gt_session** session);

/* Runs the three graphs. Where it fails, what the outputs hold is not defined.
 * GT_INVALID_ARGUMENT, GT_BACKEND_ERROR, GT_SESSION_BUSY, GT_OUT_OF_MEMORY. */
GT_API gt_status gt_session_run(gt_session* session, const gt_transfer* transfer);

/* Frees a session, after its device work; null is allowed. GT_SESSION_BUSY when it is running. */
GT_API gt_status gt_session_free(gt_session* session);

#ifdef __cplusplus
}
#endif

#endif /* GARMENT_TRANSFER_H_ */
