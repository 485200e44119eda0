/* Garment transfer: two people in, the first in the second's upper garment out. The C interface.
 *
 * A bundle (a folder with manifest.json and one ONNX graph per stage) is loaded once into a
 * pipeline; each worker has a session on it. A gt_person is made of a photo of any size, with maps
 * or without, and gt_session_transfer gives the finished photo at the person's own size.
 * gt_session_run runs the graphs alone, on batches of pixels at the bundle's size. No file but the
 * bundle's is read: decoding pictures is the caller's (examples/cpp).
 *
 * Threads: a pipeline may be used by any number of threads at once. A session holds the buffers of
 * one run: use it from one thread at a time, any thread. A session that is running refuses every
 * other call on it with GT_SESSION_BUSY; gt_session_free then leaves it as it is. Do not free a
 * session or pipeline that another thread may still pass to a call. A person does not change, and
 * any number of threads may use it. A child process must not use what its parent loaded before
 * fork().
 *
 * Errors: every function that can fail returns a gt_status, and no exception leaves the library.
 * gt_status_name() gives its stable name, and gt_last_message() says what was wrong, what was
 * expected and how to fix it.
 *
 * Versions: until 1.0 a minor version may break; the library's SOVERSION is MAJOR.MINOR. Structs
 * with a struct_size grow at their end: a struct of an older header is taken, and the fields that
 * it lacks have their defaults. */

#ifndef GARMENT_TRANSFER_H_
#define GARMENT_TRANSFER_H_

#include <stddef.h>
#include <stdint.h>

/* The version of this header; gt_version() is the library's. */
#define GT_VERSION_MAJOR 0
#define GT_VERSION_MINOR 2
#define GT_VERSION_PATCH 0
#define GT_VERSION "0.2.0"

#if defined(__GNUC__)
#define GT_API __attribute__((visibility("default")))
#else
#define GT_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The ways to fail. Numbers and names are stable, and the hundreds are families; the names in lower
 * case, without GT_, are the Python package's codes. */
typedef enum gt_status {
  GT_OK = 0,

  /* 1xx: what the caller passed */
  GT_ARGUMENT_INVALID = 100, /* a null pointer, struct_size, memory or stream */
  GT_ARRAY_INVALID = 101,    /* an input's or output's size, stride, capacity or memory */
  GT_BATCH_INVALID = 102,    /* fewer than 1 pair */
  GT_ID_OUT_OF_RANGE = 103,  /* a class id above 6 or a body part above 24 */
  GT_OPTION_INVALID = 104,   /* a value that an option of gt_pipeline_options does not have */

  /* 2xx: the bundle */
  GT_BUNDLE_MISSING = 200, /* not a folder */
  GT_MANIFEST_MISSING = 201,
  GT_MANIFEST_UNREADABLE = 202,
  GT_MANIFEST_INVALID = 203,  /* not JSON, or a field is missing, unknown or wrong */
  GT_MANIFEST_TOO_NEW = 204,  /* of a newer schema than this library reads */
  GT_MANIFEST_TOO_OLD = 210,  /* of an older schema than this library reads */
  GT_CONTRACT_MISMATCH = 205, /* a graph with other inputs or outputs */
  GT_GRAPH_MISSING = 206,
  GT_GRAPH_TRUNCATED = 207,
  GT_GRAPH_ALTERED = 208,     /* its size or hash is not the manifest's */
  GT_PRECISION_MISSING = 209, /* the bundle has no graphs of that precision */

  /* 3xx: the backend, and from 350 on TensorRT's engines */
  GT_BACKEND_UNKNOWN = 300,
  GT_BACKEND_UNAVAILABLE = 301, /* too old, or without its device */
  GT_GRAPH_REJECTED = 302,      /* the backend does not load a graph */
  GT_RUN_FAILED = 303,
  GT_CUDA_FAILED = 304,
  GT_ENGINES_MISSING = 350, /* none for this GPU and precision */
  GT_RECORD_INVALID = 351,
  GT_ENGINE_MISMATCH = 352, /* built from other graphs, or with another plugin */
  GT_ENGINE_VERSION = 353,  /* built by another version of TensorRT */
  GT_ENGINE_GPU = 354,      /* built for other GPUs */
  GT_ENGINE_BATCH = 355,    /* built for other batch sizes */
  GT_ENGINE_ALTERED = 356,  /* missing, truncated, or its hash is not the record's */
  GT_ENGINE_REJECTED = 357, /* TensorRT does not load it */
  GT_PLUGIN_MISSING = 358,  /* FlowWarp's plugin is called and not there */

  /* 4xx: the session, memory, the library itself */
  GT_SESSION_BUSY = 400, /* in use by another thread */
  GT_OUT_OF_MEMORY = 401,
  GT_INTERNAL_ERROR = 402, /* a fault of the library */

  /* 5xx: photos, maps, and who is in them */
  GT_IMAGE_MODE = 500, /* colours in which the label set is not drawn */
  GT_IMAGE_SIZE = 501, /* empty, or more than 8192 pixels on a side */
  GT_LABEL_SET_UNKNOWN = 502,
  GT_LABEL_SET_MISMATCH = 503, /* ids that the named label set does not have */
  GT_DENSEPOSE_ENCODING_UNKNOWN = 504,
  GT_DENSEPOSE_INVALID = 505,   /* values that the named encoding does not have */
  GT_SIZES_DIFFER = 506,        /* a photo and its maps are not of one shape */
  GT_BODY_MISSING = 507,        /* nobody, or nobody who can be made out */
  GT_BODY_AMBIGUOUS = 508,      /* it covers several people, and no box chooses one */
  GT_VIEW_UNSUPPORTED = 509,    /* somebody from behind or from the side, or lying */
  GT_GARMENT_MISSING = 510,     /* the garment's owner wears no upper garment */
  GT_TRANSFER_IMPLAUSIBLE = 511 /* a result that cannot be right */
} gt_status;

