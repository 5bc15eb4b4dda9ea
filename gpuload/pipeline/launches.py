"""Tables of a batch's kernel launches: where the planes of each picture lie, and which slots they fill."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gpuload.device.planes import plane_begins, plane_shapes
from gpuload.errors import DecodeError
from gpuload.picture import DevicePicture, PictureForm
from gpuload.pipeline.batch import Layout, Staged
from gpuload.transform import SlotForm

COLUMNS = 10
"""Of a table, as ``convert_pictures`` reads it: addresses of three planes, their strides, address of the slot, crop top
and left, flip."""
Pictures = dict[int, tuple[PictureForm, int | DevicePicture]]
"""By name: form, and address of planes as they cross, or the picture."""


class Launch(NamedTuple):
    """Slots that one launch can write."""

    form: PictureForm
    slot: SlotForm
    table: npt.NDArray[np.int64]
    """``[N, 10]``."""


def launches_of(
    staged: Staged,
    pictures: Pictures,
    forms: Sequence[SlotForm],
    layout: Layout,
    places: npt.NDArray[np.int64],
    slots_at: int,
) -> list[Launch]:
    """What writes every slot of a batch at ``slots_at + places``, ``[n, S]``.

    Raises:
        DecodeError: a picture is not of the size that its file's header says.
    """
    names, number = np.unique(staged.picture, return_inverse=True)
    number = number.reshape(staged.picture.shape)
    kinds: dict[PictureForm, int] = {}
    kind, address = np.full(len(names), -1), np.zeros(len(names), np.int64)
    planes = np.zeros((len(names), 6), np.int64)
    for row, name in enumerate(names.tolist()):
        if name < 0:  # no frame
            continue
        form, picture = pictures[name]
        kind[row] = kinds.setdefault(form, len(kinds))
        if isinstance(picture, int):
            address[row] = picture
        else:
            for plane, tensor in enumerate(picture.planes):
                planes[row, plane] = tensor.data_ptr()
                planes[row, 3 + plane] = tensor.stride(0) * tensor.element_size()
    found = []
    for form, its in kinds.items():
        crossed, size = (kind == its) & (address > 0), (form.pixel_format, form.width, form.height)
        for plane, (begin, (_, line_bytes)) in enumerate(zip(plane_begins(*size), plane_shapes(*size), strict=False)):
            planes[crossed, plane] = address[crossed] + begin
            planes[crossed, 3 + plane] = line_bytes
        for index, slot in enumerate(forms):
            where = np.nonzero((kind[number] == its) & (layout.field_of_column == index))
            if not len(where[0]):
                continue
            try:
                slot.check_size(form.width, form.height, form.rotation)
            except DecodeError as error:
                raise DecodeError(f"{slot.key}: {error} (`gpuload check --deep` finds the file)") from error
            table = np.empty((len(where[0]), COLUMNS), np.int64)
            view = staged.view[where]
            table[:, :6], table[:, 6] = planes[number[where]], slots_at + places[where]
            table[:, 7], table[:, 8], table[:, 9] = view >> 33, view >> 1 & 0xFFFFFFFF, view & 1  # as unpack_view
            found.append(Launch(form, slot, table))
    return found
