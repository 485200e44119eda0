// Compose on a GPU: a thread for each pixel of the frame or of a photo, step by step. What a step
// finds in all pixels (a box, a median, patches of grain) stays in device memory for the next, so
// that nothing waits for the host.

#include <initializer_list>

#include "../each_pixel.h"
#include "compose_cuda.h"

namespace garment_transfer {
namespace {

using Byte = std::uint8_t;

GT_FUNCTION std::ptrdiff_t at(int y, int x, int width) {
  return static_cast<std::ptrdiff_t>(y) * width + x;
}

constexpr int kGrained = 2;  // classes with grain: skin and the lower garment
GT_FUNCTION int grained_label(int k) { return k == 0 ? kSkin : kLower; }
constexpr unsigned kNone = ~0u;

// What is known on the device alone; all 0 at first.
struct Found {
  int above, before, bottom, right;  // of the garment's box: H - top, W - left, bottom, right
  int top, left;                     // of the layers in the owner's photo
  int has_inside;                    // whether the garment has something inside its border
  int garment_pixels, rank;          // of the areas, and which is still looked for
  unsigned bits;                     // of the median area, those that are known
  unsigned histogram[256];
  Layers whole, layers;  // at the photo's scale, and as they are sampled
  int patches[kGrained][kPatchSizes];
  int places[kGrained][kPatches], amounts[kGrained][kPatches];
  Grain grains[kGrained];
};

struct Workspace {
  Found* found;
  float* flow;        // [2,h,w], finite
  unsigned* areas;    // [h,w], float bits; kNone where there is no garment
  FramePixel* frame;  // the part of the frame that is the box: [rows,columns], as those below
  Byte* differs;
  Byte* changed;
  Byte* seen;       // whether the lower garment is there, and nothing changed nearby
  Run* lower_runs;  // of each pixel, from it downwards
  Scores* scores;
  Byte *runs, *fits;     // a bit for each class with grain and each size of a patch
  int* counts;           // [kGrained,kPatchSizes,rows]
  std::int8_t* patches;  // [kGrained,kPatches,kPatchSide,kPatchSide,3]
  Byte *other, *share;   // the part of the photo that the box shows: [height,width], as those below
  Byte *gone, *gone_near;
  Byte *near_border, *worn;  // the owner's photo; the garment less its border
  Byte *layers, *smaller;    // RGBA
};

int shrunk(int size) { return static_cast<int>(size / kMinifying + 0.5) + 3; }

// Where everything lies behind `base`, and the size of it all.
std::size_t lay_out(const GtCompose& call, Byte* base, Workspace* out) {
  std::size_t size = 0;
  const auto take = [&](auto*& pointer, std::size_t count) {
    using Type = std::remove_reference_t<decltype(*pointer)>;
    pointer = base ? reinterpret_cast<Type*>(base + size) : nullptr;
    size += (count * sizeof(Type) + 255) / 256 * 256;
  };
  const GtFit& fit = call.fit;
  const Window window = window_of(fit);
  const std::size_t frame = area(fit.target_height, fit.target_width);
  const std::size_t part = area(fit.scaled_height, fit.scaled_width);
  const std::size_t shown = area(window.height, window.width);
  const int owner_height = call.owner_garment.height, owner_width = call.owner_garment.width;
  take(out->found, 1);
  take(out->flow, 2 * frame);
  take(out->areas, frame);
  take(out->frame, part);
  take(out->differs, part);
  take(out->changed, part);
  take(out->seen, part);
  take(out->lower_runs, part);
  take(out->scores, part);
  take(out->runs, part);
  take(out->fits, part);
  take(out->counts, kGrained * kPatchSizes * static_cast<std::size_t>(fit.scaled_height));
  take(out->patches, std::size_t{kGrained} * kPatches * kPatchSide * kPatchSide * 3);
  take(out->other, shown);
  take(out->share, shown);
  take(out->gone, shown);
  take(out->gone_near, shown);
  take(out->near_border, area(owner_height, owner_width));
  take(out->worn, area(owner_height, owner_width));
  take(out->layers, area(owner_height + 3, owner_width + 3) * 4);
  take(out->smaller, area(shrunk(owner_height), shrunk(owner_width)) * 4);
  return size;
}

// Whether a byte of a row, or of a column, within `reach` is not 0.
GT_FUNCTION bool any_near(const Byte* line, std::ptrdiff_t step, int i, int count, int reach) {
  const int first = i > reach ? i - reach : 0, last = i + reach < count ? i + reach : count - 1;
  for (int k = first; k <= last; ++k) {
    if (line[k * step]) return true;
  }
  return false;
}

// The same of a square around a pixel of rows x columns.
GT_FUNCTION bool any_around(const Byte* mask, int rows, int columns, int i, int j, int reach) {
  const int last = i + reach < rows ? i + reach : rows - 1;
  for (int y = i > reach ? i - reach : 0; y <= last; ++y) {
    if (any_near(mask + at(y, 0, columns), 1, j, columns, reach)) return true;
  }
  return false;
}

// The graphs' pixels, and where they changed something.
void read_frame(Queue& queue, const GtCompose& call, const Workspace& w) {
  const GtFit fit = call.fit;
  const int rows = fit.scaled_height, columns = fit.scaled_width;
  queue.each_pixel(2 * fit.target_height, fit.target_width, [=] GT_DEVICE(int y, int x) {
    const std::ptrdiff_t i = at(y, x, fit.target_width);
    w.flow[i] = finite(call.flow[i]);
  });
  queue.each_pixel(rows, columns, [=] GT_DEVICE(int i, int j) {
    const int y = holds_centre(i, fit.height, rows) + fit.top;
    const int x = holds_centre(j, fit.width, columns) + fit.left;
    const bool shown = y >= 0 && y < call.parsing.height && x >= 0 && x < call.parsing.width;
    const FramePixel pixel = frame_pixel(call, i, j);
    w.frame[at(i, j, columns)] = pixel;
    w.differs[at(i, j, columns)] = (shown ? row_of(call.parsing, y)[x] : 0) != pixel.label;
  });
  queue.each_pixel(rows, columns, [=] GT_DEVICE(int i, int j) {
    const bool changed = any_around(w.differs, rows, columns, i, j, kChangedReach);
    w.changed[at(i, j, columns)] = changed;
    w.scores[at(i, j, columns)] = scores_at(call, w.frame, changed, i, j);
  });
}

// Where the lower garment is seen with nothing changed nearby, as runs of its columns.
void find_runs(Queue& queue, const GtCompose& call, const Workspace& w) {
  const int rows = call.fit.scaled_height, columns = call.fit.scaled_width;
  const int reach = border_width(call.fit.target_height);
  queue.each_pixel(rows, columns, [=] GT_DEVICE(int i, int j) {
    w.seen[at(i, j, columns)] = is_lower(w.frame, rows, columns, i, j) &&
                                !any_around(w.differs, rows, columns, i, j, reach);
  });
  queue.each_pixel(1, columns, [=] GT_DEVICE(int, int j) {
    Run run{};
    for (int i = rows; i-- > 0;) {
      const std::ptrdiff_t here = at(i, j, columns);
      run = run_at(i, w.seen[here], run);
      w.lower_runs[here] = run;
    }
  });
}

// What the graphs painted, with plain background and clean borders.
void repaint(Queue& queue, const Workspace& w, int rows, int columns) {
  queue.each_pixel(rows, columns, [=] GT_DEVICE(int i, int j) {
    if (!w.changed[at(i, j, columns)]) return;
    w.frame[at(i, j, columns)].picture = repainted(w.frame, w.changed, rows, columns, i, j);
  });
}

// The class of every pixel; the rest of the photo is copied.
void choose_classes(Queue& queue, const GtCompose& call, const Workspace& w) {
  const GtFit fit = call.fit;
  const Window window = window_of(fit);
  const int rows = fit.scaled_height, columns = fit.scaled_width, width = call.photo.width;
  const int sharpness = sharpness_of(fit);
  const int reach = in_photo(border_width(fit.target_height), fit);
  queue.each_pixel(call.photo.height, width, [=] GT_DEVICE(int y, int x) {
    const std::ptrdiff_t to = at(y, x, width);
    const int own = row_of(call.parsing, y)[x];
    for (int c = 0; c < 3; ++c) {
      call.out_image[3 * to + c] = row_of(call.photo, y)[3 * x + c];
      if (call.out_warped_garment) call.out_warped_garment[3 * to + c] = 0;
    }
    call.out_parsing[to] = static_cast<Byte>(own);
    const int i = y - window.top, j = x - window.left;
    if (i < 0 || i >= window.height || j < 0 || j >= window.width) return;
    const std::ptrdiff_t here = at(i, j, window.width);
    w.share[here] = w.other[here] = w.gone[here] = 0;
    const int own_index = drawn_index(own);
    if (own_index < 0 || (call.kept.data && row_of(call.kept, y)[x])) return;
    const Tap row = tap(y - fit.top, fit.height, rows),
              column = tap(x - fit.left, fit.width, columns);
    const std::ptrdiff_t a = at(row.first, column.first, columns);
    const std::ptrdiff_t b = at(row.second, column.first, columns);
    const std::ptrdiff_t c = at(row.first, column.second, columns);
    const std::ptrdiff_t d = at(row.second, column.second, columns);
    if (!(w.changed[a] | w.changed[b] | w.changed[c] | w.changed[d])) return;
    const auto mixed = [&](int first, int second, int third, int fourth) {
      return lerp(lerp(first, second, row.part), lerp(third, fourth, row.part), column.part);
    };
    const Scores *sa = w.scores + a, *sb = w.scores + b, *sc = w.scores + c, *sd = w.scores + d;
    const int kept = mixed(sa->kept, sb->kept, sc->kept, sd->kept);
    int scores[kDrawn];
    for (int k = 0; k < kDrawn; ++k) {
      scores[k] = mixed(sa->drawn[k], sb->drawn[k], sc->drawn[k], sd->drawn[k]) +
                  (k == own_index ? kept : 0);
    }
    const Choice choice = choose(scores, sharpness);
    call.out_parsing[to] = choice.label;
    w.other[here] = choice.other;
    w.share[here] = choice.share;
    w.gone[here] = own != kBackground && choice.label != own;
  });
  queue.each_pixel(window.height, window.width, [=] GT_DEVICE(int i, int j) {
    const std::ptrdiff_t row = at(i, 0, window.width);
    w.gone_near[row + j] = any_near(w.gone + row, 1, j, window.width, reach);
  });
}

// The median of how many pixels of the owner's photo one of the person's spans, bit by bit: found's
// `bits` are those of the float, which is not negative, so that they count as it does.
void find_median(Queue& queue, const GtCompose& call, const Workspace& w) {
  const int height = call.fit.target_height, width = call.fit.target_width;
  queue.each_pixel(height, width, [=] GT_DEVICE(int y, int x) {
    unsigned bits = kNone;
    if (height > 1 && width > 1 && row_of(call.transfer_parsing, y)[x] == kGarment) {
      const float found = stretch(w.flow, height, width, y, x);
      memcpy(&bits, &found, sizeof bits);
      atomicAdd(&w.found->garment_pixels, 1);
    }
    w.areas[at(y, x, width)] = bits;
  });
  for (int shift = 24; shift >= 0; shift -= 8) {
    queue.each_pixel(height, width, [=] GT_DEVICE(int y, int x) {
      const unsigned bits = w.areas[at(y, x, width)];
      if (bits == kNone || (shift < 24 && bits >> (shift + 8) != w.found->bits)) return;
      atomicAdd(&w.found->histogram[bits >> shift & 255], 1u);
    });
    queue.once([=] GT_DEVICE(int, int) {
      Found& found = *w.found;
      if (shift == 24) found.rank = found.garment_pixels / 2;
      unsigned digit = 0;
      while (digit < 255 && found.rank >= static_cast<int>(found.histogram[digit])) {
        found.rank -= static_cast<int>(found.histogram[digit++]);
      }
      found.bits = found.bits << 8 | digit;
      for (unsigned& count : found.histogram) count = 0;
    });
  }
}

// The owner's garment as the layers that are sampled: its box, its pixels, and these scaled down.
void find_layers(Queue& queue, const GtCompose& call, const Workspace& w) {
  const GtPicture mask = call.owner_garment;
  const int height = mask.height, width = mask.width, reach = in_photo(1, call.owner_fit);
  const int extended = in_photo(kExtended, call.owner_fit);
  find_median(queue, call, w);
  queue.each_pixel(height, width, [=] GT_DEVICE(int y, int x) {
    if (row_of(mask, y)[x]) {
      Found& found = *w.found;
      // a look first, as few pixels move the box
      if (found.above < height - y) atomicMax(&found.above, height - y);
      if (found.before < width - x) atomicMax(&found.before, width - x);
      if (found.bottom < y + 1) atomicMax(&found.bottom, y + 1);
      if (found.right < x + 1) atomicMax(&found.right, x + 1);
    }
    const int first = x > reach ? x - reach : 0, last = x + reach < width ? x + reach : width - 1;
    bool others = false;
    for (int k = first; k <= last; ++k) others |= row_of(mask, y)[k] == 0;
    w.near_border[at(y, x, width)] = others;
  });
  queue.once([=] GT_DEVICE(int, int) {
    Found& found = *w.found;
    if (!found.bottom) return;
    const int top = height - found.above, left = width - found.before;
    found.top = top > extended ? top - extended : 0;
    found.left = left > extended ? left - extended : 0;
    found.whole.height = inside(found.bottom + extended - 1, height) + 1 - found.top;
    found.whole.width = inside(found.right + extended - 1, width) + 1 - found.left;
    found.whole.pixels = w.layers;
    found.layers = found.whole;
    float median = 1;
    memcpy(&median, &found.bits, sizeof median);
    const double step =
        found.garment_pixels ? owner_pixels_per_pixel(median, call.fit, call.owner_fit) : 1;
    place_layers(call.fit, call.owner_fit, found.left, found.top, step, &found.layers);
    if (step > kMinifying) found.layers.pixels = w.smaller;
  });
  // without what is near the garment's border; all of it where nothing else is left
  queue.each_pixel(height, width, [=] GT_DEVICE(int y, int x) {
    const bool worn = row_of(mask, y)[x] && !any_near(w.near_border + x, width, y, height, reach);
    w.worn[at(y, x, width)] = worn;
    if (worn) w.found->has_inside = 1;
  });
  queue.each_pixel(height, width, [=] GT_DEVICE(int y, int x) {
    if (!w.found->has_inside) w.worn[at(y, x, width)] = row_of(mask, y)[x] != 0;
  });
  queue.each_pixel(height + 3, width + 3, [=] GT_DEVICE(int y, int x) {
    const Found& found = *w.found;
    const Layers& layers = found.whole;
    if (!layers.height || y >= layers.height + 3 || x >= layers.width + 3) return;
    Byte rgba[4] = {};
    if (y > 0 && y <= layers.height && x > 0 && x <= layers.width) {
      const int i = found.top + y - 1, j = found.left + x - 1;
      Nearest nearest{extended + 1, 0};
      for (int d = 0; d < nearest.distance; ++d) {
        if (j >= d && w.worn[at(i, j - d, width)]) nearest.offer(d, 0);
        if (j + d < width && w.worn[at(i, j + d, width)]) nearest.offer(d, 1);
        if (i >= d && w.worn[at(i - d, j, width)]) nearest.offer(d, 2);
        if (i + d < height && w.worn[at(i + d, j, width)]) nearest.offer(d, 3);
      }
      if (nearest.distance <= extended) {
        const Byte* const from =
            row_of(call.owner_photo, i + nearest.dy()) + 3 * (j + nearest.dx());
        for (int c = 0; c < 3; ++c) rgba[c] = from[c];
        rgba[3] = 255;
      }
    }
    memcpy(w.layers + y * layers.stride() + 4 * static_cast<std::size_t>(x), rgba, sizeof rgba);
  });
  queue.each_pixel(shrunk(height), shrunk(width), [=] GT_DEVICE(int y, int x) {
    const Layers &to = w.found->layers, &from = w.found->whole;
    if (to.pixels != w.smaller || y >= to.height + 3 || x >= to.width + 3) return;
    Byte rgba[4] = {};
    if (y > 0 && y <= to.height && x > 0 && x <= to.width) {
      const GtPicture image{from.pixels + from.stride() + 4,
                            static_cast<std::ptrdiff_t>(from.stride()), from.height, from.width, 4};
      const GtFit whole{from.height, from.width, 0, 0, from.height, from.width,
                        to.height,   to.width,   0, 0, to.height,   to.width};
      const Span rows = span(y - 1, from.height, to.height);
      const Span columns = span(x - 1, from.width, to.width);
      for (int c = 0; c < 4; ++c) rgba[c] = area_mean(image, whole, rows, columns, c);
    }
    memcpy(w.smaller + y * to.stride() + 4 * static_cast<std::size_t>(x), rgba, sizeof rgba);
  });
}

// Patches of the photo that lie in a class which stays, of which the calm ones are grain.
void find_grain(Queue& queue, const GtCompose& call, const Workspace& w) {
  const GtFit fit = call.fit;
  const Ratio ratio = least_ratio(fit);
  if (!has_grain(ratio)) return;
  const int rows = fit.scaled_height, columns = fit.scaled_width;
  queue.each_pixel(rows, columns, [=] GT_DEVICE(int i, int j) {
    int bits = 0;
    for (int k = 0; k < kGrained; ++k) {
      int run = 0;
      for (int x = j; x < columns; ++x, ++run) {
        const std::ptrdiff_t here = at(i, x, columns);
        if (run >= cells_of(kPatchSide, ratio) || w.differs[here] ||
            w.frame[here].label != grained_label(k)) {
          break;
        }
      }
      for (int s = 0; s < kPatchSizes; ++s) {
        if (run >= cells_of(patch_side(s), ratio)) bits |= 1 << (k * kPatchSizes + s);
      }
    }
    w.runs[at(i, j, columns)] = static_cast<Byte>(bits);
  });
  queue.each_pixel(rows, columns, [=] GT_DEVICE(int i, int j) {
    int fits = 0, bits = w.runs[at(i, j, columns)];
    for (int s = kPatchSizes, y = i; s-- > 0;) {
      const int cells = cells_of(patch_side(s), ratio);
      for (; y < i + cells; ++y) bits &= y < rows ? w.runs[at(y, j, columns)] : 0;
      for (int k = 0; k < kGrained; ++k) fits |= bits & 1 << (k * kPatchSizes + s);
    }
    w.fits[at(i, j, columns)] = static_cast<Byte>(fits);
  });
  queue.each_pixel(kGrained * kPatchSizes, rows, [=] GT_DEVICE(int bit, int i) {
    int count = 0;
    for (int j = 0; j < columns; ++j) count += w.fits[at(i, j, columns)] >> bit & 1;
    w.counts[at(bit, i, rows)] = count;
    atomicAdd(&w.found->patches[bit / kPatchSizes][bit % kPatchSizes], count);
  });
  // of the places where a patch fits, counted row by row, some at equal distances
  queue.each_pixel(rows, columns, [=] GT_DEVICE(int i, int j) {
    for (int k = 0; k < kGrained; ++k) {
      int s = 0;
      while (s < kPatchSizes && !w.found->patches[k][s]) ++s;
      const int bit = k * kPatchSizes + s;
      if (s == kPatchSizes || !(w.fits[at(i, j, columns)] >> bit & 1)) continue;
      w.found->grains[k].side = patch_side(s);
      int rank = 0;
      for (int y = 0; y < i; ++y) rank += w.counts[at(bit, y, rows)];
      for (int x = 0; x < j; ++x) rank += w.fits[at(i, x, columns)] >> bit & 1;
      const long long last = w.found->patches[k][s] - 1;
      for (int p = 0; p < kPatches; ++p) {
        if (rank == p * last / (kPatches - 1)) w.found->places[k][p] = i * columns + j;
      }
    }
  });
  // their pixels' differences from the mean of those around, as `differences` in compose_cpu.cpp
  const int radius = in_photo(1, fit), around = (2 * radius + 1) * (2 * radius + 1);
  queue.each_pixel(kGrained * kPatches * kPatchSide, kPatchSide, [=] GT_DEVICE(int line, int x) {
    const int y = line % kPatchSide, p = line / kPatchSide % kPatches;
    const int k = line / kPatchSide / kPatches;
    Found& found = *w.found;
    const int side = found.grains[k].side, index = found.places[k][p];
    if (y >= side || x >= side) return;
    const int row = patch_start(index / columns, fit.top, fit.height, rows) + y;
    const int column = patch_start(index % columns, fit.left, fit.width, columns) + x;
    const auto pixel = [&](int i, int j) {
      return row_of(call.photo, inside(i, call.photo.height)) + 3 * inside(j, call.photo.width);
    };
    int sums[3] = {};
    for (int i = row - radius; i <= row + radius; ++i) {
      for (int j = column - radius; j <= column + radius; ++j) {
        for (int c = 0; c < 3; ++c) sums[c] += pixel(i, j)[c];
      }
    }
    std::int8_t* const to =
        w.patches + 3 * (((k * kPatches + p) * kPatchSide * kPatchSide) + y * side + x);
    int amount = 0;
    for (int c = 0; c < 3; ++c) {
      const int kept = grain_level(pixel(row, column)[c], sums[c], around);
      to[c] = static_cast<std::int8_t>(kept);
      amount += kept < 0 ? -kept : kept;
    }
    atomicAdd(&found.amounts[k][p], amount);
  });
  queue.each_pixel(1, kGrained, [=] GT_DEVICE(int, int k) {
    const int* const amounts = w.found->amounts[k];
    for (int p = 0; p < kPatches; ++p) {
      int calmer = 0;
      for (int q = 0; q < kPatches; ++q) {
        calmer += amounts[q] < amounts[p] || (amounts[q] == amounts[p] && q < p);
      }
      if (calmer == kPatches / 3) {
        w.found->grains[k].levels = w.patches + 3 * (k * kPatches + p) * kPatchSide * kPatchSide;
      }
    }
  });
}

void draw(Queue& queue, const GtCompose& call, const Workspace& w) {
  const GtFit fit = call.fit;
  const Window window = window_of(fit);
  const int rows = fit.scaled_height, columns = fit.scaled_width, width = call.photo.width;
  const int reach = in_photo(border_width(fit.target_height), fit);
  const Found* const found = w.found;
  const Scene scene{call, w.frame, w.lower_runs, &found->layers, found->grains, found->grains + 1};
  queue.each_pixel(window.height, window.width, [=] GT_DEVICE(int i, int j) {
    const int y = i + window.top, x = j + window.left;
    const std::ptrdiff_t to = at(y, x, width), here = at(i, j, window.width);
    const int own = row_of(call.parsing, y)[x], label = call.out_parsing[to];
    if (call.kept.data && row_of(call.kept, y)[x]) return;
    const bool vanished =
        is_rough(own) && any_near(w.gone_near + j, window.width, i, window.height, reach);
    if (label == own && label != kGarment && !vanished) return;
    const Place row(tap(y - fit.top, fit.height, rows)),
        column(tap(x - fit.left, fit.width, columns));
    const auto flow = [&](int axis) {
      const float* const from =
          w.flow + at(axis * fit.target_height + fit.frame_top, fit.frame_left, fit.target_width);
      const float* const first = from + at(row.first, 0, fit.target_width);
      const float* const second = from + at(row.second, 0, fit.target_width);
      return lerp(lerp(first[column.first], second[column.first], row.at),
                  lerp(first[column.second], second[column.second], row.at), column.at);
    };
    const Choice choice{static_cast<Byte>(label), w.other[here], w.share[here]};
    scene.draw(choice, own, vanished, row, column, y, x, flow, call.out_image + 3 * to,
               call.out_warped_garment ? call.out_warped_garment + 3 * to : nullptr);
  });
}

}  // namespace

std::size_t compose_cuda_bytes(const GtCompose& call) {
  Workspace workspace;
  return lay_out(call, nullptr, &workspace);
}

cudaError_t compose_cuda(const GtCompose& call, void* workspace, cudaStream_t stream) {
  Workspace w;
  lay_out(call, static_cast<Byte*>(workspace), &w);
  Queue queue(stream);
  queue.zero(w.found, sizeof(Found));
  read_frame(queue, call, w);
  find_runs(queue, call, w);
  repaint(queue, w, call.fit.scaled_height, call.fit.scaled_width);
  choose_classes(queue, call, w);
  find_layers(queue, call, w);
  find_grain(queue, call, w);
  draw(queue, call, w);
  return queue.error();
}

}  // namespace garment_transfer
