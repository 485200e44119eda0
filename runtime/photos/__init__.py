"""People and their photos: reading, DensePose, fitting to a bundle's size, the finished photo."""

from garment_transfer.kernels.compose import Composed as Composed
from garment_transfer.kernels.fit import Box as Box, Fit as Fit
from garment_transfer.runtime.photos._bodies import (
    check_box as check_box,
    check_plausible as check_plausible,
    choose_body as choose_body,
    drop_not_worn as drop_not_worn,
    uncovered as uncovered,
)
from garment_transfer.runtime.photos._compose import (
    compose as compose,
)
from garment_transfer.runtime.photos._densepose import (
    ENCODINGS as ENCODINGS,
    FOREARMS as FOREARMS,
    HANDS as HANDS,
    HEAD as HEAD,
    check_body as check_body,
    decode_densepose as decode_densepose,
    of_nearest as of_nearest,
    parula_palette as parula_palette,
)
from garment_transfer.runtime.photos._fit import (
    fit_person as fit_person,
    frame as frame,
    is_any as is_any,
    resize as resize,
    resize_map as resize_map,
    unfit as unfit,
)
from garment_transfer.runtime.photos._images import (
    MAX_SIDE as MAX_SIDE,
    PHOTO_SUFFIXES as PHOTO_SUFFIXES,
    PICTURE_SUFFIXES as PICTURE_SUFFIXES,
    QUALITY as QUALITY,
    check_output as check_output,
    check_written_side as check_written_side,
    photo_size as photo_size,
    png_bytes as png_bytes,
    read_indices as read_indices,
    read_photo as read_photo,
    read_rgb as read_rgb,
    write_rgb as write_rgb,
)
from garment_transfer.runtime.photos._parsing import (
    COLOURS as COLOURS,
    checked_ids as checked_ids,
    colour as colour,
    hip_row as hip_row,
    to_classes as to_classes,
)
from garment_transfer.runtime.photos._person import (
    Person as Person,
    read_meta as read_meta,
    write_meta as write_meta,
)