/* Where pixels lie. */
typedef enum gt_memory {
  GT_HOST = 0,
  GT_DEVICE = 1 /* memory of the pipeline's CUDA device */
} gt_memory;

typedef struct gt_pipeline gt_pipeline;
typedef struct gt_session gt_session;
typedef struct gt_person gt_person;

/* How to load a bundle. Begin with GT_PIPELINE_OPTIONS_INIT. A null string is the default. */
typedef struct gt_pipeline_options {
  size_t struct_size; /* sizeof(gt_pipeline_options) */

  /* "onnxruntime" (default) or "tensorrt"; gt_backends() names those that are built in. */
  const char* backend;

  /* "cpu" or "cuda"; default: "cpu" for onnxruntime, "cuda" for tensorrt. */
  const char* device;

  /* Number of the CUDA device. */
  int32_t device_id;

  /* ONNX Runtime: threads that each graph runs on, beside the callers' own, at most 1024; 0: one
   * per physical core. With as many sessions as cores, 1 gives the highest throughput. */
  int32_t threads;

  /* Library with FlowWarp's kernel or plugin. Default: the one beside this library; where there is
   * none, or none with CUDA code for device "cuda", or for "", ONNX Runtime runs FlowWarp by
   * standard operators, 2 ms a transfer slower on a CPU. */
  const char* flow_warp_library;

  /* "float32", "float16" or "int8" where the bundle has such graphs; default: its main precision. */
  const char* precision;
} gt_pipeline_options;

#define GT_PIPELINE_OPTIONS_INIT {sizeof(gt_pipeline_options), NULL, NULL, 0, 0, NULL, NULL}

/* Pixels of `batch` pictures or maps: uint8, channels last and close together. This struct and
 * gt_output never grow.
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

/* What the parts of a run took, in milliseconds: by the clock with backend onnxruntime, between
 * events on the stream with tensorrt. Set struct_size, and gt_transfer.times to its address. */
typedef struct gt_times {
  size_t struct_size; /* sizeof(gt_times) */
  double upload;      /* inputs to where the graphs read them; 0 where they lie there */
  double parsing;     /* each of the three graphs */
  double warping;
  double regrowth;
  double download; /* results to where the caller wants them; 0 where graphs write them there */
} gt_times;

