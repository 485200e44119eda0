"""The GPU: device memory, streams and events, and the chain of engines that runs there."""

from garment_transfer.runtime.cuda._chain import (
    Chain as Chain,
    Context as Context,
    DeviceEngine as DeviceEngine,
    Part as Part,
    Session as Session,
    handle_of as handle_of,
)
from garment_transfer.runtime.cuda._device import ALIGNMENT as ALIGNMENT, CudaDevice as CudaDevice
from garment_transfer.runtime.cuda._photos import Pair as Pair
