/* Fit, Compose and what they need of a photo as C functions, for Python's ctypes and C++ programs.
 * They check what they are given and touch nothing where it is wrong. Any number of threads may
 * call them at once.
 *
 * Pictures are 8 bits a value, channels side by side, rows `stride` bytes apart, which may be
 * negative; `data` is the upper left pixel's. What is written is contiguous, and shares no memory
 * with what is read. */

#ifndef GARMENT_TRANSFER_PHOTOS_H
#define GARMENT_TRANSFER_PHOTOS_H

#include <stdint.h>

#if defined(__GNUC__)
#define GT_PHOTOS_API __attribute__((visibility("default")))
#else
#define GT_PHOTOS_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum GtPhotosStatus {
  GT_PHOTOS_OK = 0,
  GT_PHOTOS_NULL = 1,    /* a pointer is missing */
  GT_PHOTOS_SIZE = 2,    /* a side is below 1 or above GT_PHOTOS_MAX_SIDE, or sizes do not agree */
  GT_PHOTOS_STRIDE = 3,  /* rows overlap */
  GT_PHOTOS_FIT = 4,     /* a fit is not one: nothing of the photo is in its box, or so */
  GT_PHOTOS_OVERLAP = 5, /* what is written overlaps something else */
  GT_PHOTOS_MEMORY = 6,  /* there is no memory left, or no thread */
  GT_PHOTOS_CUDA = 7,    /* CUDA refuses a launch */
} GtPhotosStatus;

#define GT_PHOTOS_MAX_SIDE 16384

typedef struct GtPicture {
  const uint8_t* data;
  int64_t stride;
  int32_t height, width, channels;
} GtPicture;

/* The box at top, left of height x width pixels of a photo, which it may leave, has the size
 * scaled_height x scaled_width at frame_top, frame_left of the frame of target_height x
 * target_width. */
typedef struct GtFit {
  int32_t source_height, source_width;
  int32_t top, left, height, width;
  int32_t scaled_height, scaled_width;
  int32_t frame_top, frame_left;
  int32_t target_height, target_width;
} GtFit;

/* The largest size of a whole photo's aspect that the frame holds, in its middle. */
GT_PHOTOS_API GtPhotosStatus gt_fit_whole(int32_t source_height, int32_t source_width,
                                          int32_t target_height, int32_t target_width, GtFit* fit);

/* A photo in the frame, by area or linearly, edges repeated; 1 or 3 channels. */
GT_PHOTOS_API GtPhotosStatus gt_fit_photo(const GtPicture* photo, const GtFit* fit, uint8_t* out,
                                          int32_t threads);
/* A map in the frame, by nearest neighbours, 0 where the box has none; 1 or 3 channels. */
GT_PHOTOS_API GtPhotosStatus gt_fit_map(const GtPicture* map, const GtFit* fit, uint8_t* out);

/* An RGB photo and its garment as if no arm was in front of it; masks are not 0 where there is
 * some. *removed is 0, and nothing is written, where none is in front; else `out` is the photo,
 * RGB, and `out_garment` the mask. */
GT_PHOTOS_API GtPhotosStatus gt_remove_arms(const GtPicture* photo, const GtPicture* garment,
                                            const GtPicture* arms, uint8_t* out,
                                            uint8_t* out_garment, int32_t* removed,
                                            int32_t threads);

/* Labels of the frame at the RGB photo's size, their borders where the photo's are; 0 around the
 * box. `framed` is what gt_fit_photo makes of the photo. */
GT_PHOTOS_API GtPhotosStatus gt_upsample_labels(const GtPicture* photo, const GtPicture* framed,
                                                const GtPicture* labels, const GtFit* fit,
                                                uint8_t* out, int32_t threads);

typedef struct GtCompose {
  GtPicture photo;         /* the person's, RGB */
  GtPicture parsing;       /* its classes */
  GtPicture kept;          /* not 0: pixels that stay as they are; no data for none */
  GtPicture owner_photo;   /* RGB */
  GtPicture owner_garment; /* not 0 where the owner's photo shows the garment */
  GtFit fit, owner_fit;
  /* What the graphs give, at the frame's size. */
  GtPicture image, transfer_parsing, warped_garment;
  GtPicture transfer_scores; /* 4 channels; no data where transfer_parsing draws the borders */
  const float* flow;         /* [2,h,w], (dx, dy) in pixels of the frame, contiguous */
  /* What is written, at the photo's size: RGB, classes, and RGB or null. */
  uint8_t *out_image, *out_parsing, *out_warped_garment;
  int32_t threads;
} GtCompose;

/* The finished photo. */
GT_PHOTOS_API GtPhotosStatus gt_compose(const GtCompose* call);

/* The same on a GPU, where the library was built with CUDA; else these functions are missing. All
 * pictures, `flow`, and what is written are in memory of the current device. The calls queue on a
 * stream (a cudaStream_t) and return; `threads` does not count. `workspace` is device memory of as
 * many bytes as gt_compose_cuda_bytes says, which are 0 where the call is refused, aligned to 256.
 */
GT_PHOTOS_API GtPhotosStatus gt_fit_photo_cuda(const GtPicture* photo, const GtFit* fit,
                                               uint8_t* out, void* stream);
GT_PHOTOS_API uint64_t gt_compose_cuda_bytes(const GtCompose* call);
GT_PHOTOS_API GtPhotosStatus gt_compose_cuda(const GtCompose* call, void* workspace, void* stream);

#ifdef __cplusplus
}
#endif

#endif