/* One run over a batch of N pairs at the bundle's size H, W. Set all to zero, then struct_size. */
typedef struct gt_transfer {
  size_t struct_size; /* sizeof(gt_transfer) */
  int32_t batch;      /* N, 1 or more */

  gt_memory memory; /* of all inputs and outputs; GT_DEVICE needs backend tensorrt */

  /* GT_DEVICE: a cudaStream_t, null for the default stream. The work is put on it and the call
   * returns; pixels have to stay until the stream has come past it. Runs of one session follow one
   * another, on whichever streams. Inputs and outputs whose addresses are multiples of 256, rows
   * close together, are read and written where they lie; others take a copy through the session's
   * memory. GT_HOST: null; the call returns when the results are there. */
  void* stream;

  /* The person who gets the garment, and the one who wears it: RGB [N,H,W,3], class ids 0..6
   * [N,H,W] (background, hair, face, skin, garment, lower, legs), DensePose [N,H,W,3] (part 0..24,
   * U and V scaled from 0..1 to 0..255). Ids in host memory are checked; in device memory an id
   * out of range gives wrong pixels. */
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
  gt_output transfer_scores;  /* uint8 [N,H,W,4]: probabilities times 255 of background, skin,
                                 garment, lower; what they lack to 255 is hair, face or legs */
  gt_output flow_confidence;  /* uint8 [N,H,W]: how surely garment_image shows the garment there */

  /* Null, or what is to be filled; with GT_DEVICE the call then waits for the stream. */
  gt_times* times;
} gt_transfer;

/* A picture or map in host memory, of 1 to 8192 pixels on either side. */
typedef struct gt_picture {
  const void* data; /* the upper left value */
  int32_t height;
  int32_t width;
  int32_t channels;     /* side by side, but for DensePose's floats */
  ptrdiff_t row_stride; /* bytes from one row to the next, may be negative; 0: close together */
  const char* name;     /* what messages call it, such as its file; null: its field */
} gt_picture;

/* A rectangle in whole pixels of a photo; right and bottom lie just outside. */
typedef struct gt_box {
  int32_t left, top, right, bottom;
} gt_box;

/* What a person is made of. Set all to zero, then struct_size. All is copied. */
typedef struct gt_person_source {
  size_t struct_size; /* sizeof(gt_person_source) */
  const char* name;   /* what messages call the person; null: no name */

  gt_picture photo; /* uint8 RGB, upright, in sRGB */

  /* The photo's maps, of its size or another one of its aspect. Where neither has data, the
   * bundle's graph `maps` makes them, on the CPU. */
  gt_picture parsing;   /* uint8: ids of the label set, or RGB in the colours it is drawn in */
  gt_picture densepose; /* uint8 [H,W,3], for "iuv" float32 [3,H,W] */

  const char* label_set; /* of bundle/labels.json, such as "cihp20"; null: "classes7" */

  /* "iuv-png" (part 0..24, U and V scaled to 0..255; also null), "parula" (RGB colours of parts),
   * or "iuv" (part, U and V from 0 to 1). */
  const char* densepose_encoding;

  const gt_box* box; /* roughly, of the one who is meant, where there are several; else null */
} gt_person_source;

/* What a person is. Pointers are the person's, pixels close together. Set struct_size. */
typedef struct gt_person_maps {
  size_t struct_size; /* sizeof(gt_person_maps) */
  int32_t height;
  int32_t width;
  const uint8_t* image;        /* RGB [H,W,3] */
  const uint8_t* parsing;      /* [H,W], class ids 0..6 */
  const uint8_t* densepose;    /* [H,W,3] as "iuv-png", of this person alone */
  const uint8_t* is_protected; /* [H,W], 255 where the photo stays as it is: other people, things
                                  in front, hands */
  float confidence[7];         /* of each class, 0 to 1; -1 where maps were given, or lack it */
} gt_person_maps;

/* One finished photo. Set all to zero, then struct_size. */
typedef struct gt_photo_transfer {
  size_t struct_size; /* sizeof(gt_photo_transfer) */
  const gt_person* person;
  const gt_person* garment_owner;
  int32_t threads; /* that fit and compose the photos, 1 to 64; 0: 1. The graphs have their own. */

  /* At the size of the person's photo, H x W. */
  gt_output image;            /* uint8 RGB [H,W,3]: the person in the garment */
  gt_output transfer_parsing; /* uint8 [H,W]: its classes */
  gt_output warped_garment;   /* uint8 RGB [H,W,3]: the garment as worn, 0 around it */
} gt_photo_transfer;

/* The library's version, such as "0.2.0". */
GT_API const char* gt_version(void);

/* The backends that are built in, separated by commas. */
GT_API const char* gt_backends(void);

/* A status by its stable name, "bundle_missing" for GT_BUNDLE_MISSING, "ok" for GT_OK; "unknown"
 * for a number that is none. Never null. */
GT_API const char* gt_status_name(gt_status status);

/* What the last failed call of this thread met, UTF-8; empty before any. Valid until this thread's
 * next failure. Never null. */
GT_API const char* gt_last_message(void);

/* Has `log` called with what is no error, such as a person who is small in the photo: UTF-8, valid
 * during the call, on the thread that meets it. Null, the default: nothing is told. */
GT_API void gt_set_log(void (*log)(const char* message, void* context), void* context);

/* Reads and verifies the bundle in the folder `bundle` (manifest, contract, sizes, hashes) and
 * loads its graphs. `options` may be null. On success *pipeline is to be freed; otherwise it is
 * null. */
GT_API gt_status gt_pipeline_load(const char* bundle, const gt_pipeline_options* options,
                                  gt_pipeline** pipeline);

/* The bundle's image size in pixels. */
GT_API gt_status gt_pipeline_size(const gt_pipeline* pipeline, int32_t* height, int32_t* width);

/* Which part of a photo the graphs see, by the bundle's manifest: the box of the DensePose parts i
 * whose bits 1 << i are set in *parts; of the legs only what lies above *legs times the distance
 * from the top of the body to the end of the torso; with *margin of its height around it.
 * gt_session_transfer frames photos so. */
GT_API gt_status gt_pipeline_framing(const gt_pipeline* pipeline, uint32_t* parts, double* legs,
                                     double* margin);

/* One line on what runs it: the backend and its version, and what runs FlowWarp. Lives as long as
 * the pipeline; null for a null pipeline. */
GT_API const char* gt_pipeline_description(const gt_pipeline* pipeline);

/* Frees a pipeline; null is allowed. Its sessions go on working. */
GT_API void gt_pipeline_free(gt_pipeline* pipeline);

/* A session on a pipeline. On success *session is to be freed; otherwise it is null. */
GT_API gt_status gt_session_create(gt_pipeline* pipeline, gt_session** session);

/* A person of a photo and its maps, checked; without maps by the pipeline's bundle
 * (GT_GRAPH_MISSING where it has no graph for that). `pipeline` may be null where maps are given.
 * On success *person is to be freed; otherwise it is null. */
GT_API gt_status gt_person_create(const gt_pipeline* pipeline, const gt_person_source* source,
                                  gt_person** person);

/* What the person is: photo and maps. */
GT_API gt_status gt_person_read(const gt_person* person, gt_person_maps* maps);

/* Frees a person; null is allowed. */
GT_API void gt_person_free(gt_person* person);

/* The finished photo of two people; host memory. */
GT_API gt_status gt_session_transfer(gt_session* session, const gt_photo_transfer* transfer);

/* Runs the three graphs. Where it fails, what the outputs hold is not defined. */
GT_API gt_status gt_session_run(gt_session* session, const gt_transfer* transfer);

/* Frees a session, after its device work; null is allowed. GT_SESSION_BUSY when it is running. */
GT_API gt_status gt_session_free(gt_session* session);

#ifdef __cplusplus
}
#endif

#endif /* GARMENT_TRANSFER_H_ */
